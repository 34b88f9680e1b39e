"""Validation while training: the best weights are kept, and a run that is killed decides the same."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from model.adapters import WEIGHTS_NAME
from model.backbone import load_base
from model.scorer import Scorer
from schemas.errors import ConfigurationError
from schemas.manifest import ScoreScale
from tests.training.test_runs import _curve, _killed
from tests.training.toy import toy_annotations, toy_base, toy_config, toy_files
from training import runs
from training.annotation_files import read_annotations, write_annotations
from training.config import LoraSettings, StageConfig, load_config
from training.curves import NCM_NAMES, SUMMARY_NAME, VALIDATION
from training.runs import RunSettings, run_training, unfinished_folder
from training.validator import Validator, mean_srcc

TRAINED, VALIDATED, STEPS = 6, 5, 8
CONFIG = toy_config(
    "stage2",
    steps=STEPS,
    batch_size=4,
    micro_batch_size=2,
    checkpoint_every=3,
    validate_every=2,
    lora=LoraSettings(rank=2, alpha=4, dropout=0.2),
)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return toy_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return _write(tmp_path_factory.mktemp("data"), validated=VALIDATED)


def _write(folder: Path, validated: int) -> Path:
    count = TRAINED + validated
    annotations = [
        annotation.model_copy(update={"split": "train" if number < TRAINED else "validation"})
        for number, annotation in enumerate(toy_annotations(count))
    ]
    for annotation, content in zip(annotations, toy_files(count), strict=True):
        (folder / annotation.image).write_bytes(content)
    write_annotations(folder, annotations)
    return folder


def _settings(base: Path, data: Path, output: Path, config: StageConfig = CONFIG) -> RunSettings:
    return RunSettings(config=config, data=[data], output=output, base_model=str(base), name=output.name)


def _summary(settings: RunSettings) -> dict:
    return json.loads((settings.output / SUMMARY_NAME).read_text())


def _same_weights(one: RunSettings, other: RunSettings) -> bool:
    files = [load_file(settings.output / WEIGHTS_NAME) for settings in (one, other)]
    return all((files[0][name] - files[1][name]).abs().max() <= 1e-6 for name in files[0])


@pytest.fixture(scope="module")
def whole(base, data, tmp_path_factory) -> RunSettings:
    settings = _settings(base, data, tmp_path_factory.mktemp("runs") / "whole")
    run_training(settings)
    return settings


def test_what_is_written_scores_as_the_best_validation_did(whole, base, data) -> None:
    said = _summary(whole)
    values = _curve(said, VALIDATION)
    assert [point["step"] for point in said["curves"][VALIDATION]] == [2, 4, 6, 8]
    assert len(set(values)) > 1
    assert said["best_step"] == 2 * (1 + int(np.argmax(values)))
    assert said["validation_images"] == VALIDATED
    assert not said["stopped_early"]
    assert _served_srcc(whole, base, data) == pytest.approx(max(values))


def _served_srcc(settings: RunSettings, base: Path, data: Path) -> float:
    labels = [one for one in read_annotations(data) if one.split == "validation"]
    scorer = Scorer.load(settings.output, base_model=str(base), device="cpu")
    served = scorer.score([data / one.image for one in labels], [one.context for one in labels])
    scores, mos = np.array([one.score for one in served]), np.array([one.mos for one in labels], dtype=float)
    return mean_srcc({"score": scores}, {"score": mos})


@pytest.mark.parametrize("changes", [{"vision": "full"}, {"score": ScoreScale(head="bins", bins=5)}])
def test_what_stands_beside_low_rank_updates_is_measured_and_kept_too(base, data, tmp_path, changes) -> None:
    config = toy_config("stage2", steps=4, validate_every=2, **changes)
    settings = _settings(base, data, tmp_path / "adapter", config)
    run_training(settings)
    assert _served_srcc(settings, base, data) == pytest.approx(max(_curve(_summary(settings), VALIDATION)))


def test_every_step_has_the_three_figures_of_its_scores(whole) -> None:
    curves = _summary(whole)["curves"]
    for name in NCM_NAMES:
        assert [point["step"] for point in curves[name]] == list(range(1, STEPS + 1))
        assert all(value > 0 for value in _curve({"curves": curves}, name))


def test_watching_changes_nothing_of_what_is_learnt(whole, base, data, tmp_path) -> None:
    unwatched = _settings(base, data, tmp_path / "plain", CONFIG.model_copy(update={"validate_every": None}))
    run_training(unwatched)
    said = _summary(unwatched)
    assert _curve(said, "loss") == pytest.approx(_curve(_summary(whole), "loss"), abs=1e-6)
    assert said["best_step"] is None
    assert VALIDATION not in said["curves"]


def test_killed_it_ends_with_the_same_best_weights_and_curves(whole, base, data, tmp_path) -> None:
    killed = _settings(base, data, tmp_path / "killed")
    # In micro-batches of that process, two a step: both times validations after the last checkpoint are lost.
    for kill_at in (11, 7):
        assert _killed(killed, kill_at) == -signal.SIGKILL
        assert not killed.output.exists()
    run_training(killed)
    one, other = _summary(whole), _summary(killed)
    assert other["resumed_from_step"] > 0
    assert other["best_step"] == one["best_step"]
    for name in (*NCM_NAMES, VALIDATION, "loss"):
        assert _curve(other, name) == pytest.approx(_curve(one, name), abs=1e-4), name
    assert _same_weights(whole, killed)


MEASURED = (0.1, 0.5, 0.4, 0.5, 0.9)
STOPPING = CONFIG.model_copy(update={"validate_every": 1, "stop_after": 2, "checkpoint_every": 2})


def _script_measurements() -> None:
    values = iter(MEASURED)
    Validator.measure = lambda self: next(values)


def _run_and_die_before_saving(settings: RunSettings) -> None:
    _script_measurements()
    runs.save_adapter = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    run_training(settings)


def _ended_early(settings: RunSettings) -> None:
    said = _summary(settings)
    assert said["stopped_early"]
    assert said["best_step"] == 2  # the first of equal ones
    assert _curve(said, VALIDATION) == list(MEASURED[:4])
    assert len(_curve(said, "loss")) == 4


def test_it_ends_early_when_validation_gets_no_better_killed_before_it_is_written_or_not(
    base, data, tmp_path, monkeypatch
) -> None:
    settings, killed = (_settings(base, data, tmp_path / name, STOPPING) for name in ("early", "killed"))
    process = multiprocessing.get_context("forkserver").Process(
        target=_run_and_die_before_saving, args=(killed,)
    )
    process.start()
    monkeypatch.setattr(Validator, "measure", Validator.measure)  # put back in the end
    _script_measurements()
    run_training(settings)
    _ended_early(settings)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (unfinished_folder(killed.output) / "checkpoints" / "checkpoint-4").is_dir()
    run_training(killed)  # measures nothing again
    _ended_early(killed)
    assert _summary(killed)["resumed_from_step"] == 4
    assert _same_weights(settings, killed)


def test_stage_1_is_judged_by_its_attributes(base, data, tmp_path) -> None:
    config = toy_config("stage1", steps=2, validate_every=1)
    settings = _settings(base, data, tmp_path / "stage1", config)
    run_training(settings)
    curves = _summary(settings)["curves"]
    assert len(curves[VALIDATION]) == 2
    assert not set(NCM_NAMES) & set(curves)


@pytest.mark.parametrize(
    ("validated", "reason"), [(0, "no image of DATA is of split 'validation'"), (2, "not 3 of them with")]
)
def test_too_little_to_validate_on_is_said_before_training(base, tmp_path, validated, reason) -> None:
    (tmp_path / "data").mkdir()
    settings = _settings(base, _write(tmp_path / "data", validated), tmp_path / "adapter")
    with pytest.raises(ConfigurationError, match=reason):
        run_training(settings)


def test_images_to_train_and_to_validate_on_may_stand_in_different_data_sets(base, data, tmp_path) -> None:
    folders = [tmp_path / name for name in ("train", "validation")]
    for folder, split in zip(folders, ("train", "validation"), strict=True):
        folder.mkdir()
        rows = [one for one in read_annotations(data) if one.split == split]
        for row in rows:
            (folder / row.image).write_bytes((data / row.image).read_bytes())
        write_annotations(folder, rows)
    config = CONFIG.model_copy(update={"steps": 2})
    settings = replace(_settings(base, data, tmp_path / "both", config), data=folders)
    run_training(settings)
    said = _summary(settings)
    assert (said["images"], said["validation_images"]) == (TRAINED, VALIDATED)
    with pytest.raises(ConfigurationError, match="no image of DATA is of split 'train'"):
        run_training(replace(settings, data=folders[1:], output=tmp_path / "other"))


def test_tensorboard_gets_every_figure_once_a_step_though_the_run_was_killed(base, data, tmp_path) -> None:
    pytest.importorskip("tensorboard", reason="realqa-beam[tensorboard] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = replace(_settings(base, data, tmp_path / "watched"), tensorboard=tmp_path / "events")
    assert _killed(settings, kill_at=11) == -signal.SIGKILL
    run_training(settings)
    events = EventAccumulator(str(tmp_path / "events" / "watched")).Reload()
    curves = _summary(settings)["curves"]
    for name, points in curves.items():
        assert [(event.step, pytest.approx(event.value)) for event in events.Scalars(name)] == [
            (point["step"], point["value"]) for point in points
        ]


def test_tensorboard_that_is_not_installed_is_said_before_anything_else(
    base, data, tmp_path, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    settings = replace(_settings(base, data, tmp_path / "adapter"), tensorboard=tmp_path / "events")
    with pytest.raises(ConfigurationError, match=r"pip install realqa-beam\[tensorboard\]"):
        run_training(settings)
    assert not unfinished_folder(settings.output).exists()


def test_from_random_weights_a_base_is_written_that_serving_and_training_take(base, data, tmp_path) -> None:
    config = toy_config("base", vision="full", initialise="random", steps=2, validate_every=2)
    settings = _settings(base, data, tmp_path / "scratch", config)
    run_training(settings)
    written = load_base(settings.output, torch.device("cpu"), torch.float32).state_dict()
    given = load_base(base, torch.device("cpu"), torch.float32).state_dict()
    assert not torch.equal(
        written["model.language_model.layers.0.mlp.up_proj.weight"],
        given["model.language_model.layers.0.mlp.up_proj.weight"],
    )
    assert _summary(settings)["best_step"] == 2
    adapter = _settings(settings.output, data, tmp_path / "adapter", CONFIG.model_copy(update={"steps": 2}))
    run_training(adapter)
    assert Scorer.load(adapter.output, base_model=str(settings.output), device="cpu")


@pytest.mark.integration
def test_two_processes_validate_as_one_does(base, data, tmp_path) -> None:
    file = tmp_path / "config.yaml"
    # Steps so small that rounding, which differs, cannot change a rank.
    config = toy_config("stage2", steps=2, batch_size=4, micro_batch_size=2, validate_every=1)
    config = config.model_copy(update={"learning_rate": 1e-5, "warmup_ratio": 0.0})
    file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
    settings = _settings(base, data, tmp_path / "two")
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    launcher += ["--master-port", _free_port(), "-m", "training", "train", str(file), str(data)]
    options = ["--device", "cpu", "--base-model", str(base), "--output", str(settings.output)]
    done = subprocess.run([sys.executable, *launcher, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one = _settings(base, data, tmp_path / "one", load_config(file))
    run_training(one)
    for name in (VALIDATION, *NCM_NAMES):
        found, wanted = (_curve(_summary(run), name) for run in (settings, one))
        assert found == pytest.approx(wanted, abs=1e-4), name


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])
