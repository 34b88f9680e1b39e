"""Answers that a model writes freely: the embedded adapter keeps its form, its base alone does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model.backbone import EMBEDDED_ADAPTER
from model.scorer import Scorer
from schemas.annotations import Annotation
from schemas.attributes import VOCABULARY
from schemas.errors import ConfigurationError
from schemas.manifest import ImageRule, ScoreScale
from tests.odd_files import encoded, picture
from training.__main__ import main
from training.annotation_files import write_annotations
from training.evaluation_run import EvaluationSettings, run_evaluations
from training.free_generation import MAX_NEW_TOKENS, FreeWriter, write_about_images
from training.respondent import adapter_respondent, untuned_respondent

COUNT = 5
EXPOSURES = ("overexposed", "properly exposed")
NEW_TOKENS = 200
"""A filled form of the embedded model's has some 120."""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    notes = []
    for index in range(COUNT):
        image = picture(170 + 20 * index, 190 - 20 * index, seed=index)
        (folder / f"{index}.png").write_bytes(encoded(image, "PNG"))
        note = {"mos": 1.0 + index, "exposure": EXPOSURES[index % 2], "context": f"number {index}"}
        notes.append(Annotation(image=f"{index}.png", split="test", **note))
    write_annotations(folder, notes)
    return folder


@pytest.fixture(scope="module")
def tuned() -> FreeWriter:
    respondent = adapter_respondent(EMBEDDED_ADAPTER, None, None)
    return FreeWriter.load(respondent, device="cpu", max_new_tokens=NEW_TOKENS)


def run(*arguments: str | Path) -> int:
    return main(["evaluate", *map(str, arguments), "--device", "cpu", "--decoder", "generate"])


def test_an_adapter_writes_freely_what_slot_decoding_decides(tuned: FreeWriter, data: Path) -> None:
    files, contexts = sorted(data.glob("*.png")), ["a tree", None, "a house", None, None]
    found = write_about_images(tuned, files, contexts)
    decided = Scorer.load(device="cpu").score(files, contexts)
    names = [attribute.name for attribute in VOCABULARY.evaluated]
    pairs = [
        (getattr(a, n), getattr(b, n))
        for a, b in zip(found.scored.predictions, decided, strict=True)
        for n in names
    ]
    pairs += [(a.score, b.score_greedy) for a, b in zip(found.scored.predictions, decided, strict=True)]
    assert len({str(value) for value, _ in pairs}) > len(names)  # not one answer for all
    assert sum(a == b for a, b in pairs) >= 0.95 * len(pairs)
    assert (found.parsing.answers, found.parsing.failed, found.parsing.cut_off) == (COUNT, 0, 0)
    assert [said.context_used for said in found.scored.predictions] == contexts


def test_the_command_tells_what_an_adapter_wrote(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, page = tmp_path / "out.json", tmp_path / "page.html"
    limits = ["--max-new-tokens", str(NEW_TOKENS), "--json", str(file), "--html", str(page)]
    assert run("embedded", data, *limits) == 0
    said = capsys.readouterr().out
    assert "answers written freely" in said
    assert f"| score | {COUNT} | 0 | {COUNT} |" in said
    assert f"{COUNT} of them; 0 did not end within {NEW_TOKENS} tokens" in said
    assert "score_std" not in said  # nothing was said about how sure it is
    written = json.loads(file.read_text())
    assert written["provenance"]["decoder"] == "generate"
    assert written["evaluation"]["coverage"] == written["evaluation"]["decoders"] == []
    assert written["evaluation"]["points"][0]["score_std"] is None
    assert [one["image"] for one in written["answers"]] == [f"{index}.png" for index in range(COUNT)]
    assert written["answers"][0]["written"][0]["text"].startswith("Composition Score: ")
    assert "Predicted score against mos" in page.read_text()


def test_what_an_untuned_base_fails_to_say_stands_beside_every_n(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ImageRule(min_pixels=784, max_pixels=50 * 784)
    monkeypatch.setattr("training.respondent._UNTUNED_PIXELS", small)
    file = tmp_path / "out.json"
    options = ["--base-model", "embedded", "--max-new-tokens", "8", "--json", str(file)]
    assert run("none", data, data, *options) == 0
    said = capsys.readouterr().out
    assert "| data set | n | sources | failures | not parsed |" in said
    assert "embedded without adapter, template score_form, answers written freely" in said
    assert f"| exposure | 0 | {COUNT} | 0 | – |" in said
    assert f"| exposure | {COUNT} | {COUNT} | {COUNT} | 0 | 0 |" in said
    assert f"| some of these | {COUNT} | {COUNT} |" in said
    evaluation = json.loads(file.read_text())[0]["evaluation"]
    answers = [one for image in json.loads(file.read_text())[0]["answers"] for one in image["written"]]
    assert evaluation["parsing"]["cut_off"] == sum(not one["complete"] for one in answers) > 0
    unread = {one["target"]: one["unread"] for one in evaluation["targets"]}
    assert unread == {"score": COUNT - evaluation["targets"][0]["images"], "exposure": COUNT}
    failed = {one["target"] for one in evaluation["parsing"]["targets"]}
    assert failed == {attribute.name for attribute in VOCABULARY.evaluated} | {"score"}


def test_an_untuned_base_is_told_the_form_after_the_image() -> None:
    respondent = untuned_respondent("embedded", "score_direct")
    assert respondent.template.instruction.endswith("from 0.00 to 9.99, higher is better}.")
    assert respondent.conversation.instruction == "after_image"
    assert (respondent.adapter, respondent.revision) == (None, "")


def test_everything_wrong_with_an_untuned_base_is_said_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("none", tmp_path, "--base-model", "./nowhere", "--template", "unheard_of") == 2
    said = capsys.readouterr().err
    for part in ("nowhere", "unheard_of", "annotations.jsonl"):
        assert part in said


def test_wrong_options_are_told_before_anything_is_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "none", "nowhere", "--max-new-tokens", "0"]) == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 4
    for part in ("takes --decoder generate", "--base-model must say", "only --decoder", "0 is not 1 or more"):
        assert part in said


def test_a_base_without_adapter_is_never_decoded_by_slots(data: Path) -> None:
    with pytest.raises(ConfigurationError, match="have it generate"):
        run_evaluations(EvaluationSettings(adapter=None, data=(data,), base_model="embedded"))


def test_a_score_that_is_not_written_in_digits_cannot_be_read(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from model.templates import answer_template
    from training import evaluation_run

    levels = answer_template("score_direct", VOCABULARY, ScoreScale(head="levels"))
    other = replace(adapter_respondent(EMBEDDED_ADAPTER, None, None), template=levels)
    monkeypatch.setattr(evaluation_run, "adapter_respondent", lambda *_: other)
    settings = EvaluationSettings(adapter=EMBEDDED_ADAPTER, data=(data,), decoder="generate")
    with pytest.raises(ConfigurationError, match="does not write its score in digits"):
        run_evaluations(settings)


def test_the_help_states_the_limit_that_holds(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    assert f"(default: {MAX_NEW_TOKENS})" in " ".join(capsys.readouterr().out.split())
