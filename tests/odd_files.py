"""A folder of odd and bad image files, drawn in code: what real folders hold."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (160, 120)
"""Width and height of the good files as seen, px."""


@dataclass(frozen=True)
class OddFile:
    """One file. ``good``: it must be scored; otherwise ``why`` says what is wrong with it."""

    name: str
    good: bool
    why: str


def picture(width: int = SIZE[0], height: int = SIZE[1], seed: int = 0) -> Image.Image:
    """Draw a smooth coloured picture: waves of random direction and length; equal seeds, equal pixels."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    channels = []
    for _ in range(3):
        waves = sum(
            np.sin(x * random.uniform(-12, 12) + y * random.uniform(-12, 12) + random.uniform(0, 6))
            for _ in range(4)
        )
        channels.append(127.5 + 31 * waves)
    return Image.fromarray(np.clip(np.stack(channels, axis=-1), 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of a file in a format that Pillow writes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """One PNG chunk: length, name, content, checksum."""
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png_header_only(width: int, height: int) -> bytes:
    """A valid PNG header that promises ``width`` × ``height`` px, followed by almost nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 64)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, content) for kind, content in parts)


def with_orientation(image: Image.Image, orientation: int) -> Image.Exif:
    """EXIF that names an orientation, 1–8."""
    exif = image.getexif()
    exif[0x0112] = orientation
    return exif


def grey_16_bit(image: Image.Image) -> Image.Image:
    """The picture's luminance in 16 bits."""
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def transparent_palette(image: Image.Image) -> bytes:
    """A palette PNG whose entries have an alpha each."""
    alpha = Image.linear_gradient("L").resize(image.size)
    rgba = image.convert("RGBA")
    rgba.putalpha(alpha)
    return encoded(rgba.quantize(64, Image.Quantize.FASTOCTREE), "PNG")


def _good() -> Iterator[tuple[str, str, Callable[[], bytes]]]:
    photo = picture()
    frames = [picture(seed=seed) for seed in (1, 2)]
    yield "plain.jpg", "baseline JPEG", lambda: encoded(photo, "JPEG", quality=90)
    yield "cmyk.jpg", "CMYK JPEG", lambda: encoded(photo.convert("CMYK"), "JPEG")
    yield "grey.jpg", "grey JPEG", lambda: encoded(photo.convert("L"), "JPEG")
    yield "progressive.jpg", "progressive JPEG", lambda: encoded(photo, "JPEG", progressive=True)
    yield (
        "exif_rotated.jpg",
        "JPEG stored on its side",
        lambda: encoded(photo.rotate(90, expand=True), "JPEG", exif=with_orientation(photo, 6)),
    )
    yield "sixteen_bit.png", "16-bit grey PNG", lambda: encoded(grey_16_bit(photo), "PNG")
    yield "one_bit.png", "1-bit PNG", lambda: encoded(photo.convert("1"), "PNG")
    yield "palette_with_alpha.png", "palette PNG with alpha", lambda: transparent_palette(photo)
    yield (
        "animated.webp",
        "animated WebP",
        lambda: encoded(photo, "WEBP", save_all=True, append_images=frames, duration=100),
    )
    yield "animated.gif", "animated GIF", lambda: encoded(photo, "GIF", save_all=True, append_images=frames)
    yield "plain.bmp", "BMP", lambda: encoded(photo, "BMP")
    yield "plain.tiff", "TIFF", lambda: encoded(photo, "TIFF", compression="tiff_lzw")
    yield "no_extension", "JPEG without an extension", lambda: encoded(picture(seed=3), "JPEG")
    yield "wrong_extension.gif", "PNG named .gif", lambda: encoded(picture(seed=4), "PNG")
    yield "[1] Müller {a} – 東京*.jpg", "brackets and non-ASCII", lambda: encoded(picture(seed=5), "JPEG")


def _bad() -> Iterator[tuple[str, str, Callable[[], bytes]]]:
    photo = picture(seed=6)
    jpeg, png = encoded(photo, "JPEG"), encoded(photo, "PNG")
    svg = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>\n'
    yield "zero_bytes.jpg", "empty", lambda: b""
    yield "text.jpg", "text", lambda: b"This is not a photograph.\n" * 20
    yield "page.jpg", "HTML", lambda: b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n"
    yield "truncated.jpg", "cut off", lambda: jpeg[: len(jpeg) // 2]
    yield "truncated.png", "cut off", lambda: png[: len(png) // 2]
    yield "random.jpg", "random bytes", lambda: np.random.default_rng(7).bytes(5000)
    yield "huge_header.png", "60,000 × 60,000 px by its header", lambda: png_header_only(60_000, 60_000)
    yield "drawing.svg", "SVG", lambda: svg
    yield "strip.png", "4000 × 3 px", lambda: encoded(picture(4000, 3), "PNG")


def write_odd_files(folder: Path) -> list[OddFile]:
    """Write every odd and bad file into ``folder``, one dangling link with them, and say what they are."""
    files = []
    for good, kinds in ((True, _good()), (False, _bad())):
        for name, why, content in kinds:
            (folder / name).write_bytes(content())
            files.append(OddFile(name, good, why))
    (folder / "dangling.jpg").symlink_to(folder / "not_there.jpg")
    files.append(OddFile("dangling.jpg", good=False, why="dangling link"))
    return files
