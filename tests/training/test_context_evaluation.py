"""What text about an image is worth, made by hand and by the whole path at toy size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.conversation import chatml_sha256
from schemas.annotations import Annotation
from schemas.manifest import Conversation, ScoreScale
from schemas.records import Prediction
from tests.model.artefact import SYSTEM, Artefact, write_artefact
from tests.training.pictures import toy_cutout, toy_picture
from training.__main__ import main
from training.annotation_files import read_annotations, write_annotations
from training.config import shipped_config
from training.context_evaluation import compare_contexts, evaluate_contexts
from training.contexts import shown_contexts
from training.demo.dataset import DataSettings, Material, write_dataset
from training.demo.photo_files import PhotoFile
from training.evaluation import ContextEvaluation, Evaluation
from training.evaluation_tables import context_table
from training.runs import RunSettings, run_training
from training.scoring import ScoredImages

# peft asks transformers for a renamed property.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

COUNT = 80


@pytest.fixture(scope="module")
def compared() -> dict[tuple[str, str], ContextEvaluation]:
    """Contexts of every other image tell its score; of the others nothing is known."""
    rng = np.random.default_rng(0)
    true = rng.uniform(0, 10, COUNT)
    having = np.arange(COUNT) % 2 == 0
    blind = true + rng.normal(0, 4, COUNT)
    scores = {
        "none": blind,
        "given": np.where(having, true + rng.normal(0, 0.5, COUNT), blind),
        "shuffled": np.where(having, blind + rng.normal(0, 0.5, COUNT), blind),
    }
    found = compare_contexts(scores, having, true, np.arange(COUNT))
    return {(one.group, one.context): one for one in found}


def test_contexts_are_compared_with_none_over_all_images_and_those_that_have_one(compared) -> None:
    contexts = ("none", "given", "shuffled")
    assert list(compared) == [(group, one) for group in ("all", "with a context") for one in contexts]
    assert {one.images for (group, _), one in compared.items() if group == "all"} == {COUNT}
    assert {one.images for (group, _), one in compared.items() if group != "all"} == {COUNT // 2}
    assert all((one.difference is None) == (context == "none") for (_, context), one in compared.items())


def test_what_is_told_raises_the_figures_and_what_is_not_does_not(compared) -> None:
    for group in ("all", "with a context"):
        given, none, shuffled = (compared[group, one] for one in ("given", "none", "shuffled"))
        gained = given.difference.srcc
        assert gained.value == pytest.approx(given.figures.srcc.value - none.figures.srcc.value)
        assert gained.low > 0
        assert given.difference.rmse.high < 0
        assert shuffled.difference.srcc.low < 0 < shuffled.difference.srcc.high


def test_the_table_says_in_words_which_differences_are_significant(compared) -> None:
    table = context_table(Evaluation(COUNT, COUNT, (), (), (), 0, contexts=tuple(compared.values())))
    said = {(row[0], row[3]): row[-1] for row in table.rows}
    for group in ("all", "with a context"):
        assert said[group, "given − none"] == "SRCC rises, PLCC rises, RMSE falls"
        assert said[group, "shuffled − none"] == "nothing"
        assert said[group, "given"] == "–"
    assert not context_table(Evaluation(COUNT, COUNT, (), (), (), 0)).rows


def test_without_intervals_nothing_is_called_significant(compared) -> None:
    rows = np.ones(4, dtype=bool)
    numbers = np.arange(4.0)
    few = compare_contexts({"none": numbers[::-1], "given": numbers}, rows, numbers, np.arange(4))
    table = context_table(Evaluation(4, 4, (), (), (), 0, contexts=few))
    assert [row[-1] for row in table.rows] == ["–", "–", "SRCC unknown, PLCC unknown, RMSE unknown"]


def test_where_every_image_has_a_context_there_is_one_group() -> None:
    numbers = np.arange(6.0)
    found = compare_contexts({"none": numbers}, np.ones(6, dtype=bool), numbers, np.arange(6))
    assert [one.group for one in found] == ["with a context"]


def _prediction(score: float | None) -> Prediction:
    return Prediction(score=score)


def test_only_images_that_have_a_context_are_asked_again_and_each_answer_finds_its_image() -> None:
    texts = ["2", None, "9", "5", None, "7", "1"]
    mos = [2.0, 3.0, 9.0, None, 4.0, 7.0, 1.0]
    notes = [
        Annotation(image=f"{row}.png", mos=one, context=text)
        for row, (one, text) in enumerate(zip(mos, texts, strict=True))
    ]
    files = [Path(note.image) for note in notes]
    readable = [0, 1, 2, 3, 4, 5]
    asked: list[tuple[list[Path], list[str | None]]] = []

    def answer(some: Sequence[Path], shown: Sequence[str | None]) -> list[Prediction]:
        asked.append((list(some), list(shown)))
        return [_prediction(0.5 if text is None else float(text)) for text in shown]

    given = ScoredImages([_prediction(float(text or 3)) for text in texts[:6]], {}, readable)
    found = {
        (one.group, one.context): one for one in evaluate_contexts(answer, files, notes, given, ScoreScale())
    }
    assert [some for some, _ in asked] == [[files[row] for row in (0, 2, 3, 5)]] * 2
    shuffled = shown_contexts(notes, "shuffled")
    assert [shown for _, shown in asked] == [[None] * 4, [shuffled[row] for row in (0, 2, 3, 5)]]
    # The fourth has no opinion, the last could not be read.
    assert {key: one.images for key, one in found.items() if key[1] == "given"} == {
        ("all", "given"): 5,
        ("with a context", "given"): 3,
    }
    assert found["with a context", "given"].figures.rmse.value == 0
    expected = np.sqrt(np.mean([(0.5 - one) ** 2 for one in (2, 9, 7)]))
    assert found["with a context", "none"].figures.rmse.value == pytest.approx(expected)


def test_images_that_some_context_leaves_without_a_score_are_left_out_of_all() -> None:
    notes = [Annotation(image=f"{row}.png", mos=float(row), context=f"text {row}") for row in range(5)]
    given = ScoredImages([_prediction(float(row)) for row in range(5)], {}, list(range(5)))

    def answer(some: Sequence[Path], shown: Sequence[str | None]) -> list[Prediction]:
        return [_prediction(None if row == 1 and shown[0] is None else 2.0) for row in range(len(some))]

    found = evaluate_contexts(answer, [Path(note.image) for note in notes], notes, given, ScoreScale())
    assert [(one.context, one.images) for one in found] == [("none", 4), ("given", 4), ("shuffled", 4)]


@pytest.fixture(scope="module")
def artefact(tmp_path_factory) -> Artefact:
    return write_artefact(tmp_path_factory.mktemp("artefact"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    notes = []
    for row in range(7):
        Image.fromarray(toy_picture(row, 56, 56)).save(folder / f"{row}.png")
        text = f"words about {row}" if row % 2 == 0 else None
        notes.append(Annotation(image=f"{row}.png", mos=1.0 + row, context=text, split="test"))
    write_annotations(folder, notes)
    return folder


def _evaluate(adapter: Path, data: Path, *options: str) -> int:
    return main(["evaluate", "--device", "cpu", str(adapter), str(data), *options])


def test_the_command_compares_contexts_and_its_figures_are_those_of_each_alone(
    artefact: Artefact, data: Path, tmp_path: Path, capsys
) -> None:
    alone = {}
    for context in ("given", "none", "shuffled"):
        file = tmp_path / f"{context}.json"
        assert _evaluate(artefact.adapter, data, "--context", context, "--json", str(file)) == 0
        written = json.loads(file.read_text())
        assert (written["context"], written["evaluation"]["contexts"]) == (context, [])
        alone[context] = written["evaluation"]["targets"][0]["decided"]
    capsys.readouterr()
    file, page = tmp_path / "all.json", tmp_path / "page.html"
    options = ["--context", "all", "--json", str(file), "--html", str(page)]
    assert _evaluate(artefact.adapter, data, *options) == 0
    said = capsys.readouterr().out
    assert "the score also without and with one another's" in said
    assert "| all | 7 | 7 | shuffled − none |" in said
    assert "| with a context | 4 | 4 | given − none |" in said
    assert "The score by the context shown" in page.read_text()
    together = {one["context"]: one for one in json.loads(file.read_text())["evaluation"]["contexts"][:3]}
    for context, figures in alone.items():
        for name in ("srcc", "plcc", "rmse"):
            value = together[context]["figures"][name]["value"]
            assert value == pytest.approx(figures[name]["value"], abs=1e-4), (context, name)


def test_what_contexts_cannot_be_compared_on_is_said_before_anything_is_loaded(
    tmp_path: Path, data: Path, capsys
) -> None:
    conversation = Conversation(chatml_sha256=chatml_sha256(SYSTEM, "before_image"), context_template=None)
    deaf = write_artefact(tmp_path, conversation=conversation).adapter
    bare = [
        Annotation(image=str(data / note.image), mos=note.mos, split="test")
        for note in read_annotations(data, "test")
    ]
    write_annotations(tmp_path / "bare", bare)
    assert _evaluate(deaf, tmp_path / "bare", "--context", "all", "--template", "mix") == 2
    said = capsys.readouterr().err
    for reason in (
        "takes no context",
        "template 'mix' answers none",
        "two images with different",
        "needs mos",
    ):
        assert reason in said
    assert said.count("error: ") == 4


@pytest.mark.integration
def test_the_recipe_for_captions_at_toy_size(tmp_path: Path) -> None:
    config = shipped_config("demo_context").model_copy(update={"steps": 2, "batch_size": 2})
    files = [PhotoFile(f"photo{number}", tmp_path / f"photo{number}.png") for number in range(3)]
    for number, file in enumerate(files):
        Image.fromarray(toy_picture(number, 180, 220)).save(file.path)
    material = Material(files, [toy_cutout(colour, 60, 80) for colour in ("red", "lime")])
    for split in ("train", "test"):
        settings = DataSettings({split: 8}, config.image, captions="informative")
        write_dataset(tmp_path / split, {split: material}, settings)
    adapter, report = tmp_path / "adapter", tmp_path / "report.json"
    run_training(RunSettings(config, [tmp_path / "train"], adapter, "embedded", "toy", device="cpu"))
    assert _evaluate(adapter, tmp_path / "test", "--context", "all", "--json", str(report)) == 0
    found = json.loads(report.read_text())["evaluation"]["contexts"]
    assert [(one["group"], one["images"]) for one in found] == [("all", 8)] * 3 + [("with a context", 4)] * 3
    assert {one["figures"]["rmse"]["value"] for one in found if one["context"] == "given"} - {
        one["figures"]["rmse"]["value"] for one in found if one["context"] == "none"
    }
