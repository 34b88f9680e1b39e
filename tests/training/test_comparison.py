"""Comparisons: variants expand to whole configurations, are trained once, and are compared pairwise."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from model.templates import answer_templates
from schemas.attributes import VOCABULARY
from schemas.errors import ConfigurationError
from schemas.manifest import ScoreScale
from schemas.records import Prediction
from tests.training.toy import toy_annotations, toy_base, toy_config, toy_files
from training import compare_run
from training.__main__ import main
from training.annotation_files import write_annotations
from training.compare_run import Compared
from training.comparison import changed, read_comparison, ready_comparisons, variant_configs
from training.comparison_figures import SeedRun, compare_variants
from training.comparison_table import comparison_table

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

DEMO_START = {"granularity": "demo_stage1", "regression": "demo_stage2"}


def test_the_comparisons_of_the_papers_are_ready() -> None:
    assert ready_comparisons() == ("bins", "digits", "granularity", "heads", "regression")


@pytest.mark.parametrize("name", ready_comparisons())
def test_every_ready_comparison_fits_the_7b_recipe_and_the_small_model(name: str) -> None:
    comparison = read_comparison(name)
    for start in (None, DEMO_START.get(name, "demo_direct")):
        configs = variant_configs(comparison, start)
        assert list(configs) == list(comparison.variants)
        assert len({config.model_dump_json() for config in configs.values()}) == len(configs)


def test_granularities_ask_for_every_attribute() -> None:
    templates = answer_templates(VOCABULARY, ScoreScale())
    for name, variant in read_comparison("granularity").variants.items():
        asked = variant.ask or (variant_configs(read_comparison("granularity"))[name].default_template,)
        slots = {slot.name for template in asked for slot in templates[template].slots}
        assert slots >= {attribute.name for attribute in VOCABULARY.evaluated}


def test_parts_change_field_by_field_and_lists_of_templates_as_a_whole() -> None:
    settings = {"score": {"native_high": 5, "decoder": "greedy"}, "templates": {"mix": 1}, "epochs": 2}
    found = changed(settings, {"score": {"head": "bins"}, "templates": {"score_direct": 1}, "steps": 3})
    assert found == {
        "score": {"native_high": 5, "head": "bins"},  # another head's decoder does not stay
        "templates": {"score_direct": 1},
        "steps": 3,
    }


def test_all_that_is_wrong_with_all_variants_is_said_at_once(tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    variants = {
        "fine": {},
        "no such head": {"changes": {"score": {"head": "guess"}}},
        "asks what it never learnt": {"ask": ["mix"]},
    }
    file.write_text(
        yaml.safe_dump({"title": "t", "start": "demo_direct", "variants": variants}, sort_keys=False)
    )
    with pytest.raises(ConfigurationError) as caught:
        variant_configs(read_comparison(str(file)))
    first, second = caught.value.reasons
    assert first.startswith("no such head: score.head: ")
    assert second == "asks what it never learnt: ask: it is not trained on mix"


@pytest.mark.parametrize(
    "content", ["[]", "title: t", "{title: t, start: direct, variants: {}}", "a: [", "x: 1"]
)
def test_a_file_that_is_no_comparison_is_refused_by_its_name(tmp_path: Path, content: str) -> None:
    file = tmp_path / "comparison.yaml"
    file.write_text(content)
    with pytest.raises(ConfigurationError, match=r"comparison\.yaml"):
        read_comparison(str(file))


def test_an_unknown_comparison_names_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match="those here: bins, digits"):
        read_comparison("nothing")


def _run(scores: list[float], std: float | None = 1.0, seed: int = 0) -> SeedRun:
    return SeedRun(seed, [Prediction(score=score, score_std=std) for score in scores], 10.0 * (seed + 1))


def test_figures_are_means_over_seeds_with_paired_differences_to_the_first_variant() -> None:
    labels = [label.model_copy(update={"mos": float(n)}) for n, label in enumerate(toy_annotations(8))]
    true = [float(n) for n in range(8)]
    runs = {
        "right": [_run(true)],
        "half right": [_run(true), _run([7 - value for value in true], seed=1)],
        "no distribution": [_run([value + 2 for value in true], std=None)],
    }
    scales = dict.fromkeys(runs, ScoreScale())
    first, second, third = compare_variants(runs, labels, scales, np.arange(8), "score")
    assert (first.srcc.value, first.rmse.value, first.srcc_difference) == (pytest.approx(1), 0, None)
    assert first.calibration is not None
    assert first.calibration.value == 1
    assert second.srcc.value == pytest.approx(0)
    assert (second.lowest_srcc, second.highest_srcc) == (pytest.approx(-1), pytest.approx(1))
    assert second.srcc_difference is not None
    assert second.srcc_difference.value == pytest.approx(-1)
    assert second.images_per_s == 15
    assert (third.rmse.value, third.calibration) == (pytest.approx(2), None)
    assert third.srcc_difference is not None
    assert (third.srcc_difference.low, third.srcc_difference.high) == (0, 0)


def test_attributes_that_never_change_count_as_nothing_in_their_mean() -> None:
    labels = toy_annotations(40)
    names = [attribute.name for attribute in VOCABULARY.evaluated]
    sure = {f"{name}_confidence": 1.0 for name in names}
    right = [Prediction(**{name: getattr(label, name) for name in names}, **sure) for label in labels]
    constant = [replace(said, exposure="properly exposed") for said in right]
    runs = {"right": [SeedRun(0, right, 1.0)], "constant": [SeedRun(0, constant, 1.0)]}
    found = compare_variants(runs, labels, dict.fromkeys(runs, ScoreScale()), np.arange(40), "attributes")
    assert found[0].srcc.value == pytest.approx(1)
    assert found[0].calibration is not None
    assert found[0].calibration.value == 0
    assert found[1].srcc.value == pytest.approx(8 / 9)


def test_the_table_names_what_it_is_of_and_says_that_labels_are_synthetic() -> None:
    labels = [label.model_copy(update={"mos": float(n)}) for n, label in enumerate(toy_annotations(6))]
    runs = {"a": [_run([1, 2, 3, 4, 5, 6])], "b": [_run([1, 2, 3, 4, 6, 5], std=None)]}
    found = compare_variants(runs, labels, dict.fromkeys(runs, ScoreScale()), np.arange(6), "score")
    table = comparison_table(Compared("T", "score", 6, 6, 2, "a machine", True, found))
    assert "6 images of 6 sources (2 more lack a label)" in table
    assert "**Labels are synthetic**" in table
    assert "SRCC − a" in table
    assert table.splitlines()[-1].startswith("| b | 0.943 [")
    assert table.splitlines()[-1].endswith("| – | 10.0 |")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    annotations = toy_annotations(12)
    for annotation, content in zip(annotations, toy_files(12), strict=True):
        (folder / annotation.image).write_bytes(content)
    halves = [
        annotation.model_copy(update={"split": "train" if n < 6 else "test"})
        for n, annotation in enumerate(annotations)
    ]
    write_annotations(folder, halves)
    return folder


def _comparison(folder: Path, target: str = "score") -> Path:
    score = target == "score"
    start = folder / "start.yaml"
    config = (
        toy_config("stage2", steps=2, templates={"score_direct": 1}, default_template="score_direct")
        if score
        else toy_config("stage1", steps=2, templates={"mix": 1}, default_template="mix")
    )
    start.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True, exclude_unset=True)))
    levels = {
        "templates": {"level_high": 1, "level_middle": 1, "level_low": 1},
        "default_template": "level_low",
    }
    other = (
        {"changes": {"score": {"head": "mlp"}}}
        if score
        else {"changes": levels, "ask": ["level_high", "level_middle", "level_low"]}
    )
    file = folder / "comparison.yaml"
    content = {"title": "Toy", "start": str(start), "target": target, "variants": {"one": {}, "other": other}}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


@pytest.mark.parametrize("target", ["score", "attributes"])
def test_variants_are_trained_evaluated_and_not_trained_again(
    target: str,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = toy_base(tmp_path / "base")
    output = tmp_path / "out"
    command = ["compare", str(_comparison(tmp_path, target)), str(data), "--output", str(output)]
    command += ["--base-model", str(base), "--seeds", "2", "--synthetic", "--device", "cpu"]
    assert main(command) == 0
    table = capsys.readouterr().out
    assert (output / "comparison.md").read_text() == table
    assert [line.split(" | ")[0] for line in table.splitlines()[-2:]] == ["| one", "| other"]
    figures = json.loads((output / "comparison.json").read_text())["figures"]
    assert [found["seeds"] for found in figures] == [2, 2]
    adapters = sorted(path.name for path in (output / "runs").iterdir() if path.is_dir())
    assert adapters == ["one-seed0", "one-seed1", "other-seed0", "other-seed1"]

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(compare_run, "run_training", fail)
    monkeypatch.setattr(compare_run, "_answers", fail)
    assert main(command) == 0
    assert capsys.readouterr().out == table


def test_an_adapter_of_another_configuration_is_not_taken_for_this_variant(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, file = toy_base(tmp_path / "base"), _comparison(tmp_path)
    command = ["compare", str(file), str(data), "--output", str(tmp_path / "out"), "--base-model", str(base)]
    assert main([*command, "--only", "one", "--device", "cpu"]) == 0
    other = shutil.copytree(data, tmp_path / "other")
    assert main([*[str(other) if part == str(data) else part for part in command], "--only", "one"]) == 2
    assert "trained with another data" in capsys.readouterr().err
    start = tmp_path / "start.yaml"
    start.write_text(start.read_text().replace("steps: 2", "steps: 3"))
    assert main([*command, "--only", "one", "--device", "cpu"]) == 2
    assert "trained with another configuration" in capsys.readouterr().err


def test_wrong_options_are_all_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "compare",
        str(_comparison(tmp_path)),
        str(tmp_path / "nowhere"),
        "--output",
        str(tmp_path / "o"),
    ]
    assert main([*command, "--seeds", "0", "--only", "none"]) == 2
    said = capsys.readouterr().err
    assert all(part in said for part in ("there is no", "--seeds: at least 1", "--only: there is no 'none'"))
