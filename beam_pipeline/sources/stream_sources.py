"""Unbounded sources: notifications of a bucket, and a place that is listed again and again.

For runners that stream by themselves (Dataflow; Flink for ``WatchPlace``). On one machine
``beam_pipeline.sources.live`` brings the same refs in rounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import apache_beam as beam
from apache_beam.io.fileio import MatchContinuously
from apache_beam.metrics import Metrics
from apache_beam.transforms.deduplicate import DeduplicatePerKey
from apache_beam.utils.timestamp import Duration

from beam_pipeline.scoring.handler import NAMESPACE
from beam_pipeline.sources.image_names import is_shown
from beam_pipeline.sources.inputs import describe
from beam_pipeline.sources.notifications import ref_of_notification
from beam_pipeline.stores.gcs_access import WILD
from schemas.records import ImageRef

IGNORED = "notifications_ignored"
"""Counter of notifications that are about something else than a finished image."""


class ReadNotifications(beam.PTransform):
    """A Pub/Sub subscription to a bucket's notifications → refs with generation, size and event time.

    Elements carry the time of publication, not the event's: a message without a readable ``eventTime`` would
    otherwise stop the source instead of becoming a row. Windows are global, so that nothing is ever late;
    the event time is a field of the ref.
    """

    def __init__(self, subscription: str) -> None:
        super().__init__()
        self._subscription = subscription

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[ImageRef]:
        """Build the stage."""
        read = beam.io.ReadFromPubSub(subscription=self._subscription, with_attributes=True)
        messages = begin | "Messages" >> read
        return messages | "Refs" >> beam.FlatMap(refs_of_message).with_output_types(ImageRef)


class WatchPlace(beam.PTransform):
    """A folder or pattern, listed every so often → described refs of what is new or changed there.

    By Beam's own ``MatchContinuously``, whose state grows with the number of files.
    """

    def __init__(self, pattern: str, every_s: float) -> None:
        super().__init__()
        # As on one machine: what is no pattern is a folder, with or without a slash at its end.
        self._pattern = pattern if WILD.search(pattern) else pattern.rstrip("/") + "/**"
        self._every_s = every_s

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[ImageRef]:
        """Build the stage."""
        match = MatchContinuously(self._pattern, interval=self._every_s, match_updated_files=True)
        found = begin | "Match" >> match
        named = found | "Refs" >> beam.FlatMap(refs_of_file, self._pattern).with_output_types(ImageRef)
        return named | "Describe" >> beam.Map(_described).with_output_types(ImageRef)


class DropSeen(beam.PTransform):
    """Drop refs whose key came within a time: sources repeat themselves.

    Before any windowing: state is kept by window, and the same key would pass once in each.
    """

    def __init__(self, horizon_s: float) -> None:
        super().__init__()
        self._horizon_s = horizon_s

    def expand(self, refs: beam.PCollection[ImageRef]) -> beam.PCollection[ImageRef]:
        """Build the stage."""
        keyed = refs | "Key" >> beam.Map(_keyed).with_output_types(tuple[str, ImageRef])
        once = keyed | "Once" >> DeduplicatePerKey(processing_time_duration=Duration.of(self._horizon_s))
        return once | "Refs" >> beam.Map(_value).with_output_types(ImageRef)


def refs_of_message(message: Any) -> Iterator[ImageRef]:
    """Read one ``PubsubMessage``; counts those that are ignored."""
    ref = ref_of_notification(
        message.attributes or {}, message.data or b"", message.message_id or "unnamed", datetime.now(UTC)
    )
    if ref is None:
        Metrics.counter(NAMESPACE, IGNORED).inc()
    else:
        yield ref


def refs_of_file(metadata: Any, pattern: str) -> Iterator[ImageRef]:
    """Read one ``FileMetadata``: no ref for what the pattern found and is no image by its name."""
    folder = WILD.split(pattern, maxsplit=1)[0].rpartition("/")[0]
    if is_shown(metadata.path.removeprefix(folder), pattern.removeprefix(folder)):
        yield ImageRef(image_uri=metadata.path)


def _described(ref: ImageRef) -> ImageRef:
    return describe(ref, datetime.now(UTC))


def _keyed(ref: ImageRef) -> tuple[str, ImageRef]:
    uri, generation = ref.key
    return f"{generation}:{uri}", ref


def _value(pair: tuple[str, ImageRef]) -> ImageRef:
    return pair[1]
