from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import beam_pipeline
from beam_pipeline.options import ScoringOptions, misspelt, parse, parser
from model.images import ImageLimits
from schemas.errors import ConfigurationError

_SOURCES = Path(beam_pipeline.__file__ or "").parent


def test_every_option_is_read_outside_the_options() -> None:
    read = {
        node.attr
        for path in _SOURCES.rglob("*.py")
        if path.name != "options.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Load)
        and "options" in ast.unparse(node.value)
    }
    assert {field.name for field in fields(ScoringOptions)} <= read


def test_every_option_is_on_the_command_line_with_help_and_every_number_with_a_unit() -> None:
    actions = {action.dest: action for action in parser()._actions if action.dest != "help"}
    assert set(actions) == {field.name for field in fields(ScoringOptions)}
    for action in actions.values():
        assert action.help
        if action.type is int:
            assert action.metavar in ("IMAGES", "THREADS", "TOKENS", "BYTES", "PX", "SHARDS")
        if action.type is float:
            assert action.metavar in ("SECONDS", "SHARE")


def test_defaults_of_the_limits_are_those_of_the_library() -> None:
    options = ScoringOptions()
    limits = ImageLimits()
    assert options.max_file_bytes == limits.max_file_bytes
    assert options.max_decoded_pixels == limits.max_decoded_pixels


def test_what_is_not_ours_is_left_for_beam_in_order() -> None:
    options, others = parse(
        ["--input", "a", "b", "--runner", "FlinkRunner", "--output=o", "--experiments=x", "--chunk-size", "9"]
    )
    assert (options.input, options.output, options.chunk_size) == (("a", "b"), "o", 9)
    assert others == ["--runner", "FlinkRunner", "--experiments=x"]


def test_an_abbreviated_option_is_not_ours() -> None:
    _, others = parse(["--chunk", "9"])
    assert others == ["--chunk", "9"]


def test_a_misspelt_option_of_ours_is_found_without_asking_beam() -> None:
    others = ["--chunk-sise", "5", "--skip-scord", "--fetch-thread=4"]
    assert misspelt(others) == [
        "--chunk-sise: no such option; did you mean --chunk-size?",
        "--skip-scord: no such option; did you mean --skip-scored?",
        "--fetch-thread: no such option; did you mean --fetch-threads?",
    ]


def test_no_option_of_beam_is_taken_for_one_of_ours() -> None:
    from apache_beam.options.pipeline_options import PipelineOptions

    import beam_pipeline.submission.runners

    assert beam_pipeline.submission.runners  # registers what runners add
    known = argparse.ArgumentParser(add_help=False, conflict_handler="resolve")
    for kind in PipelineOptions.__subclasses__():
        kind._add_argparse_args(known)
    flags = [flag for action in known._actions for flag in action.option_strings]
    assert "--job-server-timeout" in flags  # has dashes
    assert misspelt([*flags, "stray", "-x"]) == []


def test_an_optional_number_is_a_number() -> None:
    assert parse(["--token-budget", "512"])[0].token_budget == 512
    with pytest.raises(ConfigurationError, match="--token-budget"):
        parse(["--token-budget", "many"])


def test_every_job_gets_its_own_run_id_unless_it_has_one() -> None:
    assert parse([])[0].run_id != parse([])[0].run_id
    assert parse(["--run-id", "mine"])[0].run_id == "mine"


@pytest.mark.integration
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--chunk-size", "many"], 2),
        (["--input", "nowhere/*.jpg", "--device", "gpu"], 2),
        (["--input", ".", "--output", "out", "--chunk-sise", "5"], 2),
        (["summary", "--help"], 0),
    ],
)
def test_help_and_option_errors_load_neither_torch_nor_beam(arguments: list[str], code: int) -> None:
    program = (
        "import sys\n"
        "from beam_pipeline.__main__ import main\n"
        "try:\n"
        f"    code = main({arguments})\n"
        "except SystemExit as end:\n"
        "    code = end.code\n"
        "heavy = {'torch', 'apache_beam', 'transformers', 'duckdb'} & set(sys.modules)\n"
        "print('heavy', sorted(heavy), 'code', code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"heavy [] code {code}"
