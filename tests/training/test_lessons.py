"""Pictures for the eyes: fresh, in a fixed order, with what every visual token shows."""

from __future__ import annotations

import multiprocessing
import sys
import threading
import time
from collections.abc import Sequence
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from schemas.manifest import ImageRule
from tests.training.pictures import toy_cutout, toy_picture
from training.demo.dataset import Material
from training.demo.lessons import Lesson, lessons, token_grid, token_zones
from training.demo.photo_files import PhotoFile
from training.demo.pictures import ZONE_SIDE, ZONES

RULE = ImageRule(min_pixels=784, max_pixels=12_544)


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Material:
    folder = tmp_path_factory.mktemp("photos")
    files = []
    for index in range(3):
        path = folder / f"{index}.png"
        Image.fromarray(toy_picture(index, 150, 200)).save(path)
        files.append(PhotoFile(path.stem, path))
    return Material(files, [toy_cutout(colour, 60, 80) for colour in ("red", "lime", "blue")])


def _assert_same(some: Sequence[Lesson], others: Sequence[Lesson]) -> None:
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        np.testing.assert_array_equal(one.zones, other.zones)
        assert (one.annotation, one.severities) == (other.annotation, other.severities)


def test_no_picture_comes_twice_and_the_number_of_processes_does_not_matter(material) -> None:
    here = list(lessons(material, RULE, 70, seed=5))
    _assert_same(here, list(lessons(material, RULE, 70, seed=5, processes=2)))
    assert len({lesson.pixels.tobytes() for lesson in here}) == 70
    assert {lesson.annotation.source for lesson in here} == {"0", "1", "2"}


def test_another_seed_gives_other_pictures(material) -> None:
    one, other = (next(lessons(material, RULE, 1, seed)) for seed in (5, 6))
    assert one.pixels.shape != other.pixels.shape or (one.pixels != other.pixels).any()


def test_pictures_are_made_as_they_are_asked_for_and_no_process_is_left_when_none_is(material) -> None:
    running = lessons(material, RULE, 100_000, seed=5, processes=2)
    assert len(list(islice(running, 3))) == 3
    running.close()  # type: ignore[attr-defined]


def test_every_token_has_its_zones_and_the_budget_is_kept(material) -> None:
    subjects = 0.0
    for lesson in lessons(material, RULE, 12, seed=5):
        rows, columns = token_grid(lesson.pixels)
        assert lesson.zones.shape == (rows * columns, ZONES)
        assert lesson.pixels.shape[0] * lesson.pixels.shape[1] <= RULE.max_pixels
        subjects += lesson.zones[:, 0].mean()
    assert subjects > 0


def test_zones_are_shrunk_to_the_visual_tokens_row_by_row() -> None:
    zones = np.zeros((ZONES, ZONE_SIDE, ZONE_SIDE), np.uint8)
    zones[1, : ZONE_SIDE // 2] = 255  # the upper half
    zones[2, :, ZONE_SIDE // 2 :] = 255  # the right half
    seen = token_zones(zones, (2, 4)).reshape(2, 4, ZONES)
    assert (seen[..., 0] == 0).all()
    assert (seen[0, :, 1] == 255).all()
    assert (seen[1, :, 1] == 0).all()
    assert (seen[:, 2:, 2] == 255).all()
    assert (seen[:, :2, 2] == 0).all()


def _take_one_and_wait(material: Material, report: Connection) -> None:
    running = lessons(material, RULE, 100_000, seed=5, processes=2)
    next(running)
    report.send([child.pid for child in multiprocessing.active_children()])
    threading.Event().wait()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_when_their_parent_is_killed(material) -> None:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("spawn")
    parent = context.Process(target=_take_one_and_wait, args=(material, theirs))
    parent.start()
    workers = ours.recv()
    assert len(workers) == 2
    parent.kill()
    parent.join()
    for worker in workers:
        for _ in range(600):
            if not _runs(worker):
                break
            time.sleep(0.1)
        assert not _runs(worker)


def _runs(process: int) -> bool:
    """Zombies do not: whoever inherits them may never ask."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
