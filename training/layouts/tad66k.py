"""TAD66K (He et al., IJCAI 2022): photographs of 47 themes, one aesthetic score each.

    labels/merge/train.csv, labels/merge/test.csv   image, score: the official split
    TAD66K/                                         the images; also accepted: imgs, images

The authors' code divides the score by 10, so the range is taken as 0–10. No standard deviation is published,
and these tables do not name the themes. Also accepted: the two tables in ``merge`` or in the folder itself.
"""

from __future__ import annotations

from pathlib import Path

from schemas.annotations import Annotation, Split
from training.layouts.public_dataset import PublicDataset, annotated, existing
from training.layouts.tables import TableRow, read_table

_TABLES = ("labels/merge/{}.csv", "merge/{}.csv", "{}.csv")
_IMAGES = ("TAD66K", "imgs", "images", ".")
_SPLITS: tuple[Split, ...] = ("train", "test")


def read_tad66k(folder: Path) -> PublicDataset:
    """Read the scores, 0–10, in the official split."""
    images = existing(folder, _IMAGES, "folder of images")
    found: list[Annotation] = []
    for split in _SPLITS:
        table = existing(folder, [place.format(split) for place in _TABLES], f"table of split {split}")

        def annotate(row: TableRow, split: Split = split) -> Annotation:
            return Annotation(image=str(images / row.text("image")), mos=row.number("score"), split=split)

        found += annotated(read_table(table, {"image": ("image",), "score": ("score",)}), annotate)
    return PublicDataset(tuple(found), 0, 10)
