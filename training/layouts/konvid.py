"""KoNViD-1k (Hosu et al., QoMEX 2017): videos of 8 seconds, rated from 1 to 5.

    KoNViD_1k_attributes.csv   flickr_id, file_name, MOS, …   (or KoNViD_1k_mos.csv: flickr_id, mos)
    KoNViD_1k_videos/          FILE_NAME, or FLICKR_ID.mp4

The releases name their columns differently, so these are taken: ``file_name`` or ``video_name``; ``MOS`` or
``mos``; ``SD``, ``mos_std`` or ``SD_MOS`` where there is one. Tables may also lie in KoNViD_1k_metadata/. A
video is one annotation; ``training.layouts.video`` reads its frames. There is no official split.
"""

from __future__ import annotations

from pathlib import Path

from schemas.annotations import Annotation
from training.layouts.public_dataset import HASH_SPLIT_NOTE, PublicDataset, annotated, existing, hash_split
from training.layouts.tables import TableRow, read_table

_TABLES = tuple(
    f"{place}{name}.csv"
    for name in ("KoNViD_1k_attributes", "KoNViD_1k_mos")
    for place in ("", "KoNViD_1k_metadata/", "KoNViD_1k_videos/")
)
_VIDEOS = ("KoNViD_1k_videos", "videos", ".")
_OPTIONAL = {"file": ("file_name", "video_name"), "std": ("SD", "mos_std", "SD_MOS")}


def read_konvid(folder: Path) -> PublicDataset:
    """Read the scores, 1–5, and their standard deviations where the table has them."""
    videos = existing(folder, _VIDEOS, "folder of videos")

    def annotate(row: TableRow) -> Annotation:
        identity = row.text("flickr_id")
        by_id = videos / f"{identity}.mp4"
        named = row.cells["file"]
        return Annotation(
            image=str(videos / named if named and not by_id.exists() else by_id),
            mos=row.number("mos"),
            mos_std=row.maybe_number("std"),
            split=hash_split(identity),
        )

    table = existing(folder, _TABLES, "table of scores")
    rows = read_table(table, {"flickr_id": ("flickr_id",), "mos": ("mos",)}, _OPTIONAL)
    return PublicDataset(annotated(rows, annotate), 1, 5, (HASH_SPLIT_NOTE,))
