"""Reading what earlier jobs left, while ``compact`` may merge it: no row is missed; some may come twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import apache_beam as beam

from beam_pipeline.stores.storage import join, list_files

_TRIES = 5
_VANISHED = "vanished"
_Item = TypeVar("_Item")


class ReadOutput(beam.PTransform):
    """One table of an output → what a function reads in its files.

    A file that was removed after it had been listed was merged into another one of its day: then that day is
    listed and read again.

    Args:
        output: Directory of a job.
        table: ``scores`` or ``failures``.
        read: File → items; raises ``FileNotFoundError`` where it is gone.
        item: Type of an item.
    """

    def __init__(self, output: str, table: str, read: Callable[[str], Iterator[Any]], item: Any) -> None:
        super().__init__()
        self._folder = join(output, table)
        self._read = read
        self._item = item

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[Any]:
        """Build the stage; files are read by all workers."""
        files = (
            begin
            | "Folder" >> beam.Create([self._folder])
            | "List" >> beam.FlatMap(list_files, ".parquet").with_output_types(str)
            | "Spread" >> beam.Reshuffle()
        )
        read = files | "Read" >> beam.ParDo(_ReadFile(self._read)).with_outputs(_VANISHED, main="items")
        days = read[_VANISHED] | "Days" >> beam.Map(str).with_output_types(str) | "Once" >> beam.Distinct()
        again = days | "ReadAgain" >> beam.FlatMap(read_day, self._read).with_output_types(self._item)
        typed = read["items"] | "Items" >> beam.Map(_itself).with_output_types(self._item)
        return (typed, again) | "Both" >> beam.Flatten()


class _ReadFile(beam.DoFn):
    def __init__(self, read: Callable[[str], Iterator[Any]]) -> None:
        self._read = read

    def process(self, file: str) -> Iterator[Any]:
        try:
            yield from self._read(file)
        except FileNotFoundError:
            yield beam.pvalue.TaggedOutput(_VANISHED, file.rpartition("/")[0])


def day_folders(folder: str) -> list[str]:
    """The days of a table that have files."""
    return sorted({file.rpartition("/")[0] for file in list_files(folder, ".parquet")})


def read_day(folder: str, read: Callable[[str], Iterator[_Item]]) -> Iterator[_Item]:
    """Read all files of a day; again from the start where one vanishes meanwhile, so items may come twice.

    Raises:
        FileNotFoundError: Files went on vanishing.
    """
    for trial in range(1, _TRIES + 1):
        try:
            for file in list_files(folder, ".parquet"):
                yield from read(file)
            return
        except FileNotFoundError:
            if trial == _TRIES:
                raise


def _itself(item: Any) -> Any:
    return item
