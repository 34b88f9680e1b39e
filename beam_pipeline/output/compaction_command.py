"""``python -m beam_pipeline compact``: small files of past days into large ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import UTC, date, datetime

from beam_pipeline.options import Parser
from beam_pipeline.output.compaction import CompactedDay, CompactionSettings, compact
from beam_pipeline.stores.storage import join, list_files
from schemas.errors import ConfigurationError
from schemas.tables import SCHEMAS

_DEFAULT = CompactionSettings()
_STOPPED = "nothing is lost, and the next run goes on from here"


def compact_command(arguments: Sequence[str]) -> int:
    """Compact an output and say what was done.

    Returns:
        0; 1 where the storage refused, or a person stopped it: nothing is lost, and the next run finishes.

    Raises:
        ConfigurationError: It was told something wrong, or the output holds something else.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    settings = CompactionSettings(given.target_rows, given.delete_after_s)
    today = datetime.now(UTC).date().isoformat()
    problems = _problems(given.date, given.before, settings)
    if problems:
        raise ConfigurationError(problems)
    if not any(list_files(join(given.output, table), ".parquet") for table in SCHEMAS):
        raise ConfigurationError(f"{given.output}: no rows there")
    done: list[CompactedDay] = []
    before = min(given.before or today, today)
    try:
        for day in compact(given.output, settings, dates=given.date, before=before):
            done.append(day)
            if not given.json:
                print(_line(day), flush=True)
    except OSError as error:
        print(f"stopped: {error}; {_STOPPED}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped: {_STOPPED}", file=sys.stderr)
        return 130
    if given.json:
        print(json.dumps({"days": [asdict(day) for day in done]} | _totals(done), indent=2))
    else:
        print(_closing(done))
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="python -m beam_pipeline compact",
        description="Merge the small files of past days (UTC) into large ones, sorted by score, with one row "
        "per key: the highest attempt. Jobs and readers may go on meanwhile; may be stopped and run again at "
        "any time.",
    )
    days = parser.add_mutually_exclusive_group()
    parser.add_argument("output", metavar="OUTPUT", help="directory of a job, local or remote")
    days.add_argument(
        "--date", nargs="+", default=[], metavar="YYYY-MM-DD", help="only these days; may name today"
    )
    days.add_argument(
        "--before", metavar="YYYY-MM-DD", help="only days before this one (default: all but today)"
    )
    parser.add_argument(
        "--target-rows", type=int, default=_DEFAULT.target_rows, metavar="N",
        help="about the most rows of a file; memory holds one file's rows twice (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--delete-after-s", type=float, default=_DEFAULT.delete_after_s, metavar="SECONDS",
        help="time that readers which have listed the old files get to finish (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    return parser


def _problems(dates: Sequence[str], before: str | None, settings: CompactionSettings) -> list[str]:
    flagged = [("--date", text) for text in dates] + ([("--before", before)] if before else [])
    problems = [f"{flag} {text}: must be YYYY-MM-DD" for flag, text in flagged if not _is_day(text)]
    if settings.target_rows < 1:
        problems.append(f"--target-rows {settings.target_rows}: must be at least 1")
    if not 0 <= settings.delete_after_s < float("inf"):
        problems.append(f"--delete-after-s {settings.delete_after_s:g}: must be a number, at least 0")
    return problems


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _line(day: CompactedDay) -> str:
    text = (
        f"{day.table} {day.date}: {day.files_before:,} → {day.files_after:,} files, {day.rows:,} rows, "
        f"{day.duplicates:,} duplicates dropped, {_megabytes(day.bytes_read)} → "
        f"{_megabytes(day.bytes_written)}"
    )
    if day.left:
        text += f"; {day.left:,} replaced meanwhile, left for the next run"
    return text


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _totals(done: Sequence[CompactedDay]) -> dict[str, int]:
    numbers = [field.name for field in fields(CompactedDay) if field.type == "int"]
    return {name: sum(getattr(day, name) for day in done) for name in numbers}


def _closing(done: Sequence[CompactedDay]) -> str:
    if not done:
        return "nothing to compact"
    total = _totals(done)
    return (
        f"together: {total['files_before']:,} → {total['files_after']:,} files, {total['rows']:,} rows, "
        f"{total['duplicates']:,} duplicates dropped"
    )
