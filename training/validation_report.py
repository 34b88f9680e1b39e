"""A data set's check as text for a terminal and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import get_args

from schemas.annotations import Split
from training.validation import HISTOGRAM_BINS, Validation

MOST_SHOWN = 100
"""Problems in the text; the JSON has all."""

_SPLITS = get_args(Split)
_BAR = 40  # characters


def to_text(found: Validation) -> str:
    """Distributions, notes, and the bad rows last, where a terminal shows them."""
    return "\n".join([*_head(found), *_labels(found), *_histograms(found), *_notes(found), *_problems(found)])


def to_json(found: Validation) -> str:
    """Everything, problems as objects with row and reason."""
    record = {
        "file": str(found.file),
        "ok": not found.problems,
        "rows": found.rows,
        "decoded": found.decoded,
        "native": found.native,
        "splits": found.splits,
        "labels": found.labels,
        "mos": {"range": found.histogram_range, "counts": found.mos},
        "notes": found.notes,
        "problems": [{"row": problem.row, "reason": problem.reason} for problem in found.problems],
    }
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def _head(found: Validation) -> Iterator[str]:
    counted = ", ".join(f"{split} {found.splits[split]:,}" for split in _SPLITS if split in found.splits)
    yield f"{found.file}: {found.rows:,} annotations" + (f" ({counted})" if counted else "")
    checks = "files decoded" if found.decoded else "files not decoded, near-duplicates not looked for"
    yield f"mos {found.native[0]:g}–{found.native[1]:g}; {checks}" if found.native else checks


def _labels(found: Validation) -> Iterator[str]:
    for name, values in found.labels.items():
        yield f"\n{name}"
        total: Counter[str] = Counter()
        for counts in values.values():
            total.update(counts)
        width = max(len(value) for value in values)
        for value in sorted(values, key=lambda value: (not value.isdigit(), value.zfill(3))):
            counts = values[value]
            shares = "  ".join(
                f"{split} {counts.get(split, 0):,} ({counts.get(split, 0) / total[split]:.0%})"
                for split in _SPLITS
                if total[split]
            )
            yield f"  {value:<{width}}  {shares}"


def _histograms(found: Validation) -> Iterator[str]:
    if found.histogram_range is None:
        return
    low, high = found.histogram_range
    for split in _SPLITS:
        counts = found.mos.get(split)
        if not counts:
            continue
        yield f"\nmos, {split} ({sum(counts):,})"
        for part, count in enumerate(counts):
            start = low + (high - low) * part / HISTOGRAM_BINS
            end = low + (high - low) * (part + 1) / HISTOGRAM_BINS
            bar = "█" * -(-count * _BAR // max(counts))
            yield f"  {start:6.2f} – {end:6.2f}  {count:7,}  {bar}".rstrip()


def _notes(found: Validation) -> Iterator[str]:
    if found.notes:
        yield ""
    for note in found.notes:
        yield f"note: {note}"


def _problems(found: Validation) -> Iterator[str]:
    yield ""
    if not found.problems:
        yield "no problems"
        return
    for problem in found.problems[:MOST_SHOWN]:
        yield f"{found.where(problem)}: {problem.reason}"
    if len(found.problems) > MOST_SHOWN:
        yield f"and {len(found.problems) - MOST_SHOWN:,} more (--json FILE writes all)"
    yield f"problems: {len(found.problems):,}"
