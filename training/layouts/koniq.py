"""KonIQ-10k (Hosu et al., IEEE TIP 2020): photographs rated by crowds on a scale from 1 to 5.

Two published tables, either of them is enough, both are better:

    koniq10k_scores_and_distributions.csv   image_name, c1…c5 (votes), c_total, MOS, SD, MOS_zscore
    koniq10k_distributions_sets.csv         image_name, c1…c5 (shares), c_total, MOS, SD, set

``set`` is training, validation or test: the official split. **The columns named MOS differ**: in the first
table it is the mean vote (1–5), in the second the z-scored mean (0–100, the first one's MOS_zscore); ``SD``
is in votes (1–5) in both. ``koniq10k`` is therefore the mean vote with its SD, computed from c1…c5 where the
table does not have it; ``koniq10k_zscore`` is the z-scored mean that most papers report against, with the SD
stretched to 0–100 (a linear approximation: nobody publishes the SD of z-scores).
"""

from __future__ import annotations

from pathlib import Path

from schemas.annotations import Annotation, Split
from training.layouts.public_dataset import HASH_SPLIT_NOTE, PublicDataset, annotated, existing, hash_split
from training.layouts.tables import TableRow, read_table

_SCORES, _SETS = "koniq10k_scores_and_distributions.csv", "koniq10k_distributions_sets.csv"
_IMAGES = ("1024x768", "512x384", "images", ".")
_VOTES = tuple(f"c{vote}" for vote in range(1, 6))
_SPLITS: dict[str, Split] = {"training": "train", "validation": "validation", "test": "test"}
_STRETCH = 100 / (5 - 1)


def read_koniq(folder: Path) -> PublicDataset:
    """Read the mean votes, 1–5, with their standard deviation."""
    return _read(folder, zscore=False)


def read_koniq_zscore(folder: Path) -> PublicDataset:
    """Read the z-scored means, 0–100, with the votes' standard deviation stretched by 25."""
    return _read(folder, zscore=True)


def _read(folder: Path, *, zscore: bool) -> PublicDataset:
    table = existing(folder, (_SCORES, _SETS), "table of scores")
    images = existing(folder, _IMAGES, "folder of images")
    splits = _official_splits(folder / _SETS)
    has_votes_mean = table.name == _SCORES

    def annotate(row: TableRow) -> Annotation:
        name, std = row.text("image"), row.number("SD")
        if zscore:
            mos, std = row.number("MOS_zscore" if has_votes_mean else "MOS"), std * _STRETCH
        else:
            mos = row.number("MOS") if has_votes_mean else _mean_vote(row)
        if splits and name not in splits:
            raise ValueError(f"{name} is not in {_SETS}")
        split = splits[name] if splits else hash_split(name)
        return Annotation(image=str(images / name), mos=mos, mos_std=std, split=split)

    wanted = ("MOS", "SD", *(("MOS_zscore",) if zscore and has_votes_mean else ()))
    votes = () if has_votes_mean or zscore else _VOTES
    columns = {"image": ("image_name",), **{name: (name,) for name in (*wanted, *votes)}}
    found = annotated(read_table(table, columns), annotate)
    notes = () if splits else (HASH_SPLIT_NOTE,)
    return PublicDataset(found, *((0, 100) if zscore else (1, 5)), notes)


def _official_splits(file: Path) -> dict[str, Split]:
    if not file.exists():
        return {}
    splits: dict[str, Split] = {}

    def note(row: TableRow) -> Annotation:
        name, text = row.text("image"), row.text("set")
        if text not in _SPLITS:
            raise ValueError(f"set {text!r} is none of {', '.join(_SPLITS)}")
        splits[name] = _SPLITS[text]
        return Annotation(image=name, split=splits[name])

    annotated(read_table(file, {"image": ("image_name",), "set": ("set",)}), note)
    return splits


def _mean_vote(row: TableRow) -> float:
    shares = [row.number(column) for column in _VOTES]
    if min(shares) < 0 or sum(shares) <= 0:
        raise ValueError(f"{_VOTES[0]}…{_VOTES[-1]} are no votes: {shares}")
    return sum(vote * share for vote, share in enumerate(shares, 1)) / sum(shares)
