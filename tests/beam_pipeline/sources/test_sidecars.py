from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.localfilesystem import LocalFileSystem
from hypothesis import given
from hypothesis import strategies as st

from beam_pipeline.__main__ import main
from beam_pipeline.scoring.engine import Engine
from beam_pipeline.scoring.fakes import FakeScorer, FakeScorerFactory
from beam_pipeline.scoring.turns import Turn
from beam_pipeline.sources.sidecars import MOST_BYTES, context_text, sidecar_context, sidecar_uris
from beam_pipeline.stores import gcs_access
from schemas.errors import FetchError, SidecarError
from schemas.records import Chunk, ImageRef, ImageScore, Outcome, ScoringFailure
from tests.beam_pipeline.gcs_server import start_gcs_server
from tests.beam_pipeline.helpers import NOW, SETTINGS, Recorder, ref, rows, write_photos

WITH_SIDECARS = replace(SETTINGS, context_sidecars=True)


# --- what a sidecar says ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            '{"title": "Sunset", "category": "landscape", "tags": ["a", "b"]}',
            "title: Sunset; category: landscape; tags: a, b",
        ),
        ('{"context": "a barn at dusk", "title": "Sunset"}', "a barn at dusk"),
        ('{"context": 7, "title": "Sunset"}', "context: 7; title: Sunset"),
        ('{"z": 1, "a": 2.50, "m": 1e3, "y": true, "n": false}', "z: 1; a: 2.50; m: 1e3; y: true; n: false"),
        ('{"n": [1, true, "x"]}', "n: 1, true, x"),
        ('{"exif": {"iso": 100}, "people": [{"name": "A"}], "title": "T"}', "title: T"),
        ('{"title": null, "tags": [null, "x", " "], "place": "", "more": []}', "tags: x"),
        ('{"title": "Müller – 東京"}', "title: Müller – 東京"),
        ('{"title": "\\u6771"}', "title: 東"),
        ('\ufeff{"title": "T"}', "title: T"),
        ('{"title": "<|image_pad|>"}', "title: <|image_pad|>"),
        ("{}", None),
        ('{"exif": {}}', None),
        ('{"context": "  "}', None),
    ],
)
def test_a_sidecar_becomes_a_context(content: str, text: str | None) -> None:
    assert context_text(content.encode()) == text


BROKEN = [
    (b"", "is no JSON"),
    (b"title: Sunset", "is no JSON"),
    (b'{"title": "Sun', "is no JSON"),
    (b'{"title": NaN}', "is no JSON"),
    (b'["a"]', "is no JSON object"),
    (b'"a barn"', "is no JSON object"),
    (b"null", "is no JSON object"),
    ('{"title": "Müller"}'.encode("latin-1"), "is not UTF-8"),
    ('{"title": "T"}'.encode("utf-16"), "is not UTF-8"),
    (b'{"title": "\\ud83d"}', "lone surrogate"),
    (b'{"a":' + b"[" * 60_000, "nested too deeply|is no JSON"),
    (b'{"title": "' + b"x" * MOST_BYTES + b'"}', "has more than 65,536 bytes"),
]


@pytest.mark.parametrize(("content", "reason"), BROKEN)
def test_a_sidecar_that_cannot_be_understood_is_refused_by_its_name(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "photo.json").write_bytes(content)
    with pytest.raises(SidecarError, match=rf"the sidecar photo\.json .*({reason})") as caught:
        sidecar_context(str(tmp_path / "photo.jpg"))
    assert isinstance(caught.value, FetchError)
    assert not caught.value.retryable


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    # Torch may have switched off the smallest numbers in this process.
    | st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), _VALUES, max_size=5))
def test_any_json_object_gives_text_that_a_row_can_hold_or_none(content: dict[str, Any]) -> None:
    text = context_text(json.dumps(content, ensure_ascii=False).encode())
    assert text is None or text.encode()


def test_a_sidecar_of_the_largest_size_is_read(tmp_path: Path) -> None:
    content = b'{"context": "' + b"x" * (MOST_BYTES - 15) + b'"}'
    assert len(content) == MOST_BYTES
    (tmp_path / "photo.json").write_bytes(content)
    assert sidecar_context(str(tmp_path / "photo.jpg")) == "x" * (MOST_BYTES - 15)


# --- where it is --------------------------------------------------------------------------------------


def test_names_are_looked_for_in_a_stated_order() -> None:
    assert sidecar_uris("a.b/photo.jpg") == ["a.b/photo.json", "a.b/photo.jpg.json"]
    assert sidecar_uris("gs://b.c/d.e/photo") == ["gs://b.c/d.e/photo.json"]
    assert sidecar_uris("file:///a%20b/p.JPG") == ["file:///a%20b/p.json", "file:///a%20b/p.JPG.json"]


def test_the_first_that_exists_counts_and_none_is_no_error(tmp_path: Path) -> None:
    photo = str(tmp_path / "a photo.jpg")
    assert sidecar_context(photo) is None
    (tmp_path / "a photo.jpg.json").write_text('{"title": "second"}')
    assert sidecar_context(photo) == "title: second"
    assert sidecar_context((tmp_path / "a photo.jpg").as_uri()) == "title: second"
    (tmp_path / "a photo.json").write_text("{}")
    # It says nothing, but it is there.
    assert sidecar_context(photo) is None


def test_a_name_too_long_to_have_a_sidecar_has_none(tmp_path: Path) -> None:
    assert sidecar_context(str(tmp_path / ("x" * 251 + ".jpg"))) is None


def test_a_sidecar_that_is_there_but_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "photo.json").mkdir()
    with pytest.raises(SidecarError, match=r"photo\.json cannot be read: Is a directory") as caught:
        sidecar_context(str(tmp_path / "photo.jpg"))
    assert not caught.value.retryable


class ShelfFileSystem(LocalFileSystem):
    """An object store of Beam's: it says that something is wrong, never what."""

    @classmethod
    def scheme(cls) -> str:
        return "shelf"

    def open(self, path: str, *arguments: Any, **more: Any) -> BinaryIO:
        try:
            return super().open(path.removeprefix("shelf:/"), *arguments, **more)
        except OSError as error:
            raise BeamIOError("it did not work") from error

    def exists(self, path: str) -> bool:
        return super().exists(path.removeprefix("shelf:/"))


def test_another_object_store_is_asked_whether_a_sidecar_is_missing_or_out_of_reach(tmp_path: Path) -> None:
    photo = f"shelf:/{tmp_path}/photo.jpg"
    assert sidecar_context(photo) is None
    (tmp_path / "photo.jpg.json").write_text('{"title": "T"}')
    assert sidecar_context(photo) == "title: T"
    (tmp_path / "photo.json").mkdir()
    with pytest.raises(SidecarError, match="it did not work") as caught:
        sidecar_context(photo)
    assert caught.value.retryable


@pytest.mark.integration
def test_in_a_bucket_a_missing_name_costs_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    server = start_gcs_server()
    try:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.host)
        server.upload("gs://photos/2026/a.jpg.json", b'{"title": "T"}')
        session, asked = gcs_access.client()._http, list[str]()
        send = session.request
        monkeypatch.setattr(
            session, "request", lambda *this, **more: asked.append(this[1]) or send(*this, **more)
        )
        assert sidecar_context("gs://photos/2026/b.jpg") is None
        assert len(asked) == 2
        assert sidecar_context("gs://photos/2026/a.jpg") == "title: T"
        assert len(asked) == 4
        server.upload("gs://photos/2026/a.json", b"x" * (MOST_BYTES + 1))
        with pytest.raises(SidecarError, match=r"a\.json has more than 65,536 bytes"):
            sidecar_context("gs://photos/2026/a.jpg")
    finally:
        server.stop()


# --- in the engine ------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    made = write_photos(tmp_path / "photos", 4)
    made[0].with_suffix(".json").write_text('{"title": "Sunset"}')
    made[1].with_suffix(".json").write_text("not JSON")
    made[2].write_bytes(b"not a photograph")
    made[2].with_suffix(".json").write_text('{"title": "Text"}')
    return made


def _outcomes(refs: list[ImageRef], *, sidecars: bool = True) -> Iterator[Outcome]:
    engine = Engine(FakeScorer(), WITH_SIDECARS if sidecars else SETTINGS, clock=lambda: NOW)
    yield from engine.score(Turn(Chunk(tuple(refs))), "run", Recorder()).outcomes


def _ref(photo: Path, **known: Any) -> ImageRef:
    return ref(str(photo), image_generation=os.stat(photo).st_mtime_ns, **known)


def test_an_image_is_scored_and_told_with_what_its_sidecar_says(photos: list[Path]) -> None:
    scored, broken, text, plain = _outcomes([_ref(photo) for photo in photos])
    assert isinstance(scored, ImageScore)
    assert scored.ref.context == scored.prediction.context_used == "title: Sunset"
    assert isinstance(broken, ScoringFailure)
    assert (broken.stage, broken.error_type, broken.retryable) == ("fetch", "SidecarError", False)
    assert "photo_0001.json" in broken.message
    assert isinstance(text, ScoringFailure)
    assert (text.stage, text.ref.context) == ("decode", None)
    assert isinstance(plain, ImageScore)
    assert plain.ref.context is None


def test_a_context_that_was_given_wins_and_its_sidecar_is_not_read(photos: list[Path]) -> None:
    first, second = _outcomes([_ref(photos[0], context="given"), _ref(photos[1], context="given")])
    assert first.ref.context == second.ref.context == "given"
    assert isinstance(second, ImageScore)


def test_without_the_option_no_sidecar_is_read(photos: list[Path]) -> None:
    first, second = _outcomes([_ref(photos[0]), _ref(photos[1])], sidecars=False)
    assert first.ref.context is second.ref.context is None
    assert isinstance(second, ImageScore)


def test_a_job_writes_the_context_of_sidecars_into_its_rows(photos: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = ["--input", str(photos[0].parent), "--output", str(output), "--no-progress"]
    assert main([*arguments, "--context-sidecars"], FakeScorerFactory()) == 0
    told = {Path(row["image_uri"]).name: row["context"] for row in rows(output, "scores")}
    assert told == {"photo_0000.jpg": "title: Sunset", "photo_0003.jpg": None}
    assert {row["error_type"] for row in rows(output, "failures")} == {"SidecarError", "DecodeError"}


def test_a_failure_keeps_the_given_context_only_so_that_a_retry_reads_the_sidecar_anew(
    tmp_path: Path,
) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"no image")
    (tmp_path / "photo.json").write_text('{"title": "old words"}')
    engine = Engine(FakeScorer(), WITH_SIDECARS)
    plain = ref(str(tmp_path / "photo.jpg"), image_generation=None)
    (outcome,) = engine.score(Turn(Chunk((plain,))), "run", Recorder()).outcomes
    assert isinstance(outcome, ScoringFailure)
    assert outcome.ref == plain
