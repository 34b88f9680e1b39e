"""RealQA conversations (arXiv 2503.06141), in LLaMA-Factory's ShareGPT layout: labels inside answers.

One or more ``.json`` (a list) or ``.jsonl`` files; every entry is a conversation about one image, in either
of LLaMA-Factory's two spellings:

    {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}], "images": ["a.jpg"]}
    {"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}], "images": ["a.jpg"]}

An image's path is relative to the file's folder. Labels are read from the assistant's answers:
``Title: value``, numbered ("1.2 Composition Score: 7") or not, one a line or all in a row; "The final score
is <6.59>." and "score of this image is 6.59." Conversations of one image are merged: two different numbers
or labels for one thing are an error; of two wordings of a reason the first is kept.

Which spelling, titles and label names the published files have is not documented beyond these examples, so
the accepted titles stand below, and labels that our vocabulary does not know are kept as they are and noted:
pass the vocabulary that they belong to where annotations are read. Files whose names all say train, val or
test are the official split; otherwise the split is by hash.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from schemas.annotations import Annotation, Split
from schemas.attributes import VOCABULARY
from schemas.errors import ConfigurationError
from training.layouts.public_dataset import HASH_SPLIT_NOTE, PublicDataset, annotated, hash_split

_TITLES = {
    "Composition Score": "composition",
    "Eye-Catching Score": "eye_catching",
    "Reason for Composition Score": "composition_reason",
    "Reason for Eye-Catching Score": "eye_catching_reason",
    "Subject and Background": "subject_and_background",
    "Subject": "subject",
    "Background": "background",
    "Subject Integrity": "subject_integrity",
    "Subject Clutter": "subject_clutter",
    "Background Clutter": "background_clutter",
    "Level Shot": "level_shot",
    "Image Clarity": "image_clarity",
    "Clarity": "image_clarity",
    "Clearness": "image_clarity",
    "Exposure": "exposure",
    "Saturation": "saturation",
}
_WORDS = ("composition_reason", "eye_catching_reason", "subject_and_background", "subject", "background")
_NUMBER = r"(-?\d+(?:\.\d+)?)"
_TITLE = re.compile(
    r"(?:(?<=^)|(?<=[\s,;.]))(?:(?:\d+(?:\.\d+)+|\d+[.)])[ \t]+)?"
    rf"({'|'.join(sorted(map(re.escape, _TITLES), key=len, reverse=True))}):"
)
_SCORE = re.compile(rf"(?:[Tt]he )?(?:[Ff]inal score|score of this image) is\s*<?\s*{_NUMBER}")
_VALUE_END = re.compile(r"[,;.](?=\s|$)|\n")
_SPLIT_WORDS: tuple[tuple[str, Split], ...] = (
    ("train", "train"),
    ("validation", "validation"),
    ("val", "validation"),
    ("test", "test"),
)
_ROLES = ("assistant", "gpt")
_NOT_CONVERSATIONS = "dataset_info.json"  # LLaMA-Factory's own list of data sets


@dataclass(frozen=True)
class _Entry:
    """What one conversation says about its image."""

    place: str
    image: Path
    labels: Mapping[str, str]
    split: Split | None


@dataclass(frozen=True)
class _Merged:
    """What all conversations of an image say."""

    place: str
    image: Path
    labels: Mapping[str, str]
    split: Split


def read_realqa(folder: Path) -> PublicDataset:
    """Read a folder of conversations, or one file of them; scores 0–10."""
    files = _files(folder)
    splits = {file: _split_of(file) for file in files}
    official = all(splits.values())
    entries, problems = [], []
    for file in files:
        for place, record in _records(file):
            try:
                entries.append(_entry(place, file, record, splits[file] if official else None))
            except ValueError as error:
                problems.append(f"{place}: {error}")
    merged, contradictions = _merge(entries, folder)
    if problems + contradictions:
        raise ConfigurationError(problems + contradictions)
    found = annotated(merged, _annotation)
    return PublicDataset(found, 0, 10, tuple(_notes(entries, found, official=official)))


def read_answer(text: str) -> dict[str, str]:
    """Read the labels that an answer holds, by attribute (and ``mos``), as they are written.

    Raises:
        ValueError: It says two different things about one.
    """
    titles = list(_TITLE.finditer(text))
    scores = list(_SCORE.finditer(text))
    ends = [found.start() for found in (*titles, *scores)] + [len(text)]
    found: dict[str, str] = {}
    for title in titles:
        end = min(position for position in ends if position >= title.end())
        name, value = _TITLES[title[1]], text[title.end() : end].strip()
        # Labels and numbers end with their clause (prose may follow); words go on to the next title.
        value = value if name in _WORDS else _VALUE_END.split(value, maxsplit=1)[0]
        _put(found, name, value.strip(" \n,;."))
    for score in scores:
        _put(found, "mos", score[1])
    words = [found.pop(part) for part in ("subject", "background") if found.get(part)]
    if words:
        found.setdefault("subject_and_background", "; ".join(words))
    return found


def _put(found: dict[str, str], name: str, value: str) -> None:
    if not value:
        raise ValueError(f"{name} is empty")
    known = found.setdefault(name, value)
    if name not in _WORDS and not _same(known, value):
        raise ValueError(f"{name} is {known!r} and {value!r}")


def _same(first: str, second: str) -> bool:
    try:
        return float(first) == float(second)
    except ValueError:
        return first.lower() == second.lower()


def _files(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    found = sorted(
        file for file in (*folder.glob("*.json"), *folder.glob("*.jsonl")) if file.name != _NOT_CONVERSATIONS
    )
    if not found:
        raise ConfigurationError(f"{folder}: no .json or .jsonl file of conversations")
    return found


def _split_of(file: Path) -> Split | None:
    words = re.split(r"[^a-z]+", file.stem.lower())
    said = {split for word, split in _SPLIT_WORDS if word in words}
    return said.pop() if len(said) == 1 else None


def _records(file: Path) -> Iterator[tuple[str, object]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".jsonl":
            for number, line in enumerate(text.split("\n"), 1):
                if line.strip():
                    yield f"{file}, line {number}", json.loads(line)
            return
        records = json.loads(text)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{file}: {error}") from error
    if not isinstance(records, list):
        raise ConfigurationError(f"{file}: not a list of conversations")
    for number, record in enumerate(records, 1):
        yield f"{file}, entry {number}", record


def _entry(place: str, file: Path, record: object, split: Split | None) -> _Entry:
    if not isinstance(record, dict):
        raise ValueError("not a conversation")
    images = record.get("images")
    if not (isinstance(images, list) and len(images) == 1 and isinstance(images[0], str) and images[0]):
        raise ValueError("images is not a list of one path")
    turns = record.get("messages", record.get("conversations"))
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError("neither messages nor conversations is a list of turns")
    labels: dict[str, str] = {}
    for turn in turns:
        text = turn.get("content", turn.get("value"))
        if not isinstance(text, str):
            raise ValueError("a turn has no text")
        if turn.get("role", turn.get("from")) in _ROLES:
            for name, value in read_answer(text).items():
                _put(labels, name, value)
    return _Entry(place, (file.parent / images[0]).absolute(), labels, split)


def _merge(entries: list[_Entry], folder: Path) -> tuple[list[_Merged], list[str]]:
    root = (folder if folder.is_dir() else folder.parent).absolute()
    merged: dict[Path, _Merged] = {}
    problems = []
    for entry in entries:
        inside = entry.image.is_relative_to(root)
        name = entry.image.relative_to(root).as_posix() if inside else entry.image.name
        first = merged.setdefault(
            entry.image, _Merged(entry.place, entry.image, {}, entry.split or hash_split(name))
        )
        if entry.split not in (None, first.split):
            problems.append(f"{entry.place}: {entry.image.name} is for {first.split} in {first.place}")
        labels = dict(first.labels)
        for label, value in entry.labels.items():
            try:
                _put(labels, label, value)
            except ValueError as error:
                problems.append(f"{entry.place}: {entry.image.name}: {error} (first in {first.place})")
        merged[entry.image] = _Merged(first.place, first.image, labels, first.split)
    return list(merged.values()), problems


def _annotation(merged: _Merged) -> Annotation | None:
    if not merged.labels:
        return None
    labels = {name: _known(name, value) for name, value in merged.labels.items()}
    return Annotation.model_validate({"image": str(merged.image), "split": merged.split, **labels})


def _known(name: str, value: str) -> str:
    """Our spelling of a label, where only its case differs."""
    values = VOCABULARY[name].values if name in VOCABULARY.names else ()
    return next((known for known in values if known.lower() == value.lower()), value)


def _notes(entries: list[_Entry], found: tuple[Annotation, ...], *, official: bool) -> Iterator[str]:
    if not official:
        yield HASH_SPLIT_NOTE
    silent = sum(not entry.labels for entry in entries)
    if silent:
        yield f"{silent} of {len(entries)} conversations hold no label that is recognised"
    unknown: Counter[tuple[str, str]] = Counter()
    for annotation in found:
        for attribute in VOCABULARY.evaluated:
            value = getattr(annotation, attribute.name)
            if attribute.kind == "choice" and value is not None and value not in attribute.values:
                unknown[attribute.name, value] += 1
    for (name, value), count in sorted(unknown.items()):
        yield f"{name} {value!r} ({count} images) is not in the default vocabulary"
