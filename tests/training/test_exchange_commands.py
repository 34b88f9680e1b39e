from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.errors import ConfigurationError
from tests.model.artefact import write_artefact
from tests.training.toy import toy_base
from training.exchange_commands import add_export, add_probe, add_wrap

# PEFT asks transformers for an attribute that transformers renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

_LIGHT = """
import argparse, sys
from schemas.errors import ConfigurationError
from training.exchange_commands import add_export, add_probe, add_wrap
commands = (made := argparse.ArgumentParser()).add_subparsers()
for add in (add_export, add_wrap, add_probe):
    add(commands.add_parser)
try:
    options = made.parse_args(sys.argv[1:])
    options.handler(options)
except ConfigurationError:
    print("refused")
except SystemExit as end:
    print("code", end.code)
print("heavy", sorted({"torch", "transformers", "peft", "numpy"} & set(sys.modules)))
"""


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    for add in (add_export, add_wrap, add_probe):
        add(commands.add_parser)
    options = parser.parse_args([str(argument) for argument in arguments])
    return options.handler(options)


def refusal(*arguments: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        run(*arguments)
    return "\n".join(caught.value.reasons)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export", "--help"], "code 0"),
        (["wrap", "--help"], "code 0"),
        (["probe", "--help"], "code 0"),
        (["probe", "sort", "--help"], "code 0"),
        (["probe", "sort", "x", "--runs", "0"], "refused"),
        (["export", "x", "out", "--dtype", "float16"], "refused"),
        (["wrap", "x", "out", "--base-model", "y", "--score-range", "5", "1"], "refused"),
    ],
)
def test_help_and_wrong_options_need_no_torch(arguments: list[str], said: str) -> None:
    command = [sys.executable, "-c", _LIGHT, *arguments]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert said in found
    assert "heavy []" in found


def test_wrong_options_are_told_all_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = refusal("export", "embedded", tmp_path, "--dtype", "float16")
    assert "no empty folder" in said
    assert "--dtype" in said
    options = ["--score-range", "5", "1", "--min-pixels", "2000", "--max-pixels", "1000"]
    said = refusal("wrap", "theirs", tmp_path, "--base-model", "base", *options)
    for part in ("no empty folder", "--score-range", "--min-pixels"):
        assert part in said
    options = ["--runs", 0, "--numbers", 0, "--batch-size", 0, "--json", tmp_path]
    said = refusal("probe", "sort", "base", *options)
    for part in ("--runs", "--numbers", "--batch-size", "--json"):
        assert part in said


def test_the_embedded_adapter_is_exported_with_its_warning(tmp_path: Path, capsys) -> None:
    assert run("export", "embedded", tmp_path / "out") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "synthetic labels" in card
    assert "README.md in" in capsys.readouterr().out


def test_wrap_and_export_take_an_adapter_from_elsewhere_to_merged_weights(tmp_path: Path, capsys) -> None:
    made = write_artefact(tmp_path)
    (made.adapter / "manifest.json").unlink()
    pixels = ["--min-pixels", 784, "--max-pixels", 7840]
    assert run("wrap", made.adapter, tmp_path / "koniq", "--base-model", made.base, *pixels) == 0
    manifest = json.loads((tmp_path / "koniq" / "manifest.json").read_text())
    assert manifest["name"] == "adapter"  # the folder's
    assert manifest["image"]["max_pixels"] == 7840
    assert "vision lora" in capsys.readouterr().out
    assert run("export", tmp_path / "koniq", tmp_path / "merged", "--merge") == 0
    assert (tmp_path / "merged" / "model.safetensors").exists()


def test_the_pixel_budget_of_the_options_is_that_of_the_authors() -> None:
    from training.wrap import MAX_PIXELS, MIN_PIXELS

    parser = argparse.ArgumentParser()
    add_wrap(parser.add_subparsers().add_parser)
    options = parser.parse_args(["wrap", "theirs", "out", "--base-model", "base"])
    assert (options.min_pixels, options.max_pixels) == (MIN_PIXELS, MAX_PIXELS)


def test_the_sorting_probe_prints_a_table_and_writes_json(tmp_path: Path, capsys) -> None:
    base = toy_base(tmp_path / "base")
    small = ["--runs", 2, "--numbers", 3, "--device", "cpu", "--json", tmp_path / "out.json"]
    assert run("probe", "sort", base, *small) == 0
    assert "| 2 |" in capsys.readouterr().out
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["runs"] == 2
    assert set(figures) == {"runs", "unparsable", "accuracy", "recall", "hallucination"}
