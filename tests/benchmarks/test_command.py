from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.benchmarks.__main__ import main
from tests.benchmarks.machine import commit, envelope, process_bytes
from tests.benchmarks.tables import grid, markdown

ROOT = Path(__file__).parents[2]


def test_help_loads_neither_torch_nor_beam() -> None:
    code = (
        "import sys\nfrom tests.benchmarks.__main__ import main\n"
        "try: main(['scorer', '--help'])\nexcept SystemExit as stop: assert not stop.code\n"
        "loaded = {'torch', 'transformers', 'apache_beam'} & set(sys.modules)\nassert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("command", ["scorer", "paths", "spread", "training"])
def test_a_published_shape_without_a_gpu_is_refused_in_one_line(command: str, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--shape", "7b"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith("error: there is no CUDA device here\n")


def test_an_empty_folder_of_photographs_is_an_option_error(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["preprocessing", "--photos", str(tmp_path)])
    assert caught.value.code == 2
    assert "no files in" in capsys.readouterr().err


def test_figures_travel_with_machine_versions_and_commit() -> None:
    report = envelope("startup", {"a": 1}, {"runs": 3})
    assert report["figures"] == {"a": 1}
    assert report["machine"]["cores"] >= 1
    assert report["machine"]["cpu"]
    assert report["versions"]["torch"] == torch.__version__
    assert report["commit"] == commit()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells it")
def test_this_process_has_a_size() -> None:
    now, most = process_bytes("VmRSS"), process_bytes("VmHWM")
    assert now is not None
    assert most is not None
    assert 2**20 < now <= most


def test_a_table_is_headed_by_where_and_when() -> None:
    job: dict[str, Any] = {"images": 5, "jobs": 7, "seconds": 1, "peak_mib": 3, "files": 4}
    job |= {"seconds_per_1000": 2, "seconds_per_1000_quartiles": [1.5, 2.5]}
    job |= {"processor_s_per_1000": 6, "processor_s_per_1000_quartiles": [5, 8]}
    figures = {
        "fixed_s": 1,
        "fixed_processor_s": 1,
        "chunk_size": 2,
        "file_bytes": 3,
        "end_peak_mib": 9,
        "rows": [job],
        "profiles": [],
    }
    report = envelope("scale", figures, {}) | {
        "machine": {"cpu": "a CPU", "cores": 2, "gpu": None}, "commit": "abc+dirty", "date": "2026-03-01",
    }  # fmt: skip
    shown = markdown(report)
    assert shown.startswith("`scale` on a CPU, 2 cores, torch ")
    assert "commit abc+dirty, 2026-03-01" in shown.splitlines()[0]
    assert "| 5 | 7 | 1 | 2 (1.5–2.5) | 6 (5–8) | 3 | 4 |" in shown


def test_what_is_not_there_is_a_dash() -> None:
    assert grid(("a", "b"), [(None, 0)]) == "| a | b |\n| --- | --- |\n| – | 0 |"


def test_a_bar_in_a_cell_makes_no_column() -> None:
    assert grid(("|a|",), [("b",)]).splitlines()[0] == "| \\|a\\| |"
