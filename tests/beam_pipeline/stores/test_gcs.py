"""``gs://`` against a real server, and against answers that no such server gives."""

from __future__ import annotations

import csv
import errno
import gzip
import json
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
from google.auth.exceptions import DefaultCredentialsError, TransportError

from beam_pipeline.__main__ import main
from beam_pipeline.output.parquet import encode
from beam_pipeline.output.queries import answer
from beam_pipeline.output.sink import write_chunk
from beam_pipeline.output.summary import summarise
from beam_pipeline.scoring.fakes import FakeScorerFactory
from beam_pipeline.sources.inputs import describe, locate
from beam_pipeline.stores import gcs, gcs_access
from beam_pipeline.stores.gcs_file_system import GcsFileSystem
from beam_pipeline.stores.storage import (
    bucket_problem,
    list_files,
    open_binary,
    put_file,
    read_image,
    remove_file,
)
from schemas.errors import ConfigurationError, FetchError, ImageLimitError
from schemas.records import ImageRef, ScoredChunk
from tests.beam_pipeline.gcs_server import GcsServer
from tests.beam_pipeline.helpers import NOW, ref, score
from tests.odd_files import encoded, picture

ROOT = Path(__file__).parents[3]


@pytest.fixture
def bucket(server: GcsServer, request: pytest.FixtureRequest) -> str:
    """A bucket of its own for every test."""
    name = f"tests-{abs(hash(request.node.name))}"
    server.make_bucket(name)
    return f"gs://{name}"


class _Wire:
    """What goes over the network, and what goes wrong there."""

    def __init__(self, send: Any) -> None:
        self._send = send
        self.sent: list[str] = []
        self.ranges: list[str | None] = []
        self.lose_answers = 0

    def __call__(self, method: str, url: str, *args: Any, **known: Any) -> Any:
        self.sent.append(f"{method} {url}")
        self.ranges.append((known.get("headers") or {}).get("range"))
        response = self._send(method, url, *args, **known)
        if self.lose_answers and method == "POST":
            self.lose_answers -= 1
            raise requests.ConnectionError("the answer was lost")
        return response


@pytest.fixture
def wire(server: GcsServer, monkeypatch: pytest.MonkeyPatch) -> _Wire:
    session = gcs_access.client()._http
    made = _Wire(session.request)
    monkeypatch.setattr(session, "request", made)
    return made


class _Answers(ThreadingHTTPServer):
    """A store that gives every request the same answers."""

    def __init__(self, status: int, answer: dict[str, Any], posts: int | None = None) -> None:
        seen = self.seen = list[str]()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200 if "testPermissions" in self.path else status)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self._answer(posts or status)

            def _answer(self, code: int) -> None:
                seen.append(f"{self.command} {self.path}")
                body = json.dumps(answer).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Location", "http://127.0.0.1/session")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start a store that always answers the same; tried again for a moment only."""
    started: list[_Answers] = []
    patient = gcs_access.retrying

    def start(status: int, answer: dict[str, Any], posts: int | None = None) -> _Answers:
        store = _Answers(status, answer, posts)
        threading.Thread(target=store.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{store.server_port}")
        monkeypatch.setattr(gcs, "retrying", lambda: patient(0.01))
        started.append(store)
        return store

    yield start
    for store in started:
        store.shutdown()
        store.server_close()


def _error(status: int, message: str) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"code": status, "message": message, "errors": [{"message": message}]}}


def _image(uri: str, generation: int | None, size: int | None = None) -> ImageRef:
    return ImageRef(uri, image_generation=generation, size_bytes=size, event_time=NOW)


NAMES = (
    "a.jpg",
    "ab.jpg",
    "b.JPG",
    "c",
    "[x].jpg",
    "note.json",
    ".hidden.jpg",
    ".cache/thumb.jpg",
    "sub/a.jpg",
    "sub/deep/a.jpg",
    "sub/deep/ä ü?.jpg",
    "sub/.cache/a.jpg",
    "subway/a.jpg",
)


@pytest.mark.integration
@pytest.mark.parametrize(
    "pattern",
    [
        "*.jpg", "?.jpg", "a*", "[ab]*.jpg", "[!s]*", "sub/**", "s*/a.jpg", "*/*/a.jpg", "**", "sub/deep/*",
        "sub/deep", "sub", "sub/", "", "[x].jpg", "note.json", "no.jpg", "no/*", "sub/.cache/*", "*/.c*/*",
    ],
)  # fmt: skip
def test_a_pattern_finds_in_a_bucket_what_it_finds_in_a_folder(
    bucket: str, server: GcsServer, tmp_path: Path, pattern: str
) -> None:
    for name in NAMES:
        server.upload(f"{bucket}/{name}", b"x")
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = sorted(ref.image_uri.removeprefix(f"{bucket}/") for ref in locate(f"{bucket}/{pattern}"))
    local = sorted(ref.image_uri.removeprefix(f"{tmp_path}/") for ref in locate(f"{tmp_path}/{pattern}"))
    assert found == local


@pytest.mark.integration
def test_a_pattern_matches_objects_but_no_folders_as_there_are_none(bucket: str, server: GcsServer) -> None:
    for name in ("a.jpg", "sub/b.jpg"):
        server.upload(f"{bucket}/{name}", b"x")
    assert [ref.image_uri for ref in locate(f"{bucket}/*")] == [f"{bucket}/a.jpg"]


@pytest.mark.integration
def test_two_stars_and_a_slash_ask_for_a_folder_as_everywhere_in_beam(bucket: str, server: GcsServer) -> None:
    for name in ("p/a.jpg", "p/q/b.jpg", "p/q/r/c.jpg"):
        server.upload(f"{bucket}/{name}", b"x")
    assert [info.uri for info in gcs.list_objects(f"{bucket}/p/**/*.jpg")] == [
        f"{bucket}/p/q/b.jpg",
        f"{bucket}/p/q/r/c.jpg",
    ]


@pytest.mark.integration
def test_a_whole_bucket_is_walked_and_what_shows_a_folder_is_no_image(bucket: str, server: GcsServer) -> None:
    server.upload(f"{bucket}/a/", b"")
    server.upload(f"{bucket}/a/b.jpg", b"x")
    assert [ref.image_uri for ref in locate(bucket)] == [f"{bucket}/a/b.jpg"]


@pytest.mark.integration
def test_listing_gives_version_size_and_time_without_a_request_for_each_object(
    bucket: str, server: GcsServer, wire: _Wire
) -> None:
    generations = {f"{bucket}/p/{n}.jpg": server.upload(f"{bucket}/p/{n}.jpg", b"x" * n) for n in range(30)}
    refs = [describe(ref, NOW) for ref in locate(f"{bucket}/p/*.jpg")]
    assert {ref.image_uri: ref.image_generation for ref in refs} == generations
    assert sorted(ref.size_bytes or 0 for ref in refs) == list(range(30))
    assert all(ref.event_time is not None and ref.event_time != NOW for ref in refs)
    # One for an object of that name, one for the page.
    assert len(wire.sent) == 2


@pytest.mark.integration
def test_a_uri_of_a_table_is_looked_up_and_is_no_pattern(bucket: str, server: GcsServer) -> None:
    generation = server.upload(f"{bucket}/a.jpg", b"123")
    described = describe(ImageRef(f"{bucket}/a.jpg"), NOW)
    assert (described.image_generation, described.size_bytes) == (generation, 3)
    assert described.event_time not in (None, NOW)
    assert describe(ImageRef(f"{bucket}/a.jpg", event_time=NOW), NOW).event_time == NOW
    for missing in (f"{bucket}/*.jpg", f"{bucket}/", bucket, "gs://no-such-bucket/a.jpg", "gs://"):
        problem = describe(ImageRef(missing), NOW).problem
        assert problem is not None, missing
        assert problem.message.startswith("cannot be looked up: ")


@pytest.mark.integration
def test_what_a_notification_told_is_not_asked_again(bucket: str, wire: _Wire) -> None:
    told = _image(f"{bucket}/a.jpg", 7)
    assert describe(told, NOW) == told
    assert wire.sent == []


@pytest.mark.integration
def test_the_generation_of_a_ref_is_the_one_that_is_read(bucket: str, server: GcsServer, wire: _Wire) -> None:
    generation = server.upload(f"{bucket}/a.jpg", b"one")
    assert read_image(_image(f"{bucket}/a.jpg", generation), 100) == b"one"
    assert f"generation={generation}" in wire.sent[-1]
    assert read_image(_image(f"{bucket}/a.jpg", None), 100) == b"one"


@pytest.mark.integration
def test_a_generation_that_is_gone_says_whether_it_was_deleted_or_superseded(
    bucket: str, server: GcsServer
) -> None:
    uri = f"{bucket}/a.jpg"
    first = server.upload(uri, b"one")
    second = server.upload(uri, b"two")
    with pytest.raises(FetchError, match=f"{first} was superseded by {second}") as caught:
        read_image(_image(uri, first), 100)
    assert not caught.value.retryable
    server.delete(uri)
    with pytest.raises(FetchError, match=f"{second} was deleted") as caught:
        read_image(_image(uri, second), 100)
    assert not caught.value.retryable
    with pytest.raises(FetchError, match="no such object"):
        read_image(_image(uri, None), 100)


@pytest.mark.integration
def test_a_file_over_the_limit_is_refused_unread_or_after_one_byte_too_many(
    bucket: str, server: GcsServer, wire: _Wire
) -> None:
    uri = f"{bucket}/a.jpg"
    generation = server.upload(uri, b"x" * 1000)
    with pytest.raises(ImageLimitError):
        read_image(_image(uri, generation, 1000), 999)
    assert wire.sent == []
    with pytest.raises(ImageLimitError):
        read_image(_image(uri, generation), 999)
    assert wire.ranges == ["bytes=0-999"]
    assert len(read_image(_image(uri, generation, 1000), 1000)) == 1000


@pytest.mark.integration
def test_an_empty_object_is_no_error_of_the_store(bucket: str, server: GcsServer) -> None:
    assert read_image(_image(f"{bucket}/a", server.upload(f"{bucket}/a", b"")), 100) == b""


@pytest.mark.integration
def test_an_object_stored_zipped_is_read_unzipped_within_the_limit(bucket: str, server: GcsServer) -> None:
    uri = f"{bucket}/a.jpg"
    data = b"picture " * 5000
    members = gzip.compress(data[:100]) + gzip.compress(data[100:])
    generation = server.upload(uri, members, content_encoding="gzip")
    image = _image(uri, generation, len(members))
    assert read_image(image, len(data)) == data
    with pytest.raises(ImageLimitError):
        read_image(image, len(data) - 1)
    for broken in (gzip.compress(data)[:-20], b"not zipped at all"):
        generation = server.upload(uri, broken, content_encoding="gzip")
        with pytest.raises(FetchError, match="no whole gzip file") as caught:
            read_image(_image(uri, generation), len(data))
        assert not caught.value.retryable


@pytest.mark.integration
def test_a_file_is_put_put_again_listed_and_removed(bucket: str, server: GcsServer) -> None:
    uri = f"{bucket}/out/scores/date=2026-01-01/a.parquet"
    for data in (b"one", b"two"):
        put_file(uri, data)
        assert server.read(uri) == data
    put_file(f"{bucket}/out/scores/_hidden.parquet", b"x")
    put_file(f"{bucket}/out/scores-of-others/a.parquet", b"x")
    assert list_files(f"{bucket}/out/scores", ".parquet") == [uri]
    for _ in range(2):
        remove_file(uri)
    assert list_files(f"{bucket}/out/scores/", ".parquet") == []


@pytest.mark.integration
def test_a_put_whose_answer_was_lost_is_no_error_and_writes_once(
    bucket: str, server: GcsServer, wire: _Wire
) -> None:
    wire.lose_answers = 1
    put_file(f"{bucket}/a", b"data")
    generation = gcs.stat(f"{bucket}/a").generation
    assert server.read(f"{bucket}/a") == b"data"
    posts = [sent for sent in wire.sent if sent.startswith("POST")]
    # Sent, sent again under the same precondition, which failed; then seen to be there.
    assert len(posts) == 2
    assert all("ifGenerationMatch=0" in sent for sent in posts)
    assert gcs.stat(f"{bucket}/a").generation == generation


@pytest.mark.integration
def test_a_file_that_somebody_else_wrote_in_between_is_looked_at_again_and_replaced(
    bucket: str, server: GcsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = gcs._present
    looks = []

    def then_others_write(uri: str) -> Any:
        seen = look(uri)
        looks.append(seen)
        if len(looks) <= 2:
            server.upload(uri, b"of others")
        return seen

    monkeypatch.setattr(gcs, "_present", then_others_write)
    put_file(f"{bucket}/a", b"ours")
    assert server.read(f"{bucket}/a") == b"ours"
    assert len(looks) == 3


@pytest.mark.integration
def test_others_who_always_win_are_an_error_and_not_an_endless_loop(
    bucket: str, server: GcsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.upload(f"{bucket}/a", b"of others")
    monkeypatch.setattr(gcs, "_present", lambda uri: None)
    monkeypatch.setattr(gcs.time, "sleep", lambda seconds: None)
    with pytest.raises(OSError, match="replaced by others") as caught:
        put_file(f"{bucket}/a", b"ours")
    assert caught.value.errno == errno.EAGAIN


@pytest.mark.integration
def test_writers_at_the_same_time_leave_one_whole_object(bucket: str, server: GcsServer) -> None:
    contents = [bytes([65 + n]) * 200_000 for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda data: put_file(f"{bucket}/a", data), contents))
    assert server.read(f"{bucket}/a") in contents
    assert server.names(bucket.removeprefix("gs://")) == ["a"]


@pytest.mark.integration
def test_what_is_written_while_it_is_deleted_stays(
    bucket: str, server: GcsServer, monkeypatch: pytest.MonkeyPatch, wire: _Wire
) -> None:
    generation = server.upload(f"{bucket}/a", b"old")
    remove_file(f"{bucket}/a")
    # This server does not enforce it; that it is asked to is what can be seen.
    assert wire.sent[-1].startswith("DELETE")
    assert f"ifGenerationMatch={generation}" in wire.sent[-1]


@pytest.mark.integration
def test_a_file_larger_than_one_request_is_put(bucket: str, server: GcsServer) -> None:
    data = random.Random(0).randbytes(9 * 1024 * 1024)
    put_file(f"{bucket}/large", data)
    assert server.read(f"{bucket}/large") == data


@pytest.mark.integration
def test_a_small_file_is_opened_with_one_request_a_large_one_is_read_in_ranges(
    bucket: str, server: GcsServer, wire: _Wire
) -> None:
    for rows in (10, 500_000):
        table = pa.table({name: np.random.default_rng(n).random(rows) for n, name in enumerate("abc")})
        uri = f"{bucket}/{rows}.parquet"
        pq.write_table(table, sink := pa.BufferOutputStream())
        data = sink.getvalue().to_pybytes()
        put_file(uri, data)
        wire.sent.clear()
        with open_binary(uri) as file:
            assert pq.ParquetFile(file).read(columns=["b"]).equals(table.select(["b"]))
        assert len(wire.sent) == 1 if rows == 10 else len(wire.sent) > 2
        with open_binary(uri) as file:
            assert file.read() == data


@pytest.mark.integration
def test_a_large_file_that_is_replaced_while_it_is_read_is_an_error_not_a_mixture(
    bucket: str, server: GcsServer
) -> None:
    data = bytes(gcs._HEAD_BYTES + 10)
    server.upload(f"{bucket}/a", data)
    with open_binary(f"{bucket}/a") as file:
        server.upload(f"{bucket}/a", data)
        with pytest.raises(FileNotFoundError):
            file.read()


@pytest.mark.integration
def test_a_table_stored_zipped_is_read(bucket: str, server: GcsServer) -> None:
    server.upload(f"{bucket}/t.csv", gzip.compress(b"image_uri\ngs://b/a\n"), content_encoding="gzip")
    with open_binary(f"{bucket}/t.csv") as file:
        assert file.read() == b"image_uri\ngs://b/a\n"


@pytest.mark.integration
def test_as_many_threads_as_fetch_images_keep_their_connections(
    bucket: str, server: GcsServer, caplog: pytest.LogCaptureFixture
) -> None:
    generation = server.upload(f"{bucket}/a.jpg", b"x" * 1000)
    images = [_image(f"{bucket}/a.jpg", generation, 1000)] * 256
    with ThreadPoolExecutor(64) as pool:
        assert {len(data) for data in pool.map(lambda image: read_image(image, 1000), images)} == {1000}
    # urllib3 says so for every connection that finds no place in the pool.
    assert "pool is full" not in caplog.text


@pytest.mark.integration
def test_a_bucket_is_checked_without_writing(bucket: str, server: GcsServer) -> None:
    assert bucket_problem(f"{bucket}/out", writing=True) is None
    assert server.names(bucket.removeprefix("gs://")) == []
    assert bucket_problem("gs://no-such-bucket/a/*.jpg") == "there is no bucket no-such-bucket (404)"
    assert bucket_problem("/a/folder") is None


@pytest.mark.integration
def test_a_missing_bucket_stops_the_job_at_once_with_every_reason(
    server: GcsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--input", "gs://no-such-bucket/*", "--output", "gs://nor-this-one/out"]
    assert main(arguments, FakeScorerFactory()) == 2
    assert capsys.readouterr().err.splitlines() == [
        "cannot start:",
        "  --input gs://no-such-bucket/*: there is no bucket no-such-bucket (404)",
        "  --output gs://nor-this-one/out: there is no bucket nor-this-one (404)",
    ]


def test_a_forbidden_bucket_stops_the_job_at_once_with_the_servers_words(
    answers: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    answers(*_error(403, "you lack storage.objects.list"))
    assert main(["--input", "gs://secret/*", "--output", str(tmp_path)], FakeScorerFactory()) == 2
    assert capsys.readouterr().err.splitlines() == [
        "cannot start:",
        "  --input gs://secret/*: access denied (403): you lack storage.objects.list",
    ]


def test_missing_rights_to_write_are_said_and_none_of_them_is_written(answers: Any) -> None:
    store = answers(200, {"permissions": ["storage.objects.create"]})
    problem = bucket_problem("gs://theirs/out", writing=True)
    assert problem == "these credentials lack storage.objects.delete in bucket theirs"
    assert {seen.split()[0] for seen in store.seen} == {"GET"}


@pytest.mark.parametrize(("status", "allowed"), [(200, True), (403, False)])
def test_rights_on_a_part_of_a_bucket_are_found_by_beginning_an_upload_there(
    answers: Any, status: int, allowed: bool
) -> None:
    store = answers(200, {"error": {"message": "no"}}, posts=status)
    assert (bucket_problem("gs://theirs/out", writing=True) is None) is allowed
    assert "uploadType=resumable" in store.seen[-1]


@pytest.mark.parametrize(
    ("status", "retryable", "said"),
    [(503, True, "answers 503"), (429, True, "answers 429"), (403, False, "denied"), (400, False, "refuses")],
)
def test_an_answer_decides_whether_an_image_may_be_tried_again(
    answers: Any, status: int, retryable: bool, said: str
) -> None:
    answers(*_error(status, "because"))
    with pytest.raises(FetchError, match=f"{said}.*because") as caught:
        read_image(_image("gs://bucket/a.jpg", 5), 100)
    assert caught.value.retryable is retryable


def test_a_store_that_cannot_be_reached_may_be_tried_again(answers: Any) -> None:
    answers(200, {}).server_close()
    with pytest.raises(FetchError, match="cannot be reached") as caught:
        read_image(_image("gs://bucket/a.jpg", 5), 100)
    assert caught.value.retryable


def test_bytes_that_do_not_have_their_checksum_are_damaged() -> None:
    whole = SimpleNamespace(crc32c="Utizow==")
    gcs._check_whole(whole, "gs://b/a", b"two")
    with pytest.raises(OSError, match="damaged"):
        gcs._check_whole(whole, "gs://b/a", b"tow")


def test_the_metadata_server_is_asked_twice_and_briefly_and_nobody_else_is_cut_short() -> None:
    asked: list[Any] = []

    def silent(**known: Any) -> Any:
        asked.append(known)
        raise TransportError("no answer")

    ask = gcs_access._asking_briefly(silent)
    assert ask(url="http://169.254.169.254", method="GET", timeout=3).status == 503
    assert [known["timeout"] for known in asked] == [1.5, 1.5]
    with pytest.raises(TransportError):
        ask(url="https://sts.googleapis.com/v1/token", timeout=60)
    assert asked[-1]["timeout"] == 60


def test_many_threads_without_credentials_look_for_them_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []

    def none() -> None:
        looked.append(1)
        raise DefaultCredentialsError("none")

    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setattr(gcs_access, "credentials", none)
    monkeypatch.setattr(gcs_access, "_REFUSED", {})
    for _ in range(5):
        with pytest.raises(FetchError, match="gcloud auth application-default login") as caught:
            read_image(_image("gs://bucket/a.jpg", 5), 100)
        assert not caught.value.retryable
    assert len(looked) == 1


def test_a_key_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    monkeypatch.setattr(gcs_access, "_REFUSED", {})
    problem = bucket_problem("gs://bucket/a")
    assert problem is not None
    assert str(tmp_path / "key.json") in problem
    assert "gcloud" not in problem


@pytest.mark.parametrize("uri", ["gs://", "gs:///a", "gs://b*/a"])
def test_a_uri_without_a_bucket_is_told_so(uri: str) -> None:
    assert "there is no bucket in this uri" in str(bucket_problem(uri))
    with pytest.raises(OSError, match="there is no bucket in this uri"):
        list(locate(uri))


def _on_google() -> bool:
    product = Path("/sys/class/dmi/id/product_name")
    return product.exists() and product.read_text().startswith("Google")


@pytest.mark.integration
@pytest.mark.skipif(_on_google(), reason="a machine of Google's has credentials")
def test_without_credentials_a_job_ends_at_submission_and_says_how_to_log_in(tmp_path: Path) -> None:
    hidden = ("STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS", "NO_GCE_CHECK")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment |= {
            "CLOUDSDK_CONFIG": str(tmp_path),
            # It takes connections and never answers.
            "GCE_METADATA_IP": f"127.0.0.1:{silent.getsockname()[1]}",
            "NO_PROXY": "127.0.0.1",
        }
        command = [sys.executable, "-m", "beam_pipeline", "--input", "gs://b/*", "--output", "gs://b/out"]
        run = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
        silent.setblocking(False)
        pings = 0
        while True:
            try:
                silent.accept()[0].close()
            except BlockingIOError:
                break
            pings += 1
    assert run.returncode == 2
    assert run.stderr.count("gcloud auth application-default login") == 2
    assert "Traceback" not in run.stderr
    assert pings == 2


@pytest.mark.integration
def test_a_whole_job_runs_from_bucket_to_bucket(
    bucket: str, server: GcsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(6):
        picture_bytes = encoded(picture(40, 30, seed=number), "JPEG")
        server.upload(f"{bucket}/photos/{number}.jpg", picture_bytes)
    server.upload(f"{bucket}/photos/bad.jpg", b"no image")
    output = f"{bucket}/out"
    arguments = ["--input", f"{bucket}/photos/", "--output", output, "--no-progress"]
    assert main(arguments, FakeScorerFactory()) == 0
    assert "6 images scored, 1 failed" in capsys.readouterr().out
    assert main([*arguments, "--skip-scored"], FakeScorerFactory()) == 0
    assert "6 skipped" in capsys.readouterr().out
    assert main(["query", output, "SELECT count(*) AS n, min(image_generation) > 0 FROM image_scores"]) == 0
    assert capsys.readouterr().out.split()[-4:] == ["6", "True", "(1", "rows)"]
    assert main(["summary", output]) == 0
    assert main(["ddl", output, "--dialect", "spark"]) == 0
    assert f"LOCATION '{output}/scores'" in capsys.readouterr().out


@pytest.mark.integration
def test_large_files_in_a_bucket_are_summarised_as_they_would_be_here(
    bucket: str, server: GcsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large ones: read by ranges, of many row groups; and chunks beside them."""
    outcomes = [score(ref(f"u{number}"), number / 100) for number in range(900)]
    for start in range(0, 900, 100):
        write_chunk(ScoredChunk(tuple(outcomes[start : start + 100])), str(tmp_path))
    chunks = sorted(tmp_path.glob("scores/*/*.parquet"))
    for number, chunk in enumerate(chunks[:3]):
        rows = encode(pq.ParquetFile(chunk).read(), {"image_uri": False}, row_group_rows=10)
        chunk.with_name(f"compact-{number}.parquet").write_bytes(rows)
        chunk.unlink()
    for file in tmp_path.glob("scores/*/*.parquet"):
        server.upload(f"{bucket}/out/{file.relative_to(tmp_path)}", file.read_bytes())
    monkeypatch.setattr(gcs, "_HEAD_BYTES", 50_000)
    monkeypatch.setattr(gcs, "_BUFFER_BYTES", 5000)
    assert any(file.stat().st_size > 50_000 for file in tmp_path.glob("scores/*/compact-*"))
    here, there = summarise(str(tmp_path)), summarise(f"{bucket}/out")
    assert (here.scored, here.score_files) == (900, 9)
    assert replace(there, output=here.output) == here


@pytest.mark.integration
def test_a_table_in_a_bucket_names_objects_and_one_overwritten_since_is_scored_again(
    bucket: str, server: GcsServer, tmp_path: Path
) -> None:
    server.upload(f"{bucket}/a.jpg", encoded(picture(40, 30, seed=1), "JPEG"))
    table = tmp_path / "t.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["image_uri"], [f"{bucket}/a.jpg"], [f"{bucket}/gone.jpg"]])
    server.upload(f"{bucket}/t.csv", table.read_bytes())
    arguments = ["--manifest", f"{bucket}/t.csv", "--output", f"{bucket}/out", "--no-progress"]
    assert main([*arguments, "--skip-scored"], FakeScorerFactory()) == 0
    server.upload(f"{bucket}/a.jpg", encoded(picture(40, 30, seed=2), "JPEG"))
    assert main([*arguments, "--skip-scored"], FakeScorerFactory()) == 0
    counts = "SELECT count(*) AS n, count(DISTINCT image_id) AS ids FROM image_scores"
    assert answer(f"{bucket}/out", counts).splitlines()[2].split() == ["2", "2"]
    failed = answer(f"{bucket}/out", "SELECT message FROM image_failures")
    assert "no such object" in failed


@pytest.mark.integration
def test_a_file_replaced_while_a_question_is_answered_is_an_error_not_a_mixture(
    bucket: str, server: GcsServer
) -> None:
    uri = f"{bucket}/a.parquet"
    server.upload(uri, b"old")
    files = GcsFileSystem()
    (name,) = files.glob(f"{bucket}/*.parquet")
    assert files.open(name).read() == b"old"
    server.upload(uri, b"newer")
    assert files.size(name) == 3
    with pytest.raises(FileNotFoundError, match="superseded"):
        files.open(name)


@pytest.mark.integration
def test_a_question_about_a_bucket_that_is_not_there_is_told_so(server: GcsServer) -> None:
    with pytest.raises(ConfigurationError, match="no such bucket"):
        answer("gs://no-such-bucket/out", "SELECT 1")
