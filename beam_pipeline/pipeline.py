"""The whole job on one screen."""

from __future__ import annotations

import apache_beam as beam

from beam_pipeline.job import Job
from beam_pipeline.submission.gpu_settings import resource_hints
from beam_pipeline.transforms import ChunkRefs, DropScored, ReadImageRefs, ScoreChunks, WriteChunks


def build_pipeline(pipeline: beam.Pipeline, job: Job) -> beam.PCollection[str]:
    """Put the stages together.

    Args:
        pipeline: Not yet run.
        job: What to score, with what, and where to.

    Returns:
        Names of the Parquet files written.
    """
    refs = pipeline | "ReadImageRefs" >> ReadImageRefs(job)
    if job.options.skip_scored:
        refs = refs | "DropScored" >> DropScored(job)
    chunks = refs | "ChunkRefs" >> ChunkRefs(job)
    hints = resource_hints(job.options.score_gpu)
    scored = chunks | "ScoreChunks" >> ScoreChunks(job).with_resource_hints(**hints)
    return scored | "WriteChunks" >> WriteChunks(job.options.output).with_resource_hints(**hints)
