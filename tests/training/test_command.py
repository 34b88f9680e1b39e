from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from training.__main__ import main


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


COMMANDS = (
    "demo",
    "train",
    "curves",
    "label",
    "import",
    "validate",
    "demo-data",
    "evaluate",
    "ladders",
    "ladder-picture",
    "photographs",
)


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_help_needs_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom training.__main__ import main\n"
        f"try: main({arguments})\nexcept SystemExit as end: print('code', end.code)\n"
        "print('heavy', sorted({'torch', 'transformers', 'peft', 'numpy'} & set(sys.modules)))"
    )
    said = _python(code)
    assert "code 0" in said
    assert "heavy []" in said
    assert "usage: python -m training" in said


def test_wrong_options_end_with_2_and_every_reason(tmp_path: Path, capsys) -> None:
    file = tmp_path / "file"
    file.touch()
    assert main(["demo", "--effort", "0", "--threads", "0", "--output", str(file)]) == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 3
    for option in ("--effort", "--threads", "--output"):
        assert option in said


def test_an_earlier_model_is_not_overwritten(tmp_path: Path, capsys) -> None:
    (tmp_path / "adapter").mkdir()
    assert main(["demo", "--output", str(tmp_path)]) == 2
    assert "exist already" in capsys.readouterr().err


def test_wrong_options_of_evaluate_load_nothing(tmp_path: Path, capsys) -> None:
    options = ["--limit", "0", "--mos-range", "5", "1", "--json", str(tmp_path / "nowhere" / "out.json")]
    assert main(["evaluate", "nowhere", str(tmp_path), *options]) == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 3
    for option in ("--limit", "--mos-range", "--json"):
        assert option in said


def test_wrong_options_of_demo_data_are_told_all_at_once(tmp_path: Path, capsys) -> None:
    (tmp_path / "file").touch()
    assert main(["demo-data", str(tmp_path), "--pictures", "0", "--seed", "-1"]) == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 3
    for part in ("--pictures", "--seed", "no empty folder"):
        assert part in said


def test_too_few_photographs_of_ones_own_are_an_error(tmp_path: Path, capsys) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    assert main(["demo-data", str(tmp_path / "out"), "--photos", str(tmp_path / "photos")]) == 2
    said = capsys.readouterr().err
    assert "notes.txt: not a picture" in said
    assert "has 0 usable photographs; 10 are the fewest" in said
    assert main(["demo-data", str(tmp_path / "out"), "--photos", str(tmp_path / "nowhere")]) == 2


def test_no_command_is_an_error() -> None:
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
