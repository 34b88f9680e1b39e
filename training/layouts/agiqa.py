"""AGIQA-3K (Li et al., IEEE TCSVT 2023): generated pictures, with the prompts that they were made from.

    data.csv      name, prompt, adj1, adj2, style, mos_quality, std_quality, mos_align, std_align
    AGIQA-3K/     the images; also accepted: images, or beside the table

mos is the perceived quality (0–5: scores below 1 occur), context the prompt. How well a picture follows its
prompt (mos_align) is another question and stays behind. There is no official split; pictures of one prompt,
made by several generators, share a source and stay on one side.
"""

from __future__ import annotations

from pathlib import Path

from schemas.annotations import Annotation
from training.layouts.public_dataset import HASH_SPLIT_NOTE, PublicDataset, annotated, existing, hash_split
from training.layouts.tables import TableRow, read_table

_IMAGES = ("AGIQA-3K", "AGIQA-3k", "images", "file", ".")
_COLUMNS = {name: (name,) for name in ("name", "prompt", "mos_quality", "std_quality")}
_LEFT_BEHIND = "mos_align and std_align (does the picture follow its prompt) stay behind"


def read_agiqa(folder: Path) -> PublicDataset:
    """Read the perceived quality, 0–5, with its standard deviation, and the prompts as context."""
    images = existing(folder, _IMAGES, "folder of images")

    def annotate(row: TableRow) -> Annotation:
        prompt = " ".join(row.text("prompt").split())
        return Annotation(
            image=str(images / row.text("name")),
            mos=row.number("mos_quality"),
            mos_std=row.number("std_quality"),
            context=prompt,
            split=hash_split(prompt),
            source=prompt,
        )

    rows = read_table(existing(folder, ("data.csv",), "table of scores"), _COLUMNS)
    return PublicDataset(annotated(rows, annotate), 0, 5, (HASH_SPLIT_NOTE, _LEFT_BEHIND))
