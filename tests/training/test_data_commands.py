from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.attributes import VOCABULARY
from schemas.errors import ConfigurationError
from tests.training.layouts import made
from training.annotation_files import ANNOTATIONS_NAME, read_annotations
from training.data_commands import add_import, add_validate
from training.dataset_file import DATASET_NAME


def run(*arguments: object) -> int:
    """As ``training.__main__`` runs a command, but a wrong configuration is raised."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    add_import(commands.add_parser)
    add_validate(commands.add_parser)
    options = parser.parse_args([str(argument) for argument in arguments])
    return options.handler(options)


def reasons(*arguments: object) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        run(*arguments)
    return caught.value.reasons


def test_an_imported_data_set_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = made.write_koniq(tmp_path / "koniq")
    assert run("import", "koniq10k", source, tmp_path / "ours") == 0
    said = capsys.readouterr().out
    assert "3 annotations (test 1, train 1, validation 1)" in said
    assert "KonIQ-10k, mos 1–5" in said
    assert run("validate", tmp_path / "ours", "--json", tmp_path / "found.json") == 0
    assert capsys.readouterr().out.rstrip().endswith("no problems")
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["ok"], found["rows"], found["native"]) == (True, 3, [1, 5])


def test_problems_make_the_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("import", "koniq10k", made.write_koniq(tmp_path / "koniq"), tmp_path / "ours")
    (tmp_path / "koniq" / "1024x768" / "3.jpg").write_bytes(b"nothing")
    assert run("validate", tmp_path / "ours", "--json", tmp_path / "found.json") == 1
    said = capsys.readouterr().out
    assert f"{ANNOTATIONS_NAME}, line 3: image file: " in said
    assert said.rstrip().endswith("problems: 1")
    assert json.loads((tmp_path / "found.json").read_text())["problems"][0]["row"] == 3


def test_missing_images_stop_an_import_unless_they_are_to_be_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = made.write_tad66k(tmp_path / "tad")
    (source / "TAD66K" / "77.jpg").unlink()
    (reason,) = reasons("import", "tad66k", source, tmp_path / "ours")
    assert reason == f"there is no image file {source / 'TAD66K' / '77.jpg'}"
    assert not (tmp_path / "ours").exists()
    assert run("import", "tad66k", source, tmp_path / "ours", "--skip-missing") == 0
    assert "note: entries left out, as their image file was not there: 1" in capsys.readouterr().out
    assert len(read_annotations(tmp_path / "ours")) == 2
    assert "left out, as" in (tmp_path / "ours" / DATASET_NAME).read_text()


def test_an_import_writes_into_a_new_or_empty_folder_only(tmp_path: Path) -> None:
    source = made.write_tad66k(tmp_path / "tad")
    assert "not an empty folder" in reasons("import", "tad66k", source, source)[0]
    assert "no such folder" in reasons("import", "tad66k", tmp_path / "nowhere", tmp_path / "ours")[0]


def test_wrong_options_are_said_all_at_once(tmp_path: Path) -> None:
    found = reasons("validate", tmp_path, "--mos-range", 5, 1, "--json", tmp_path / "no" / "file.json")
    assert [reason.partition(":")[0] for reason in found] == ["--mos-range", "--json"]
    assert "No such file" in reasons("validate", tmp_path)[0]
    with pytest.raises(SystemExit) as stop:
        run("import", "coco", tmp_path, tmp_path)
    assert stop.value.code == 2


def test_a_vocabulary_comes_from_a_manifest_or_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("import", "realqa", made.write_realqa(tmp_path / "realqa"), tmp_path / "ours")
    assert run("validate", tmp_path / "ours") == 1
    assert "level_shot 'tilted' is none of" in capsys.readouterr().out
    theirs = VOCABULARY.model_dump_json().replace("not horizontal", "tilted")
    (tmp_path / "vocabulary.json").write_text(theirs)
    (tmp_path / "manifest.json").write_text(f'{{"digits": 3, "vocabulary": {theirs}}}')
    for name in ("vocabulary.json", "manifest.json"):
        assert run("validate", tmp_path / "ours", "--vocabulary", tmp_path / name) == 0
    (tmp_path / "vocabulary.json").write_text("[]")
    (reason,) = reasons("validate", tmp_path / "ours", "--vocabulary", tmp_path / "vocabulary.json")
    assert reason.startswith("--vocabulary: ")


def test_help_names_every_layout_and_needs_neither_torch_nor_scipy(tmp_path: Path) -> None:
    code = (
        "import argparse, sys\n"
        "from training.data_commands import add_import, add_validate\n"
        "commands = argparse.ArgumentParser().add_subparsers()\n"
        "add_import(commands.add_parser)\nadd_validate(commands.add_parser)\n"
        "print(commands.choices['import'].format_help())\n"
        "loaded = {'torch', 'apache_beam', 'transformers', 'scipy', 'numpy'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    root = Path(__file__).parents[2]
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False
    )
    assert shown.returncode == 0, shown.stderr
    for name in ("realqa", "koniq10k", "koniq10k_zscore", "spaq", "live_challenge", "ava", "konvid1k"):
        assert f"  {name} " in shown.stdout
