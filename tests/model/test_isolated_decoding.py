from __future__ import annotations

import gc
import os
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model import images, isolated_decoding
from model.images import ImageLimits, decoded_bytes
from model.isolated_decoding import CRASH_PRONE, PictureReader
from schemas.errors import DecodeError, ImageLimitError
from schemas.manifest import ImageRule
from tests.model.artefact import Artefact, write_artefact
from tests.odd_files import encoded, grey_16_bit, picture, with_orientation, write_odd_files

RULE = ImageRule(min_pixels=56 * 56, max_pixels=168 * 168)
NEAREST = ImageRule(min_pixels=56 * 56, max_pixels=168 * 168, resize_rule="nearest_262144")
LIMITS = ImageLimits()
EVERY = ("JPEG", "PNG", "WebP", *CRASH_PRONE)
GIF = encoded(picture(), "GIF")

# What a decoder may do to its process, told by what a file has behind its picture.
_STUNTS = """
import os, resource, signal, sys
import model.isolated_decoding as isolated
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
real = isolated.decode_image
def decode(data, facts, rule):
    print("a library says something")
    if data.endswith(b"segfault"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if data.endswith(b"killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    if data.endswith(b"exit"):
        os._exit(3)
    if data.endswith(b"bug"):
        raise KeyError("a mistake of ours")
    while data.endswith(b"hang"):
        pass
    return real(data, facts, rule)
isolated.decode_image = decode
sys.stderr.close()
isolated.serve()
"""


def told(reader: Any, data: bytes, rule: ImageRule = RULE, limits: ImageLimits = LIMITS) -> Any:
    """What a reader makes of a file: facts and pixels, or the error in its parts."""
    try:
        facts = reader.inspect_image(data, limits)
        return facts, reader.decode_image(data, facts, rule)
    except DecodeError as error:
        return type(error), str(error), error.retryable


def same(one: Any, other: Any) -> bool:
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def everything() -> PictureReader:
    """A reader that trusts no format."""
    return PictureReader(EVERY)


@pytest.fixture
def stunts() -> PictureReader:
    return PictureReader(CRASH_PRONE, program=_STUNTS)


# --- the same as without it ---------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [RULE, NEAREST], ids=["bicubic", "nearest"])
def test_every_odd_file_gives_the_same_pixels_and_the_same_error(
    everything: PictureReader, tmp_path: Path, rule: ImageRule
) -> None:
    seen = set()
    for file in write_odd_files(tmp_path):
        if (tmp_path / file.name).exists():
            data = (tmp_path / file.name).read_bytes()
            here = told(images, data, rule)
            assert same(told(everything, data, rule), here), file
            seen.add(here[0] if isinstance(here[0], type) else "good")
    assert seen == {"good", DecodeError, ImageLimitError}


RARE = {
    "animated": encoded(picture(), "GIF", save_all=True, append_images=[picture(seed=2)]),
    "bmp": encoded(picture(), "BMP"),
    "rotated": encoded(picture(96, 60), "TIFF", exif=with_orientation(picture(96, 60), 6)),
    "lzw": encoded(picture(), "TIFF", compression="tiff_lzw"),
    "fax": encoded(picture().convert("1"), "TIFF", compression="group4"),
    "sixteen": encoded(grey_16_bit(picture()), "TIFF"),
    "negative": encoded(grey_16_bit(picture()).convert("F").point(lambda value: value * -1 + 0), "TIFF"),
}


@pytest.mark.parametrize("name", sorted(RARE))
def test_rare_files_whole_cut_short_and_damaged_give_what_they_give_here(
    everything: PictureReader, name: str
) -> None:
    whole = RARE[name]
    chance = np.random.default_rng(3)
    files = [whole, *(whole[: int(len(whole) * share)] for share in (0.02, 0.1, 0.5, 0.9))]
    for _ in range(10):
        damaged = bytearray(whole)
        damaged[int(chance.integers(4, min(200, len(whole))))] = int(chance.integers(256))
        files.append(bytes(damaged))
    for data in files:
        assert same(told(everything, data), told(images, data))


def test_limits_and_errors_are_the_jobs(everything: PictureReader) -> None:
    for limits in (ImageLimits(max_file_bytes=10), ImageLimits(max_decoded_pixels=100)):
        here = told(images, GIF, limits=limits)
        assert here[0] is ImageLimitError
        assert told(everything, GIF, limits=limits) == here


def test_pixels_can_be_written_to_like_those_decoded_here(everything: PictureReader) -> None:
    assert everything.decode_image(GIF, images.inspect_image(GIF), RULE).flags.writeable


def test_common_formats_need_no_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated_decoding.subprocess, "Popen", _refused)
    reader = PictureReader(CRASH_PRONE)
    for kind in ("JPEG", "PNG", "WEBP"):
        data = encoded(picture(), kind)
        assert same(told(reader, data), told(images, data))
    kind, message, retryable = told(reader, GIF)
    assert (kind, message, retryable) == (DecodeError, "the decoder process does not start", True)


def _refused(*arguments: Any, **more: Any) -> None:
    raise OSError("no more processes")


# --- what a decoder may do ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stunt", "reason", "retryable"),
    [
        (b"segfault", "the decoder crashed (signal 11)", False),
        (b"exit", "the decoder crashed (exit status 3)", False),
        (b"killed", "the decoder crashed (signal 9)", True),
    ],
)
def test_a_crash_costs_one_picture(stunts: PictureReader, stunt: bytes, reason: str, retryable: bool) -> None:
    good = told(images, GIF)
    assert same(told(stunts, GIF), good)
    assert told(stunts, GIF + stunt) == (DecodeError, reason, retryable)
    assert same(told(stunts, GIF), good)


def test_a_crash_costs_nothing_to_pictures_in_other_threads(stunts: PictureReader) -> None:
    jpeg = encoded(picture(), "JPEG")
    files = [GIF, GIF + b"segfault", jpeg, RARE["bmp"], RARE["lzw"] + b"exit"] * 3
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda data: told(stunts, data), files))
    for data, answer in zip(files, answers, strict=True):
        if data.endswith((b"segfault", b"exit")):
            assert answer[0] is DecodeError
            assert "crashed" in answer[1]
        else:
            assert same(answer, told(images, data))


def test_a_picture_that_takes_too_long_is_given_up() -> None:
    reader = PictureReader(CRASH_PRONE, seconds=0.5, program=_STUNTS)
    assert told(reader, GIF + b"hang") == (DecodeError, "decoding took longer than 0.5 s", True)


def test_a_mistake_of_ours_keeps_its_name_and_the_helper(stunts: PictureReader) -> None:
    facts = images.inspect_image(GIF + b"bug")
    with pytest.raises(RuntimeError, match="KeyError: 'a mistake of ours'"):
        stunts.decode_image(GIF + b"bug", facts, RULE)
    assert same(told(stunts, GIF), told(images, GIF))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process how much memory it has")
def test_a_small_picture_in_a_tile_of_two_gigabytes_is_refused(everything: PictureReader) -> None:
    tags = [(256, 3, 100), (257, 3, 100), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1)]
    tags += [(322, 4, 45_000), (323, 4, 45_000), (324, 4, 8 + 2 + 10 * 12 + 4), (325, 4, 100)]
    directory = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags
    )
    data = b"II*\0" + struct.pack("<I", 8) + directory + bytes(4 + 100)
    out_of_memory = -9  # of Pillow's decoders
    kind, message, _ = told(everything, data)
    assert kind is DecodeError
    assert f"decoder error {out_of_memory}" in message
    # Whatever was allowed for that picture, the next one gets its own.
    assert same(told(everything, GIF), told(images, GIF))


# --- the helper's life --------------------------------------------------------------------------------


def _telling(folder: Path, check: str = "") -> tuple[PictureReader, Callable[[], list[int]]]:
    """A reader whose helpers note their process ids."""
    note = folder / "pids"
    program = f"""
        import os, sys
        from model.isolated_decoding import serve
        print(os.getpid(), file=open({str(note)!r}, "a"))
        {check}
        serve()
    """
    reader = PictureReader(CRASH_PRONE, program=textwrap.dedent(program))
    return reader, lambda: [int(line) for line in note.read_text().split()] if note.exists() else []


def test_one_helper_starts_at_the_first_rare_picture_and_stays(tmp_path: Path) -> None:
    reader, pids = _telling(tmp_path)
    told(reader, encoded(picture(), "JPEG"))
    assert pids() == []
    for data in RARE.values():
        told(reader, data)
    assert len(pids()) == 1


def test_a_helper_killed_while_it_had_nothing_to_do_is_replaced_and_no_picture_is_blamed(
    tmp_path: Path,
) -> None:
    reader, pids = _telling(tmp_path)
    told(reader, GIF)
    os.kill(pids()[0], 9)
    os.waitid(os.P_PID, pids()[0], os.WEXITED | os.WNOWAIT)
    assert same(told(reader, GIF), told(images, GIF))
    assert len(pids()) == 2


def test_the_helper_ends_with_its_reader(tmp_path: Path) -> None:
    reader, pids = _telling(tmp_path)
    told(reader, GIF)
    os.kill(pids()[0], 0)
    del reader
    gc.collect()
    with pytest.raises(ProcessLookupError):
        os.kill(pids()[0], 0)


@pytest.mark.integration
@pytest.mark.parametrize("ending", ["sys.exit()", "os.kill(os.getpid(), 9)"])
def test_the_helper_ends_with_its_parent_however_that_ends(ending: str, tmp_path: Path) -> None:
    photo = tmp_path / "a.gif"
    photo.write_bytes(GIF)
    code = f"""
import os, sys
from model.images import ImageLimits
from model.isolated_decoding import PictureReader
reader = PictureReader(["GIF"])
print(reader.inspect_image(open({str(photo)!r}, "rb").read(), ImageLimits()).width_px, flush=True)
{ending}
"""
    # The helper has its parent's stderr: the end of that pipe comes when both are gone.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "160"
    assert done.stderr == ""


def test_a_users_own_model_folder_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "__init__.py").write_text("raise ImportError('the model of somebody else')")
    monkeypatch.chdir(tmp_path)
    for path in (None, str(tmp_path), os.pathsep):
        if path is not None:
            monkeypatch.setenv("PYTHONPATH", path)
        assert same(told(PictureReader(CRASH_PRONE), GIF), told(images, GIF))


def test_the_helper_loads_no_torch(tmp_path: Path) -> None:
    heavy = {"torch", "transformers", "apache_beam", "pyarrow"}
    assert heavy & set(sys.modules)
    reader, _ = _telling(tmp_path, check=f"assert not {heavy!r} & set(sys.modules)")
    assert same(told(reader, GIF), told(images, GIF))


# --- who uses it --------------------------------------------------------------------------------------


pytestmark = [
    # peft asks transformers for a renamed property.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    return write_artefact(tmp_path_factory.mktemp("artefact"))


def test_a_scorer_isolates_decoders_where_it_is_told_to(
    artefact: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model.scorer import Scorer

    alone = Scorer.load(artefact.adapter, device="cpu", isolate_decoders=True)
    here = Scorer.load(artefact.adapter, device="cpu")
    assert alone.score([GIF]) == here.score([GIF])
    monkeypatch.setattr(isolated_decoding.subprocess, "Popen", _refused)
    assert here.prepare(RARE["bmp"])
    with pytest.raises(DecodeError, match="does not start"):
        Scorer.load(artefact.adapter, device="cpu", isolate_decoders=True).prepare(RARE["bmp"])


def test_a_scorer_holds_room_for_a_picture_only_while_it_is_decoded(
    artefact: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model.scorer import Scorer

    asked, held = list[int](), list[int]()

    @contextmanager
    def room(size: int) -> Iterator[None]:
        asked.append(size)
        held.append(size)
        try:
            yield
        finally:
            held.remove(size)

    scorer, data = Scorer.load(artefact.adapter, device="cpu"), encoded(picture(90, 70), "PNG")
    facts = scorer.prepare(data, room=room).facts
    assert asked == [90 * 70 * 3] == [decoded_bytes(facts)]
    seen: list[list[int]] = []
    decode = PictureReader.decode_image
    monkeypatch.setattr(PictureReader, "decode_image", lambda *given: seen.append([*held]) or decode(*given))
    with pytest.raises(DecodeError):
        scorer.prepare(data[:-200], room=room)
    assert seen == [[90 * 70 * 3]]
    assert not held
