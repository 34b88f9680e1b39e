from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from schemas.errors import ConfigurationError
from schemas.records import Prediction
from tests.training.pictures import toy_picture
from training.demo import commands
from training.demo.ladder_picture import WIDTH_PX, draw_picture

PIXELS = toy_picture(height=196, width=280)


def _predict(files) -> list[Prediction]:
    means = [np.asarray(Image.open(io.BytesIO(file))).mean() for file in files]
    return [
        Prediction(score=mean / 30, score_std=0.5, image_clarity="clear", exposure="underexposed")
        for mean in means
    ]


def test_the_picture_has_the_stated_width_a_palette_and_a_white_ground() -> None:
    picture = draw_picture(PIXELS, _predict, "caption")
    assert picture.width == WIDTH_PX <= 1000
    assert 400 < picture.height < 600
    assert picture.mode == "P"
    assert picture.convert("RGB").getpixel((2, 2)) == (255, 255, 255)


def test_the_same_answers_give_the_same_picture_and_other_answers_another() -> None:
    first, again = (np.asarray(draw_picture(PIXELS, _predict, "caption").convert("RGB")) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    unsure = draw_picture(PIXELS, lambda files: [Prediction()] * len(files), "caption").convert("RGB")
    assert (np.asarray(unsure) != first).any()


def test_the_model_is_asked_about_rising_blur_then_rising_darkness() -> None:
    asked: list[np.ndarray] = []

    def predict(files) -> list[Prediction]:
        asked.extend(np.asarray(Image.open(io.BytesIO(file))).astype(float) for file in files)
        return _predict(files)

    draw_picture(PIXELS, predict, "caption")
    blurred, dark = asked[:4], asked[4:]
    np.testing.assert_array_equal(blurred[0], PIXELS)
    np.testing.assert_array_equal(dark[0], PIXELS)
    detail = [np.abs(np.diff(pixels.mean(axis=2), axis=1)).mean() for pixels in blurred]
    assert (np.diff(detail) < 0).all()
    assert (np.diff([pixels.mean() for pixels in dark]) < 0).all()
    assert all(pixels.shape == PIXELS.shape for pixels in asked)


def _options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    commands.add_ladder_picture(parser.add_subparsers().add_parser)
    return parser.parse_args(["ladder-picture", *arguments])


def test_the_command_draws_the_embedded_model(tmp_path: Path) -> None:
    file = tmp_path / "ladder.png"
    options = _options(str(file))
    assert options.handler(options) == 0
    assert file.stat().st_size < 250_000
    with Image.open(file) as picture:
        assert (picture.format, picture.width) == ("PNG", WIDTH_PX)


def test_wrong_files_are_told_all_at_once(tmp_path: Path) -> None:
    options = _options(str(tmp_path / "nowhere" / "ladder.jpg"))
    with pytest.raises(ConfigurationError) as caught:
        options.handler(options)
    assert len(caught.value.reasons) == 2


@pytest.mark.parametrize(("name", "reason"), [("nobody", "chelsea, coffee"), ("giraffe", "may be any of")])
def test_a_photograph_must_be_named_by_a_name_that_is_there_once(
    name: str, reason: str, tmp_path: Path
) -> None:
    options = _options(str(tmp_path / "ladder.png"), "--photograph", name)
    with pytest.raises(ConfigurationError, match=reason):
        options.handler(options)
