from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.annotations import Annotation
from schemas.errors import ConfigurationError
from training.annotation_files import (
    ANNOTATIONS_NAME,
    PARQUET_NAME,
    image_file,
    read_annotations,
    write_annotations,
)
from training.text_files import replace_text

FULL = Annotation(
    image="sub/ä.jpg",
    composition=7,
    exposure="overexposed",
    mos=6.25,
    context="line\u2028separators and\nnewlines stay",
    split="test",
    source="beach",
)
PLAIN = Annotation(image="b.jpg")


def folder_with(tmp_path: Path, *names: str) -> Path:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def reasons(path: Path, split=None) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        read_annotations(path, split)
    return caught.value.reasons


def test_what_was_written_is_read_again_from_the_folder_or_the_file(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "sub/ä.jpg", "b.jpg")
    file = write_annotations(folder, [FULL, PLAIN])
    assert read_annotations(folder) == read_annotations(file) == [FULL, PLAIN]
    assert image_file(folder, FULL) == image_file(file, FULL) == folder / "sub/ä.jpg"
    assert read_annotations(folder, "test") == [FULL]
    assert "null" not in file.read_text()


def test_writing_again_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_annotations(tmp_path / "new", [FULL])
    write_annotations(tmp_path / "new", [PLAIN])
    assert [path.name for path in (tmp_path / "new").iterdir()] == [ANNOTATIONS_NAME]
    assert '"b.jpg"' in (tmp_path / "new" / ANNOTATIONS_NAME).read_text()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = write_annotations(tmp_path, [PLAIN])
    before = file.read_bytes()
    with pytest.raises(UnicodeEncodeError):
        replace_text(file, "half of it \ud800")  # a lone surrogate has no UTF-8
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_every_bad_line_is_named_with_its_reason(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    lines = [
        '{"image": "a.jpg", "source": "s"}',
        "{not json",
        "",
        '{"image": "b.jpg", "composition": 11, "mos": NaN}',
        '{"image": "b.jpg", "exposure": "dazzling"}',
        '{"image": "nowhere.jpg"}',
        '{"image": "c.jpg", "colour": "red"}',
        '{"image": "a.jpg"}',
        '{"image": "c.jpg", "source": "s", "split": "test"}',
        '{"mos": 3}',
    ]
    (folder / ANNOTATIONS_NAME).write_text("\n".join(lines) + "\n")
    expected = [
        (2, "Invalid JSON"),
        (4, "composition: "),
        (4, "mos: "),
        (5, "'dazzling'"),
        (6, "no image file nowhere.jpg"),
        (7, "colour: Extra inputs"),
        (8, "a.jpg was annotated in line 1 already"),
        (9, "source 's' is in split 'test', but in 'train' in line 1"),
        (10, "image: Field required"),
    ]
    found = reasons(folder)
    assert len(found) == len(expected)
    for reason, (number, part) in zip(found, expected, strict=True):
        assert f"{ANNOTATIONS_NAME}, line {number}: " in reason
        assert part in reason


def test_bytes_that_are_no_text_are_a_bad_line(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "a.jpg")
    (folder / ANNOTATIONS_NAME).write_bytes(b'{"image": "a.jpg"}\n{"image": "\xff.jpg"}\n')
    (reason,) = reasons(folder)
    assert "line 2: " in reason


def test_images_of_other_splits_need_not_be_there_but_their_lines_must_be_right(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "a.jpg")
    test = Annotation(image="a.jpg", split="test")
    write_annotations(folder, [test, Annotation(image="elsewhere.jpg")])
    assert read_annotations(folder, "test") == [test]
    write_annotations(folder, [test, Annotation(image="elsewhere.jpg", saturation="loud")])
    assert len(reasons(folder, "test")) == 1


def test_no_file_and_no_annotation_are_errors(tmp_path: Path) -> None:
    assert "No such file" in reasons(tmp_path)[0]
    assert "No such file" in reasons(tmp_path / "nowhere")[0]
    folder = folder_with(tmp_path, "b.jpg")
    write_annotations(folder, [PLAIN])
    assert "no annotation of split 'validation'" in reasons(folder, "validation")[0]


def write_parquet(folder: Path, columns: dict[str, list[object]]) -> Path:
    file = folder / PARQUET_NAME
    pq.write_table(pa.table(columns), file)
    return file


def test_a_parquet_table_reads_as_its_lines_do(tmp_path: Path) -> None:
    lines, table = tmp_path / "lines", tmp_path / "table"
    for folder in (lines, table):
        folder.mkdir()
        folder_with(folder, "sub/ä.jpg", "b.jpg")
    write_annotations(lines, [FULL, PLAIN])
    records = [annotation.model_dump() for annotation in (FULL, PLAIN)]
    write_parquet(table, {name: [record[name] for record in records] for name in records[0]})
    assert read_annotations(table) == read_annotations(table / PARQUET_NAME) == read_annotations(lines)
    assert read_annotations(table, "test") == [FULL]
    assert image_file(table, PLAIN) == table / "b.jpg"


def test_numbers_that_pandas_made_floats_are_still_integers(tmp_path: Path) -> None:
    folder_with(tmp_path, "a.jpg", "b.jpg")
    write_parquet(tmp_path, {"image": ["a.jpg", "b.jpg"], "composition": [7.0, None]})
    assert [annotation.composition for annotation in read_annotations(tmp_path)] == [7, None]


def test_bad_rows_of_a_parquet_table_are_named(tmp_path: Path) -> None:
    folder_with(tmp_path, "a.jpg", "b.jpg")
    columns = {"image": ["a.jpg", "b.jpg", "a.jpg", None], "mos": [1.0, float("nan"), 2.0, 3.0]}
    write_parquet(tmp_path, columns)
    expected = [(2, "mos: "), (3, "a.jpg was annotated in row 1 already"), (4, "image: Field required")]
    found = reasons(tmp_path)
    assert len(found) == len(expected)
    for reason, (number, part) in zip(found, expected, strict=True):
        assert f"{PARQUET_NAME}, row {number}: {part}" in reason


def test_a_parquet_table_with_other_columns_is_an_error_before_any_row(tmp_path: Path) -> None:
    write_parquet(tmp_path, {"colour": ["red"] * 3})
    file = tmp_path / PARQUET_NAME
    assert reasons(tmp_path) == (
        f"{file}: column 'colour' is no field of an annotation",
        f"{file}: there is no column 'image'",
    )


def test_what_is_no_parquet_and_two_files_in_one_folder_are_errors(tmp_path: Path) -> None:
    (tmp_path / PARQUET_NAME).write_bytes(b"PAR1 it is not")
    assert str(tmp_path / PARQUET_NAME) in reasons(tmp_path)[0]
    write_annotations(tmp_path, [PLAIN])
    assert "holds both" in reasons(tmp_path)[0]
