"""SPAQ (Fang et al., CVPR 2020): photographs of smartphones, scored from 0 to 100.

    Annotations/MOS and Image attribute scores.xlsx   (or .csv, saved from it)
    TestImage/00001.jpg …

The table has ``Image name``, ``MOS`` and five attribute scores (Brightness, Colorfulness, Contrast,
Noisiness, Sharpness; 0–100). No standard deviation and no official split are published; a column SD, which
some copies have, is taken. The attribute scores are no labels of ours: no thresholds are published, so they
stay behind.
Also accepted: the table in the folder itself, and underscores for the blanks in its name.
"""

from __future__ import annotations

from pathlib import Path

from schemas.annotations import Annotation
from training.layouts.public_dataset import HASH_SPLIT_NOTE, PublicDataset, annotated, existing, hash_split
from training.layouts.tables import TableRow, read_table

_NAMES = ("MOS and Image attribute scores", "MOS_and_Image_attribute_scores")
_TABLES = tuple(
    f"{place}{name}.{kind}" for kind in ("csv", "xlsx") for place in ("Annotations/", "") for name in _NAMES
)
_IMAGES = ("TestImage", "img", ".")
_LEFT_BEHIND = "the five attribute scores (brightness … sharpness) are no labels of ours and stay behind"


def read_spaq(folder: Path) -> PublicDataset:
    """Read the scores, 0–100."""
    images = existing(folder, _IMAGES, "folder of images")

    def annotate(row: TableRow) -> Annotation:
        name = row.text("image")
        return Annotation(
            image=str(images / name),
            mos=row.number("MOS"),
            mos_std=row.maybe_number("SD"),
            split=hash_split(name),
        )

    table = existing(folder, _TABLES, "table of scores")
    rows = read_table(table, {"image": ("Image name",), "MOS": ("MOS",)}, {"SD": ("SD", "MOS std")})
    return PublicDataset(annotated(rows, annotate), 0, 100, (HASH_SPLIT_NOTE, _LEFT_BEHIND))
