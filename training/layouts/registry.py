"""The public layouts that can be imported, as one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import ConfigurationError
from training.layouts.agiqa import read_agiqa
from training.layouts.ava import read_ava
from training.layouts.koniq import read_koniq, read_koniq_zscore
from training.layouts.konvid import read_konvid
from training.layouts.live_challenge import read_live_challenge
from training.layouts.public_dataset import PublicDataset
from training.layouts.realqa import read_realqa
from training.layouts.spaq import read_spaq
from training.layouts.tad66k import read_tad66k


@dataclass(frozen=True)
class Layout:
    """One public layout.

    Attributes:
        name: As the command line names it.
        title: Of the data set.
        files: What its folder must hold, in short.
        read: Its reader.
    """

    name: str
    title: str
    files: str
    read: Callable[[Path], PublicDataset]


LAYOUTS = (
    Layout("realqa", "RealQA conversations", "*.json or *.jsonl (LLaMA-Factory)", read_realqa),
    Layout("koniq10k", "KonIQ-10k", "koniq10k_*.csv; mean votes, 1–5", read_koniq),
    Layout("koniq10k_zscore", "KonIQ-10k", "koniq10k_*.csv; z-scored means, 0–100", read_koniq_zscore),
    Layout("spaq", "SPAQ", "MOS and Image attribute scores.csv or .xlsx", read_spaq),
    Layout("live_challenge", "LIVE Challenge", "Data/All*_release.mat", read_live_challenge),
    Layout("ava", "AVA", "AVA.txt, challenges.txt; titles as context", read_ava),
    Layout("tad66k", "TAD66K", "labels/merge/train.csv, test.csv", read_tad66k),
    Layout("agiqa3k", "AGIQA-3K", "data.csv; prompts as context", read_agiqa),
    Layout("konvid1k", "KoNViD-1k", "KoNViD_1k_attributes.csv or _mos.csv; videos", read_konvid),
)


def layout(name: str) -> Layout:
    """A layout by name.

    Raises:
        ConfigurationError: There is none of that name; the message lists those there are.
    """
    for known in LAYOUTS:
        if known.name == name:
            return known
    raise ConfigurationError(f"no layout {name!r}; there are: {', '.join(known.name for known in LAYOUTS)}")
