"""One adapter after another, and two beside each other, on one base: as if each had been loaded alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.backbone import EMBEDDED_ADAPTER
from model.scorer import Scorer
from schemas.errors import ConfigurationError, ManifestMismatchError
from schemas.manifest import ImageRule
from schemas.records import Prediction
from tests.model.artefact import Artefact, write_artefact, write_embedded_variant
from tests.odd_files import encoded, picture

# PEFT asks transformers for an attribute that transformers renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

PHOTOGRAPHS = [encoded(picture(60 + 20 * seed, 50, seed=seed), "PNG") for seed in range(4)]
CONTEXTS = [None, "a barn", None, "a beach at dusk"]


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another adapter of the embedded base."""
    return write_embedded_variant(tmp_path_factory.mktemp("variant") / "adapter", seed=1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artefact, Artefact]:
    """Two adapters of equal bases, unlike in template, pixel budget and LoRA."""
    folder = tmp_path_factory.mktemp("pair")
    first = write_artefact(folder / "first")
    answer = {"image": ImageRule(min_pixels=28 * 28 * 9, max_pixels=28 * 28 * 25), "name": "second"}
    return first, write_artefact(folder / "second", lora_seed=7, **answer)


def score(scorer: Scorer) -> list[Prediction]:
    return scorer.score(PHOTOGRAPHS, CONTEXTS)


def close(one: Prediction, other: Prediction) -> bool:
    """Equal words, and numbers to 1e-4."""
    pairs = [(getattr(one, name), getattr(other, name)) for name in Prediction.__slots__]
    return all(a == pytest.approx(b, abs=1e-4) if isinstance(a, float) else a == b for a, b in pairs)


def test_the_embedded_model_answers_bit_by_bit_as_freshly_loaded_after_every_switch(variant: Path) -> None:
    expected = {None: score(Scorer.load()), variant: score(Scorer.load(variant))}
    assert expected[None] != expected[variant]
    scorer = Scorer.load(keep_base=True)
    assert score(scorer) == expected[None]
    embedded = Scorer.load().provenance
    for adapter in (variant, EMBEDDED_ADAPTER, variant):
        successor = scorer.successor(adapter)
        scorer.give_way(successor)
        scorer = successor
        assert score(scorer) == expected[variant if adapter is variant else None]
    assert scorer.provenance.adapter == "variant 1"
    assert scorer.provenance.base_model == embedded.base_model


def test_until_the_switch_the_old_one_scores_and_after_it_only_the_new_one(
    pair: tuple[Artefact, Artefact],
) -> None:
    first, second = pair
    scorer = Scorer.load(first.adapter, keep_base=True)
    before = score(scorer)
    successor = scorer.successor(second.adapter)
    with pytest.raises(RuntimeError, match="does not hold"):
        score(successor)
    assert score(scorer) == before
    scorer.give_way(successor)
    with pytest.raises(RuntimeError, match="does not hold"):
        score(scorer)
    assert score(successor) == score(Scorer.load(second.adapter))


def test_a_successor_brings_its_template_and_its_pixel_budget(pair: tuple[Artefact, Artefact]) -> None:
    first, second = pair
    scorer = Scorer.load(first.adapter, keep_base=True)
    successor = scorer.successor(second.adapter, template="score_direct")
    scorer.give_way(successor)
    assert successor.provenance.template == "score_direct"
    assert score(successor) == score(Scorer.load(second.adapter, template="score_direct"))
    assert scorer.prepare(PHOTOGRAPHS[0]).visual_tokens != successor.prepare(PHOTOGRAPHS[0]).visual_tokens


def test_what_cannot_take_over_is_refused_with_reasons_and_the_old_one_goes_on(
    pair: tuple[Artefact, Artefact], tmp_path: Path
) -> None:
    scorer = Scorer.load(pair[0].adapter, keep_base=True)
    before = score(scorer)
    elsewhere = write_artefact(tmp_path / "elsewhere", seed=3)
    with pytest.raises(ManifestMismatchError, match=r"base_model\.tensors_sha256"):
        scorer.successor(elsewhere.adapter)
    with pytest.raises(ConfigurationError, match="level_low"):
        scorer.successor(pair[1].adapter, template="level_low")
    weights = write_artefact(tmp_path / "cut", lora_seed=2).adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ManifestMismatchError, match=r"adapter_model\.safetensors"):
        scorer.successor(weights.parent)
    assert score(scorer) == before


def test_no_memory_for_the_successor_leaves_the_old_one_in_place(
    pair: tuple[Artefact, Artefact], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = Scorer.load(pair[0].adapter, keep_base=True)
    before = score(scorer)
    successor = scorer.successor(pair[1].adapter)
    calls = iter([True])

    def addmm(*arguments: object, whole: object = torch.addmm, **options: object) -> object:
        if next(calls, False):
            raise torch.OutOfMemoryError("no memory")
        return whole(*arguments, **options)  # type: ignore[operator]

    monkeypatch.setattr(torch, "addmm", addmm)
    with pytest.raises(ConfigurationError, match="no memory left"):
        scorer.give_way(successor)
    assert score(scorer) == before


def test_only_a_scorer_that_kept_its_base_can_have_a_successor(pair: tuple[Artefact, Artefact]) -> None:
    with pytest.raises(ValueError, match="keep_base"):
        Scorer.load(pair[0].adapter).successor(pair[1].adapter)


def test_champion_and_challenger_on_one_base_say_what_each_says_alone(
    pair: tuple[Artefact, Artefact],
) -> None:
    champion, challenger = Scorer.load_pair(pair[0].adapter, pair[1].adapter)
    assert (champion.provenance.role, challenger.provenance.role) == ("champion", "challenger")
    assert champion.decoder.model is challenger.decoder.model
    alone = [score(Scorer.load(artefact.adapter)) for artefact in pair]
    # By turns, as an engine asks them.
    for _ in range(2):
        for scorer, expected in zip((champion, challenger), alone, strict=True):
            assert all(map(close, score(scorer), expected))


def test_a_challenger_of_the_embedded_model_says_what_it_says_alone(variant: Path) -> None:
    champion, challenger = Scorer.load_pair(None, variant)
    assert all(map(close, score(champion), score(Scorer.load())))
    assert all(map(close, score(challenger), score(Scorer.load(variant))))


def test_a_challenger_of_another_base_is_refused(pair: tuple[Artefact, Artefact], tmp_path: Path) -> None:
    elsewhere = write_artefact(tmp_path, seed=3)
    with pytest.raises(ManifestMismatchError, match=r"base_model\.tensors_sha256"):
        Scorer.load_pair(pair[0].adapter, elsewhere.adapter)
