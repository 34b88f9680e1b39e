"""The table of a comparison, as Markdown."""

from __future__ import annotations

from training.bootstrap import RESAMPLES, SEED
from training.compare_run import Compared
from training.evaluation_tables import shown

_CALIBRATION = {"score": "within ± 1 std (Gaussian: 0.683)", "attributes": "mean ECE"}
_SYNTHETIC = "\n**Labels are synthetic**: the figures are of synthetic degradations, not of human taste.\n"


def comparison_table(compared: Compared) -> str:
    """Write a comparison down: what figures are of, then one row a variant."""
    seeds = max(found.seeds for found in compared.figures)
    first = compared.figures[0].name
    of = "score" if compared.target == "score" else "attributes (mean; one that never changes counts as 0)"
    unit = "points of 0–10" if compared.target == "score" else "codes"
    lines = [
        f"# {compared.title}",
        "",
        f"Of the {of}. {compared.images} images of {compared.sources} sources"
        f"{_left_out(compared.left_out)}; {seeds} {'seed' if seeds == 1 else 'seeds'} a variant, figures are "
        f"means over them. In brackets: 95 % percentile bootstrap, {RESAMPLES} resamples of sources, seed "
        f"{SEED}; it holds no chance of training, for which see the range over seeds. RMSE in {unit}. "
        f"Images/s: {compared.machine}, from files' bytes, the adapter merged.",
        *([_SYNTHETIC] if compared.synthetic else [""]),
        f"| variant | SRCC | SRCC by seed | SRCC − {first} | PLCC | RMSE | {_CALIBRATION[compared.target]} | "
        "images/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for found in compared.figures:
        by_seed = f"{found.lowest_srcc:.3f}–{found.highest_srcc:.3f}" if found.seeds > 1 else "–"
        cells = [
            found.name,
            shown(found.srcc),
            by_seed,
            "–" if found.srcc_difference is None else shown(found.srcc_difference, signed=True),
            shown(found.plcc),
            shown(found.rmse),
            "–" if found.calibration is None else shown(found.calibration),
            f"{found.images_per_s:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _left_out(images: int) -> str:
    return f" ({images} more lack a label)" if images else ""
