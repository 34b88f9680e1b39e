"""The whole pipeline on real runners, with the fake scorer that ships."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from beam_pipeline.__main__ import main
from beam_pipeline.scoring.engine import release_engines
from beam_pipeline.scoring.fakes import FakeScorer, FakeScorerFactory
from tests.beam_pipeline.helpers import files, rows, write_photos
from tests.beam_pipeline.jobs import query, score
from tests.odd_files import write_odd_files

pytestmark = pytest.mark.integration


def test_every_image_of_an_odd_folder_is_one_row_scored_or_failed_with_a_reason(tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_photos(photos, 20)
    odd = write_odd_files(photos)
    (photos / "photo_0000.jpg.json").write_text("{}")
    assert score(photos, output) == 0
    scored = {Path(row["image_uri"]).name for row in rows(output, "scores")}
    failed = {Path(row["image_uri"]).name: row for row in rows(output, "failures")}
    assert len(rows(output, "scores")) + len(rows(output, "failures")) == 20 + len(odd)
    assert scored == {f"photo_{n:04}.jpg" for n in range(20)} | {file.name for file in odd if file.good}
    assert set(failed) == {file.name for file in odd if not file.good}
    assert failed.pop("dangling.jpg")["stage"] == "list"
    assert {row["stage"] for row in failed.values()} == {"decode"}
    assert all(row["message"] for row in failed.values())


def test_a_second_full_run_rewrites_its_files_and_adds_no_row(tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_photos(photos, 30)
    write_odd_files(photos)
    score(photos, output)
    first = files(output)
    score(photos, output)
    assert files(output).keys() == first.keys()
    assert len(rows(output, "scores")) == query(output, "SELECT count(*) FROM image_scores")[0][0]


def test_images_given_twice_are_scored_once(tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    paths = write_photos(photos, 5)
    score(photos, output, "--input", str(photos), str(paths[0]), f"{photos}/*.jpg")
    assert len(rows(output, "scores")) == 5


def test_skip_scored_scores_the_rest_and_tries_failures_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_photos(photos, 10)
    (photos / "bad.jpg").write_bytes(b"no image")
    score(photos, output)
    write_photos(photos, 6, first=10)
    capsys.readouterr()
    assert score(photos, output, "--skip-scored", "--run-id", "second") == 0
    assert "6 images scored, 1 failed, 10 skipped" in capsys.readouterr().out
    assert Counter(row["run_id"] == "second" for row in rows(output, "scores")) == {True: 6, False: 10}
    assert query(output, "SELECT count(*), count(DISTINCT image_uri) FROM image_scores") == [(16, 16)]
    assert query(output, "SELECT count(*) FROM image_failures") == [(1,)]
    assert score(photos, output, "--skip-scored") == 0


def test_another_version_of_a_scored_image_is_not_skipped(tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    (path, *_) = write_photos(photos, 3)
    score(photos, output)
    path.write_bytes(write_photos(tmp_path / "other", 1, first=99)[0].read_bytes())
    score(photos, output, "--skip-scored")
    assert query(output, f"SELECT count(*) FROM image_scores WHERE image_uri = '{path}'") == [(2,)]


def test_two_adapters_live_in_one_output_and_one_query_reads_both(tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_photos(photos, 9)
    for revision in ("first", "second"):
        score(photos, output, "--skip-scored", factory=FakeScorerFactory(FakeScorer(revision=revision)))
    found = query(output, "SELECT adapter_revision, count(*) FROM image_scores GROUP BY ALL ORDER BY ALL")
    assert found == [("first", 9), ("second", 9)]


def test_a_table_gives_context_time_and_columns_and_its_uris_are_never_patterns(tmp_path: Path) -> None:
    photos, output, table = tmp_path / "photos", tmp_path / "out", tmp_path / "table.csv"
    first, second, third = write_photos(photos, 3)
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image_uri", "context", "event_time", "campaign"])
        writer.writerow([first, "<|image_pad|><|im_end|>", "2025-12-31T23:30:00-02:00", "ü"])
        writer.writerow([second, "", "", "b"])
        writer.writerow([f"{photos}/*.jpg", "", "2026-01-01T00:00:00", "c"])
        writer.writerow([f"file://{third}", "", "", "d"])
    arguments = ["--manifest", str(table), "--output", str(output), "--no-progress"]
    assert main(arguments, FakeScorerFactory()) == 0
    scored = {row["image_uri"]: row for row in rows(output, "scores")}
    assert set(scored) == {str(first), str(second), f"file://{third}"}
    assert scored[str(first)]["context"] == "<|image_pad|><|im_end|>"
    assert json.loads(scored[str(first)]["passthrough_json"]) == {"campaign": "ü"}
    (failed,) = rows(output, "failures")
    assert (failed["image_uri"], failed["stage"]) == (f"{photos}/*.jpg", "list")
    assert query(output, f"SELECT date::VARCHAR FROM image_scores WHERE image_uri = '{first}'") == [
        ("2026-01-01",)
    ]


def test_only_the_poisoned_image_of_a_micro_batch_fails(tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_photos(photos, 12)
    score(photos, output)
    (poison,) = {row["image_id"] for row in rows(output, "scores") if row["image_uri"].endswith("_0007.jpg")}
    release_engines()
    score(photos, output, factory=FakeScorerFactory(FakeScorer(poison=(poison,))))
    assert len(rows(output, "scores")) == 11
    (failed,) = rows(output, "failures")
    assert failed["image_uri"].endswith("_0007.jpg")
    assert (failed["stage"], failed["error_type"], failed["width_px"]) == ("score", "InferenceError", 40)


def test_when_everything_fails_the_exit_code_is_1(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "bad.jpg").write_bytes(b"no image")
    assert score(photos, tmp_path / "out") == 1


def test_the_closing_summary_is_beside_the_output_and_can_be_asked_for_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_photos(photos, 5)
    (photos / "bad.jpg").write_bytes(b"no image")
    score(photos, output, factory=FakeScorerFactory(synthetic=True))
    said = capsys.readouterr().out
    assert "5 images scored, 1 failed" in said
    assert "not human" in said
    kept = json.loads((output / "_summary.json").read_text())
    assert main(["summary", str(output), "--json"]) == 0
    asked = json.loads(capsys.readouterr().out)
    for name in ("scored", "failed", "failures", "score_histogram", "format_mass_median"):
        assert asked[name] == kept[name]


def test_progress_is_plain_lines_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photos(tmp_path / "photos", 3)
    main(["--input", str(tmp_path / "photos"), "--output", str(tmp_path / "out")], FakeScorerFactory())
    assert "3 of 3 images" in capsys.readouterr().err


_SLOW_JOB = """
import sys
from beam_pipeline.__main__ import main
from beam_pipeline.scoring.fakes import FakeScorer, FakeScorerFactory
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], FakeScorerFactory(FakeScorer(delay_ms=20))))
"""


def test_a_run_killed_half_way_leaves_whole_chunks_and_the_next_one_scores_the_rest(tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_photos(photos, 100)
    arguments = ["--input", str(photos), "--output", str(output), "--chunk-size", "8", "--no-progress"]
    job = subprocess.Popen([sys.executable, "-c", _SLOW_JOB, *arguments])
    while not (left := files(output) if output.exists() else {}) and job.poll() is None:
        time.sleep(0.02)
    time.sleep(0.3)
    job.kill()
    job.wait()
    left = {name: data for name, data in files(output).items() if name.endswith(".parquet")}
    done = len(rows(output, "scores"))
    assert 0 < done < 100
    assert score(photos, output, "--skip-scored", "--run-id", "second") == 0
    assert Counter(row["run_id"] == "second" for row in rows(output, "scores")) == {
        True: 100 - done,
        False: done,
    }
    assert query(output, "SELECT count(*), count(DISTINCT image_uri) FROM image_scores") == [(100, 100)]
    # Not skipping scores all again: what the killed run had finished is rewritten, not added.
    assert score(photos, output) == 0
    assert left.keys() <= files(output).keys()
    assert query(output, "SELECT count(*), count(DISTINCT image_uri) FROM image_scores") == [(100, 100)]


def test_photographs_of_many_days_do_not_make_a_file_for_every_day_and_chunk(tmp_path: Path) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    for number, path in enumerate(write_photos(photos, 120)):
        then = 1_700_000_000 + number % 30 * 86_400
        os.utime(path, (then, then))
    assert score(photos, output) == 0  # chunks of 8, two days of four photographs
    assert len(rows(output, "scores")) == 120
    assert len(list(output.rglob("scores/*/*.parquet"))) == 30
    first = files(output)
    score(photos, output)
    assert files(output).keys() == first.keys()
