"""The house: who may import whom, what is shipped, and which words the front door knows."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("schemas", "model", "training", "beam_pipeline")
MAY_IMPORT = {
    "schemas": {"schemas"},
    "model": {"schemas", "model"},
    "training": {"schemas", "model", "training"},
    "beam_pipeline": {"schemas", "model", "beam_pipeline"},
}
FORBIDDEN = {
    "schemas": {"torch", "apache_beam", "transformers"},
    "model": {"apache_beam", "torchvision"},
    "training": {"apache_beam", "torchvision"},
    "beam_pipeline": {"torchvision"},
}


def imported(path: Path) -> set[str]:
    """Top-level names of everything a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        names = imported(path)
        ours = names & {*PACKAGES, "tests"}
        assert ours <= MAY_IMPORT[package], f"{path.relative_to(ROOT)} imports {ours - MAY_IMPORT[package]}"
        assert not names & FORBIDDEN[package], (
            f"{path.relative_to(ROOT)} imports {names & FORBIDDEN[package]}"
        )


def test_every_package_that_holds_code_is_shipped() -> None:
    import re

    declared = set(
        re.findall(r'"((?:schemas|model|training|beam_pipeline)[\w.]*)",', (ROOT / "setup.py").read_text())
    )
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in PACKAGES
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert folders == declared


@pytest.mark.parametrize("module", ["model", "beam_pipeline", "training"])
def test_help_answers_without_torch_or_beam(module: str) -> None:
    code = (
        f"import sys, runpy\nsys.argv = ['{module}', '--help']\n"
        f"try: runpy.run_module('{module}', run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "loaded = {'torch', 'apache_beam', 'transformers'} & set(sys.modules)\nassert not loaded, loaded"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert shown.returncode == 0, shown.stderr
    assert "--help" in shown.stdout


@pytest.mark.integration
def test_a_wheel_holds_the_embedded_model_and_no_tests_and_runs_from_anywhere(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(site)
    assert not [name for name in names if name.startswith("tests/")]
    for needed in (
        "model/embedded/base/model.safetensors",
        "model/embedded/base/tokenizer.json",
        "model/embedded/adapter/manifest.json",
        "model/embedded/CARD.md",
        "training/demo/catalog.csv",
    ):
        assert needed in names
    photograph = tmp_path / "a.png"
    from tests.odd_files import encoded, picture

    photograph.write_bytes(encoded(picture(), "PNG"))
    run = subprocess.run(
        [sys.executable, "-m", "model", "--json", str(photograph)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site), "PATH": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert '"exposure"' in run.stdout
