"""``python -m beam_pipeline``: score images; ``summary``, ``query`` and ``ddl`` for what a job left behind.

Exit code 0 when images were scored, also if some failed; 1 when all failed, or the job did; 2 when it
was told something wrong, with every reason listed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from beam_pipeline.options import Parser, ScoringOptions, parse
from schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

    from beam_pipeline.job import Job
    from beam_pipeline.scorers import ScorerFactory
    from beam_pipeline.summary import Summary

# Nothing heavy is imported up here: --help, and an option error, must answer at once.


def main(argv: Sequence[str] | None = None, factory: ScorerFactory | None = None) -> int:
    """Run a command.

    Args:
        argv: Arguments; None = those of the process.
        factory: Where the scorer comes from; None = the model that the options name.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {"summary": _summary, "query": _query, "ddl": _ddl}
    try:
        if arguments and arguments[0] in commands:
            return commands[arguments[0]](arguments[1:])
        return _score(arguments, factory)
    except ConfigurationError as error:
        print("cannot start:", file=sys.stderr)
        for reason in error.reasons:
            print(f"  {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: what was written stays; --skip-scored goes on from there", file=sys.stderr)
        return 130


def _score(arguments: Sequence[str], factory: ScorerFactory | None) -> int:
    options, others = parse(arguments)
    _check(options, ours=factory is None)

    from beam_pipeline.job import Job, model_factory
    from beam_pipeline.runners import beam_options

    beam = beam_options(others)
    job = Job(options, factory or model_factory(options), started_at=datetime.now(UTC))
    summary = _run(job, beam)
    return 1 if summary.failed and not (summary.scored or summary.skipped) else 0


def _check(options: ScoringOptions, *, ours: bool) -> None:
    from beam_pipeline.adapters import adapter_problems
    from beam_pipeline.validation import problems_of

    problems = problems_of(options)
    if ours:
        problems += adapter_problems(options.adapter, options.template, options.base_model)
    if problems:
        raise ConfigurationError(problems)


def _run(job: Job, beam: PipelineOptions) -> Summary:
    import apache_beam

    from beam_pipeline.engine import pinned_engine
    from beam_pipeline.pipeline import build_pipeline
    from beam_pipeline.progress import ProgressPrinter, tally_of
    from beam_pipeline.runners import counter_value, local_runner, runs_in_this_process
    from beam_pipeline.summary import summarise, summary_text, write_summary
    from beam_pipeline.transforms import SKIPPED

    options = job.options
    here = runs_in_this_process(beam)
    if here:
        # The workers will find it pinned. Loaded now, a wrong model or device stops the job before it starts.
        pinned_engine(job.factory, job.engine_settings())
    pipeline = apache_beam.Pipeline(runner=local_runner(beam), options=beam)
    build_pipeline(pipeline, job)
    shows = here and not options.no_progress
    with ProgressPrinter(tally_of(options.run_id), sys.stderr) if shows else nullcontext():
        result = pipeline.run()
        result.wait_until_finish()
    summary = summarise(options.output, options.run_id)
    skipped = counter_value(result, SKIPPED) if options.skip_scored else 0
    summary = replace(summary, skipped=skipped, synthetic=job.adapter.synthetic)
    # First the file: a reader that has seen enough closes the pipe, and print raises.
    place = write_summary(summary)
    print(summary_text(summary))
    print(f"summary: {place}")
    return summary


def _summary(arguments: Sequence[str]) -> int:
    from beam_pipeline.adapters import is_synthetic
    from beam_pipeline.summary import summarise, summary_text

    parser = Parser(prog="python -m beam_pipeline summary", description="Say what an output holds.")
    parser.add_argument("output", metavar="OUTPUT", help="directory of a job")
    parser.add_argument("--run-id", metavar="ID", help="count the rows of this run only")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    given = parser.parse_args(arguments)
    summary = summarise(given.output, given.run_id)
    if not summary.scored and not summary.failed:
        raise ConfigurationError(f"{given.output}: no rows there")
    summary = replace(summary, synthetic=is_synthetic(revision for _, revision in summary.adapters))
    print(summary.to_json() if given.json else summary_text(summary))
    return 0


def _query(arguments: Sequence[str]) -> int:
    from beam_pipeline.queries import ANALYST_QUERY, TABLE_QUERY, answer

    parser = Parser(prog="python -m beam_pipeline query", description="Ask an output with DuckDB.")
    parser.add_argument("output", metavar="OUTPUT", help="directory of a job")
    parser.add_argument(
        "sql", metavar="SQL", nargs="*", default=[TABLE_QUERY, ANALYST_QUERY],
        help="about image_scores and image_failures (default: two examples)",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    for sql in given.sql:
        print(f"{sql}\n\n{answer(given.output, sql)}\n")
    return 0


def _ddl(arguments: Sequence[str]) -> int:
    from beam_pipeline.queries import DIALECTS, ddl

    parser = Parser(
        prog="python -m beam_pipeline ddl", description="Print SQL that makes an output queryable."
    )
    parser.add_argument("output", metavar="OUTPUT", help="directory of a job")
    parser.add_argument("--dialect", choices=DIALECTS, default=DIALECTS[0], help="default: %(default)s")
    given = parser.parse_args(arguments)
    print(ddl(given.output, given.dialect), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
