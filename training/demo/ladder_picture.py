"""A small picture for the README: a photograph at rising blur and darkness, and what a model says of it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from schemas.records import Prediction
from training.demo.degradations import Pixels, blur, expose

_BLURS_PX = (0.0, 1.0, 2.0, 4.0)
_STOPS = (0.0, -1.0, -2.0, -3.0)
_COLUMNS = len(_BLURS_PX)

WIDTH_PX = 992
_MARGIN_PX, _GAP_PX, _TEXT_PX, _CAPTION_PX = 10, 8, 66, 20
_TILE_PX = (WIDTH_PX - 2 * _MARGIN_PX - (_COLUMNS - 1) * _GAP_PX) // _COLUMNS
_INK, _GREY = (30, 30, 30), (115, 115, 115)
_COLOURS = 256
"""A palette makes the file a third as large; dithered, it does not show at this size."""


def draw_picture(
    pixels: Pixels, predict: Callable[[Sequence[bytes]], Sequence[Prediction]], caption: str
) -> Image.Image:
    """Degrade a photograph, ask the model, and draw both.

    Args:
        pixels: (height, width, 3) uint8 RGB at the size that the model sees: blur is in its pixels.
        predict: The model: ``Scorer.score``.
        caption: A line below: which model, whose photograph.

    Returns:
        A picture ``WIDTH_PX`` wide with a palette: two rows of four tiles on white.
    """
    rng = np.random.default_rng(0)  # a Gaussian blur has no direction to draw
    blurred = [np.asarray(blur(Image.fromarray(pixels), sigma, "focus", rng)) for sigma in _BLURS_PX]
    copies = blurred + [expose(pixels, stops) for stops in _STOPS]
    titles = [f"blur {sigma:g} px" for sigma in _BLURS_PX]
    titles += [f"exposure {stops:g} EV" for stops in _STOPS]
    predictions = predict([_png(copy) for copy in copies])
    tile_height = round(_TILE_PX * pixels.shape[0] / pixels.shape[1])
    row_height = tile_height + _TEXT_PX
    rows = len(copies) // _COLUMNS
    height = 2 * _MARGIN_PX + rows * row_height + _CAPTION_PX
    canvas = Image.new("RGB", (WIDTH_PX, height), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (copy, title, prediction) in enumerate(zip(copies, titles, predictions, strict=True)):
        row, column = divmod(number, _COLUMNS)
        x, y = _MARGIN_PX + column * (_TILE_PX + _GAP_PX), _MARGIN_PX + row * row_height
        tile = Image.fromarray(copy).resize((_TILE_PX, tile_height), Image.Resampling.LANCZOS)
        canvas.paste(tile, (x, y))
        _write(draw, x, y + tile_height, title, prediction)
    draw.text((_MARGIN_PX, height - _MARGIN_PX), caption, _GREY, _font(13), anchor="ls")
    return canvas.quantize(_COLOURS, dither=Image.Dither.FLOYDSTEINBERG)


def _write(draw: ImageDraw.ImageDraw, x: int, y: int, title: str, prediction: Prediction) -> None:
    """What was done on the left, the score on the right, the two labels below."""
    score = "no score"
    if prediction.score is not None and prediction.score_std is not None:
        score = f"{prediction.score:.1f} ± {prediction.score_std:.1f}"
    draw.text((x, y + 19), title, _GREY, _font(14), anchor="ls")
    draw.text((x + _TILE_PX, y + 19), score, _INK, _font(17), anchor="rs")
    words = (prediction.image_clarity, prediction.exposure)
    for line, word in enumerate(words):
        draw.text((x, y + 37 + 17 * line), word or "-", _INK, _font(14), anchor="ls")


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
