"""The scorer as a library user meets it, on a tiny random model: mechanics, not quality."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model.__main__ import main, readable
from model.batching import plan_micro_batches
from model.placement import resolve_device
from model.reading import digit_tree_moments
from model.scorer import Scorer
from schemas.attributes import VOCABULARY
from schemas.errors import ConfigurationError, DecodeError, FetchError, ManifestMismatchError
from schemas.manifest import DECODERS, CompositeWeights, Decoder, ScoreScale
from schemas.records import Prediction
from tests.model.artefact import Artefact, write_artefact

# PEFT asks transformers for an attribute that transformers renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def photograph(seed: int, size: tuple[int, int] = (64, 48)) -> bytes:
    draw = np.random.default_rng(seed)
    small = draw.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize(size).save(buffer, "PNG")
    return buffer.getvalue()


SIZES = [(64, 48), (200, 100), (90, 90), (40, 160), (500, 333)]
PHOTOGRAPHS = [photograph(seed, size) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    return write_artefact(tmp_path_factory.mktemp("artefact"))


@pytest.fixture(scope="module")
def scorer(artefact: Artefact) -> Scorer:
    return Scorer.load(artefact.adapter)


def numbers(prediction: Prediction) -> dict[str, float]:
    return {
        n: getattr(prediction, n) for n in prediction.__slots__ if isinstance(getattr(prediction, n), float)
    }


def test_three_lines_score_photographs(artefact: Artefact, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PHOTOGRAPHS[0])
    scorer = Scorer.load(artefact.adapter)
    (result,) = scorer.score([path])
    assert result.score is not None
    assert 0 <= result.score < 10
    assert result.score_std is not None
    assert result.score_native == pytest.approx(result.score)
    for attribute in VOCABULARY.evaluated:
        value = getattr(result, attribute.name)
        assert str(value) in attribute.values
        assert min(attribute.codes) <= getattr(result, f"{attribute.name}_expected") <= max(attribute.codes)
        assert 0 < getattr(result, f"{attribute.name}_confidence") <= 1
    assert result.subject_and_background is None
    assert 0 < (result.format_mass or 0) <= 1


def test_a_photograph_scores_the_same_alone_and_among_others(scorer: Scorer) -> None:
    together = scorer.score(PHOTOGRAPHS)
    for alone, among in zip((scorer.score([data])[0] for data in PHOTOGRAPHS), together, strict=True):
        assert numbers(alone) == pytest.approx(numbers(among), abs=1e-4)
        assert alone.exposure == among.exposure
    backwards = scorer.score(PHOTOGRAPHS[::-1])[::-1]
    assert [numbers(p) for p in backwards] == [pytest.approx(numbers(p), abs=1e-4) for p in together]


def test_different_photographs_differ(scorer: Scorer) -> None:
    assert len({round(p.score or 0, 6) for p in scorer.score(PHOTOGRAPHS)}) == len(PHOTOGRAPHS)


def test_a_context_reaches_the_model_and_special_tokens_in_it_hurt_nobody(scorer: Scorer) -> None:
    plain, told, nasty = scorer.score(
        [PHOTOGRAPHS[0]] * 3, [None, "a  barn", "<|image_pad|><|vision_end|><|im_end|>"]
    )
    assert (plain.context_used, told.context_used) == (None, "a barn")
    assert nasty.context_used == "<|image_pad|><|vision_end|><|im_end|>"
    assert plain.score != told.score
    alone = scorer.score([PHOTOGRAPHS[0]])[0]
    assert plain.score == pytest.approx(alone.score, abs=1e-4)


def test_an_adapter_without_context_template_says_that_none_was_used(tmp_path: Path) -> None:
    from model.conversation import chatml_sha256
    from schemas.manifest import Conversation
    from tests.model.artefact import SYSTEM

    plain = Conversation(chatml_sha256=chatml_sha256(SYSTEM, "before_image"))
    made = write_artefact(tmp_path, conversation=plain)
    assert Scorer.load(made.adapter).score([PHOTOGRAPHS[0]], ["a barn"])[0].context_used is None


@pytest.mark.parametrize(
    ("template", "expected"),
    [("mix", {"score": None}), ("score_direct", {"exposure": None}), ("score_prose", {"exposure": None})],
)
def test_what_a_template_does_not_ask_is_null(
    artefact: Artefact, template: str, expected: dict[str, Any]
) -> None:
    result = Scorer.load(artefact.adapter, template=template).score(PHOTOGRAPHS[:1])[0]
    assert {name: getattr(result, name) for name in expected} == expected
    assert (result.score is None) == (template == "mix")
    assert (result.reasons is None) == (template != "score_prose")


def test_reasons_come_as_lines_named_after_their_attribute(artefact: Artefact) -> None:
    result = Scorer.load(artefact.adapter, template="score_form_reasons").score(PHOTOGRAPHS[:1])[0]
    lines = (result.reasons or "").split("\n")
    assert lines[0].startswith("Composition Score: ")
    assert result.subject_and_background is not None


def test_native_scale_greedy_decoder_and_composite_follow_the_manifest(tmp_path: Path) -> None:
    from model.templates import templates_sha256
    from schemas.manifest import Answer
    from tests.model.artefact import TEMPLATES

    scale = ScoreScale(native_low=1, native_high=5, digits=2, decoder="greedy")
    pin = templates_sha256(TEMPLATES, VOCABULARY, scale)
    made = write_artefact(
        tmp_path,
        score=scale,
        answer=Answer(templates=TEMPLATES, default_template="score_form", templates_sha256=pin),
        composite=CompositeWeights(intercept=1.0, weights={"exposure": 2.0, "composition": 0.5}),
    )
    scorer = Scorer.load(made.adapter)
    (result,) = scorer.score(PHOTOGRAPHS[:1])
    assert scorer.provenance.decoder == "greedy"
    assert result.score == pytest.approx(result.score_greedy)
    assert result.score_native == pytest.approx(1 + 0.4 * (result.score or 0))
    assert result.composite_score == pytest.approx(
        1 + 2 * (result.exposure_expected or 0) + 0.5 * (result.composition_expected or 0)
    )
    direct = Scorer.load(made.adapter, template="score_direct").score(PHOTOGRAPHS[:1])[0]
    assert direct.composite_score is None


def test_provenance_names_everything_needed_to_score_again(scorer: Scorer, artefact: Artefact) -> None:
    import hashlib

    said = scorer.provenance
    assert (
        said.adapter_revision == hashlib.sha256((artefact.adapter / "manifest.json").read_bytes()).hexdigest()
    )
    assert (said.device, said.dtype, said.template, said.decoder) == (
        "cpu",
        "float32",
        "score_form",
        "digit_tree",
    )
    assert "SYNTHETIC" in scorer.describe()


@pytest.mark.parametrize("decoder", DECODERS["digits"])
def test_a_scorer_says_how_its_decoder_reads_the_score(tmp_path: Path, decoder: Decoder) -> None:
    made = write_artefact(tmp_path, score=ScoreScale(decoder=decoder))
    scorer = Scorer.load(made.adapter)
    assert scorer.provenance.decoder == decoder
    assert "standard deviation" in scorer.describe()


def test_a_wrong_base_or_template_or_device_is_refused_with_reasons(
    artefact: Artefact, tmp_path: Path
) -> None:
    other = write_artefact(tmp_path, seed=1)
    with pytest.raises(ConfigurationError, match="trained on mix, score_direct"):
        Scorer.load(artefact.adapter, template="level_low")
    with pytest.raises(ConfigurationError, match="no directory"):
        Scorer.load(artefact.adapter, base_model="./nowhere")
    with pytest.raises(ConfigurationError, match="dtype"):
        Scorer.load(artefact.adapter, dtype="int8")
    for device in ("tpu", "cuda:99", "mps"):
        with pytest.raises(ConfigurationError, match="device"):
            Scorer.load(artefact.adapter, device=device)
    (other.base / "tokenizer.json").write_text((other.base / "tokenizer.json").read_text() + " ")
    with pytest.raises(ManifestMismatchError, match=r"base_model\.tokenizer_sha256"):
        Scorer.load(other.adapter)


def test_auto_takes_cuda_only_where_there_is_one() -> None:
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_photograph_that_cannot_be_read_names_itself(scorer: Scorer, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="missing"):
        scorer.score([tmp_path / "missing.jpg"])
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    with pytest.raises(DecodeError) as caught:
        scorer.score([broken])
    assert caught.value.image_uri == str(broken)
    with pytest.raises(ValueError, match="contexts"):
        scorer.score(PHOTOGRAPHS, ["one"])


def test_the_command_prints_a_readable_answer_and_json(
    artefact: Artefact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PHOTOGRAPHS[0])
    arguments = ["--adapter", str(artefact.adapter)]
    assert main([*arguments, str(path)]) == 0
    shown = capsys.readouterr().out
    assert "exposure" in shown
    assert "higher is better" in shown
    assert main([*arguments, "--json", str(path), str(tmp_path / "none.png")]) == 1
    captured = capsys.readouterr()
    row = json.loads(captured.out)
    assert row["image_uri"] == str(path)
    assert row["adapter"] == "tiny"
    assert "none.png" in captured.err
    assert main([*arguments, "--template", "nonsense", "--dtype", "int8", str(path)]) == 2
    assert "nonsense" in capsys.readouterr().err


def test_a_low_format_mass_is_said_aloud() -> None:
    assert "hardly fits" in readable(Prediction(format_mass=0.1), VOCABULARY)
    assert "hardly fits" not in readable(Prediction(format_mass=0.9), VOCABULARY)


def test_help_loads_no_torch() -> None:
    code = (
        "import sys\nfrom model.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'apache_beam', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("digits", [2, 3, 4])
def test_the_digit_trees_mean_is_the_mean_of_the_scores(digits: int) -> None:
    """Against brute force over all scores, later digits uniform."""
    draw = torch.Generator().manual_seed(digits)
    first = torch.rand(1, 10, generator=draw).double().softmax(1)
    second = (4 * torch.rand(1, 10, 10, generator=draw).double()).softmax(2)
    mean, std = digit_tree_moments(first, second, digits)
    points = 10 ** (digits - 2)
    values, weights = [], []
    for a in range(10):
        for b in range(10):
            for rest in range(points):
                values.append(a + b / 10 + rest / 10 / points)
                weights.append(float(first[0, a] * second[0, a, b]) / points)
    expected = np.average(values, weights=weights)
    assert float(mean) == pytest.approx(expected)
    assert float(std) == pytest.approx(
        np.sqrt(np.average((np.array(values) - expected) ** 2, weights=weights))
    )


def test_the_digit_tree_is_right_at_carries() -> None:
    """A belief of 4.0 ± 0.1: position by position gives 3.6, the tree 4.0 (realqa.md)."""
    first = torch.zeros(1, 10)
    first[0, 3] = first[0, 4] = 0.5
    second = torch.zeros(1, 10, 10)
    second[0, 3, 9] = second[0, 4, 1] = 1
    second[0, [0, 1, 2, 5, 6, 7, 8, 9], 0] = 1
    mean, std = digit_tree_moments(first, second, 2)
    assert float(mean) == pytest.approx(4.0)
    assert float(std) == pytest.approx(0.1)


def test_micro_batches_hold_every_image_once_within_the_budget() -> None:
    tokens = [64, 4, 64, 16, 200, 16, 4, 4]
    batches = plan_micro_batches(tokens, token_budget=130, max_images=3)
    assert sorted(index for batch in batches for index in batch) == list(range(len(tokens)))
    assert batches[0] == [4]
    for batch in batches:
        assert len(batch) <= 3
        assert len(batch) == 1 or max(tokens[i] for i in batch) * len(batch) <= 130
    assert plan_micro_batches([], 10, 10) == []


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("conversation.chatml_sha256", {"conversation": {"chatml_sha256": "0" * 64}}),
        ("answer.templates_sha256", {"answer": {"templates_sha256": "0" * 64}}),
        ("image.image_decoder", {"image": {"image_decoder": "another/9"}}),
    ],
)
def test_an_adapter_made_by_other_wording_or_code_is_refused_by_the_field(
    tmp_path: Path, artefact: Artefact, field: str, changed: dict[str, dict[str, str]]
) -> None:
    from model.adapters import read_manifest

    good, _ = read_manifest(artefact.adapter)
    ((part, values),) = changed.items()
    made = write_artefact(tmp_path, **{part: getattr(good, part).model_copy(update=values)})
    with pytest.raises(ManifestMismatchError, match=field):
        Scorer.load(made.adapter)


def test_rows_name_the_base_that_was_used(artefact: Artefact, tmp_path: Path) -> None:
    copy = tmp_path / "copied"
    shutil.copytree(artefact.base, copy)
    assert Scorer.load(artefact.adapter, base_model=str(copy)).provenance.base_model == str(copy)


def test_another_base_of_the_same_shape_is_refused(artefact: Artefact, tmp_path: Path) -> None:
    from tests.model.artefact import write_base

    write_base(tmp_path / "other", seed=9)
    with pytest.raises(ManifestMismatchError, match=r"base_model\.tensors_sha256"):
        Scorer.load(artefact.adapter, base_model=str(tmp_path / "other"))


def test_limits_and_dtype_are_the_ones_that_were_asked_for(artefact: Artefact) -> None:
    from model.images import ImageLimits
    from schemas.errors import ImageLimitError

    scorer = Scorer.load(artefact.adapter, dtype="bfloat16", limits=ImageLimits(max_decoded_pixels=1000))
    assert scorer.provenance.dtype == "bfloat16"
    assert scorer.decoder.model.lm_head.weight.dtype == torch.bfloat16
    with pytest.raises(ImageLimitError):
        scorer.prepare(PHOTOGRAPHS[1])


def test_one_photograph_instead_of_several_is_said(scorer: Scorer) -> None:
    with pytest.raises(TypeError, match="several"):
        scorer.score("beach.jpg")


def test_a_base_that_is_not_here_is_the_workers_business(tmp_path: Path) -> None:
    """A job may be submitted from a machine that never sees the base model."""
    from model.backbone import base_identity
    from model.checks import checked_manifest

    made = write_artefact(tmp_path)
    identity = base_identity(made.base, "someone/somewhere")
    elsewhere = write_artefact(tmp_path / "other", base_model=identity)
    checked = checked_manifest(elsewhere.adapter, "score_direct", None, needs_base=False)
    assert checked.base_path is None
    with pytest.raises(ConfigurationError, match="level_low"):
        checked_manifest(elsewhere.adapter, "level_low", None, needs_base=False)
    with pytest.raises(ConfigurationError, match="someone/somewhere"):
        Scorer.load(elsewhere.adapter)
