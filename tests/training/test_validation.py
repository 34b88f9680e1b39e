from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.annotations import Annotation
from schemas.errors import ConfigurationError
from tests.odd_files import encoded, picture, png_header_only
from training.annotation_files import ANNOTATIONS_NAME, PARQUET_NAME, write_annotations
from training.dataset_file import DATASET_NAME, DatasetFacts, write_facts
from training.validation import Validation, validate
from training.validation_report import to_json, to_text

GOOD = (
    '{"image": "a.jpg", "mos": 3.5, "mos_std": 0.6, "composition": 7, "source": "s"}',
    '{"image": "b.jpg", "mos": 4.5, "mos_std": 0.7, "exposure": "overexposed", "split": "test"}',
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A fit data set: two images that differ, mos from 1 to 5."""
    for seed, name in enumerate(("a.jpg", "b.jpg")):
        (tmp_path / name).write_bytes(encoded(picture(seed=seed), "JPEG"))
    (tmp_path / ANNOTATIONS_NAME).write_text("\n".join(GOOD) + "\n")
    write_facts(tmp_path, DatasetFacts(name="made", layout="ours", native_low=1, native_high=5))
    return tmp_path


def add(folder: Path, *lines: str) -> None:
    with (folder / ANNOTATIONS_NAME).open("a") as file:
        file.write("\n".join(lines) + "\n")


def add_image(folder: Path, line: str, data: bytes) -> None:
    (folder / "c.jpg").write_bytes(data)
    add(folder, line)


def shown(found: Validation) -> list[str]:
    return [f"{found.where(problem)}: {problem.reason}" for problem in found.problems]


def broken_parquet(folder: Path) -> None:
    (folder / ANNOTATIONS_NAME).unlink()
    columns = {"image": ["a.jpg", "b.jpg", "a.jpg"], "mos": [2.0, 2.5, 3.0]}
    pq.write_table(pa.table(columns), folder / PARQUET_NAME)


C = '{"image": "c.jpg", '
OTHER = encoded(picture(seed=9), "JPEG")
BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut off": (lambda f: add(f, '{"image": "c.jpg", "mos":'), "line 3: Invalid JSON"),
    "no object": (lambda f: add(f, "[1, 2]"), "line 3: Input should be an object"),
    "no text": (
        lambda f: (f / ANNOTATIONS_NAME).write_bytes(b'\xff\xfe{"image"\n' + GOOD[1].encode()),
        "line 1: Invalid JSON",
    ),
    "a table's header": (
        lambda f: (f / ANNOTATIONS_NAME).write_text("image,mos\n" + GOOD[1]),
        "line 1: Invalid JSON",
    ),
    "no image named": (lambda f: add(f, '{"mos": 3}'), "line 3: image: Field required"),
    "an unknown field": (lambda f: add_image(f, C + '"score": 3}', OTHER), "line 3: score: Extra inputs"),
    "a score of 11": (lambda f: add_image(f, C + '"composition": 11}', OTHER), "line 3: composition: "),
    "half a score": (lambda f: add_image(f, C + '"composition": 6.5}', OTHER), "line 3: composition: "),
    "words for a number": (lambda f: add_image(f, C + '"mos": "good"}', OTHER), "line 3: mos: "),
    "NaN": (lambda f: add_image(f, C + '"mos": NaN}', OTHER), "line 3: mos: "),
    "a negative std": (lambda f: add_image(f, C + '"mos": 2, "mos_std": -1}', OTHER), "line 3: mos_std: "),
    "an unknown label": (
        lambda f: add_image(f, C + '"exposure": "dazzling"}', OTHER),
        "line 3: c.jpg: exposure 'dazzling' is none of",
    ),
    "an unknown split": (lambda f: add_image(f, C + '"split": "dev"}', OTHER), "line 3: split: "),
    "an image twice": (lambda f: add(f, GOOD[0]), "line 3: a.jpg was annotated in line 1 already"),
    "a source on both sides": (
        lambda f: add_image(f, C + '"source": "s", "split": "test"}', OTHER),
        "line 3: source 's' is in split 'test', but in 'train' in line 1",
    ),
    "mos out of range": (
        lambda f: add_image(f, C + '"mos": 63.9}', OTHER),
        "line 3: mos 63.9 is outside 1–5",
    ),
    "std of another scale": (
        lambda f: add_image(f, C + '"mos": 3, "mos_std": 20.5}', OTHER),
        "line 3: mos_std 20.5 is more than votes in 1–5 can have (2.83)",
    ),
    "std without mos": (lambda f: add_image(f, C + '"mos_std": 1}', OTHER), "line 3: mos_std without mos"),
    "a missing file": (lambda f: add(f, '{"image": "c.jpg"}'), "line 3: image file: there is no such file"),
    "an empty file": (lambda f: add_image(f, C + '"mos": 3}', b""), "line 3: image file: "),
    "a page instead of an image": (
        lambda f: add_image(f, C + '"mos": 3}', b"<!doctype html><p>404"),
        "line 3: image file: ",
    ),
    "half an image": (
        lambda f: add_image(f, C + '"mos": 3}', OTHER[: len(OTHER) // 2]),
        "line 3: image file: ",
    ),
    "a bomb": (
        lambda f: add_image(f, C + '"mos": 3}', png_header_only(60_000, 60_000)),
        "line 3: image file: the picture has 60,000 × 60,000 px",
    ),
    "the same bytes in train and test": (
        lambda f: add_image(f, C + '"split": "test"}', (f / "a.jpg").read_bytes()),
        "line 3: the same file as line 1, but in split 'test', not 'train'",
    ),
    "the same picture in train and test": (
        lambda f: add_image(f, C + '"split": "test"}', encoded(picture(seed=0), "PNG")),
        "line 3: nearly the same picture as line 1, but in split 'test', not 'train'",
    ),
    "a row of a table": (broken_parquet, f"{PARQUET_NAME}, row 3: a.jpg was annotated in row 1 already"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_named_with_its_row(kind: str, folder: Path) -> None:
    break_it, expected = BROKEN[kind]
    break_it(folder)
    (problem,) = [
        text for text in shown(validate(folder)) if "row 3" in text or "line 3" in text or "line 1:" in text
    ]
    assert str(folder / ("annotations." + ("parquet" if PARQUET_NAME in expected else "jsonl"))) in problem
    assert expected in problem


def test_a_fit_data_set_has_no_problems_and_its_labels_are_counted(folder: Path) -> None:
    found = validate(folder)
    assert found.problems == ()
    assert (found.rows, found.splits, found.native) == (2, {"train": 1, "test": 1}, (1, 5))
    assert found.labels == {"composition": {"7": {"train": 1}}, "exposure": {"overexposed": {"test": 1}}}
    assert found.mos == {"train": [0] * 6 + [1] + [0] * 3, "test": [0] * 8 + [1, 0]}


def test_problems_of_the_whole_set_name_the_file(folder: Path) -> None:
    (folder / ANNOTATIONS_NAME).write_text("")
    assert shown(validate(folder)) == [f"{folder / ANNOTATIONS_NAME}: there is no annotation"]


def test_std_and_mos_on_two_scales_are_noticed_though_every_row_is_possible(folder: Path) -> None:
    lines = [
        Annotation(image="a.jpg", mos=77.4, mos_std=0.53),
        Annotation(image="b.jpg", mos=31, mos_std=0.5),
    ]
    write_annotations(folder, lines)
    write_facts(folder, DatasetFacts(name="made", layout="ours", native_low=0, native_high=100))
    (problem,) = validate(folder).problems
    assert "another scale" in problem.reason


def test_equal_files_in_one_split_are_a_note(folder: Path) -> None:
    add_image(folder, C + '"mos": 3}', (folder / "a.jpg").read_bytes())
    found = validate(folder)
    assert found.problems == ()
    assert found.notes == ("files with the same bytes as another of their split: 1",)


def test_without_a_range_mos_is_not_checked_and_the_report_says_so(folder: Path) -> None:
    (folder / DATASET_NAME).unlink()
    found = validate(folder)
    assert found.native is None
    assert "range of mos is not checked" in found.notes[0]
    (problem,) = validate(folder, mos_range=(0, 4)).problems
    assert problem.reason == "mos 4.5 is outside 0–4"


def test_a_range_against_dataset_json_and_a_broken_dataset_json_are_errors(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="mos is 1–5, not 0–10"):
        validate(folder, mos_range=(0, 10))
    (folder / DATASET_NAME).write_text('{"name": "made", "native_low": 5, "native_high": 1}')
    with pytest.raises(ConfigurationError, match=r"dataset\.json: layout: Field required"):
        validate(folder)


def test_without_decoding_broken_content_passes_but_not_a_broken_header(folder: Path) -> None:
    add_image(folder, C + '"mos": 3}', OTHER[: len(OTHER) // 2])
    (folder / "a.jpg").write_bytes(b"nothing")
    found = validate(folder, decode=False)
    assert [problem.row for problem in found.problems] == [1]
    assert "files not decoded" in to_text(found)


def test_videos_need_pyav_to_be_decoded_and_are_listed_without(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "c.mp4").write_bytes(b"a video")
    add(folder, '{"image": "c.mp4", "mos": 2}')
    monkeypatch.setitem(sys.modules, "av", None)
    assert validate(folder, decode=False).problems == ()
    with pytest.raises(ConfigurationError, match="pip install av"):
        validate(folder)


def test_the_report_shows_shares_bars_and_at_most_a_hundred_problems(folder: Path) -> None:
    text = to_text(validate(folder))
    assert "2 annotations (train 1, test 1)" in text
    assert "overexposed  test 1 (100%)" in text
    assert "3.40 –   3.80        1  ████" in text
    assert text.endswith("no problems")
    add(folder, *(f'{{"image": "{number}.jpg"}}' for number in range(120)))
    found = validate(folder)
    text = to_text(found)
    assert text.count("there is no such file") == 100
    assert text.endswith("and 20 more (--json FILE writes all)\nproblems: 120")
    assert to_json(found).count("there is no such file") == 120
