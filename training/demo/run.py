"""``python -m training demo``: from free photographs to a base, two adapters and their card."""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from PIL import Image
from transformers.utils import logging as transformers_logging

from model.adapters import save_adapter
from model.backbone import EMBEDDED, EMBEDDED_BASE
from model.scorer import Scorer
from model.tensor_files import read_header
from schemas.attributes import VOCABULARY
from schemas.errors import ConfigurationError
from schemas.manifest import EvaluationResult
from training.config import StageConfig, load_config
from training.data import LabelledImage
from training.demo.base import create_base, save_base
from training.demo.card import CardFacts, write_card
from training.demo.photographs import Photograph, Split, default_cache, load
from training.demo.pictures import Degraded, decoded, degraded_pictures
from training.demo.tokenizer import learn_tokenizer
from training.evaluate import evaluate
from training.stages import AdapterWords, adapter_manifest, train_stage

_LOG = logging.getLogger(__name__)

_TRAIN_PICTURES, _TEST_PICTURES = 6000, 450
_TRAIN_SEED, _TEST_SEED = 11, 12
_FEWEST_PICTURES, _FEWEST_STEPS = 60, 3
_PARTS = ("base", "stage1", "adapter", "CARD.md")

TEST_SET = "synthetic degradations of held-out photographs"
_SYNTHETIC = (
    "Trained on synthetic degradations of free photographs. It knows these degradations, NOT human taste."
)


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """What the command line chooses.

    Attributes:
        output: Folder for base/, stage1/, adapter/ and CARD.md.
        photos_cache: Folder of the photographs; None = in the user's cache folder.
        effort: Share of the full run's steps and pictures.
        threads: CPU threads.
        replace: Whether a model that is in ``output`` already may be replaced.
    """

    output: Path
    photos_cache: Path | None
    effort: float
    threads: int
    replace: bool = False


@dataclass(frozen=True, slots=True)
class _Data:
    """Pictures, and of how many photographs they were made."""

    train: list[LabelledImage]
    test: list[Degraded]
    train_photographs: int
    test_photographs: int


def train_demo(settings: DemoSettings) -> str:
    """Run the whole chain; ``settings.output`` gets all of it at the end, or nothing.

    Returns:
        The card's text.

    Raises:
        ConfigurationError: The photographs are not here and cannot be fetched, or an earlier model is in
            the way.
    """
    started = time.monotonic()
    _refuse_leftovers(settings)
    _quiet(settings.threads)
    base, stage1, stage2 = (_config(name, settings.effort) for name in ("base", "demo_stage1", "demo_stage2"))
    data = _data(settings, base)
    settings.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.output, prefix=".unfinished-") as folder:
        work = Path(folder)
        tokenizer = learn_tokenizer()
        save_base(create_base(tokenizer, base.seed), tokenizer, work / "base")
        save_base(train_stage(base, work / "base", data.train), tokenizer, work / "base")
        results = [
            _adapter(config, work / "base", work / name, data, _base_name(settings))
            for config, name in ((stage1, "stage1"), (stage2, "adapter"))
        ]
        facts = CardFacts(
            parameters=_parameters(work / "base"),
            train_photographs=data.train_photographs,
            test_photographs=data.test_photographs,
            train_pictures=len(data.train),
            test_pictures=len(data.test),
            minutes=(time.monotonic() - started) / 60,
            effort=settings.effort,
            configs=(base, stage1, stage2),
            stage1=results[0],
            stage2=results[1],
        )
        card = write_card(work / "CARD.md", facts)
        _publish(work, settings.output)
    return card


def _data(settings: DemoSettings, config: StageConfig) -> _Data:
    cache = settings.photos_cache or default_cache()
    photographs: dict[Split, list[tuple[Photograph, Image.Image]]] = {
        "train": load("train", cache),
        "test": load("test", cache),
    }

    def pictures(split: Split, count: int, seed: int) -> Iterator[Degraded]:
        # Foreign objects come from photographs of the same split: of test ones nothing was seen before.
        found = photographs[split]
        count = max(_FEWEST_PICTURES, round(count * min(settings.effort, 1.0)))
        return degraded_pictures(found, found, count, config.image, seed)

    data = _Data(
        train=decoded(pictures("train", _TRAIN_PICTURES, _TRAIN_SEED), config.image),
        test=list(pictures("test", _TEST_PICTURES, _TEST_SEED)),
        train_photographs=len(photographs["train"]),
        test_photographs=len(photographs["test"]),
    )
    _LOG.info("%d pictures to train on, %d to test on", len(data.train), len(data.test))
    return data


def _refuse_leftovers(settings: DemoSettings) -> None:
    # Found out after 25 minutes it would be a pity.
    paths = [settings.output / name for name in _PARTS]
    there = [str(path) for path in paths if path.exists()]
    if there and not settings.replace:
        raise ConfigurationError(
            f"--output: {', '.join(there)} exist already; name another folder, or say --replace"
        )


def _publish(work: Path, output: Path) -> None:
    for name in _PARTS:
        target = output / name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(work / name, target)


def _base_name(settings: DemoSettings) -> str:
    # The model that ships inside the package names its base by the word that means "inside the package".
    base = (settings.output / "base").resolve()
    return EMBEDDED if base == EMBEDDED_BASE.resolve() else str(base)


def _quiet(threads: int) -> None:
    torch.set_num_threads(threads)
    # Its progress bars and hints are about models a thousand times larger.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def _config(name: str, effort: float) -> StageConfig:
    with resources.as_file(resources.files("training") / "configs" / f"{name}.yaml") as path:
        config = load_config(path)
    return config.model_copy(update={"steps": max(_FEWEST_STEPS, round(config.steps * effort))})


def _parameters(base: Path) -> int:
    """Number of weights; tied ones count once."""
    shapes = read_header(base / "model.safetensors").shapes
    return sum(math.prod(shape) for shape in shapes.values())


def _adapter(
    config: StageConfig,
    base: Path,
    target: Path,
    data: _Data,
    base_name: str,
) -> tuple[EvaluationResult, ...]:
    """Train an adapter, save it, score the test pictures with what was saved, save it with the results."""
    words = AdapterWords(f"demo-{config.stage}", _SYNTHETIC, base_name, synthetic=True)
    trained = train_stage(config, base, data.train)
    labels = [picture.annotation for picture in data.test]
    with tempfile.TemporaryDirectory() as work:
        draft = Path(work) / "adapter"
        save_adapter(draft, trained, None, adapter_manifest(config, base, data.train, words))
        scorer = Scorer.load(draft, base_model=str(base), device="cpu")
        predictions = scorer.score([p.data for p in data.test], [label.context for label in labels])
    results = evaluate(predictions, labels, VOCABULARY, TEST_SET)
    save_adapter(target, trained, None, adapter_manifest(config, base, data.train, words, results))
    return results
