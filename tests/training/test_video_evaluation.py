"""Videos among the images of an evaluation: frames by PyAV, one a second, and their mean."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from model.scorer import Scorer
from schemas.annotations import Annotation
from schemas.errors import ConfigurationError
from tests.model.artefact import Artefact, write_artefact
from tests.odd_files import encoded, picture
from training.__main__ import main
from training.annotation_files import write_annotations
from training.layouts.video import video_frames
from training.scoring import score_images

av = pytest.importorskip("av")

# peft asks transformers for a renamed property.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

SECONDS = (3, 1, 2, 4)
RATE = 4


@pytest.fixture(scope="module")
def artefact(tmp_path_factory) -> Artefact:
    return write_artefact(tmp_path_factory.mktemp("artefact"))


@pytest.fixture(scope="module")
def scorer(artefact: Artefact) -> Scorer:
    return Scorer.load(artefact.adapter)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for index, seconds in enumerate(SECONDS):
        write_video(folder / f"{index}.mp4", seconds, seed=index)
    (folder / "4.png").write_bytes(encoded(picture(), "PNG"))
    names = [f"{index}.mp4" for index in range(len(SECONDS))] + ["4.png"]
    write_annotations(folder, [Annotation(image=n, mos=1.0 + i, split="test") for i, n in enumerate(names)])
    return folder


def write_video(file: Path, seconds: int, seed: int) -> None:
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(seconds * RATE):
            pixels = np.asarray(picture(96, 64, seed=100 * seed + number))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def test_a_video_is_scored_by_the_mean_of_its_frames_one_a_second(scorer: Scorer, data: Path) -> None:
    from PIL import Image

    file = data / "0.mp4"
    frames = [encoded(Image.fromarray(pixels), "PNG") for pixels in video_frames(file)]
    assert len(frames) == SECONDS[0]
    each = scorer.score(frames)
    scored = score_images(scorer, [file], [None])
    scores = [said.score for said in each]
    assert len(set(scores)) == len(scores)
    assert scored.predictions[0].score == pytest.approx(np.mean(scores), abs=1e-5)
    assert scored.readings["digit_tree"] == pytest.approx([scored.predictions[0].score])
    assert scored.readings["greedy"] == pytest.approx([np.mean([said.score_greedy for said in each])])
    within = np.mean([said.score_std**2 for said in each])
    assert scored.predictions[0].score_std == pytest.approx(np.sqrt(within + np.var(scores)), abs=1e-4)


def test_videos_and_images_keep_their_order_whatever_the_window(
    scorer: Scorer, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [data / "0.mp4", data / "4.png", data / "3.mp4"]
    at_once = score_images(scorer, files, [None] * 3)
    monkeypatch.setattr("training.scoring._WINDOW_IMAGES", 2)
    apart = score_images(scorer, files, [None] * 3)
    assert apart.rows == at_once.rows == [0, 1, 2]
    for one, other in zip(apart.predictions, at_once.predictions, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-4)
    alone = scorer.score([data / "4.png"])[0]
    assert at_once.predictions[1].score == pytest.approx(alone.score, abs=1e-4)


def test_the_command_evaluates_videos_and_says_so(
    artefact: Artefact, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out.json"
    assert main(["evaluate", str(artefact.adapter), str(data), "--json", str(file), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "4 videos by one frame a second" in said
    assert "| score | 5 | 5 |" in said
    points = json.loads(file.read_text())["evaluation"]["points"]
    assert [point["image"] for point in points][:2] == ["0.mp4", "1.mp4"]


def test_a_broken_video_fails_as_a_broken_image_does(scorer: Scorer, data: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    files = [data / "1.mp4", tmp_path / "broken.mp4"]
    with pytest.raises(ConfigurationError, match=r"broken\.mp4: the video does not decode"):
        score_images(scorer, files, [None] * 2)
    scored = score_images(scorer, files, [None] * 2, allow_failures=True)
    assert scored.rows == [0]
    assert [Path(one.image).name for one in scored.failures] == ["broken.mp4"]


def test_a_video_that_breaks_off_has_no_score_of_its_beginning(
    scorer: Scorer, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from schemas.errors import DecodeError

    def breaks_off(file: Path):
        yield from list(video_frames(file))[:2]
        if file.name == "0.mp4":
            raise DecodeError("the video does not decode: broken end")

    monkeypatch.setattr("training.scoring.video_frames", breaks_off)
    monkeypatch.setattr("training.scoring._WINDOW_IMAGES", 1)
    files = [data / "0.mp4", data / "2.mp4"]
    scored = score_images(scorer, files, [None] * 2, allow_failures=True)
    assert (scored.rows, len(scored.failures), len(scored.predictions)) == ([1], 1, 1)


def test_without_pyav_the_extra_is_named_before_the_model_is_loaded(
    artefact: Artefact, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Scorer, "load", None)
    monkeypatch.setitem(sys.modules, "av", None)
    assert main(["evaluate", str(artefact.adapter), str(data)]) == 2
    assert "reading videos needs realqa-beam[video]" in capsys.readouterr().err
