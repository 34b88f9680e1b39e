"""From bytes to an opened, undecoded picture: which format it is, which way up, and what went wrong.

Everything that touches Pillow's file readers is here, so that their habits end here too: any exception
of theirs becomes a ``DecodeError``, and none of their warnings reaches the caller.
"""

from __future__ import annotations

import codecs
import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from schemas.errors import DecodeError, ScoringError

# The readers are named one by one: Image.open would try further formats, follow a JPEG into its MPO
# pages, and refuse by its own pixel limit, which is process-wide, where ImageLimits is the job's.
_READERS: dict[str, type[ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "WebP": WebPImageFile,
}

_MAGIC = (
    (re.compile(rb"\xff\xd8\xff"), "JPEG"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "PNG"),
    (re.compile(rb"GIF8[79]a"), "GIF"),
    (re.compile(rb"BM"), "BMP"),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), "TIFF"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "WebP"),
)

_NOT_ACCEPTED = (
    (re.compile(rb"\s*(<!doctype html|<html)", re.IGNORECASE), "an HTML page"),
    (
        re.compile(rb"\s*(<\?xml.*?|<!--.*?|<!doctype svg.*?)*<svg\b", re.IGNORECASE | re.DOTALL),
        "an SVG drawing",
    ),
    (re.compile(rb"\s*[<]\?xml", re.IGNORECASE), "an XML document"),
    (re.compile(rb"....ftyp(heic|heix|hevc|mif1|msf1)", re.DOTALL), "a HEIC picture"),
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), "an AVIF picture"),
    (re.compile(rb"....ftyp", re.DOTALL), "a video"),
    (re.compile(rb"RIFF....AVI ", re.DOTALL), "a video"),
    (re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"), "a JPEG 2000 picture"),
    (re.compile(rb"\0\0\0\x0cJXL |\xff\x0a"), "a JPEG XL picture"),
    (re.compile(rb"8BPS"), "a Photoshop document"),
    (re.compile(rb"%PDF"), "a PDF document"),
    (re.compile(rb"PK\x03\x04|\x1f\x8b|Rar!|7z\xbc\xaf"), "an archive"),
)

_IGNORE_PILLOW = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_FILTERS = threading.Lock()


def _silence_pillow() -> None:
    # warnings.catch_warnings swaps a process-wide list and is not safe in threads: one thread's exit undoes
    # another's entry. One filter on Pillow's own modules, put in once and never taken out, is; it is put
    # in again only where someone else's catch_warnings has swapped the list meanwhile. Under "-W error" a
    # picture with a damaged EXIF field would otherwise fail, and without it print to the worker's log.
    with _FILTERS:
        if _IGNORE_PILLOW not in warnings.filters:
            warnings.filterwarnings("ignore", module=r"PIL\.")


@contextmanager
def decoding(kind: str) -> Iterator[None]:
    """Turn whatever Pillow raises inside into a ``DecodeError`` with the cause chained.

    Args:
        kind: Name of the format, for the message.
    """
    _silence_pillow()
    try:
        yield
    except ScoringError:
        raise
    except MemoryError as error:
        raise DecodeError("not enough memory to decode the picture", retryable=True) from error
    # Hostile bytes lead Pillow to raise what it likes (SyntaxError, KeyError, struct.error, zlib.error,
    # AttributeError, ...): the list is open, and a bad picture must not take its chunk with it.
    except Exception as error:
        detail = f"{error}" or type(error).__name__
        raise DecodeError(f"the {kind} file is cut off, damaged or of a rare kind ({detail})") from error


def format_by_magic(data: bytes) -> str | None:
    """Name the format by the first bytes; None where it is none that is accepted. Opens nothing."""
    return next((name for magic, name in _MAGIC if magic.match(data)), None)


def image_format(data: bytes) -> str:
    """Name the format by the first bytes, never by a file name.

    Raises:
        DecodeError: The bytes are no accepted format; says what they look like.
    """
    if not data:
        raise DecodeError("the file is empty (0 bytes)")
    name = format_by_magic(data)
    if name is not None:
        return name
    raise DecodeError(f"not a picture in an accepted format ({', '.join(_READERS)}): {_looks_like(data)}")


def _looks_like(data: bytes) -> str:
    start = data[:4096].removeprefix(b"\xef\xbb\xbf")
    for pattern, name in _NOT_ACCEPTED:
        if pattern.match(start):
            return f"it looks like {name}"
    if not any(data[:4096]):
        return "it holds zeros only"
    try:
        # Incremental: the cut at 4096 bytes may split a letter.
        text = codecs.getincrementaldecoder("utf-8")().decode(start, final=len(data) <= 4096)
    except UnicodeDecodeError:
        return "its content is not recognised"
    printable = all(letter.isprintable() or letter.isspace() for letter in text)
    return "it looks like text" if printable else "its content is not recognised"


def open_header(data: bytes) -> ImageFile:
    """Open the bytes, reading the header only; the size it gives for a TIFF is upright already.

    Raises:
        DecodeError: Not an accepted format, or the header is damaged.
    """
    kind = image_format(data)
    with decoding(kind):
        return _READERS[kind](io.BytesIO(data))


def orientation(image: ImageFile, data: bytes) -> int:
    """Read the EXIF (or XMP) orientation, 1–8, without decoding; 1 where there is none or it is damaged.

    Damaged metadata is no reason to refuse a photograph: every viewer shows it as stored.
    """
    if isinstance(image, TiffImageFile):
        return 1  # Pillow turns TIFFs itself while loading
    if isinstance(image, PngImageFile) and "exif" not in image.info:
        late = _png_exif(data)
        if late is not None:
            image.info["exif"] = late
    try:
        with decoding("EXIF"):
            # PngImageFile's own getexif would decode the whole picture first.
            value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except DecodeError:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _png_exif(data: bytes) -> bytes | None:
    # The eXIf chunk may stand after the pixels, where opening does not see it.
    position = 8
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] == b"eXIf":
            return data[position + 8 : position + 8 + length]
        position += 12 + length
    return None
