"""``pipeline``: photographs a second through Beam, first to last outcome, against the bare scorer."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from beam_pipeline.__main__ import main as run_pipeline
from beam_pipeline.options import ScoringOptions
from beam_pipeline.scoring.engine import default_fetch_threads
from model.scorer import Scorer
from tests.benchmarks.bare_scorer import Feeding, between_outcomes, known, run_bare
from tests.benchmarks.devices import rounded
from tests.benchmarks.pictures import jpegs, photograph_files, read_photographs, write_files

_WARM_UP = 64


def measure_pipeline(photos: Path | None, adapter: str | None, count: int, runs: int) -> dict[str, Any]:
    """Run both over the same files, in turns; the bare scorer stands before and after every pipeline.

    Args:
        photos: Folder of photographs; None = those that wheels ship.
        adapter: To measure with; None = the embedded one.
        count: Photographs, the same ones again and again.
        runs: Of the pipeline.
    """
    scorer = Scorer.load(adapter)
    feeding = Feeding(
        ScoringOptions().micro_batch_images,
        scorer.token_budget,
        default_fetch_threads(),
        window=ScoringOptions().prefetch_images // 2,
    )
    with tempfile.TemporaryDirectory() as folder:
        links = Path(folder, "in")
        links.mkdir()
        files = _files(photos, links, count)
        run_bare(scorer, files[:_WARM_UP], feeding)
        bare = [_bare(scorer, files, feeding)]
        beam = []
        for run in range(runs):
            beam.append(_through_beam(links, Path(folder, f"out{run}"), adapter))
            bare.append(_bare(scorer, files, feeding))
    ratios = [speed / statistics.mean(bare[run : run + 2]) for run, speed in enumerate(beam)]
    return {
        "adapter": scorer.provenance.adapter,
        "device": scorer.provenance.device,
        "images": count,
        "threads": feeding.threads,
        "pipeline_images_per_s": rounded(statistics.median(beam)),
        "bare_images_per_s": rounded(statistics.median(bare)),
        "ratio": rounded(statistics.median(ratios)),
        "ratios": [rounded(ratio) for ratio in ratios],
    }


def _files(photos: Path | None, links: Path, count: int) -> list[Path]:
    if photos is None:
        own = [jpegs([picture], *picture.shape[:2])[0] for picture in read_photographs(None, count)]
        return write_files(links, own, count)
    files = photograph_files(photos)
    named = [links / f"{index:06d}{files[index % len(files)].suffix}" for index in range(count)]
    for index, path in enumerate(named):
        os.symlink(files[index % len(files)].resolve(), path)
    return named


def _through_beam(links: Path, output: Path, adapter: str | None) -> float:
    options = ["--input", str(links), "--output", str(output), "--no-progress"]
    code = run_pipeline([*options, *(["--adapter", adapter] if adapter else [])])
    if code:
        raise RuntimeError(f"the pipeline ended with exit code {code}")
    times = pq.read_table(output / "scores", columns=["scored_at"])["scored_at"]
    return known(between_outcomes([moment.timestamp() for moment in times.to_pylist()]))


def _bare(scorer: Scorer, files: Sequence[Path], feeding: Feeding) -> float:
    return known(run_bare(scorer, files, feeding).images_per_s)
