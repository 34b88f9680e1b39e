"""What stands in a picture is known to the pixel."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from tests.training.pictures import toy_cutout, toy_picture
from training.demo.degradations import Severities
from training.demo.scenes import Scene, compose, cut_to_outline

VIEW = Image.fromarray(toy_picture(0, 240, 320))
SUBJECT = toy_cutout("red", 90, 120)
PIECES = [toy_cutout("lime", 40, 40), toy_cutout("yellow", 30, 50)]


def _compose(severities: Severities, seed: int = 0, subject: Image.Image | None = SUBJECT) -> Scene:
    return compose(VIEW, subject, PIECES, severities, np.random.default_rng(seed))


def _shown(seed: int, cut: float) -> float:
    """Area of the subject that shows."""
    return float(_compose(Severities(cut=cut), seed).subject.sum())


@pytest.mark.parametrize("cut", [0.2, 0.4, 0.65])
def test_as_much_of_the_subject_is_missing_as_was_asked_for_in_either_manner(cut: float) -> None:
    manners = set()
    for seed in range(12):
        scene = _compose(Severities(cut=cut), seed)
        assert 1 - float(scene.subject.sum()) / _shown(seed, 0.0) == pytest.approx(cut, abs=0.06)
        edge = scene.subject
        manners.add(any(side.any() for side in (edge[0], edge[-1], edge[:, 0], edge[:, -1])))
    assert manners == {True, False}  # cut by the frame, and behind something


def test_an_uncut_subject_lies_inside_the_frame_and_is_what_the_mask_says() -> None:
    for seed in range(8):
        scene = _compose(Severities(off_centre=0.6), seed)
        assert not any(scene.subject[side].any() for side in (0, -1))
        assert not any(scene.subject[:, side].any() for side in (0, -1))
        pixels = np.asarray(scene.picture)
        assert (pixels[scene.subject == 1] == (255, 0, 0)).all()
        untouched = scene.subject == 0
        assert (pixels[untouched] == np.asarray(VIEW)[untouched]).all()


def test_a_subject_further_aside_is_reported_so_up_to_the_room_there_is() -> None:
    means = [
        np.mean([_compose(Severities(off_centre=aside), seed).off_centre for seed in range(12)])
        for aside in (0.0, 0.2, 0.5)
    ]
    assert means[0] == pytest.approx(0, abs=0.02)
    assert all(nearer < further for nearer, further in pairwise(means))


def test_pieces_around_the_subject_and_pieces_elsewhere_stay_apart() -> None:
    for seed in range(6):
        near = _compose(Severities(subject_pieces=8), seed)
        far = _compose(Severities(background_pieces=8), seed)
        assert not near.background_pieces.any()
        assert not far.subject_pieces.any()
        distance = [_mean_distance(s.subject, zone) for s, zone in (
            (near, near.subject_pieces), (far, far.background_pieces),
        )]  # fmt: skip
        assert distance[0] < distance[1]


def _mean_distance(subject: np.ndarray, zone: np.ndarray) -> float:
    centre = np.argwhere(subject > 0.5).mean(axis=0)
    return float(np.linalg.norm(np.argwhere(zone > 0.5) - centre, axis=1).mean())


def test_pieces_never_hide_the_subject_and_count_only_where_they_show() -> None:
    bare, cluttered = (_compose(Severities(subject_pieces=count)) for count in (0, 9))
    assert cluttered.subject_pieces.sum() > 0
    solid = bare.subject == 1
    assert np.array_equal(bare.subject, cluttered.subject)
    assert np.array_equal(np.asarray(bare.picture)[solid], np.asarray(cluttered.picture)[solid])
    assert not cluttered.subject_pieces[bare.subject == 1].any()


def test_more_pieces_cover_more() -> None:
    covered = [
        np.mean(
            [_compose(Severities(background_pieces=n), seed).background_pieces.mean() for seed in range(4)]
        )
        for n in (0, 3, 12)
    ]
    assert covered[0] == 0
    assert all(less < more for less, more in pairwise(covered))


def test_the_figure_is_tilted_with_the_photograph() -> None:
    long = toy_cutout("red", 20, 200, square=True)
    for degrees in (-20.0, 15.0):
        shown = _compose(Severities(tilt_deg=degrees), subject=long).subject
        down, across = np.nonzero(shown > 0.5)
        axis = np.linalg.eigh(np.cov(across, down))[1][:, 1]
        # Counter-clockwise: on the picture, whose y points down, the upper end of an upright bar moves left.
        lean = np.degrees(np.arctan2(axis[0], axis[1]))
        lean = (lean + 90) % 180 - 90
        assert lean == pytest.approx(degrees, abs=2)


def test_without_a_subject_there_is_none_and_clutter_still_comes() -> None:
    scene = _compose(Severities(background_pieces=5), subject=None)
    assert not scene.subject.any()
    assert scene.off_centre == 0
    assert scene.background_pieces.any()


def test_the_same_state_gives_the_same_scene_and_the_view_is_left_alone() -> None:
    before = np.asarray(VIEW).copy()
    severities = Severities(tilt_deg=12, cut=0.3, subject_pieces=3, background_pieces=4, off_centre=0.4)
    one, two, other = (_compose(severities, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(np.asarray(one.picture), np.asarray(two.picture))
    assert one.picture.tobytes() != other.picture.tobytes()
    np.testing.assert_array_equal(np.asarray(VIEW), before)


def test_an_outline_is_cut_to_what_is_not_transparent() -> None:
    padded = Image.new("RGBA", (100, 80))
    padded.paste(Image.new("RGBA", (30, 20), "red"), (10, 40))
    assert cut_to_outline(padded).size == (30, 20)
    empty = Image.new("RGBA", (10, 10))
    assert cut_to_outline(empty) is empty
