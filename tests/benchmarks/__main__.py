"""``python -m tests.benchmarks``: what the spine promises about speed, on this machine, in one run.

decoder    slot decoding against ``generate()`` under the same mask, same model, same photographs;
           answers must be equal
pipeline   photographs a second through Beam, first to last outcome, against the bare scorer

Every figure is a ratio of medians of runs that alternate; absolutes are printed for this machine only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from model.adapters import read_manifest
from model.backbone import EMBEDDED_ADAPTER, load_base, resolve_base
from model.batching import plan_micro_batches
from model.decisions import decided_values
from model.lora import load_adapter_weights, merge_adapter
from model.patches import grid_thw, normalised_patches
from model.ragged import ImageBatch
from model.scorer import PreparedImage, Scorer
from tests.model.reference import generate_under_mask

_BATCHES = (1, 4, 8, 32)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks; prints a table, and JSON with ``--json FILE``."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs (JPEG, PNG, WebP)")
    parser.add_argument("--adapter", help="adapter to measure (default: the embedded one)")
    parser.add_argument("--pipeline-images", type=int, default=1024, help="photographs for the pipeline")
    parser.add_argument("--runs", type=int, default=3, help="counted runs of each (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args(argv)
    files = sorted(path for path in arguments.photos.rglob("*") if path.is_file())
    if not files:
        parser.error(f"no files in {arguments.photos}")
    scorer = Scorer.load(arguments.adapter)
    adapter = Path(arguments.adapter) if arguments.adapter else EMBEDDED_ADAPTER
    figures: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "date": datetime.now(UTC).date().isoformat(),
        "decoder": [decoder_ratio(scorer, files, adapter, arguments.runs, size) for size in _BATCHES],
        "pipeline": pipeline_ratio(scorer, files, arguments.pipeline_images, arguments.adapter),
    }
    print(json.dumps(figures, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))
    return 0 if all(found["answers_equal"] for found in figures["decoder"]) else 1


def decoder_ratio(
    scorer: Scorer, files: Sequence[Path], adapter: Path, runs: int, batch_size: int
) -> dict[str, Any]:
    """Slot decoding against stock ``generate()`` under the same mask, both in batches of ``batch_size``."""
    count = _BATCHES[-1]
    images = [scorer.prepare(files[i % len(files)].read_bytes()) for i in range(count)]
    batches = [_batch(images[start : start + batch_size]) for start in range(0, count, batch_size)]
    decoder = scorer.decoder
    stock = stock_model(adapter)

    def ours() -> list[list[int]]:
        found = []
        for batch in batches:
            decisions = decoder.decode(batch)
            found += [
                decoder.program.answer_ids(decided_values(decoder.program, decisions, row))
                for row in range(len(batch.grids))
            ]
        return found

    def theirs() -> list[list[int]]:
        found = []
        for batch in batches:
            found += generate_under_mask(stock, scorer.encoder, decoder.prompt, decoder.program, batch)
        return found

    equal = ours() == theirs()
    fast, slow = _alternate(ours, theirs, runs)
    return {
        "batch": batch_size,
        "images": count,
        "answers_equal": equal,
        "ratio": round(slow / fast, 2),
        "slot_images_per_s": round(count / fast, 1),
        "generate_images_per_s": round(count / slow, 1),
    }


def stock_model(adapter: Path) -> Any:
    """The same weights in transformers' own model, as anyone would call ``generate()`` on it."""
    base = resolve_base(read_manifest(adapter)[0].base_model.name)
    model = load_base(base, torch.device("cpu"), torch.float32)
    merge_adapter(model, load_adapter_weights(adapter), keep_base=False)
    return model


def _batch(images: Sequence[PreparedImage]) -> ImageBatch:
    return ImageBatch(
        torch.cat([normalised_patches(torch.from_numpy(image.pixels)) for image in images]),
        tuple(grid_thw(*image.pixels.shape[:2])[1:] for image in images),
        tuple(image.context.ids for image in images),
    )


def _alternate(one: Callable[[], Any], other: Callable[[], Any], runs: int) -> tuple[float, float]:
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        for call, found in zip((one, other), times, strict=True):
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def bare_scorer(scorer: Scorer, files: Sequence[Path], micro_batch: int, threads: int) -> float:
    """Images a second of the scorer alone: decode in threads a window ahead, score, keep nothing."""
    start = time.perf_counter()
    window = 4 * micro_batch
    with ThreadPoolExecutor(threads) as pool:
        ahead = [pool.submit(_prepare, scorer, path) for path in files[:window]]
        for begin in range(0, len(files), window):
            prepared = [future.result() for future in ahead]
            ahead = [
                pool.submit(_prepare, scorer, path) for path in files[begin + window : begin + 2 * window]
            ]
            tokens = [image.visual_tokens for image in prepared]
            for batch in plan_micro_batches(tokens, scorer.token_budget, micro_batch):
                scorer.predict([prepared[index] for index in batch])
    return len(files) / (time.perf_counter() - start)


def _prepare(scorer: Scorer, path: Path) -> PreparedImage:
    return scorer.prepare(path.read_bytes())


def pipeline_ratio(scorer: Scorer, files: Sequence[Path], count: int, adapter: str | None) -> dict[str, Any]:
    """Beam's images a second, first to last outcome, against the bare scorer's on the same files."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from beam_pipeline.__main__ import main as run_pipeline
    from beam_pipeline.engine import default_fetch_threads
    from beam_pipeline.options import ScoringOptions

    micro_batch, threads = ScoringOptions().micro_batch_images, default_fetch_threads()
    with tempfile.TemporaryDirectory() as folder:
        links = Path(folder) / "in"
        links.mkdir()
        named = [links / f"{index:06d}{files[index % len(files)].suffix}" for index in range(count)]
        for index, path in enumerate(named):
            os.symlink(files[index % len(files)].resolve(), path)
        bare_scorer(scorer, named[:64], micro_batch, threads)
        bare = bare_scorer(scorer, named, micro_batch, threads)
        output = Path(folder) / "out"
        options = ["--input", str(links), "--output", str(output), "--no-progress"]
        code = run_pipeline([*options, *(["--adapter", adapter] if adapter else [])])
        again = bare_scorer(scorer, named, micro_batch, threads)
        times = pq.read_table(output / "scores", columns=["scored_at"])["scored_at"]
        span = pc.min_max(times).as_py()
        seconds = (span["max"] - span["min"]).total_seconds()
    return {
        "images": count,
        "exit_code": code,
        "ratio": round((len(times) / seconds) / statistics.mean((bare, again)), 2),
        "pipeline_images_per_s": round(len(times) / seconds, 1),
        "bare_scorer_images_per_s": [round(bare, 1), round(again, 1)],
    }


if __name__ == "__main__":
    sys.exit(main())
