"""Tables with a header line, as CSV or as a spreadsheet: cells by name, every row with its line number."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import ConfigurationError
from training.optional_modules import optional_module


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row.

    Attributes:
        file: Of the table.
        line: From 1; the header is a line.
        cells: Text by column, stripped; "" where it is empty or the table has no such column.
    """

    file: Path
    line: int
    cells: Mapping[str, str]

    @property
    def place(self) -> str:
        """File and line, for errors."""
        return f"{self.file}, line {self.line}"

    def text(self, column: str) -> str:
        """A cell that must not be empty.

        Raises:
            ValueError: It is.
        """
        if not self.cells[column]:
            raise ValueError(f"{column} is empty")
        return self.cells[column]

    def number(self, column: str) -> float:
        """A cell that must be a finite number.

        Raises:
            ValueError: It is none.
        """
        text = self.text(column)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"{column} {text!r} is no number")
        return value

    def maybe_number(self, column: str) -> float | None:
        """A number, or None where the cell is empty."""
        return self.number(column) if self.cells[column] else None


def read_table(
    file: Path, columns: Mapping[str, Sequence[str]], optional: Mapping[str, Sequence[str]] | None = None
) -> list[TableRow]:
    """Read a table.

    Args:
        file: ``.csv`` (comma-separated UTF-8), or ``.xlsx`` (first sheet; needs openpyxl).
        columns: Our name of a column → the names that it may have in the file; case, blanks and underscores
            make no difference.
        optional: Likewise, for columns that may be missing.

    Raises:
        ConfigurationError: The file cannot be read, a column is missing, or a row has more or fewer cells
            than the header; every reason.
    """
    lines = _sheet(file) if file.suffix.lower() == ".xlsx" else _csv(file)
    try:
        numbered = list(lines)
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"{file}: {error}") from error
    if not numbered:
        raise ConfigurationError(f"{file}: there is no header line")
    header = [_plain(cell) for cell in numbered[0][1]]
    where = {name: _column(header, names) for name, names in {**columns, **(optional or {})}.items()}
    problems = [
        f"{file}, line 1: no column {' or '.join(names)}"
        for name, names in columns.items()
        if where[name] is None
    ]
    problems += [
        f"{file}, line {line}: {len(cells)} cells, but the header has {len(header)}"
        for line, cells in numbered[1:]
        if len(cells) != len(header)
    ]
    if problems:
        raise ConfigurationError(problems)
    return [
        TableRow(file, line, {name: "" if at is None else cells[at].strip() for name, at in where.items()})
        for line, cells in numbered[1:]
    ]


def _csv(file: Path) -> Iterator[tuple[int, list[str]]]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines)
        for cells in reader:
            if cells:
                yield reader.line_num, cells


def _sheet(file: Path) -> Iterator[tuple[int, list[str]]]:
    openpyxl = optional_module(
        "openpyxl", "openpyxl", f"{file}: reading a spreadsheet (or save it as .csv beside this file)"
    )
    book = openpyxl.load_workbook(file, read_only=True, data_only=True)
    try:
        for line, cells in enumerate(book.worksheets[0].iter_rows(values_only=True), 1):
            if any(cell is not None for cell in cells):
                yield line, ["" if cell is None else str(cell) for cell in cells]
    finally:
        book.close()


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "").replace(" ", "")


def _column(header: Sequence[str], names: Sequence[str]) -> int | None:
    for name in names:
        if _plain(name) in header:
            return header.index(_plain(name))
    return None
