from __future__ import annotations

import io
import struct
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from model.image_files import open_header
from model.images import (
    IMAGE_DECODER,
    REDUCED_MARGIN,
    ImageLimits,
    decode_image,
    image_id,
    inspect_image,
    resized_size,
)
from model.resizing import PILLOW, RESIZES
from schemas.errors import DecodeError, ImageLimitError
from schemas.manifest import ImageRule
from tests.odd_files import (
    SIZE,
    encoded,
    grey_16_bit,
    picture,
    png_chunk,
    png_header_only,
    transparent_palette,
    with_orientation,
    write_odd_files,
)

# Decoding is held to Pillow to the bit, so with Pillow's own resize; test_resizing holds the other to that.
RULE = ImageRule(min_pixels=56 * 56, max_pixels=168 * 168, image_decoder=PILLOW)
NEAREST = RULE.model_copy(update={"resize_rule": "nearest_262144"})


def decoded(data: bytes, rule: ImageRule = RULE) -> np.ndarray:
    return decode_image(data, inspect_image(data), rule)


def reference(image: Image.Image, rule: ImageRule = RULE) -> np.ndarray:
    """What transformers' processor feeds on: the upright RGB picture, resized in full."""
    height, width = resized_size(image.height, image.width, rule)
    return np.array(image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


def test_the_decoder_is_the_one_that_manifests_name_by_default():
    assert ImageRule.model_fields["image_decoder"].default == IMAGE_DECODER


# --- sizes -------------------------------------------------------------------------------------------


@given(
    st.integers(1, 9000),
    st.integers(1, 9000),
    st.integers(784, 600_000),
    st.integers(784, 2_000_000),
)
@settings(max_examples=500)
def test_bicubic_sizes_are_those_of_transformers(height, width, one, other):
    rule = ImageRule(min_pixels=min(one, other), max_pixels=max(one, other))
    try:
        expected = smart_resize(height, width, 28, rule.min_pixels, rule.max_pixels)
    except ValueError:
        with pytest.raises(ImageLimitError):
            resized_size(height, width, rule)
    else:
        assert resized_size(height, width, rule) == expected


def test_the_published_rule_shrinks_to_262144_px_first():
    rule = ImageRule(min_pixels=784, max_pixels=10**7, resize_rule="nearest_262144")
    assert resized_size(1000, 3000, rule) == smart_resize(295, 886, 28, 784, 10**7)
    assert resized_size(512, 512, rule) == smart_resize(512, 512, 28, 784, 10**7)


# --- odd and bad files -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    return folder, {file.name: file for file in write_odd_files(folder)}


def test_every_odd_but_good_file_decodes_upright_at_the_budget(odd):
    folder, files = odd
    good = [file for file in files.values() if file.good]
    assert len(good) == 15
    for file in good:
        data = (folder / file.name).read_bytes()
        facts = inspect_image(data)
        assert (facts.width_px, facts.height_px) == SIZE, file
        pixels = decode_image(data, facts, RULE)
        assert pixels.shape == (*resized_size(SIZE[1], SIZE[0], RULE), 3)
        assert pixels.dtype == np.uint8
        assert pixels.flags.writeable
        assert pixels.std() > 10, file


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("zero_bytes.jpg", "empty"),
        ("text.jpg", "text"),
        ("page.jpg", "HTML"),
        ("truncated.jpg", "cut off, damaged"),
        ("truncated.png", "cut off, damaged"),
        ("random.jpg", "not a picture"),
        ("huge_header.png", "60,000 × 60,000 px"),
        ("drawing.svg", "SVG"),
        ("strip.png", "200 times"),
    ],
)
def test_every_bad_file_is_refused_with_a_reason_for_its_owner(odd, name, reason):
    folder, files = odd
    assert not files[name].good
    with pytest.raises(DecodeError, match=reason):
        decoded((folder / name).read_bytes())


def test_facts_come_from_the_bytes():
    data = encoded(picture(50, 40), "PNG")
    facts = inspect_image(data)
    assert facts.image_id == image_id(data)
    assert facts.size_bytes == len(data)


def test_a_huge_picture_is_refused_by_its_header():
    with pytest.raises(ImageLimitError):
        inspect_image(png_header_only(60_000, 60_000))


def test_limits_are_the_jobs():
    data = encoded(picture(100, 80), "PNG")
    with pytest.raises(ImageLimitError, match="bytes"):
        inspect_image(data, ImageLimits(max_file_bytes=len(data) - 1))
    with pytest.raises(ImageLimitError, match="px"):
        inspect_image(data, ImageLimits(max_decoded_pixels=7999))
    inspect_image(data, ImageLimits(max_file_bytes=len(data), max_decoded_pixels=8000))


def test_a_limit_above_pillows_own_is_honoured():
    facts = inspect_image(png_header_only(14_000, 14_000))
    assert facts.width_px == 14_000


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"%PDF-1.7\n", "PDF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x20ftypisom\0\0\0\0", "video"),
        (b"8BPS\0\1", "Photoshop"),
        (b"PK\x03\x04aaaa", "archive"),
        (bytes(100), "zeros"),
        (b"<svg width='3'/>", "SVG"),
        ("Grüße\n".encode() * 2000, "text"),
        (b"\x00\x01\x02\xff\xfe", "not recognised"),
    ],
)
def test_refusals_say_what_the_file_looks_like(data, reason):
    with pytest.raises(DecodeError, match=reason):
        inspect_image(data)


def test_formats_beyond_the_accepted_ones_are_not_opened():
    with pytest.raises(DecodeError, match="not a picture in an accepted format"):
        inspect_image(encoded(picture(), "PPM"))


def test_facts_of_other_bytes_are_a_mistake_of_the_caller():
    data = encoded(picture(50, 40), "PNG")
    with pytest.raises(ValueError, match="facts"):
        decode_image(data, inspect_image(encoded(picture(40, 50), "PNG")), RULE)


# --- way up ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_every_format_is_undone(kind, orientation):
    photo = picture(96, 60)
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    data = encoded(photo, kind, exif=with_orientation(photo, orientation), **options)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    facts = inspect_image(data)
    assert (facts.width_px, facts.height_px) == upright.size
    assert difference(decode_image(data, facts, RULE), reference(upright)) < 0.3


def test_an_orientation_after_the_pixels_of_a_png_counts():
    photo = picture(96, 60)
    plain = encoded(photo, "PNG")
    exif = with_orientation(photo, 6).tobytes().removeprefix(b"Exif\0\0")
    data = plain[:-12] + png_chunk(b"eXIf", exif) + plain[-12:]
    assert inspect_image(data).width_px == 60
    assert difference(decoded(data), reference(photo.rotate(-90, expand=True))) < 0.3


def test_damaged_exif_is_no_reason_to_refuse_a_photograph():
    photo = picture(96, 60)
    exif = with_orientation(photo, 6).tobytes()
    for broken in (exif[:-9], exif[:12], b"Exif\0\0nonsense", b"Exif\0\0"):
        assert decoded(encoded(photo, "JPEG", exif=broken)).shape[2] == 3


# --- modes -------------------------------------------------------------------------------------------


def test_transparency_is_mid_grey_in_every_form():
    clear = Image.new("RGBA", (60, 60), (255, 0, 0, 0))
    palette = Image.new("P", (60, 60), 0)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    sixteen = Image.fromarray(np.full((60, 60), 60_000, np.uint16))
    files = [
        encoded(clear, "PNG"),
        encoded(clear, "WEBP", lossless=True, exact=True),
        encoded(clear, "TIFF"),
        encoded(clear.convert("LA"), "PNG"),
        encoded(palette, "PNG", transparency=0),
        encoded(palette, "PNG", transparency=b"\0\xff"),
        encoded(palette, "GIF", transparency=0),
        encoded(Image.new("RGB", (60, 60), (9, 8, 7)), "PNG", transparency=(9, 8, 7)),
        encoded(Image.new("L", (60, 60), 9), "PNG", transparency=9),
        encoded(Image.new("1", (60, 60), 1), "PNG", transparency=1),
        encoded(sixteen, "PNG", transparency=60_000),
    ]
    for data in files:
        assert (decoded(data) == 128).all()


def test_half_transparent_pixels_are_half_grey():
    data = encoded(Image.new("RGBA", (60, 60), (255, 0, 128, 128)), "PNG")
    assert np.abs(decoded(data).astype(int) - [192, 64, 128]).max() <= 1


def test_sixteen_bits_are_scaled_not_clipped():
    photo = picture().convert("L")
    expected = reference(photo)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(decoded(encoded(grey_16_bit(photo), kind)), expected)


def tiff_16_bit(bits: int, photometric: int, values: np.ndarray) -> bytes:
    """A minimal uncompressed grey TIFF of 12 or 16 bits."""
    height, width = values.shape
    if bits == 12:
        pairs = values.reshape(-1, 2).astype(int)
        first, second = pairs[:, 0], pairs[:, 1]
        packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1)
        content = packed.astype(np.uint8).tobytes()
    else:
        content = values.astype("<u2").tobytes()
    tags = [(256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric)]
    tags += [(273, 4, 8 + 2 + 9 * 12 + 4), (277, 3, 1), (278, 3, height), (279, 4, len(content))]
    directory = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags
    )
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(4) + content


def test_tiffs_of_12_bits_and_white_is_zero_keep_their_black_and_white():
    ramp = np.tile(np.linspace(0, 1, 112), (112, 1))
    expected = np.rint(ramp * 255)[..., None]
    twelve = tiff_16_bit(12, 1, np.rint(ramp * 4095))
    inverted = tiff_16_bit(16, 0, np.rint((1 - ramp) * 65535))
    for data in (twelve, inverted):
        assert np.abs(decoded(data).astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("values", "white"),
    [
        (np.float32, 1.0),
        (np.float32, 255.0),
        (np.float32, 65535.0),
        (np.int32, 65535),
        (np.int32, 2**31 - 1),
    ],
)
def test_integers_and_floats_take_the_smallest_white_that_holds_them(values, white):
    ramp = np.tile(np.linspace(0, 1, 112), (112, 1))
    data = encoded(Image.fromarray((ramp * white).astype(values)), "TIFF")
    assert np.abs(decoded(data).astype(int) - np.rint(ramp * 255)[..., None]).max() <= 1


def test_values_without_an_agreed_black_are_refused():
    for bad in (-1.0, np.nan, np.inf):
        values = np.full((40, 40), 0.5, np.float32)
        values[3, 3] = bad
        with pytest.raises(DecodeError, match="no agreed black and white"):
            decoded(encoded(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize(
    ("mode", "kind", "options", "bound"),
    [
        ("1", "TIFF", {"compression": "group4"}, 0),
        ("L", "TIFF", {}, 0),
        ("LA", "TIFF", {}, 0),
        ("P", "PNG", {}, 0),
        ("RGB", "TIFF", {"compression": "tiff_adobe_deflate"}, 0),
        ("RGBA", "TIFF", {}, 0),
        ("CMYK", "TIFF", {}, 0),
        ("YCbCr", "TIFF", {"compression": "jpeg", "quality": 95}, 3),
        ("LAB", "TIFF", {}, 3),
    ],
)
def test_every_mode_decodes_to_the_same_picture(mode, kind, options, bound):
    photo = picture()
    converted = photo.convert(mode)
    assert difference(decoded(encoded(converted, kind, **options)), reference(converted)) <= bound


def test_the_first_frame_of_an_animation_and_the_first_page_of_a_tiff_count():
    first, second = picture(seed=1), picture(seed=2)
    for kind in ("GIF", "WEBP", "TIFF", "PNG", "MPO"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(first, kind, save_all=True, append_images=[second], **options)
        pixels = decoded(data)
        assert difference(pixels, reference(first)) < 4
        assert difference(pixels, reference(second)) > 10


# --- complete or refused -----------------------------------------------------------------------------


GOOD = {
    "baseline": encoded(picture(), "JPEG"),
    "progressive": encoded(picture(), "JPEG", progressive=True),
    "rotated": encoded(picture(), "JPEG", exif=with_orientation(picture(), 6)),
    "png": encoded(picture(), "PNG"),
    "palette": transparent_palette(picture()),
    "sixteen": encoded(grey_16_bit(picture()), "PNG"),
    "webp": encoded(picture(), "WEBP"),
    "gif": encoded(picture(), "GIF"),
    "bmp": encoded(picture(), "BMP"),
    "tiff": encoded(picture(), "TIFF", exif=with_orientation(picture(), 6)),
    "lzw": encoded(picture(), "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("name", sorted(GOOD))
def test_files_cut_short_are_refused(name):
    data = GOOD[name]
    for share in (0.1, 0.3, 0.5, 0.7):
        with pytest.raises(DecodeError) as caught:
            decoded(data[: int(len(data) * share)])
        assert caught.value.__cause__ is not None


@given(data=st.data(), rule=st.sampled_from([RULE, NEAREST]))
@settings(max_examples=300)
def test_damaged_bytes_give_an_array_of_the_right_size_or_a_decode_error(data, rule):
    damaged = bytearray(GOOD[data.draw(st.sampled_from(sorted(GOOD)))])
    for _ in range(data.draw(st.integers(0, 6))):
        # The first bytes are the interesting ones: headers, directories, tables.
        limit = data.draw(st.sampled_from([64, 700, len(damaged)]))
        damaged[data.draw(st.integers(0, min(limit, len(damaged)) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged))) :]
    try:
        facts = inspect_image(bytes(damaged), ImageLimits(max_decoded_pixels=1_000_000))
        pixels = decode_image(bytes(damaged), facts, rule)
    except DecodeError:
        return
    assert pixels.shape == (*resized_size(facts.height_px, facts.width_px, rule), 3)


# --- reduced scale -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(2000, 1500), (1001, 1503), (700, 500), (345, 340), (170, 168)])
def test_reduced_scale_keeps_twice_the_final_size(size, monkeypatch):
    photo = picture(*size)
    data = encoded(photo, "JPEG", quality=92)
    height, width = resized_size(photo.height, photo.width, RULE)
    seen = []
    monkeypatch.setattr(
        "model.images.RESIZES",
        {PILLOW: lambda image, *rest: seen.append(image.size) or RESIZES[PILLOW](image, *rest)},
    )
    pixels = decoded(data)
    (source,) = seen
    assert source[0] >= min(size[0], REDUCED_MARGIN * width)
    assert source[1] >= min(size[1], REDUCED_MARGIN * height)
    if min(size[0] / width, size[1] / height) >= 2 * REDUCED_MARGIN:
        assert source[0] <= size[0] // 2 + 1
    monkeypatch.undo()
    # Stated bound: one level of 255 on average, against a full decode.
    assert difference(pixels, reference(Image.open(io.BytesIO(data)))) < 1.0


def test_reduced_scale_does_not_shift_the_picture():
    # 1027 px at 1/8 scale is 128.4 px: the last column is partly empty.
    photo = picture(1027, 1029, seed=9)
    data = encoded(photo, "JPEG", quality=95)
    pixels = decoded(data, ImageRule(min_pixels=784, max_pixels=56 * 56))
    full = reference(photo, ImageRule(min_pixels=784, max_pixels=56 * 56))
    assert difference(pixels[:, -8:], full[:, -8:]) < 1.0


def test_the_nearest_rule_decodes_in_full():
    photo = Image.open(io.BytesIO(encoded(picture(1200, 900), "JPEG", quality=95)))
    small = photo.convert("RGB").resize((591, 443), Image.Resampling.NEAREST)
    height, width = resized_size(900, 1200, NEAREST)
    expected = np.array(small.resize((width, height), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(decoded(encoded(picture(1200, 900), "JPEG", quality=95), NEAREST), expected)


# --- threads and warnings ----------------------------------------------------------------------------


def noisy_files() -> list[bytes]:
    """Good pictures that make Pillow warn: truncated EXIF, palette alpha, an invalid APNG."""
    photo = picture()
    exif = with_orientation(photo, 1)
    exif[0x010F] = "a camera maker with a long name"
    plain = encoded(photo, "PNG")
    apng = plain[:33] + png_chunk(b"acTL", bytes(8)) + plain[33:]
    return [encoded(photo, "JPEG", exif=exif.tobytes()[:-20]), transparent_palette(photo), apng]


def test_pillows_warnings_are_neither_shown_nor_fatal():
    for action in ("error", "always"):
        with warnings.catch_warnings(record=action == "always") as caught:
            warnings.simplefilter(action)
            for data in noisy_files():
                decoded(data)
        assert not caught


def test_the_noisy_files_do_make_pillow_warn():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        truncated, palette, apng = (Image.open(io.BytesIO(data)) for data in noisy_files())
        truncated.getexif()
        palette.convert("RGB")
    assert len(caught) >= 3, apng


def test_threads_get_what_one_thread_gets_under_warnings_as_errors():
    files = [*noisy_files(), *GOOD.values()]
    expected = [decoded(data) for data in files]
    barrier = threading.Barrier(8)

    def work(_: int) -> bool:
        barrier.wait()
        return all((decoded(data) == want).all() for data, want in zip(files, expected, strict=True))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_running_out_of_memory_may_be_retried(monkeypatch):
    data = encoded(picture(), "PNG")
    facts = inspect_image(data)
    image_class = type(open_header(data))

    def fail(self):
        raise MemoryError

    monkeypatch.setattr(image_class, "load", fail)
    with pytest.raises(DecodeError) as caught:
        decode_image(data, facts, RULE)
    assert caught.value.retryable
