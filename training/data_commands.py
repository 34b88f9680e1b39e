"""Commands about labelled images that people bring: ``import`` and ``validate``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from schemas.attributes import Vocabulary

_IMPORT = """Convert the labels of a public data set into annotations.jsonl, and write dataset.json beside it:
name, layout, and the range of mos (mos and mos_std stay on the data set's own scale). Images are neither
copied nor linked: they are named by absolute path, so they must stay where they are.

layouts:
{layouts}"""

_VALIDATE = """Check a data set before training on it: every row, label and range; that every image is there
and decodes as serving decodes it; that no picture is on two sides of a split, neither byte for byte nor
nearly (64-bit perceptual hashes, at most 4 bits apart). Prints how labels and mos are distributed, and every
bad row.

Exit code 0: fit; 1: problems were found; 2: nothing could be checked."""


def add_import(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command ``import``."""
    from training.layouts.registry import LAYOUTS

    listed = "\n".join(f"  {known.name:<16}{known.title}: {known.files}" for known in LAYOUTS)
    parser = add_parser(
        "import",
        help="convert a public data set (KonIQ-10k, AVA, RealQA, …) into ours",
        description=_IMPORT.format(layouts=listed),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(handler=_import)
    parser.add_argument(
        "layout", choices=[known.name for known in LAYOUTS], metavar="LAYOUT", help="one of those above"
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder of the data set, only read")
    parser.add_argument("destination", type=Path, metavar="DEST", help="folder to write; new or empty")
    parser.add_argument(
        "--skip-missing",
        action="store_true",
        help="leave out entries whose image file is not there, and say how many (default: an error)",
    )


def add_validate(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command ``validate``."""
    parser = add_parser(
        "validate",
        help="check a data set: files, labels, ranges, splits; names every bad row",
        description=_VALIDATE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(handler=_validate)
    parser.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help="folder with annotations.jsonl or annotations.parquet, or such a file",
    )
    parser.add_argument(
        "--mos-range",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="range of mos, where no dataset.json beside the annotations says it",
    )
    parser.add_argument(
        "--vocabulary",
        type=Path,
        metavar="FILE",
        help="labels that are allowed: an adapter's manifest.json, or the vocabulary in it (default: those "
        "of the model that ships here)",
    )
    parser.add_argument(
        "--no-decode",
        action="store_true",
        help="quick: read headers and hash bytes, but decode nothing and look for no near-duplicates",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything as JSON")


def _import(options: argparse.Namespace) -> int:
    from training.importing import import_dataset

    done = import_dataset(
        options.layout, options.source, options.destination, skip_missing=options.skip_missing
    )
    counted = ", ".join(f"{split} {count:,}" for split, count in sorted(done.splits.items()))
    facts = done.facts
    print(f"{options.destination}: {sum(done.splits.values()):,} annotations ({counted})")
    print(f"{facts.name}, mos {facts.native_low:g}–{facts.native_high:g}")
    for note in facts.notes:
        print(f"note: {note}")
    return 0


def _validate(options: argparse.Namespace) -> int:
    problems = []
    if options.mos_range is not None and not options.mos_range[0] < options.mos_range[1]:
        problems.append("--mos-range: LOW is not below HIGH")
    if options.json is not None and (options.json.is_dir() or not options.json.parent.is_dir()):
        problems.append(f"--json: {options.json} is no file in a folder that is there")
    if problems:
        raise ConfigurationError(problems)
    from training.text_files import replace_text
    from training.validation import validate
    from training.validation_report import to_json, to_text

    found = validate(
        options.data,
        mos_range=options.mos_range and tuple(options.mos_range),
        vocabulary=_vocabulary(options.vocabulary),
        decode=not options.no_decode,
    )
    if options.json is not None:
        replace_text(options.json, to_json(found))
    print(to_text(found))
    return 1 if found.problems else 0


def _vocabulary(file: Path | None) -> Vocabulary:
    import json

    from schemas.attributes import VOCABULARY, Vocabulary

    if file is None:
        return VOCABULARY
    try:
        record = json.loads(file.read_bytes())
        return Vocabulary.model_validate(record.get("vocabulary", record))
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigurationError(f"--vocabulary: {file} holds no vocabulary: {error}") from error
