"""``python -m training demo``: from free photographs to a base, two adapters and their card."""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
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
from training.demo.photographs import default_cache, load
from training.demo.pictures import Degraded, decoded, degraded_pictures
from training.demo.tokenizer import learn_tokenizer
from training.evaluate import evaluate
from training.stages import AdapterWords, adapter_manifest, train_stage

_LOG = logging.getLogger(__name__)

_TRAIN_PICTURES, _TEST_PICTURES = 6000, 450
_TRAIN_SEED, _TEST_SEED = 11, 12
_FEWEST_PICTURES, _FEWEST_STEPS = 60, 3

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
    """

    output: Path
    photos_cache: Path | None
    effort: float
    threads: int


def train_demo(settings: DemoSettings) -> str:
    """Run the whole chain.

    Returns:
        The card's text.

    Raises:
        ConfigurationError: The photographs are not here and cannot be fetched.
    """
    started = time.monotonic()
    _refuse_leftovers(settings.output)
    _quiet(settings.threads)
    base, stage1, stage2 = (_config(name, settings.effort) for name in ("base", "demo_stage1", "demo_stage2"))
    cache = settings.photos_cache or default_cache()
    train_photos, test_photos = load("train", cache), load("test", cache)
    images = decoded(
        degraded_pictures(
            train_photos, train_photos, _pictures(_TRAIN_PICTURES, settings), base.image, _TRAIN_SEED
        ),
        base.image,
    )
    # Foreign objects in test pictures come from test photographs: nothing of the training is seen again.
    test = list(
        degraded_pictures(
            test_photos, test_photos, _pictures(_TEST_PICTURES, settings), base.image, _TEST_SEED
        )
    )
    _LOG.info("%d pictures to train on, %d to test on", len(images), len(test))
    base_path = settings.output / "base"
    tokenizer = learn_tokenizer()
    save_base(create_base(tokenizer, base.seed), tokenizer, base_path)
    save_base(train_stage(base, base_path, images), tokenizer, base_path)
    results = []
    for config, folder in ((stage1, "stage1"), (stage2, "adapter")):
        results.append(_adapter(config, base_path, settings.output / folder, images, test))
    facts = CardFacts(
        parameters=_parameters(base_path),
        train_photographs=len(train_photos),
        test_photographs=len(test_photos),
        train_pictures=len(images),
        test_pictures=len(test),
        minutes=(time.monotonic() - started) / 60,
        effort=settings.effort,
        configs=(base, stage1, stage2),
        stage1=results[0],
        stage2=results[1],
    )
    return write_card(settings.output / "CARD.md", facts)


def _refuse_leftovers(output: Path) -> None:
    # Found out after 25 minutes it would be a pity; and an adapter is never changed in place.
    there = [str(output / name) for name in ("base", "stage1", "adapter") if (output / name).exists()]
    if there:
        raise ConfigurationError(
            f"--output: {', '.join(there)} exist already; name another folder or remove them"
        )


def _quiet(threads: int) -> None:
    torch.set_num_threads(threads)
    # Its progress bars and hints are about models a thousand times larger.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # Threads that spin while they wait halve the speed on a computer that does anything else.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _config(name: str, effort: float) -> StageConfig:
    with resources.as_file(resources.files("training") / "configs" / f"{name}.yaml") as path:
        config = load_config(path)
    return config.model_copy(update={"steps": max(_FEWEST_STEPS, round(config.steps * effort))})


def _pictures(count: int, settings: DemoSettings) -> int:
    return max(_FEWEST_PICTURES, round(count * min(settings.effort, 1.0)))


def _parameters(base: Path) -> int:
    """Number of weights; tied ones count once."""
    shapes = read_header(base / "model.safetensors").shapes
    return sum(math.prod(shape) for shape in shapes.values())


def _adapter(
    config: StageConfig,
    base: Path,
    target: Path,
    images: Sequence[LabelledImage],
    test: Sequence[Degraded],
) -> tuple[EvaluationResult, ...]:
    """Train an adapter, save it, score the test pictures with what was saved, save it with the results."""
    # The adapter that ships inside the package names its base by the word that means "inside the package".
    shipped = base.resolve() == EMBEDDED_BASE.resolve()
    words = AdapterWords(
        name=f"demo-{config.stage}",
        description=_SYNTHETIC,
        base_name=EMBEDDED if shipped else str(base.resolve()),
        synthetic=True,
    )
    trained = train_stage(config, base, images)
    labels = [picture.annotation for picture in test]
    with tempfile.TemporaryDirectory() as work:
        draft = Path(work) / "adapter"
        save_adapter(draft, trained, None, adapter_manifest(config, base, images, words))
        scorer = Scorer.load(draft, base_model=str(base), device="cpu")
        predictions = scorer.score([p.data for p in test], [label.context for label in labels])
    results = evaluate(predictions, labels, VOCABULARY, TEST_SET)
    save_adapter(target, trained, None, adapter_manifest(config, base, images, words, results))
    return results
