"""``python -m training evaluate`` on a tiny random model: the whole path, no quality."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model.scorer import Scorer
from schemas.annotations import Annotation
from schemas.attributes import VOCABULARY
from schemas.errors import ConfigurationError, InferenceError
from schemas.manifest import DECODERS, ScoreScale
from tests.model.artefact import Artefact, write_artefact
from tests.odd_files import encoded, picture
from training.__main__ import main
from training.annotation_files import write_annotations
from training.dataset_file import DatasetFacts, write_facts
from training.evaluate import evaluate_predictions
from training.scoring import score_images

# peft asks transformers for a renamed property.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

COUNT = 7
EXPOSURES = ("overexposed", "properly exposed")


@pytest.fixture(scope="module")
def artefact(tmp_path_factory) -> Artefact:
    return write_artefact(tmp_path_factory.mktemp("artefact"))


@pytest.fixture(scope="module")
def scorer(artefact: Artefact) -> Scorer:
    return Scorer.load(artefact.adapter)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for index, note in enumerate(notes()):
        (folder / note.image).write_bytes(encoded(picture(60 + 20 * index, 70, seed=index), "PNG"))
    write_annotations(folder, [*notes(), Annotation(image="never_read.png", split="train")])
    return folder


def notes() -> list[Annotation]:
    return [
        Annotation(
            image=f"{index}.png",
            mos=1.0 + index,
            exposure=EXPOSURES[index % 2],
            context=f"number {index}",
            split="test",
        )
        for index in range(COUNT)
    ]


def run(artefact: Artefact, data: Path | str, *options: str) -> int:
    return main(["evaluate", "--device", "cpu", str(artefact.adapter), str(data), *options])


def test_images_are_scored_as_serving_scores_them(scorer: Scorer, data: Path) -> None:
    files, contexts = [data / note.image for note in notes()], [note.context for note in notes()]
    scored = score_images(scorer, files, contexts)
    assert scored.predictions == scorer.score(files, contexts)
    assert set(scored.readings) == set(DECODERS["digits"])
    assert scored.readings["digit_tree"] == [said.score for said in scored.predictions]
    written = [said.score_greedy for said in scored.predictions]
    assert scored.readings["greedy"] == pytest.approx(written)
    assert score_images(scorer, [file.read_bytes() for file in files], contexts) == scored


def test_the_command_prints_and_writes_what_was_measured(
    artefact: Artefact, scorer: Scorer, data: Path, tmp_path: Path, capsys
) -> None:
    file = tmp_path / "out.json"
    assert run(artefact, data, "--json", str(file)) == 0
    said = capsys.readouterr().out
    assert "SYNTHETIC" in said
    assert f"{COUNT} images of {COUNT} sources" in said
    for word in ("| score |", "| exposure |", "± 2 score_std", "per_position − digit_tree", "majority"):
        assert word in said
    written = json.loads(file.read_text())
    assert written["provenance"]["adapter_revision"] == scorer.provenance.adapter_revision
    assert (written["evaluation"]["seed"], written["evaluation"]["resamples"]) == (0, 1000)
    assert {"python", "torch", "transformers", "numpy"} <= set(written["versions"])
    scored = score_images(scorer, [data / n.image for n in notes()], [n.context for n in notes()])
    expected = evaluate_predictions(scored.predictions, notes(), VOCABULARY, ScoreScale(), scored.readings)
    score, exposure = written["evaluation"]["targets"]
    assert score["decided"]["srcc"]["value"] == pytest.approx(expected.targets[0].decided.srcc.value)
    assert exposure["labels"]["majority_label"] == "overexposed"
    assert [one["decoder"] for one in written["evaluation"]["decoders"]] == list(DECODERS["digits"])
    assert score["plcc_logistic"] is not None
    assert exposure["labels"]["confusion"]["labels"] == list(VOCABULARY["exposure"].values)
    assert [point["image"] for point in written["evaluation"]["points"]] == [n.image for n in notes()]
    assert written["failures"] == []
    assert f"could not be read: 0 of {COUNT}" in said


def test_the_command_writes_one_page_with_tables_and_plots(
    artefact: Artefact, data: Path, tmp_path: Path
) -> None:
    assert run(artefact, data, "--html", str(tmp_path / "page.html")) == 0
    page = (tmp_path / "page.html").read_text()
    for name in ("Predicted score against mos", "Confusion matrix of exposure", "Reliability diagram of"):
        assert f'aria-label="{name}' in page
    assert "<script" not in page


def test_several_data_sets_give_a_row_each_with_ranges_of_their_own(
    artefact: Artefact, data: Path, tmp_path: Path, capsys
) -> None:
    wide = [note.model_copy(update={"image": str(data / note.image)}) for note in notes()]
    write_annotations(tmp_path, [note.model_copy(update={"mos": (note.mos or 0) * 10}) for note in wide])
    file, ranges = tmp_path / "out.json", ["--mos-range", "0", "10", "--mos-range", "0", "100"]
    assert run(artefact, data, str(tmp_path), *ranges, "--json", str(file)) == 0
    narrow_row, wide_row = capsys.readouterr().out.split("\n\n")[0].splitlines()[2:]
    assert narrow_row.startswith(f"| {data} | {COUNT} | {COUNT} | 0 |")
    assert wide_row.split("|")[3:] == narrow_row.split("|")[3:]
    assert [one["mos_high"] for one in json.loads(file.read_text())] == [10, 100]
    assert run(artefact, data, data.name, "third", *ranges) == 2
    assert "--mos-range: given 2 times for 3 data sets" in capsys.readouterr().err


def test_the_range_is_as_the_data_set_says_unless_told_otherwise(
    artefact: Artefact, data: Path, tmp_path: Path
) -> None:
    wide = [note.model_copy(update={"image": str(data / note.image)}) for note in notes()]
    write_annotations(tmp_path, wide)
    write_facts(tmp_path, DatasetFacts(name="toy", layout="own", native_low=-5, native_high=50))
    file = tmp_path / "out.json"
    for options, high in (([], 50), (["--mos-range", "0", "20"], 20)):
        assert run(artefact, tmp_path, "--json", str(file), *options) == 0
        assert json.loads(file.read_text())["mos_high"] == high


def test_everything_wrong_with_several_data_sets_is_said_at_once(
    artefact: Artefact, tmp_path: Path, capsys
) -> None:
    assert run(artefact, str(tmp_path / "one"), str(tmp_path / "two")) == 2
    said = capsys.readouterr().err
    assert str(tmp_path / "one") in said
    assert str(tmp_path / "two") in said


def test_contexts_limit_template_and_range_are_as_asked(
    artefact: Artefact, data: Path, tmp_path: Path, capsys
) -> None:
    file = tmp_path / "out.json"
    options = ["--context", "none", "--limit", "4", "--template", "score_direct", "--mos-range", "0", "20"]
    assert run(artefact, data, "--json", str(file), *options) == 0
    written = json.loads(file.read_text())
    assert (written["context"], written["limit"], written["mos_high"]) == ("none", 4, 20)
    assert written["provenance"]["template"] == "score_direct"
    assert [one["target"] for one in written["evaluation"]["targets"]] == ["score"]
    assert written["evaluation"]["images"] == 4
    assert "without their contexts" in capsys.readouterr().out


def test_without_context_the_model_sees_none(
    artefact: Artefact, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []
    prepare = Scorer.prepare

    def watched(self: Scorer, image: bytes, *, context: str | None = None):
        seen.append(context)
        return prepare(self, image, context=context)

    monkeypatch.setattr(Scorer, "prepare", watched)
    assert run(artefact, data, "--context", "none") == 0
    assert run(artefact, data, "--limit", "3") == 0
    assert seen == [None] * COUNT + [f"number {index}" for index in range(3)]


def test_a_template_without_score_is_measured_on_attributes_alone(
    artefact: Artefact, data: Path, capsys
) -> None:
    assert run(artefact, data, "--template", "mix") == 0
    said = capsys.readouterr().out
    assert "| exposure |" in said
    assert "score_std" not in said
    assert "digit_tree |" not in said


def test_images_that_cannot_be_read_are_all_named_and_none_is_left_out(
    artefact: Artefact, tmp_path: Path, capsys
) -> None:
    for index, note in enumerate(notes()):
        content = b"no image" if index in (1, 5) else encoded(picture(), "PNG")
        (tmp_path / note.image).write_bytes(content)
    write_annotations(tmp_path, notes())
    assert run(artefact, tmp_path, "--json", str(tmp_path / "out.json")) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("error: ") == 2
    assert "1.png: " in said.err
    assert "5.png: " in said.err
    assert not (tmp_path / "out.json").exists()


def test_allowed_failures_are_counted_and_left_out_of_every_figure(
    artefact: Artefact, data: Path, tmp_path: Path, capsys
) -> None:
    for index, note in enumerate(notes()):
        broken = b"no image"
        (tmp_path / note.image).write_bytes(broken if index in (1, 5) else (data / note.image).read_bytes())
    write_annotations(tmp_path, notes())
    file, whole = tmp_path / "out.json", tmp_path / "whole.json"
    assert run(artefact, tmp_path, "--allow-failures", "--json", str(file)) == 0
    assert (
        f"Images that could not be read: 2 of {COUNT}, left out of every figure: " in capsys.readouterr().out
    )
    written = json.loads(file.read_text())
    assert [Path(one["image"]).name for one in written["failures"]] == ["1.png", "5.png"]
    assert written["evaluation"]["images"] == COUNT - 2
    assert run(artefact, data, "--json", str(whole)) == 0
    points = {one["image"]: one for one in json.loads(whole.read_text())["evaluation"]["points"]}
    for one in written["evaluation"]["points"]:
        # Other neighbours in the batch: equal but for rounding.
        assert one == pytest.approx(points[one["image"]], abs=1e-4)


def test_failures_are_never_allowed_to_be_all_there_is(artefact: Artefact, tmp_path: Path, capsys) -> None:
    for note in notes():
        (tmp_path / note.image).write_bytes(b"no image")
    write_annotations(tmp_path, notes())
    assert run(artefact, tmp_path, "--allow-failures") == 2
    assert capsys.readouterr().err.count("error: ") == COUNT


def test_everything_wrong_with_adapter_and_data_is_said_at_once(
    artefact: Artefact, data: Path, tmp_path: Path, capsys
) -> None:
    (tmp_path / "annotations.jsonl").write_text("{}\n")
    assert run(artefact, tmp_path, "--template", "unheard_of", "--base-model", "./nowhere") == 2
    said = capsys.readouterr().err
    for part in ("unheard_of", "nowhere", "line 1: image: Field required"):
        assert part in said
    assert run(artefact, data, "--mos-range", "2", "6") == 2
    assert "mos outside 2–6 for 2 images, the first 0.png" in capsys.readouterr().err


def test_labels_that_no_answer_can_be_compared_with_are_refused_before_scoring(
    artefact: Artefact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(Scorer, "load", None)
    plain = [Annotation(image=note.image, split="test", exposure=note.exposure) for note in notes()]
    for note in plain:
        (tmp_path / note.image).touch()
    write_annotations(tmp_path, plain)
    assert run(artefact, tmp_path, "--template", "score_direct") == 2
    assert "neither mos nor any label that template 'score_direct' answers" in capsys.readouterr().err


def test_opinions_alone_are_enough_for_a_template_without_score(
    artefact: Artefact, data: Path, tmp_path: Path, capsys
) -> None:
    plain = [Annotation(image=str(data / note.image), split="test", mos=note.mos) for note in notes()]
    write_annotations(tmp_path, plain)
    assert run(artefact, tmp_path, "--template", "mix", "--json", str(tmp_path / "out.json")) == 0
    assert f"| image_clarity | {COUNT} | {COUNT} | " in capsys.readouterr().out
    written = json.loads((tmp_path / "out.json").read_text())["evaluation"]
    assert len(written["mos_correlations"]) == 9
    assert (written["targets"], written["points"]) == ([], [])


def test_the_word_embedded_names_the_model_that_ships_here(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    from model.backbone import EMBEDDED_ADAPTER
    from training import evaluation_run

    def refuse(settings: evaluation_run.EvaluationSettings) -> None:
        raise ConfigurationError(f"asked for {settings.adapter}")

    monkeypatch.setattr(evaluation_run, "run_evaluations", refuse)
    assert main(["evaluate", "embedded", str(data)]) == 2
    assert f"asked for {EMBEDDED_ADAPTER}" in capsys.readouterr().err


def test_numbers_that_are_not_finite_end_the_evaluation(
    scorer: Scorer, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise InferenceError("not finite")

    monkeypatch.setattr(scorer.reader, "read", broken)
    with pytest.raises(ConfigurationError, match=r"not finite, among .*0\.png to .*6\.png"):
        score_images(scorer, [data / note.image for note in notes()], [None] * COUNT)
