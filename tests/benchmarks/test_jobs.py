from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.scale import measure_scale
from tests.benchmarks.startup import COMMANDS, answer_time, heavy_imports, measure_startup
from tests.benchmarks.through_beam import measure_pipeline


def test_an_option_error_is_timed_with_what_it_imported() -> None:
    name = "beam_pipeline, a number out of range"
    found = answer_time(name, COMMANDS[name], 1)
    assert found["exit_code"] == 2
    assert found["imported"] == []
    assert found["seconds"] > 0


def test_heavy_imports_are_seen() -> None:
    said = "import time:    280 |   280 |   apache_beam\nimport time:   1 |   9 | torch._C\nwarning: torch"
    assert heavy_imports(said) == ["apache_beam"]


@pytest.mark.integration
def test_a_job_s_first_rows_come_before_its_end() -> None:
    found = measure_startup(images=3, runs=1)
    assert 0 < found["first_rows_s"] <= found["job_s"]
    assert {one["command"] for one in found["commands"]} == set(COMMANDS)


@pytest.mark.integration
def test_jobs_of_growing_size_tell_time_memory_files_and_where_time_went() -> None:
    found = measure_scale([5], 2, runs=1, profiled=4)
    (row,) = found["rows"]
    assert row["images"] == 5
    assert row["files"] >= 3
    assert row["peak_mib"] > 20
    assert found["profile"]["images"] == 4
    assert len(found["profile"]["top"]) == 15
    own = [one["own_s"] for one in found["profile"]["top"]]
    assert own == sorted(own, reverse=True)
    assert not [one for one in found["profile"]["top"] if str(Path.home()) in one["function"]]


@pytest.mark.integration
def test_beam_stands_beside_the_bare_scorer() -> None:
    found = measure_pipeline(None, None, count=32, runs=1)
    (ratio,) = found["ratios"]
    assert ratio == found["ratio"] > 0
