"""The graph on the portable protocol: a job service in its own process, workers in this one (LOOPBACK)."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from beam_pipeline.__main__ import main
from beam_pipeline.scoring.fakes import FakeScorerFactory
from tests.beam_pipeline.helpers import rows, write_photos
from tests.beam_pipeline.jobs import query, score

pytestmark = pytest.mark.integration
_START_S = 60.0


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running job service, on a free port of the loopback."""
    port_file = tmp_path_factory.mktemp("service") / "port"
    module = "apache_beam.runners.portability.local_job_service_main"
    command = [sys.executable, "-m", module, "--port_file", str(port_file)]
    service = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        gives_up = time.monotonic() + _START_S
        while not port_file.exists():
            assert service.poll() is None, "the job service ended"
            assert time.monotonic() < gives_up
            time.sleep(0.05)
        yield f"127.0.0.1:{port_file.read_text()}"
    finally:
        service.terminate()
        service.wait()


def portable(endpoint: str) -> list[str]:
    return ["--runner=PortableRunner", f"--job_endpoint={endpoint}", "--environment_type=LOOPBACK"]


def test_a_batch_on_the_portable_protocol_gives_one_row_an_image(tmp_path: Path, endpoint: str) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_photos(photos, 30)
    (photos / "bad.jpg").write_bytes(b"no image")
    assert score(photos, output, *portable(endpoint)) == 0
    assert len(rows(output, "scores")) == 30
    assert len(rows(output, "failures")) == 1
    assert query(output, "SELECT count(*), count(DISTINCT image_uri) FROM image_scores") == [(30, 30)]


def test_what_is_scored_is_skipped_there_too(
    tmp_path: Path, endpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    write_photos(photos, 6)
    score(photos, output)
    write_photos(photos, 4, first=6)
    assert score(photos, output, "--skip-scored", *portable(endpoint)) == 0
    assert "4 images scored, 0 failed, 6 skipped" in capsys.readouterr().out


def test_a_stream_is_refused_there_with_runners_that_can(
    tmp_path: Path, endpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--watch", str(tmp_path) + "/", "--output", str(tmp_path / "out")]
    assert main([*arguments, *portable(endpoint)], FakeScorerFactory()) == 2
    assert "--runner=FlinkRunner" in capsys.readouterr().err
