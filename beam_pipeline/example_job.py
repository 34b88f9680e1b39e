"""A job of one's own, made of this package's stages: score large images only, count how they are exposed.

``python -m beam_pipeline.example_job PATTERN OUTPUT``; further options are Beam's (``--runner``).
"""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime

import apache_beam as beam

from beam_pipeline.job import Job, model_factory
from beam_pipeline.options import ScoringOptions
from beam_pipeline.submission.runners import beam_options, local_runner
from beam_pipeline.transforms import ChunkRefs, ReadImageRefs, ScoreChunks, WriteChunks
from schemas.records import ImageRef, ImageScore, ScoredChunk


def is_large(ref: ImageRef) -> bool:
    """Say whether a file has more than 100 kB."""
    return (ref.size_bytes or 0) > 100_000


def exposures(chunk: ScoredChunk) -> Iterator[str]:
    """Give the exposure label of every image that was scored."""
    return (str(outcome.prediction.exposure) for outcome in chunk.outcomes if isinstance(outcome, ImageScore))


def build(pipeline: beam.Pipeline, job: Job) -> beam.PCollection[tuple[str, int]]:
    """Write the rows of large images; give how many there are of each exposure."""
    large = pipeline | ReadImageRefs(job) | "LargeOnly" >> beam.Filter(is_large)
    scored = large | ChunkRefs(job) | ScoreChunks(job)
    _ = scored | WriteChunks(job.options.output)
    labels = scored | beam.Flatten() | "Exposures" >> beam.FlatMap(exposures).with_output_types(str)
    return labels | beam.combiners.Count.PerElement()


if __name__ == "__main__":
    options = ScoringOptions(input=(sys.argv[1],), output=sys.argv[2], run_id="example")
    beam_arguments = beam_options(sys.argv[3:])
    with beam.Pipeline(runner=local_runner(beam_arguments), options=beam_arguments) as example:
        job = Job(options, model_factory(options), datetime.now(UTC))
        build(example, job) | beam.Map(print)
