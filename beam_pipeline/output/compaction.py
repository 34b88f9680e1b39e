"""Compaction: the many small files of a past day become few large ones, while others read and write.

For each table and day, in this order:

1. All files of the day are read and merged (``beam_pipeline.output.merging``): per key and role the
   highest attempt.
2. The merged rows are put as a *set* of files, named from the names and versions of the files read. The first
   file of a set lists these in its metadata (key ``compaction``), the last one the number of rows.
3. Readers get time: a listing that began before the set was there, and went on while old files were removed,
   might show neither.
4. The set is read back, and what it was made from is removed, each file only if it still is the version that
   was read: what a job wrote meanwhile under the same name stays.

So at every moment each row is in at least one file, and the published views show it once. (A reader that
lists a file just before it is removed and opens it just after gets an error from its file system, never a
wrong answer; it asks again.) A run that is killed leaves an incomplete set (made again, under the same names,
as its sources are all still there) or a complete one with sources left (removed by the next run). Files that
come late are merged with the set into a new one. Two runs at the same time do each other no harm.

Memory: the rows of about one file of ``target_rows``, twice while it is sorted (some 2 GB for a million), and
``_AHEAD`` small files or two large ones as they lie in the store, whatever the size of the day. Local disk
(TMPDIR): a day's files, once, where a day has more than ``target_rows``.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beam_pipeline.output.merging import SORTED_BY, Runs
from beam_pipeline.output.parquet import encode
from beam_pipeline.output.source_files import SourceFile, read_ahead, rows_of
from beam_pipeline.stores.file_versions import remove_version, version_of
from beam_pipeline.stores.storage import join, list_files, open_binary, put_file
from schemas.errors import ConfigurationError
from schemas.tables import SCHEMAS

METADATA_KEY = b"compaction"
"""Of the Parquet metadata of compacted files."""

_ROW_GROUP_ROWS = 128 * 1024
_AHEAD = 16
_LOOKED_UP_BY = ("image_id", "image_uri")
_DAY = re.compile(r"(?P<folder>.*/date=(?P<date>\d{4}-\d{2}-\d{2}))/[^/]+")
_PART = re.compile(r"compact-([0-9a-f]{32})-(\d+)-of-(\d+)\.parquet")


@dataclass(frozen=True)
class CompactionSettings:
    """How days are compacted.

    Attributes:
        target_rows: About the most rows of a file.
        delete_after_s: Time that readers of the old files get to finish.
    """

    target_rows: int = 1_000_000
    delete_after_s: float = 60.0


@dataclass(frozen=True)
class CompactedDay:
    """What was done to one table and day.

    Attributes:
        table: ``scores`` or ``failures``.
        date: The UTC day.
        files_before: Files that the day had.
        files_after: Files that it has now, as far as this run knows.
        rows: Rows of the compacted files.
        duplicates: Rows read that gave way to a higher attempt or a later row of the same key.
        bytes_read: Of the files merged; 0 where only an earlier run was finished.
        bytes_written: Of the compacted files.
        left: Files that stay for the next run, as they were replaced while this one worked.
    """

    table: str
    date: str
    files_before: int
    files_after: int
    rows: int
    duplicates: int
    bytes_read: int
    bytes_written: int
    left: int


@dataclass(frozen=True)
class FileSet:
    """Compacted files that were made together.

    Attributes:
        digest: Names them; from the names and versions of the files that they were made from.
        parts: How many they are.
    """

    digest: str
    parts: int

    @property
    def names(self) -> list[str]:
        """File names, in order."""
        return [f"compact-{self.digest}-{part:04}-of-{self.parts:04}.parquet" for part in range(self.parts)]


@dataclass(frozen=True)
class _Plan:
    """What is to be done with a day.

    Attributes:
        sources: Files to merge; none where ``settled`` holds all rows.
        obsolete: Files whose rows are all in others → their versions.
        settled: The one set that holds all rows, if there is one.
    """

    sources: tuple[str, ...]
    obsolete: Mapping[str, str]
    settled: FileSet | None


@dataclass(frozen=True)
class _Replacement:
    """A set that holds all rows of other files of its day, which may go."""

    table: str
    date: str
    folder: str
    files_before: int
    by: FileSet
    obsolete: Mapping[str, str]
    added: int = 0
    rows_read: int | None = None
    bytes_read: int = 0
    bytes_written: int = 0


def compact(
    output: str,
    settings: CompactionSettings,
    *,
    dates: Collection[str] = (),
    before: str,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[CompactedDay]:
    """Compact days of an output, both tables; tell of each day when it is done. May be run at any time.

    Args:
        output: Directory of a job, local or remote.
        settings: Sizes and times.
        dates: Only these days (``YYYY-MM-DD``).
        before: Where ``dates`` is empty: all days before this one.
        sleep: Waits some seconds.
        clock: Seconds, from anywhere.

    Raises:
        ConfigurationError: A file is not one of this contract, or was written by a later version.
        OSError: The storage refused; nothing is lost, and the next run goes on.
    """
    waiting: deque[tuple[float, _Replacement]] = deque()
    for table in SCHEMAS:
        for date, folder in _days(output, table, dates, before):
            replacement = _merge_day(table, date, folder, settings.target_rows)
            if replacement is not None:
                waiting.append((clock() + settings.delete_after_s, replacement))
            while waiting and waiting[0][0] <= clock():
                yield _remove_replaced(waiting.popleft()[1])
    for due, replacement in waiting:
        sleep(max(due - clock(), 0))
        yield _remove_replaced(replacement)


def _days(output: str, table: str, dates: Collection[str], before: str) -> list[tuple[str, str]]:
    """Give days that have files, and their folders."""
    places = [join(output, table, f"date={date}") for date in dates] or [join(output, table)]
    days = (_DAY.fullmatch(path) for place in places for path in list_files(place, ".parquet"))
    return sorted({(day["date"], day["folder"]) for day in days if day and (dates or day["date"] < before)})


def _merge_day(table: str, date: str, folder: str, target_rows: int) -> _Replacement | None:
    """Put what is merged; None where there is nothing to do."""
    # Listed only now: with many days, the first look at all of them is long ago.
    names = [path.rsplit("/", 1)[1] for path in list_files(folder, ".parquet") if _DAY.fullmatch(path)]
    plan = _plan(folder, names)
    if plan.settled is not None:
        if not plan.obsolete:
            return None
        return _Replacement(table, date, folder, len(names), plan.settled, plan.obsolete)
    versions: dict[str, str] = {}
    read = 0
    with TemporaryDirectory() as scratch:
        runs = Runs(table, scratch, target_rows)
        for source in _sources(folder, plan.sources):
            for rows in rows_of(source, table):
                runs.add(rows)
            versions[source.name] = source.version
            read += len(source.data)
        if not versions:
            return None
        made = FileSet(_digest(versions), runs.parts)
        written = _put_set(made, folder, runs, versions)
    return _Replacement(
        table=table,
        date=date,
        folder=folder,
        files_before=len(names),
        by=made,
        obsolete={name: seen for name, seen in plan.obsolete.items() if name not in made.names} | versions,
        added=len({*made.names} - {*names}),
        rows_read=runs.rows,
        bytes_read=read,
        bytes_written=written,
    )


def _put_set(made: FileSet, folder: str, runs: Runs, versions: Mapping[str, str]) -> int:
    """Put a set, first file first; give its bytes."""
    kept = written = 0
    for name, rows in zip(made.names, runs.merged(), strict=True):
        kept += len(rows)
        told: dict[str, Any] = {}
        if name == made.names[0]:
            told["sources"] = dict(versions)
        if name == made.names[-1]:
            told["rows"] = kept
        data = encode(
            rows.replace_schema_metadata({METADATA_KEY: json.dumps(told)}),
            SORTED_BY[runs.table],
            row_group_rows=_ROW_GROUP_ROWS,
            looked_up_by=_LOOKED_UP_BY,
        )
        put_file(join(folder, name), data)
        written += len(data)
        del rows, data  # before the next part is gathered
    return written


def _remove_replaced(replacement: _Replacement) -> CompactedDay:
    """Remove what the set replaces, if the set is really there."""
    folder, obsolete = replacement.folder, replacement.obsolete
    _, rows = _read_set(folder, replacement.by)
    uris = [join(folder, name) for name in obsolete]
    with ThreadPoolExecutor(_AHEAD) as pool:
        gone = list(pool.map(remove_version, uris, obsolete.values()))
    return CompactedDay(
        table=replacement.table,
        date=replacement.date,
        files_before=replacement.files_before,
        files_after=replacement.files_before + replacement.added - sum(gone),
        rows=rows,
        duplicates=0 if replacement.rows_read is None else replacement.rows_read - rows,
        bytes_read=replacement.bytes_read,
        bytes_written=replacement.bytes_written,
        left=len(gone) - sum(gone),
    )


def _plan(folder: str, names: Sequence[str]) -> _Plan:
    """Decide from names, and the metadata of sets, what is merged and what may go."""
    present = set(names)
    sets = sorted(
        {FileSet(part[1], int(part[3])) for name in names if (part := _PART.fullmatch(name))}, key=str
    )
    complete = [made for made in sets if present.issuperset(made.names)]
    if len(complete) == 1 and present == set(complete[0].names):
        return _Plan((), {}, complete[0])
    obsolete: dict[str, str] = {}
    for made in complete:
        sources, _ = _read_set(folder, made)
        obsolete |= _unchanged(folder, sources, present)
    for made in sets:
        obsolete |= _begun(folder, made, present - obsolete.keys()) if made not in complete else {}
    live = present - obsolete.keys()
    settled = [made for made in complete if live == set(made.names)]
    return _Plan(() if settled else tuple(sorted(live)), obsolete, settled[0] if settled else None)


def _begun(folder: str, made: FileSet, present: Collection[str]) -> dict[str, str]:
    """Give the files of an incomplete set → their versions, if what it was made from is all still there."""
    if made.names[0] not in present:
        return {}
    sources = _footer(join(folder, made.names[0])).told["sources"]
    if len(_unchanged(folder, sources, present)) < len(sources):
        return {}
    return _versions(folder, [name for name in made.names if name in present])


def _unchanged(folder: str, versions: Mapping[str, str], present: Collection[str]) -> dict[str, str]:
    found = _versions(folder, [name for name in versions if name in present])
    return {name: version for name, version in found.items() if version == versions[name]}


def _versions(folder: str, names: Sequence[str]) -> dict[str, str]:
    with ThreadPoolExecutor(_AHEAD) as pool:
        found = pool.map(version_of, [join(folder, name) for name in names])
        return {name: version for name, version in zip(names, found, strict=True) if version is not None}


def _read_set(folder: str, made: FileSet) -> tuple[dict[str, str], int]:
    """Read back what a complete set was made from (name → version), and its rows.

    Raises:
        OSError: A file of it is gone: another run has merged it further.
        ConfigurationError: A file is damaged, or does not have the rows that were put into it.
    """
    footers = [_footer(join(folder, name)) for name in made.names]
    rows, put = sum(footer.rows for footer in footers), footers[-1].told["rows"]
    if rows != put:
        raise ConfigurationError(f"{folder}: {made.names[0]} and its parts have {rows:,} rows, not {put:,}")
    return footers[0].told["sources"], rows


@dataclass(frozen=True)
class _Footer:
    rows: int
    told: dict[str, Any]


def _footer(uri: str) -> _Footer:
    try:
        with open_binary(uri) as file:
            metadata = pq.read_metadata(file)
        return _Footer(metadata.num_rows, json.loads(metadata.metadata[METADATA_KEY]))
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{uri}: is damaged, or not a compacted file ({error})") from error


def _sources(folder: str, names: Sequence[str]) -> Iterator[SourceFile]:
    """Read files ahead, large ones one by one; those that vanish meanwhile are left out."""
    large = [join(folder, name) for name in names if _PART.fullmatch(name)]
    small = [join(folder, name) for name in names if not _PART.fullmatch(name)]
    yield from read_ahead(large, 1)
    yield from read_ahead(small, _AHEAD)


def _digest(versions: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(versions.items())).encode()).hexdigest()[:32]
