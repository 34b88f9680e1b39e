"""Running a job: submitted to a runner, or, where it is a stream on this machine, followed in rounds."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from types import FrameType

import apache_beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from beam_pipeline.job import Job
from beam_pipeline.output.reading_output import day_folders, read_day
from beam_pipeline.output.scored import scored_keys
from beam_pipeline.output.summary import Summary, summarise
from beam_pipeline.pipeline import build_pipeline
from beam_pipeline.progress import ProgressPrinter, tally_of
from beam_pipeline.scoring.engine import pinned_engine
from beam_pipeline.sources.live import Feed, RoundPlan, StreamLostError, follow
from beam_pipeline.sources.subscription_feed import SubscriptionFeed, subscription_problem
from beam_pipeline.sources.watch_feed import WatchFeed
from beam_pipeline.stores.storage import join
from beam_pipeline.submission.runners import (
    counter_value,
    is_submitted_only,
    local_runner,
    runs_in_this_process,
)
from beam_pipeline.transforms import SKIPPED
from beam_pipeline.validation import output_problems
from schemas.errors import ConfigurationError
from schemas.records import ImageRef
from schemas.tables import SCORES

_ROUNDS_AHEAD = 2
"""Rounds' worth of images that may be on their way from a subscription; more are not pulled."""


def run_job(job: Job, beam: PipelineOptions) -> Summary | None:
    """Run a job to its end.

    Args:
        job: What to do.
        beam: Options of the runner. Without a runner, and for local ones, the workers are in this process.

    Returns:
        What the run came to, read back from its output; None where it is handed over and left.

    Raises:
        ConfigurationError: The subscription, the model or the device cannot be used.
        StreamLostError: A stream on this machine lost its source or its output for good; what had arrived is
            scored, as far as it could be written.
    """
    here = runs_in_this_process(beam)
    if here and job.options.subscription is not None:
        _check_subscription(job.options.subscription)
    if here:
        # The workers will find it pinned. Loaded now, a wrong model or device stops the job before it starts.
        pinned_engine(job.factory, job.engine_settings())
    shows = here and not job.options.no_progress
    with ProgressPrinter(tally_of(job.options.run_id), sys.stderr) if shows else nullcontext():
        skipped = _follow(job, beam) if here and job.is_stream else _run(job, beam)
    if skipped is None:
        return None
    summary = summarise(job.options.output, job.options.run_id)
    return replace(summary, skipped=skipped, synthetic=job.adapter.synthetic)


def _check_subscription(subscription: str) -> None:
    problem = subscription_problem(subscription)
    if problem is not None:
        raise ConfigurationError(problem)


def _run(job: Job, beam: PipelineOptions) -> int | None:
    if job.is_stream and job.arrived is None:
        beam.view_as(StandardOptions).streaming = True
    pipeline = apache_beam.Pipeline(runner=local_runner(beam), options=beam)
    build_pipeline(pipeline, job)
    result = pipeline.run()
    if is_submitted_only(beam, is_stream=job.is_stream):
        return None
    result.wait_until_finish()
    return counter_value(result, SKIPPED) if job.options.skip_scored else 0


def _follow(job: Job, beam: PipelineOptions) -> int:
    options = job.options
    plan = RoundPlan(
        images=options.chunk_size * options.stream_shards,
        wait_s=options.chunk_wait_s,
        idle_s=options.stop_when_idle_s,
    )
    feed = _feed(job, plan)
    try:
        with _stopped_by_signals() as stop, _told_of_output(options.output):
            follow(feed, partial(_run_round, job, beam), plan, stop)
    finally:
        feed.close()
        if feed.note():
            print(feed.note(), file=sys.stderr)
    return feed.left_out


@contextmanager
def _told_of_output(output: str) -> Iterator[None]:
    """Of a stream that failed: say what is wrong with its output, if that is what is wrong."""
    try:
        yield
    except (ConfigurationError, StreamLostError):
        raise
    except Exception as error:
        problems = output_problems(output)
        if not problems:
            raise
        raise StreamLostError("; ".join(problems)) from error


def _run_round(job: Job, beam: PipelineOptions, refs: tuple[ImageRef, ...]) -> None:
    options = replace(job.options, skip_scored=False)
    _run(replace(job, arrived=refs, adapter_at_start=job.adapter, options=options), beam)


def _feed(job: Job, plan: RoundPlan) -> Feed:
    options = job.options
    if options.subscription is not None:
        return SubscriptionFeed(options.subscription, plan.images * _ROUNDS_AHEAD, options.deduplicate_s)
    assert options.watch is not None  # a stream is one of the two
    known = _keys_in(options.output, job.adapter.revision) if options.skip_scored else ()
    return WatchFeed(options.watch, options.every, known)


def _keys_in(output: str, revision: str) -> Iterator[tuple[str, int]]:
    for day in day_folders(join(output, SCORES)):
        yield from read_day(day, partial(scored_keys, revision=revision))


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """Give an event that the first Ctrl-C or SIGTERM sets; the second one ends the process as usual."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread hears signals
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])
        print("stopping: what has arrived is scored first; once more stops at once", file=sys.stderr)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
