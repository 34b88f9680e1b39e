"""``table``: figures files as markdown, for the README. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Report = Mapping[str, Any]


def markdown(report: Report) -> str:
    """One report: what was measured, where, and its table."""
    machine, versions = report["machine"], report["versions"]
    where = ", ".join(filter(None, (machine["gpu"], machine["cpu"], f"{machine['cores']} cores")))
    torch = f", torch {versions['torch']}" if "torch" in versions else ""
    heading = f"{where}{torch}, commit {report['commit']}, {report['date']}"
    return f"`{report['benchmark']}` on {heading}\n\n{_TABLES[report['benchmark']](report['figures'])}\n"


def grid(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A markdown table; None becomes a dash."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(content: Any) -> str:
    return "–" if content is None else str(content).replace("|", "\\|")


def _scorer(figures: Report) -> str:
    says = (
        f"Qwen2-VL {figures['shape']} ({figures['weights']}), {figures['dtype']}; measured here: matrix "
        f"product {figures['matmul_tflops']} TFLOP/s, copy {figures['copy_gb_per_s']} GB/s."
    )
    rows = figures["rows"]
    speeds = grid(
        ("template", "visual tokens", "images/s", "from JPEG bytes", "floor", "of the floor", "of matmul",
         "TFLOP an image", "peak GiB"),
        [
            (row["template"], row["visual_tokens"], row["images_per_s"],
             f"{row['jpeg_images_per_s']} ({row['jpeg_megapixels']} MP, {row['decode_threads']} threads)",
             row["floor_images_per_s"], row["fraction_of_floor"], row["fraction_of_matmul"],
             row["tflop_per_image"], row["peak_memory_gib"])
            for row in rows
        ],
    )  # fmt: skip
    parts = list(dict.fromkeys(part for row in rows for part in row["split_ms"]))
    split = grid(
        ("template", "visual tokens", "micro-batch", *(f"{part}, ms" for part in parts), "split costs"),
        [
            (row["template"], row["visual_tokens"], row["micro_batch"],
             *(row["split_ms"].get(part) for part in parts), f"{row['split_cost']:.1%}")
            for row in rows
        ],
    )  # fmt: skip
    beside = [(row, found) for row in rows for found in row.get("generate", ())]
    against = grid(
        ("template", "visual tokens", "`generate()` batch", "images/s", "under our mask", "answer tokens",
         "ours, same batch", "ratio", "ratio behind the vision tower", "behind the prefill",
         "ours, own micro-batch", "ratio", "equal answers"),
        [
            (row["template"], row["visual_tokens"], found["batch"], found["images_per_s"],
             found["masked_images_per_s"], found["answer_tokens"], found["slots_images_per_s"],
             found["ratio_same_batch"], found["ratio_past_vision"], found["ratio_past_prefill"],
             row["images_per_s"], found["ratio"], found.get("equal_answers"))
            for row, found in beside
        ],
    )  # fmt: skip
    compared = [
        (row, row["reference"], name, row["reference"][key])
        for row in rows
        if "reference" in row
        for key, name in (("ours", "ours"), ("peer", "transformers"))
        if key in row["reference"]
    ]
    scores = grid(
        ("template", "visual tokens", "photographs", "reference", "standard deviation of its scores",
         "against it", "|Δscore| median", "max", "SRCC", "decided otherwise", "without the score's digits"),
        [
            (row["template"], row["visual_tokens"], whole["images"], whole["dtype"], whole["score_std"],
             f"{name}, {figures['dtype']}", found["median_delta"], found["largest_delta"], found["srcc"],
             f"{found['decided_otherwise']:.1%}", f"{found['values_otherwise']:.1%}")
            for row, whole, name, found in compared
        ],
    )  # fmt: skip
    return "\n\n".join([says, speeds, split, *([against] if beside else []), *([scores] if compared else [])])


def _paths(figures: Report) -> str:
    says = (
        f"Qwen2-VL {figures['shape']}, {figures['dtype']} on {figures['device']}, {figures['threads']} torch "
        f"threads; micro-batches of {figures['micro_batch']} × {figures['visual_tokens']} visual tokens, "
        f"{figures['photographs']} photographs of {figures['jpeg_megapixels']} MP; medians of "
        f"{figures['runs']} turns. Gave: how many times longer it takes without it."
    )
    rows = grid(
        ("optimisation", "instead", "timed", "with, ms", "without, ms", "predicted", "gave"),
        [
            (row["optimisation"], row["instead"], row["timed"], row["with_ms"], row["without_ms"],
             row["predicted"], f"{row['ratio']} ({min(row['ratios'])}–{max(row['ratios'])})")
            for row in figures["rows"]
        ],
    )  # fmt: skip
    others = [
        f"- {title}: {one['optimisation']} ({one['reason']})"
        for title, key in (("Left out", "left_out"), ("FAILED", "failed"))
        for one in figures[key]
    ]
    return "\n\n".join([says, rows, *(["\n".join(others)] if others else [])])


def _preprocessing(figures: Report) -> str:
    return grid(
        ("JPEG, megapixels", "KB", "visual tokens", "ours, images/s per core", "transformers", "ratio",
         "ours, normalised", "ratio"),
        [
            (row["megapixels"], row["file_kb"], row["visual_tokens"], row["patches_images_per_s"],
             row["transformers_images_per_s"], row["ratio"], row["normalised_images_per_s"],
             row["ratio_normalised"])
            for row in figures["rows"]
        ],
    )  # fmt: skip


def _pipeline(figures: Report) -> str:
    return grid(
        ("images", "threads", "through Beam, images/s", "bare scorer", "ratio", "of each run"),
        [
            (figures["images"], figures["threads"], figures["pipeline_images_per_s"],
             figures["bare_images_per_s"], figures["ratio"], ", ".join(map(str, figures["ratios"])))
        ],
    )  # fmt: skip


def _training(figures: Report) -> str:
    ours, plain, ratio = figures["ours"], figures["full_logits"], figures["ratio"]
    names = {
        "step_s": "seconds a step",
        "conversations_per_s": "conversations/s",
        "peak_memory_gib": "peak memory, GiB",
        "working_memory_gib": "of it within a step",
        "tflop": "TFLOP a step",
        "fraction_of_matmul": "fraction of matrix product",
    }
    says = (
        f"{figures['shape']}, {figures['visual_tokens']} visual tokens, batch {figures['batch_size']}; bf16 "
        f"matrix product {figures['matmul_tflops']} TFLOP/s; {figures['note']}"
    )
    rows = [(title, ours[key], plain[key], ratio.get(key)) for key, title in names.items()]
    return f"{says}\n\n" + grid(("", "answer logits", "full logits", "ratio"), rows)


def _scale(figures: Report) -> str:
    rows = grid(
        ("images", "jobs", "seconds", "per 1,000 images (quartiles)", "of processor time (quartiles)",
         "peak MiB after the first job", "files"),
        [
            (row["images"], row["jobs"], row["seconds"], _with_quartiles(row, "seconds_per_1000"),
             _with_quartiles(row, "processor_s_per_1000"), row["peak_mib"], row["files"])
            for row in figures["rows"]
        ],
    )  # fmt: skip
    says = (
        f"A job over one image takes {figures['fixed_s']} s ({figures['fixed_processor_s']} s of processor "
        f"time), taken off the seconds per 1,000; chunks of {figures['chunk_size']}, files of "
        f"{figures['file_bytes']} bytes. Peak at the end: {figures['end_peak_mib']} MiB."
    )
    return "\n\n".join([says, rows, *(_profile(one) for one in figures["profiles"])])


def _with_quartiles(row: Report, name: str) -> str:
    low, high = row[f"{name}_quartiles"]
    return f"{row[name]} ({low}–{high})"


def _profile(profile: Report) -> str:
    top = grid(
        ("function", "calls", "own seconds", "with callees"),
        [
            (f"`{one['function']}`", one["calls"], one["own_s"], one["with_callees_s"])
            for one in profile["top"]
        ],
    )
    spent = (
        f"{profile['images']} images under a profiler: {profile['calls_per_image']} calls an image above a "
        f"job over one, {profile['profiled_s']} s of processor time:"
    )
    return f"{spent}\n\n{top}"


def _output(figures: Report) -> str:
    says = f"{figures['rows']} rows in {figures['files']} files of {figures['mib']} MiB together."
    rows = grid(
        ("reader", "rows", "seconds", "MiB above its start"),
        [(one["reader"], one["rows"], one["seconds"], one["mib"]) for one in figures["readers"]],
    )
    return f"{says}\n\n{rows}"


def _spread(figures: Report) -> str:
    return grid(
        ("model", "device", "number format", "visual tokens", "photographs", "predictions of each",
         "largest |Δscore|", "median of the largest", "decided otherwise"),
        [
            (figures["shape"], figures["device"], figures["dtype"], figures["visual_tokens"],
             figures["photographs"], figures["predictions_each"], figures["largest_delta"],
             figures["median_largest_delta"], figures["decided_otherwise"])
        ],
    )  # fmt: skip


def _startup(figures: Report) -> str:
    commands = grid(
        ("command", "seconds", "exit code", "heavy imports"),
        [
            (f"`{one['command']}`", one["seconds"], one["exit_code"], ", ".join(one["imported"]) or "none")
            for one in figures["commands"]
        ],
    )
    job = (
        f"First rows of a batch job over {figures['images']} photographs: {figures['first_rows_s']} s after "
        f"its start; the whole job: {figures['job_s']} s."
    )
    return f"{commands}\n\n{job}"


_TABLES: dict[str, Callable[[Report], str]] = {
    "scorer": _scorer,
    "paths": _paths,
    "preprocessing": _preprocessing,
    "pipeline": _pipeline,
    "training": _training,
    "scale": _scale,
    "output": _output,
    "spread": _spread,
    "startup": _startup,
}
