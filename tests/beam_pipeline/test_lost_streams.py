"""Whole local streams that lose their source or their output: one sentence, exit code 1, no row lost."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("google.api_core")
from google.api_core.exceptions import NotFound

from beam_pipeline import running
from beam_pipeline.__main__ import main
from beam_pipeline.scoring.fakes import FakeScorerFactory
from beam_pipeline.sources import subscription_feed, watch_feed
from tests.beam_pipeline.fake_subscriber import FakeSubscriber
from tests.beam_pipeline.helpers import rows, write_photos

pytestmark = pytest.mark.integration


def test_a_watched_folder_that_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watch_feed, "_PATIENCE_S", 0.0)
    photos, output = tmp_path / "photos", tmp_path / "out"
    for path in write_photos(photos, 3):
        os.utime(path, (1, 1))
    deleter = threading.Thread(
        target=lambda: _when(lambda: rows(output, "scores"), lambda: shutil.rmtree(photos))
    )
    deleter.start()
    arguments = ["--watch", str(photos), "--every", "0.1", "--chunk-wait-s", "0.1", "--no-progress"]
    assert main([*arguments, "--output", str(output)], FakeScorerFactory()) == 1
    deleter.join()
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"stopped: --watch {photos}: can no longer be listed: No such file or directory"
    )
    assert len(rows(output, "scores")) == 3


def test_a_subscription_that_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = FakeSubscriber()
    monkeypatch.setattr(subscription_feed, "subscriber", lambda: server)
    output = tmp_path / "out"
    server.put("1", bucketId="")  # names no image, so that no store is asked: a row of failures/

    def delete() -> None:
        server.trouble = NotFound("Resource not found")

    deleter = threading.Thread(target=lambda: _when(lambda: server.acknowledged, delete))
    deleter.start()
    arguments = ["--subscription", "projects/project/subscriptions/photos", "--chunk-wait-s", "0.1"]
    assert main([*arguments, "--output", str(output), "--no-progress"], FakeScorerFactory()) == 1
    deleter.join()
    assert capsys.readouterr().err.splitlines()[-1] == (
        "stopped: --subscription projects/project/subscriptions/photos: can no longer be read: "
        "Resource not found"
    )
    assert len(rows(output, "failures")) == 1


def test_an_output_that_is_lost_is_named_and_another_mistake_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"

    def lose(*_: object) -> int:
        output.touch()
        raise RuntimeError("a round failed")

    def mistake(*_: object) -> int:
        raise RuntimeError("a mistake")

    arguments = ["--watch", str(tmp_path), "--output", str(output), "--no-progress"]
    monkeypatch.setattr(running, "follow", mistake)
    with pytest.raises(RuntimeError, match="a mistake"):
        main(arguments, FakeScorerFactory())
    monkeypatch.setattr(running, "follow", lose)
    assert main(arguments, FakeScorerFactory()) == 1
    assert capsys.readouterr().err == f"stopped: --output {output}: is a file, must be a directory\n"


def _when(condition: Callable[[], object], act: Callable[[], None]) -> None:
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    act()
