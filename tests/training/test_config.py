from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest

import training
from schemas.errors import ConfigurationError
from training.config import LoraSettings, StageConfig, load_config

CONFIGS = Path(str(resources.files("training"))) / "configs"
SHIPPED = sorted(path.name for path in CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_load(name: str) -> None:
    assert load_config(CONFIGS / name).steps > 0


def test_the_stages_see_the_same_pixels_and_conversation() -> None:
    configs = [load_config(CONFIGS / name) for name in SHIPPED]
    for field in ("image", "score", "instruction", "context_template", "forced_token_weight"):
        assert len({str(getattr(config, field)) for config in configs}) == 1, field


def test_stage1_asks_the_thirteen_conversations() -> None:
    assert len(load_config(CONFIGS / "demo_stage1.yaml").templates) == 13


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("stage: stage3\nsteps: 0\nlora: {rank: -1}\nepochs: 2\ntemplates: {}\n", encoding="utf-8")
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
    sources = " ".join(
        path.read_text(encoding="utf-8") for path in folder.rglob("*.py") if path.name != "config.py"
    )
    for part in (StageConfig, LoraSettings):
        for field in part.model_fields:
            assert re.search(rf"\n        {field}: ", part.__doc__ or ""), field
            assert re.search(rf"\.{field}\b", sources), field
