"""``python -m beam_pipeline``: score images; ``summary``, ``query``, ``ddl``, ``compact`` for what jobs left.

Exit code 0 when images were scored, also if some failed; 1 when all failed, or the job did; 2 when it
was told something wrong, with every reason listed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from beam_pipeline.options import Parser, ScoringOptions, misspelt, parse
from schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from beam_pipeline.scoring.scorers import ScorerFactory

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
    commands = {"summary": _summary, "query": _query, "ddl": _ddl, "compact": _compact}
    commands |= {"dataflow-flags": _dataflow_flags, "template-metadata": _template_metadata}
    try:
        if arguments and arguments[0] in commands:
            return _asked(commands[arguments[0]], arguments[1:])
        return _score(arguments, factory)
    except ConfigurationError as error:
        print("cannot start:", file=sys.stderr)
        for reason in error.reasons:
            print(f"  {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: what was written stays; --skip-scored goes on from there", file=sys.stderr)
        return 130


def _asked(command: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> int:
    try:
        return command(arguments)
    except OSError as error:  # the output is not there, or its store refuses
        raise ConfigurationError(f"{error.filename or ''}: {error.strerror or error}") from error


def _score(arguments: Sequence[str], factory: ScorerFactory | None) -> int:
    options, others = parse(arguments)
    _check(options, others, ours=factory is None)

    from beam_pipeline.job import Job, model_factory
    from beam_pipeline.output.summary import summary_text, write_summary
    from beam_pipeline.running import run_job
    from beam_pipeline.sources.live import StreamLostError
    from beam_pipeline.submission.runners import beam_options, right_fitting_problems, runner_problems

    beam = beam_options(others)
    problems = [*runner_problems(options, beam), *right_fitting_problems(options.score_gpu, beam)]
    if problems:
        raise ConfigurationError(problems)
    job = Job(options, factory or model_factory(options), started_at=datetime.now(UTC))
    try:
        summary = run_job(job, beam)
    except StreamLostError as lost:
        print(f"stopped: {lost}", file=sys.stderr)
        return 1
    if summary is None:
        print("submitted; the job goes on by itself")
        return 0
    # First the file: a reader that has seen enough closes the pipe, and print raises.
    place = write_summary(summary)
    print(summary_text(summary))
    print(f"summary: {place}")
    return 1 if summary.failed and not (summary.scored or summary.skipped) else 0


def _check(options: ScoringOptions, others: Sequence[str], *, ours: bool) -> None:
    from beam_pipeline.scoring.adapters import adapter_problems
    from beam_pipeline.validation import pointer_problems, problems_of

    problems = [*misspelt(others), *problems_of(options)]
    if ours:
        problems += pointer_problems(options)
        problems += adapter_problems(
            options.adapter,
            options.template,
            options.base_model,
            options.challenger,
            options.challenger_share,
        )
    if problems:
        raise ConfigurationError(problems)


def _dataflow_flags(arguments: Sequence[str]) -> int:
    from beam_pipeline.submission.gpu_settings import print_dataflow_flags

    return print_dataflow_flags(arguments)


def _template_metadata(arguments: Sequence[str]) -> int:
    from beam_pipeline.submission.flex_template import print_template_metadata

    return print_template_metadata(arguments)


def _summary(arguments: Sequence[str]) -> int:
    from beam_pipeline.output.summary import summarise, summary_text
    from beam_pipeline.scoring.adapters import is_synthetic

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
    from beam_pipeline.output.queries import ANALYST_QUERY, TABLE_QUERY, answer

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
    from beam_pipeline.output.queries import DIALECTS, ddl

    parser = Parser(
        prog="python -m beam_pipeline ddl", description="Print SQL that makes an output queryable."
    )
    parser.add_argument("output", metavar="OUTPUT", help="directory of a job")
    parser.add_argument("--dialect", choices=DIALECTS, default=DIALECTS[0], help="default: %(default)s")
    given = parser.parse_args(arguments)
    print(ddl(given.output, given.dialect), end="")
    return 0


def _compact(arguments: Sequence[str]) -> int:
    from beam_pipeline.output.compaction_command import compact_command

    return compact_command(arguments)


if __name__ == "__main__":
    sys.exit(main())
