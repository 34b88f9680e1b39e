"""``--retry-failed``: the Beam stage that reads what failed, as refs to be scored again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import apache_beam as beam

from beam_pipeline.output.reading_output import ReadOutput
from beam_pipeline.output.scored import scored_keys
from beam_pipeline.sources.failed import FailedRef, failed_refs, ref_to_retry
from schemas.records import ImageRef
from schemas.tables import FAILURES, SCORES


class ReadFailedRefs(beam.PTransform):
    """The champion's failures of one adapter revision → described refs, one for each image to try again.

    Args:
        output: Directory of the jobs that failed.
        revision: Of the adapter.
        which: Some of ``beam_pipeline.options.RETRIES``.
        started_at: The event time of images that have none.
    """

    def __init__(self, output: str, revision: str, which: Sequence[str], started_at: datetime) -> None:
        super().__init__()
        self._output = output
        self._revision = revision
        self._which = tuple(which)
        self._started_at = started_at

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[ImageRef]:
        """Build the stage; a join, so that neither failures nor scores need fit into one memory."""
        failures = partial(_failures_by_uri, revision=self._revision)
        failed = begin | "Failures" >> ReadOutput(self._output, FAILURES, failures, tuple[str, FailedRef])
        keys = partial(scored_keys, revision=self._revision)
        scored = begin | "Scores" >> ReadOutput(self._output, SCORES, keys, tuple[str, int])
        joined = {"failed": failed, "scored": scored} | "Join" >> beam.CoGroupByKey()
        return joined | "Retry" >> beam.FlatMap(_retried, self._which, self._started_at).with_output_types(
            ImageRef
        )


def _failures_by_uri(file: str, revision: str) -> Iterator[tuple[str, FailedRef]]:
    return ((row.ref.image_uri, row) for row in failed_refs(file, revision))


def _retried(
    joined: tuple[str, dict[str, Any]], which: Sequence[str], started_at: datetime
) -> Iterator[ImageRef]:
    _, sides = joined
    ref = ref_to_retry(sides["failed"], sides["scored"], which, started_at)
    if ref is not None:
        yield ref
