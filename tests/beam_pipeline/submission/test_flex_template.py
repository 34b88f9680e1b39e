"""The Flex Template and its image: made from the options, and held to them."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from google.cloud.dataflow_v1beta3.types import TemplateMetadata
from packaging.specifiers import SpecifierSet

import beam_pipeline
import beam_pipeline.__main__ as command
from beam_pipeline.__main__ import main
from beam_pipeline.options import ScoringOptions, parse, parser
from beam_pipeline.submission import flex_template
from beam_pipeline.submission.flex_template import launch_arguments, template_metadata, template_options
from beam_pipeline.validation import pointer_problems, problems_of
from schemas.errors import ConfigurationError

ROOT = Path(__file__).parents[3]
DEPLOY = Path(beam_pipeline.__file__ or "").parent / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
LOCAL = {"no_progress", "stop_when_idle_s"}
BESIDE = {"sdk_container_image", "gpu"}


def parameters() -> dict[str, dict[str, Any]]:
    return {parameter["name"]: parameter for parameter in template_metadata()["parameters"]}


def test_the_parameters_are_our_options_with_their_help() -> None:
    helps = {action.dest: action.help for action in parser()._actions}
    names = {field.name for field in fields(ScoringOptions)}
    assert names > LOCAL
    assert set(parameters()) == names - LOCAL | BESIDE
    for name in names - LOCAL:
        assert parameters()[name]["helpText"] == helps[name]


def test_only_output_and_image_are_required() -> None:
    required = {name for name, parameter in parameters().items() if not parameter["isOptional"]}
    assert required == {"output", "sdk_container_image"}


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("input", "gs://a/*.jpg,gs://b/c/", "photos/*.jpg"),
        ("output", "gs://a/out", "out"),
        ("subscription", "projects/p/subscriptions/s", "s"),
        ("retry_failed", "fetch,decode", "fetch,other"),
        ("chunk_size", "256", "many"),
        ("every", "0.5", "-1"),
        ("skip_scored", "true", "yes"),
        ("dtype", "float16", "half"),
        ("gpu", "nvidia-l4", "l4"),
    ],
)
def test_a_value_is_checked_before_anything_is_launched(name: str, good: str, bad: str) -> None:
    (rule,) = parameters()[name]["regexes"]
    assert re.search(rule, good)
    assert not re.search(rule, bad)


def test_every_default_passes_the_check_of_its_parameter() -> None:
    for field in fields(ScoringOptions):
        parameter = parameters().get(field.name, {})
        if parameter.get("paramType") == "NUMBER" and field.default is not None:
            assert re.search(parameter["regexes"][0], str(field.default)), field.name


def test_every_parameter_may_be_passed_its_default_as_a_form_does(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    places = {"input": str(tmp_path), "output": str(tmp_path / "out")}
    defaults = {field.name: field.default for field in template_options()} | places
    spelt = [f"--{name}={_spelt(value)}" for name, value in defaults.items()]
    options, others = parse(launch_arguments(spelt))
    assert others == []
    assert problems_of(options) == []
    assert pointer_problems(options) == []


def _spelt(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None or value == () else str(value)


def test_dataflow_understands_the_metadata_that_the_command_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["template-metadata"]) == 0
    printed = capsys.readouterr().out
    understood = TemplateMetadata.from_json(printed)
    assert [parameter.name for parameter in understood.parameters] == list(parameters())
    by_name = {parameter.name: parameter for parameter in understood.parameters}
    assert not by_name["output"].is_optional
    assert by_name["subscription"].param_type.name == "PUBSUB_SUBSCRIPTION"
    assert json.loads(printed) == template_metadata()


def test_what_a_launcher_passes_becomes_our_command_line() -> None:
    arguments = launch_arguments(
        [
            "--input=gs://a/*.jpg,gs://b/c/",
            "--output=gs://a/out",
            "--chunk_size=9",
            "--skip_scored=true",
            "--context_sidecars=false",
            "--manifest=",
            "--retry_failed=fetch,decode",
            "--adapter=gs://a/x=y",
            "--sdk_container_image=images/a:1",
            "--job_name=scoring",
        ]
    )
    options, others = parse(arguments)
    assert options.input == ("gs://a/*.jpg", "gs://b/c/")
    assert options.retry_failed == ("fetch", "decode")
    assert (options.chunk_size, options.adapter, options.manifest) == (9, "gs://a/x=y", None)
    assert (options.skip_scored, options.context_sidecars) == (True, False)
    assert others == ["--sdk_container_image=images/a:1", "--job_name=scoring"]


def test_names_with_dashes_are_the_same_names() -> None:
    assert launch_arguments(["--chunk-size=9"]) == launch_arguments(["--chunk_size=9"])


def test_every_parameter_reaches_its_option() -> None:
    samples = {"BOOLEAN": "true", "NUMBER": "7"}
    for field in fields(ScoringOptions):
        if field.name in LOCAL:
            continue
        value = samples.get(parameters()[field.name].get("paramType", ""), "gs://a/b")
        options, others = parse(launch_arguments([f"--{field.name}={value}"]))
        assert others == [], field.name
        assert getattr(options, field.name) not in (field.default, None), field.name


def test_a_gpu_brings_its_settings_and_what_is_given_beside_it_counts_more() -> None:
    from beam_pipeline.submission.runners import beam_options

    options = beam_options(launch_arguments(["--max_num_workers=3", "--gpu=nvidia-l4"])).get_all_options()
    assert options["machine_type"] == "g2-standard-16"
    assert options["max_num_workers"] == 3
    with pytest.raises(ConfigurationError, match="nvidia-l4"):
        launch_arguments(["--gpu=l4"])


def test_a_switch_that_is_neither_on_nor_off_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert flex_template.main(["--skip_scored=yes"]) == 2
    assert "must be true or false" in capsys.readouterr().err


def test_a_launcher_submits_and_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    monkeypatch.setattr(command, "main", lambda arguments: given.extend(arguments) or 0)
    assert flex_template.main(["--output=gs://a/out", "--runner=DataflowRunner"]) == 0
    assert given == ["--output=gs://a/out", "--runner=DataflowRunner", "--no_wait_until_finish"]


def instructions() -> list[tuple[str, str]]:
    joined = DOCKERFILE.replace("\\\n", " ")
    lines = [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def argument(name: str) -> str:
    (value,) = {
        text.split("=", 1)[1] for word, text in instructions() if word == "ARG" and f"{name}=" in text
    }
    return value


def test_the_image_has_a_beam_and_a_python_that_setup_allows() -> None:
    setup = (ROOT / "setup.py").read_text()
    beam_range = re.search(r'"apache-beam([^"\[]+)"', setup)
    python_range = re.search(r'python_requires="(.+)"', setup)
    assert beam_range is not None
    assert python_range is not None
    assert argument("BEAM_VERSION") in SpecifierSet(beam_range[1])
    assert argument("PYTHON_VERSION") in SpecifierSet(python_range[1])
    assert "apache-beam[gcp]==${BEAM_VERSION}" in DOCKERFILE
    assert f"python{argument('PYTHON_VERSION').replace('.', '')}-template-launcher-base" in DOCKERFILE


def test_every_base_image_has_a_version() -> None:
    bases = [text.split()[0] for word, text in instructions() if word == "FROM"]
    assert bases[-1] == "python:${PYTHON_VERSION}-slim"
    for base in bases:
        assert re.search(r":[^:]*\$\{\w+_VERSION\}", base)
    assert not re.search(r"VERSION=latest", DOCKERFILE)


def test_everything_that_the_image_copies_is_there() -> None:
    stages = {text.split()[-1] for word, text in instructions() if word == "FROM" and " AS " in text}
    copied = [text.split() for word, text in instructions() if word == "COPY"]
    assert {words[0].removeprefix("--from=") for words in copied if words[0].startswith("--")} == stages
    for words in copied:
        for source in words[:-1] if not words[0].startswith("--") else ():
            path = ROOT / source.replace("${BASE_MODEL}", argument("BASE_MODEL"))
            assert path.exists(), source
    assert (ROOT / argument("BASE_MODEL") / "config.json").is_file()


def test_every_package_that_is_imported_is_in_the_image() -> None:
    setup = (ROOT / "setup.py").read_text()
    packages = set(re.findall(r'^        "(\w+)",$', setup, re.M))
    copied = {text.split()[0] for word, text in instructions() if word == "COPY"}
    assert {"schemas", "model", "beam_pipeline"} <= packages <= copied


def test_the_image_is_offline_and_starts_a_worker() -> None:
    environment = " ".join(text for word, text in instructions() if word == "ENV")
    assert "HF_HUB_OFFLINE=1" in environment
    assert "FLEX_TEMPLATE_PYTHON_PY_FILE=/template/launch.py" in environment
    assert instructions()[-1] == ("ENTRYPOINT", '["/opt/apache/beam/boot"]')


def test_the_image_holds_no_secret() -> None:
    text = re.sub(r"#.*", "", DOCKERFILE).lower()
    assert not re.search(r"secret|password|token|credential|api_?key|[.]json\b.*key|add https?://", text)


def test_the_deployment_files_are_shipped() -> None:
    setup = (ROOT / "setup.py").read_text()
    assert '"beam_pipeline": ["deploy/*"]' in setup
    assert {path.name for path in DEPLOY.iterdir() if path.is_file()} == {
        "Dockerfile",
        "Dockerfile.dockerignore",
        "flink-gpu-sidecar.yaml",
        "launch.py",
    }
