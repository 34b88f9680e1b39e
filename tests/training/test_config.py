from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest
from pydantic import ValidationError

import training
from schemas.errors import ConfigurationError
from training.config import LoraSettings, StageConfig, chosen_config, load_config, shipped_config

CONFIGS = Path(str(resources.files("training"))) / "configs"
SHIPPED = sorted(path.name for path in CONFIGS.glob("*.yaml"))
CHAINS = (("base", "demo_stage1", "demo_stage2", "demo_context"), ("stage1", "stage2", "direct"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_load(name: str) -> None:
    assert load_config(CONFIGS / name).optimiser_steps(images=100) > 0


@pytest.mark.parametrize("names", CHAINS)
def test_the_stages_see_the_same_pixels_and_conversation(names: tuple[str, ...]) -> None:
    configs = [shipped_config(name) for name in names]
    for field in ("image", "score", "instruction", "context_template", "forced_token_weight"):
        assert len({str(getattr(config, field)) for config in configs}) == 1, field


def test_stage1_asks_the_thirteen_conversations() -> None:
    for name in ("demo_stage1.yaml", "stage1.yaml"):
        assert len(load_config(CONFIGS / name).templates) == 13


def test_the_recipes_on_the_papers_images_take_the_authors_number_of_steps() -> None:
    assert shipped_config("stage1").optimiser_steps(images=13_712) == 5_570
    assert shipped_config("direct").optimiser_steps(images=6_400) == 200


def test_a_configuration_is_chosen_by_path_or_by_the_name_of_one_that_ships(tmp_path: Path) -> None:
    assert chosen_config("stage2") == shipped_config("stage2")
    path = tmp_path / "mine.yaml"
    path.write_text((CONFIGS / "direct.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    assert chosen_config(str(path)) == shipped_config("direct")
    with pytest.raises(ConfigurationError, match=r"no configuration stage3; those here: base, demo_context"):
        chosen_config("stage3")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"steps": 3, "epochs": 1.0}, "one of steps and epochs"),
        ({"steps": None}, "one of steps and epochs"),
        ({"micro_batch_size": 3}, "micro_batch_size must divide batch_size"),
    ],
)
def test_lengths_that_contradict_each_other_are_refused(changes, reason) -> None:
    settings = shipped_config("demo_stage2").model_dump() | changes
    with pytest.raises(ValidationError, match=reason):
        StageConfig.model_validate(settings)


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("demo_stage2", {"initialise": "random"}, "an adapter cannot teach random weights"),
        ("scratch", {"vision": "frozen"}, "would never learn to see"),
        ("demo_stage2", {"stop_after": 3}, "validate_every must say how often"),
        (
            "demo_stage2",
            {"image": {"min_pixels": 784, "max_pixels": 784, "image_decoder": "another/9"}},
            "image.image_decoder: must be one of pillow-reduced-2x/1, torch-reduced-2x/2",
        ),
    ],
)
def test_combinations_without_sense_are_refused(name, changes, reason) -> None:
    with pytest.raises(ValidationError, match=reason):
        StageConfig.model_validate(shipped_config(name).model_dump() | changes)


def test_from_scratch_and_initialised_differ_in_where_they_start_and_in_nothing_else() -> None:
    one, other = shipped_config("initialised"), shipped_config("scratch")
    assert other.initialise == "random"
    assert other.model_copy(update={"initialise": "base"}) == one


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("stage: stage3\nsteps: 0\nlora: {rank: -1}\nepochs: 0\ntemplates: {}\n", encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load_config(path)
    said = " ".join(caught.value.reasons)
    for field in ("stage", "steps", "lora.rank", "epochs", "templates", "image", "default_template"):
        assert f"{path}: {field}: " in said


def test_settings_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    text = (CONFIGS / "demo_stage2.yaml").read_text(encoding="utf-8")
    text = text.replace("trainable: lora", "trainable: all").replace("score_direct: 1 ", "mix: 0 ")
    path.write_text(text.replace("default_template: score_form", "default_template: nope"), encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load_config(path)
    said = str(caught.value)
    assert "share of 'mix'" in said
    assert "'nope' is not among" in said
    assert "'mix' belongs to stage 1" in said
    assert "trains 'all' weights" in said


@pytest.mark.parametrize("content", ["", "- a\n", "stage: [", "\x00"])
def test_a_file_without_settings_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=re.escape(str(path))):
        load_config(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.yaml"):
        load_config(tmp_path / "none.yaml")


def test_every_setting_is_documented_and_read() -> None:
    folder = Path(training.__file__).parent
    texts = {path.name: path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}
    # Of the configuration itself only what it works out, not what it checks.
    texts["config.py"] = texts["config.py"].partition("def optimiser_steps")[2]
    sources = " ".join(texts.values())
    for part in (StageConfig, LoraSettings):
        for field in part.model_fields:
            assert re.search(rf"\n        {field}: ", part.__doc__ or ""), field
            assert re.search(rf"\.{field}\b", sources), field
