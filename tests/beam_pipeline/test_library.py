"""The stages in a job of one's own: the example that ships."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.typehints.decorators import TypeCheckError

from beam_pipeline import example_job
from beam_pipeline.job import Job
from beam_pipeline.options import ScoringOptions
from beam_pipeline.scoring.fakes import FakeScorerFactory
from beam_pipeline.transforms import ChunkRefs, ReadImageRefs, ScoreChunks, WriteChunks
from schemas.records import Chunk, ImageRef
from tests.beam_pipeline.helpers import NOW, rows, write_photos
from tests.odd_files import encoded, picture

pytestmark = pytest.mark.integration


def job(photos: Path, output: Path) -> Job:
    options = ScoringOptions(input=(str(photos),), output=str(output), run_id="example", chunk_size=2)
    return Job(options, FakeScorerFactory(), NOW)


def write_large(folder: Path, count: int) -> None:
    for number in range(count):
        (folder / f"large_{number}.bmp").write_bytes(encoded(picture(400, 300, seed=number), "BMP"))


def test_the_example_scores_large_images_only_and_counts_their_labels(tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_photos(photos, 4)
    write_large(photos, 3)
    sizes = {path.name: path.stat().st_size for path in photos.iterdir()}
    large = {name for name, size in sizes.items() if size > 100_000}
    assert large == {f"large_{number}.bmp" for number in range(3)}
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        counts = example_job.build(pipeline, job(photos, output))
        assert_that(
            counts | beam.Values() | beam.CombineGlobally(sum).without_defaults(), equal_to([3]), label="Sum"
        )
    found = rows(output, "scores")
    assert {Path(row["image_uri"]).name for row in found} == large
    assert {row["run_id"] for row in found} == {"example"}


def test_the_example_is_no_longer_than_it_was_promised() -> None:
    lines = inspect.getsource(example_job.build).splitlines()
    assert len(lines) <= 20


def test_the_stages_say_what_they_take_and_give() -> None:
    made = job(Path("photos"), Path("out"))
    assert ReadImageRefs(made).get_type_hints().simple_output_type("it") is ImageRef
    assert ChunkRefs(made).get_type_hints().input_types[0] == (ImageRef,)
    assert ChunkRefs(made).get_type_hints().simple_output_type("it") is Chunk
    assert ScoreChunks(made).get_type_hints().input_types[0] == (Chunk,)
    assert WriteChunks("out").get_type_hints().simple_output_type("it") is str


@pytest.mark.parametrize("stage", [ChunkRefs, ScoreChunks])
def test_a_stage_that_gets_something_else_says_so_when_the_job_is_built(stage: Any) -> None:
    pipeline = beam.Pipeline(runner=FnApiRunner())
    texts = pipeline | beam.Create(["a.jpg"])
    with pytest.raises(TypeCheckError):
        texts | stage(job(Path("photos"), Path("out")))
