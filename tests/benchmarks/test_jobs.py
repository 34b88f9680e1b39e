from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.large_output import READERS, measure_output
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
    found = measure_scale([9, 5], 2, runs=1, profiled=[4, 6], most_pairs=2)
    small, large = found["rows"]
    assert (small["images"], small["jobs"], large["images"], large["jobs"]) == (5, 2, 9, 2)
    assert 3 <= small["files"] <= large["files"]
    assert 20 < small["peak_mib"] <= large["peak_mib"] <= found["end_peak_mib"]
    low, high = small["seconds_per_1000_quartiles"]
    assert low <= small["seconds_per_1000"] <= high
    assert [one["images"] for one in found["profiles"]] == [4, 6]
    for one in found["profiles"]:
        assert one["calls_per_image"] > 10
        assert len(one["top"]) == 15
        own = [top["own_s"] for top in one["top"]]
        assert own == sorted(own, reverse=True)
        assert not [top for top in one["top"] if str(Path.home()) in top["function"]]


def test_every_reader_of_an_output_finds_all_its_rows() -> None:
    found = measure_output(rows=50, files=3)
    assert [one["reader"] for one in found["readers"]] == list(READERS)
    for one in found["readers"]:
        assert one["rows"] == 50
        assert one["seconds"] > 0


@pytest.mark.integration
def test_beam_stands_beside_the_bare_scorer() -> None:
    found = measure_pipeline(None, None, count=32, runs=1)
    (ratio,) = found["ratios"]
    assert ratio == found["ratio"] > 0
