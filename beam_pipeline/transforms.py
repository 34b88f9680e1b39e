"""The stages of the pipeline: thin Beam shells over pure functions tested without Beam."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import RunInference
from apache_beam.transforms.window import BoundedWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from beam_pipeline.coders import decode, encode, register_coders
from beam_pipeline.job import Job
from beam_pipeline.output.reading_output import ReadOutput
from beam_pipeline.output.scored import scored_keys
from beam_pipeline.output.sink import write_chunk
from beam_pipeline.progress import tally_of
from beam_pipeline.scoring.handler import NAMESPACE, ChunkHandler, rescue
from beam_pipeline.scoring.turns import Turn
from beam_pipeline.sources.chunks import (
    Parcel,
    Shard,
    Span,
    by_shard,
    count_days,
    cut_chunks,
    in_parcels,
    parcel_of,
    plan_spans,
    refs_of,
    shard_of,
)
from beam_pipeline.sources.image_table import read_table
from beam_pipeline.sources.inputs import describe, locate
from beam_pipeline.sources.retries import ReadFailedRefs
from beam_pipeline.sources.stream_sources import DropSeen, ReadNotifications, WatchPlace
from beam_pipeline.submission.runners import runs_in_this_process
from schemas.errors import InferenceError
from schemas.records import Chunk, ImageRef, ScoredChunk
from schemas.tables import SCORES

register_coders()

_BATCH_REFS = 8192
"""Refs that are counted, and parted into shards, together: the more, the fewer parcels a shard has."""

SKIPPED = "skipped_already_scored"
"""Counter of the images that ``--skip-scored`` left out."""


@beam.typehints.with_output_types(ImageRef)
class ReadImageRefs(beam.PTransform):
    """The source that the options name → described refs: the one stage that differs between batch and stream.

    Of paths, patterns and directories names are found by one worker per pattern; their metadata is read by
    all of them, as that of a manifest table. A subscription or a watched place is unbounded, and gives every
    version of an image once within ``deduplicate_s``.
    """

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._job = job

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[ImageRef]:
        """Build the stage."""
        options, arrived, started_at = self._job.options, self._job.arrived, self._job.started_at
        if arrived is not None:
            return begin | "Arrived" >> beam.Create(arrived).with_output_types(ImageRef)
        if options.subscription is not None:
            announced = begin | "Notifications" >> ReadNotifications(options.subscription)
            return announced | "DropSeen" >> DropSeen(options.deduplicate_s)
        if options.watch is not None:
            found = begin | "Watch" >> WatchPlace(options.watch, options.every)
            return found | "DropSeen" >> DropSeen(options.deduplicate_s)
        if options.retry_failed:
            revision = self._job.adapter.revision
            failed = ReadFailedRefs(options.output, revision, options.retry_failed, started_at)
            return begin | "Failed" >> failed
        if options.manifest is not None:
            sources = begin | "Table" >> beam.Create([options.manifest])
            found = sources | "ReadTable" >> beam.FlatMap(_found, read_table).with_output_types(Parcel)
        else:
            sources = begin | "Patterns" >> beam.Create(list(options.input))
            found = sources | "Locate" >> beam.FlatMap(_found, locate).with_output_types(Parcel)
        spread = found | "Spread" >> beam.Reshuffle()
        return spread | "Describe" >> beam.FlatMap(_described, started_at).with_output_types(ImageRef)


@beam.typehints.with_input_types(ImageRef)
@beam.typehints.with_output_types(ImageRef)
class DropScored(beam.PTransform):
    """Leave out the images that the output already has scores for, by this adapter; counts them."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._output = job.options.output
        self._revision = job.adapter.revision
        self._run_id = job.options.run_id

    def expand(self, refs: beam.PCollection[ImageRef]) -> beam.PCollection[ImageRef]:
        """Build the stage; a join, so that the keys of a large output need fit into no one memory."""
        keyed = refs | "KeyRefs" >> beam.Map(_by_key).with_output_types(tuple[tuple[str, int], bytes])
        read = partial(_marked_keys, revision=self._revision)
        scored = refs.pipeline | "Scored" >> ReadOutput(
            self._output, SCORES, read, tuple[tuple[str, int], bool]
        )
        joined = {"refs": keyed, "scored": scored} | "Join" >> beam.CoGroupByKey()
        return joined | "DropScored" >> beam.FlatMap(_unscored, self._run_id).with_output_types(ImageRef)


@beam.typehints.with_input_types(ImageRef)
@beam.typehints.with_output_types(Chunk)
class ChunkRefs(beam.PTransform):
    """Refs → chunks.

    Of bounded refs chunks depend on nothing but the set of refs (``beam_pipeline.sources.chunks``); of a
    stream see ``ChunkStream``.
    """

    def __init__(self, job: Job) -> None:
        super().__init__()
        options = job.options
        self._size = options.chunk_size
        self._stream = ChunkStream(options.chunk_size, options.chunk_wait_s, options.stream_shards)
        # Of a stream that is scored in rounds nobody knows the total.
        self._tells_total = job.arrived is None
        self._run_id = options.run_id

    def expand(self, refs: beam.PCollection[ImageRef]) -> beam.PCollection[Chunk]:
        """Build the stage."""
        if not refs.is_bounded:
            return refs | "Stream" >> self._stream
        batches = refs | "Batch" >> beam.BatchElements(_BATCH_REFS, _BATCH_REFS)
        days = batches | "Days" >> beam.FlatMap(count_days).with_output_types(tuple[int, int])
        counts = days | "Count" >> beam.CombinePerKey(sum)
        if self._tells_total:
            total = counts | "Counts" >> beam.Values() | "Total" >> beam.CombineGlobally(sum)
            _ = total | "TellTotal" >> beam.Map(_tell_total, self._run_id)
        shard = beam.ParDo(_ShardRefs(self._size), beam.pvalue.AsDict(counts))
        parcels = batches | "Pack" >> beam.Map(parcel_of).with_output_types(Parcel)
        sharded = parcels | "Shard" >> shard.with_output_types(tuple[Shard, Parcel])
        grouped = sharded | "Group" >> beam.GroupByKey()
        return grouped | "Cut" >> beam.FlatMap(_chunks_of, self._size).with_output_types(Chunk)


class ChunkStream(beam.PTransform):
    """Refs → chunks, each closed by its size, by the time since its first ref, or by the end of the stream.

    Args:
        size: Most refs of a chunk.
        wait_s: Most seconds that a chunk stays open.
        shards: Chunks that are filled side by side.
    """

    def __init__(self, size: int, wait_s: float, shards: int) -> None:
        super().__init__()
        self._size, self._wait_s, self._shards = size, wait_s, shards

    def expand(self, refs: beam.PCollection[ImageRef]) -> beam.PCollection[Chunk]:
        """Build the stage."""
        sharded = refs | "Shard" >> beam.Map(_streamed, self._shards).with_output_types(tuple[int, bytes])
        grouped = sharded | "Group" >> beam.GroupIntoBatches(self._size, self._wait_s)
        chunks = grouped | "Close" >> beam.Map(_stream_chunk).with_output_types(Chunk)
        # Commits the chunk: scoring that fails is repeated with the very same refs, hence the same files.
        return chunks | "Commit" >> beam.Reshuffle()


@beam.typehints.with_input_types(Chunk)
class ScoreChunks(beam.PTransform):
    """Chunks → scored chunks, and those that only the last net caught; together one for each chunk."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._job = job

    def expand(
        self, chunks: beam.PCollection[Chunk]
    ) -> tuple[beam.PCollection[ScoredChunk], beam.PCollection[ScoredChunk]]:
        """Build the stage."""
        job = self._job
        handler = ChunkHandler(job.factory, job.engine_settings(), job.options.run_id)
        # Of all errors only this one may become rows: anything else must stop the job or the process.
        inference = RunInference(handler.with_no_batching()).with_exception_handling(exc_class=InferenceError)
        # Elsewhere several threads of a worker bring chunks, and one that is held back cannot be split off;
        # in a stream it would wait for the next one until its bundle ends.
        brings_one_by_one = chunks.is_bounded and runs_in_this_process(chunks.pipeline.options)
        as_batch = beam.ParDo(_InTurn()) if brings_one_by_one else beam.Map(_as_batch)
        batches = chunks | "AsBatch" >> as_batch.with_output_types(list[Turn])
        scored, dropped = batches | "RunInference" >> inference
        # RunInference gives no type; without one Beam would pickle where a runner writes this down.
        scored.element_type = ScoredChunk
        rescued = dropped.failed_inferences | "Rescue" >> beam.FlatMap(
            _rescued, job.adapter, job.options.run_id
        ).with_output_types(ScoredChunk)
        return scored, rescued


@beam.typehints.with_output_types(str)
class WriteChunks(beam.PTransform):
    """Scored chunks → the names of the files that hold their rows."""

    def __init__(self, output: str) -> None:
        super().__init__()
        self._output = output

    def expand(self, parts: Iterable[beam.PCollection[ScoredChunk]]) -> beam.PCollection[str]:
        """Build the stage.

        Each part is written by itself: flattened first, a runner may collect all chunks before the first
        one is written, and a job that dies would leave nothing.
        """
        written = [
            part | f"Write{number}" >> beam.FlatMap(write_chunk, self._output).with_output_types(str)
            for number, part in enumerate(parts)
        ]
        return written | "Files" >> beam.Flatten()


def _found(place: str, find: Callable[[str], Iterator[ImageRef]]) -> Iterator[Parcel]:
    return in_parcels(find(place))


def _described(parcel: Parcel, started_at: datetime) -> Iterator[ImageRef]:
    return (describe(ref, started_at) for ref in refs_of(parcel))


def _by_key(ref: ImageRef) -> tuple[tuple[str, int], bytes]:
    # Bytes of our own: the sides of a join have no common type, so Beam pickles what is not plain.
    return ref.key, encode(ref)


def _marked_keys(file: str, revision: str) -> Iterator[tuple[tuple[str, int], bool]]:
    return ((key, True) for key in scored_keys(file, revision))


def _unscored(joined: tuple[tuple[str, int], dict[str, Any]], run_id: str) -> Iterator[ImageRef]:
    _, sides = joined
    if next(iter(sides["scored"]), None) is None:
        yield from (decode(data, ImageRef) for data in sides["refs"])
        return
    if next(iter(sides["refs"]), None) is not None:
        Metrics.counter(NAMESPACE, SKIPPED).inc()
        tally_of(run_id).skip()


def _tell_total(total: int, run_id: str) -> None:
    # Reaches the progress line where the workers are in its process; elsewhere nobody asks.
    tally_of(run_id).expect(total)


class _ShardRefs(beam.DoFn):
    """Parcels → parcels with their shards, by a plan that is made once for every counting."""

    def __init__(self, chunk_size: int) -> None:
        self._chunk_size = chunk_size
        self._counts: dict[int, int] | None = None
        self._plan: dict[int, Span] = {}

    def process(self, parcel: Parcel, counts: dict[int, int]) -> Iterator[tuple[Shard, Parcel]]:
        if counts is not self._counts:
            self._counts, self._plan = counts, plan_spans(counts, self._chunk_size)
        for shard, refs in by_shard(refs_of(parcel), self._plan):
            yield shard, parcel_of(refs)


def _streamed(ref: ImageRef, shards: int) -> tuple[int, bytes]:
    # Bytes of our own: Beam pickles whatever GroupIntoBatches keeps in its state, coder or not.
    return shard_of(ref.image_uri, shards), encode(ref)


def _stream_chunk(batch: tuple[int, Iterable[bytes]]) -> Chunk:
    refs = (decode(data, ImageRef) for data in batch[1])
    return Chunk(tuple(sorted(refs, key=lambda ref: ref.key)))


def _chunks_of(shard: tuple[Shard, Iterable[Parcel]], chunk_size: int) -> list[Chunk]:
    (_, opens), parcels = shard
    return cut_chunks((ref for parcel in parcels for ref in refs_of(parcel)), chunk_size, opens=opens)


class _InTurn(beam.DoFn):
    """Chunks → batches of one; each is held until the next is known, so that this can be begun in time."""

    def start_bundle(self) -> None:
        self._held: WindowedValue | None = None

    def process(
        self,
        chunk: Chunk,
        timestamp: Timestamp = beam.DoFn.TimestampParam,
        window: BoundedWindow = beam.DoFn.WindowParam,
    ) -> Iterator[WindowedValue]:
        turn = Turn(chunk)
        held, self._held = self._held, WindowedValue([turn], timestamp, (window,))
        if held is not None:
            held.value[0].following = turn
            yield held

    def finish_bundle(self) -> Iterator[WindowedValue]:
        held, self._held = self._held, None
        if held is not None:
            yield held


def _as_batch(chunk: Chunk) -> list[Turn]:
    return [Turn(chunk)]


def _rescued(dropped: Any, adapter: Any, run_id: str) -> Iterator[ScoredChunk]:
    batch, (_, message, _) = dropped
    for turn in batch:
        yield rescue(turn.chunk, message, adapter, run_id)
