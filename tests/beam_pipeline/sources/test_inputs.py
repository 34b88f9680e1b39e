from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from beam_pipeline.sources import inputs
from beam_pipeline.sources.inputs import anything_matches, describe, locate
from tests.beam_pipeline.helpers import NOW
from tests.odd_files import write_odd_files


def _found(pattern: Path | str) -> list[str]:
    return sorted(ref.image_uri for ref in locate(str(pattern)))


def test_an_existing_path_is_literal_even_with_brackets_and_stars(tmp_path: Path) -> None:
    odd = tmp_path / "[ab]*.jpg"
    odd.write_bytes(b"x")
    (tmp_path / "a1.jpg").write_bytes(b"x")
    assert _found(odd) == [str(odd)]


def test_a_pattern_finds_files_but_no_sidecars_and_nothing_hidden(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.PNG", "c", "d.json", "e.XMP", ".f.jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert _found(tmp_path / "*") == [str(tmp_path / name) for name in ("a.jpg", "b.PNG", "c")]


def test_a_named_sidecar_is_taken_at_its_word(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"{}")
    assert _found(tmp_path / "a.json") == [str(tmp_path / "a.json")]


def test_a_directory_is_walked_with_its_folders_and_linked_folders_once(tmp_path: Path) -> None:
    deep = tmp_path / "photos" / "2024" / "may"
    deep.mkdir(parents=True)
    (deep / "a.jpg").write_bytes(b"x")
    (tmp_path / "photos" / ".cache").mkdir()
    (tmp_path / "photos" / ".cache" / "thumb.jpg").write_bytes(b"x")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "b.jpg").write_bytes(b"x")
    (tmp_path / "photos" / "linked").symlink_to(elsewhere)
    (deep / "loop").symlink_to(tmp_path / "photos")
    names = [os.path.basename(uri) for uri in _found(tmp_path / "photos")]
    assert names == ["a.jpg", "b.jpg"]


def test_a_recursive_pattern_names_every_file_once(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("x.jpg", "a/y.jpg", "a/b/z.jpg"):
        (tmp_path / name).write_bytes(b"x")
    everything = [str(tmp_path / name) for name in ("a/b/z.jpg", "a/y.jpg", "x.jpg")]
    assert _found(tmp_path / "**") == everything
    assert _found(f"{tmp_path}/**/*.jpg") == everything


def test_a_matching_folder_is_walked(tmp_path: Path) -> None:
    for name in ("2023/a.jpg", "2024/b.jpg", "other/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert _found(tmp_path / "20*") == [str(tmp_path / "2023/a.jpg"), str(tmp_path / "2024/b.jpg")]


@pytest.mark.parametrize("spelling", ["./a.jpg", "a.jpg", ".//a.jpg"])
def test_spellings_of_one_relative_path_are_one_uri(
    tmp_path: Path, spelling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert _found(spelling) == ["a.jpg"]


def test_all_odd_files_are_offered(tmp_path: Path) -> None:
    odd = write_odd_files(tmp_path)
    assert _found(tmp_path) == sorted(str(tmp_path / file.name) for file in odd)


def test_nothing_matches_where_there_is_nothing(tmp_path: Path) -> None:
    assert not anything_matches(str(tmp_path))
    assert not anything_matches(str(tmp_path / "no.jpg"))
    assert not anything_matches(str(tmp_path / "*.jpg"))


def test_version_size_and_time_come_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"12345")
    os.utime(path, ns=(0, 1_700_000_000_123_456_789))
    (found,) = locate(str(path))
    described = describe(found, NOW)
    assert described.image_generation == 1_700_000_000_123_456_789
    assert described.size_bytes == 5
    assert described.event_time == datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)


def test_a_dangling_link_has_a_listing_problem_and_the_links_own_time(tmp_path: Path) -> None:
    link = tmp_path / "a.jpg"
    link.symlink_to(tmp_path / "gone.jpg")
    os.utime(link, ns=(0, 10**18), follow_symlinks=False)
    (found,) = locate(str(tmp_path))
    described = describe(found, NOW)
    assert described.problem is not None
    assert "dangling" in described.problem.message
    assert described.event_time == datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)


def test_a_name_that_is_no_text_has_a_listing_problem_that_a_row_can_hold(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    with open(raw, "wb") as file:
        file.write(b"x")
    (found,) = locate(str(tmp_path))
    assert found.problem is not None
    assert found.problem.stage == "list"
    assert found.image_uri.encode().endswith(b"caf\\xe9.jpg")
    assert found.event_time is not None


def test_a_link_onto_itself_a_pipe_and_a_missing_file_have_listing_problems(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    refs = {os.path.basename(ref.image_uri): describe(ref, NOW) for ref in locate(str(tmp_path))}
    (missing,) = (describe(ref, NOW) for ref in [refs["pipe"].__class__(image_uri=str(tmp_path / "no"))])
    assert refs["loop"].problem is not None
    assert refs["pipe"].problem is not None
    assert "regular" in refs["pipe"].problem.message
    assert missing.problem is not None
    assert missing.event_time == NOW


@pytest.mark.parametrize(("seconds", "year"), [(-1, 1969), (0, 1970), (10**10, 2286)])
def test_odd_times_are_times(tmp_path: Path, seconds: int, year: int) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"x")
    os.utime(path, (seconds, seconds))
    described = describe(next(locate(str(path))), NOW)
    assert described.event_time is not None
    assert described.event_time.year == year


def test_a_time_beyond_all_calendars_is_replaced_by_the_start_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"x")
    monkeypatch.setattr(inputs, "_EPOCH", datetime.max.replace(tzinfo=UTC))
    described = describe(next(locate(str(path))), NOW)
    assert described.event_time == NOW
    assert described.problem is None


def test_a_time_that_the_table_gave_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"x")
    (found,) = locate(str(path))
    given = found.__class__(image_uri=found.image_uri, event_time=NOW)
    assert describe(given, NOW.replace(year=1999)).event_time == NOW
