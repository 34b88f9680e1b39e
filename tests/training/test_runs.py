"""A training run may be killed at any point: the same command goes on, and ends where it would have ended."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from model.adapters import WEIGHTS_NAME, read_manifest
from schemas.errors import ConfigurationError
from schemas.manifest import ScoreScale
from tests.training.toy import toy_annotations, toy_base, toy_config, toy_files
from training.annotation_files import write_annotations
from training.config import LoraSettings
from training.curves import SUMMARY_NAME
from training.loop import AnswerTrainer, last_checkpoint
from training.runs import RunSettings, run_training, unfinished_folder

STEPS = 11
CONFIG = toy_config(
    "stage2",
    steps=STEPS,
    batch_size=4,
    micro_batch_size=2,
    checkpoint_every=2,
    lora=LoraSettings(rank=2, alpha=4, dropout=0.2),  # a resumed run must draw the same
    wrong_integers=0.5,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return toy_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    annotations = toy_annotations(6)
    for annotation, content in zip(annotations, toy_files(6), strict=True):
        (folder / annotation.image).write_bytes(content)
    write_annotations(folder, annotations)
    return folder


def _settings(base: Path, data: Path, output: Path, **changes: object) -> RunSettings:
    values: dict[str, object] = {"config": CONFIG, "base_model": str(base), "name": "toy", "synthetic": True}
    return RunSettings(data=[data], output=output, **{**values, **changes})  # type: ignore[arg-type]


def _curve(summary: dict, name: str) -> list[float]:
    return [point["value"] for point in summary["curves"][name]]


def _run_until(settings: RunSettings, kill_at: int, inside_a_checkpoint: bool) -> None:
    """Train in a process that kills itself, without a chance to tidy up."""
    done = 0
    step, save = AnswerTrainer.training_step, AnswerTrainer._save_optimizer_and_scheduler

    def counted(self, *arguments, **named):
        nonlocal done
        done += 1
        if done > kill_at and not inside_a_checkpoint:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *arguments, **named)

    def cut_short(self, folder):
        if inside_a_checkpoint and done >= kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        save(self, folder)

    AnswerTrainer.training_step = counted
    AnswerTrainer._save_optimizer_and_scheduler = cut_short
    run_training(settings)


def _killed(settings: RunSettings, kill_at: int, inside_a_checkpoint: bool = False) -> int:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.test_runs"])
    process = context.Process(target=_run_until, args=(settings, kill_at, inside_a_checkpoint))
    process.start()
    process.join()
    return process.exitcode or 0


def test_killed_at_five_random_points_it_ends_with_the_very_same_weights_and_losses(
    base, data, tmp_path
) -> None:
    whole, killed = (_settings(base, data, tmp_path / name) for name in ("whole", "killed"))
    run_training(whole)
    draw = random.Random(7)
    kills = 0
    for number in range(5):
        # Each process gets a few micro-batches further than the last checkpoint; one dies while saving.
        code = _killed(killed, kill_at=draw.randint(1, 7), inside_a_checkpoint=number == 2)
        assert not killed.output.exists()
        kills += code == -signal.SIGKILL
    assert kills == 5
    run_training(killed)
    one, other = (load_file(settings.output / WEIGHTS_NAME) for settings in (whole, killed))
    assert all((one[name] - other[name]).abs().max() <= 1e-6 for name in one)
    summaries = [json.loads((run.output / SUMMARY_NAME).read_text()) for run in (whole, killed)]
    assert summaries[1]["resumed_from_step"] > 0
    losses = [_curve(summary, "loss") for summary in summaries]
    assert len(losses[0]) == STEPS
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert not unfinished_folder(killed.output).exists()
    assert read_manifest(killed.output)[0].training.synthetic


def test_states_of_another_run_are_refused_and_not_touched(base, data, tmp_path) -> None:
    settings = _settings(base, data, tmp_path / "adapter")
    assert _killed(settings, kill_at=5) == -signal.SIGKILL
    other = _settings(base, data, settings.output, config=CONFIG.model_copy(update={"seed": 9}))
    with pytest.raises(ConfigurationError, match="another configuration or other data"):
        run_training(other)
    assert last_checkpoint(unfinished_folder(settings.output) / "checkpoints") is not None


def test_an_adapter_that_is_there_is_not_replaced(base, data, tmp_path) -> None:
    output = tmp_path / "adapter"
    output.mkdir()
    with pytest.raises(ConfigurationError, match="exists already"):
        run_training(_settings(base, data, output))


@pytest.mark.parametrize("head", ["digits", "soft_levels", "mlp"])
def test_a_step_is_the_same_in_however_many_micro_batches(head, base, data, tmp_path) -> None:
    """Long and short answers, weighted tokens, with and without a score: every token keeps its weight."""
    plain = toy_config(
        "stage2",
        templates={"score_direct": 1, "score_form": 1, "score_prose": 1},
        batch_size=4,
        forced_token_weight=0.3,
        score={"head": head},
        wrong_integers=0.5,
    )
    outputs = []
    for micro in (4, 2, 1):
        config = plain.model_copy(update={"micro_batch_size": micro})
        outputs.append(tmp_path / str(micro))
        assert run_training(_settings(base, data, outputs[-1], config=config))
    one, *others = (_curve(json.loads((output / SUMMARY_NAME).read_text()), "loss") for output in outputs)
    assert len(one) == 3
    for other in others:
        assert other == pytest.approx(one, rel=1e-4)


@pytest.mark.integration
@pytest.mark.parametrize("head", ["digits", "mlp"])
def test_two_processes_train_as_one_does(head, base, data, tmp_path) -> None:
    file = tmp_path / "config.yaml"
    # Without dropout, which every process draws for itself.
    without = {"lora": LoraSettings(rank=2, alpha=4, dropout=0.0), "score": ScoreScale(head=head)}
    config = CONFIG.model_copy(update=without)
    file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    losses = []
    for name, start in (("one", []), ("two", [*launcher, "--master-port", port])):
        output = tmp_path / name
        command = [sys.executable, *start, "-m", "training", "train", str(file), str(data), "--device", "cpu"]
        command += ["--base-model", str(base), "--output", str(output)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"adapter in {output}\n"
        losses.append(_curve(json.loads((output / SUMMARY_NAME).read_text()), "loss"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
