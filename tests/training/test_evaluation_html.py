"""The page of an evaluation: well formed, whole, alone, and with every figure that it should have."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from schemas.annotations import Annotation
from schemas.attributes import VOCABULARY
from schemas.manifest import ScoreScale
from schemas.records import Prediction, Provenance
from training.evaluate import evaluate_predictions
from training.evaluation import Evaluation
from training.evaluation_html import evaluation_page
from training.evaluation_pictures import confusion_matrix, reliability_bins
from training.evaluation_report import EvaluationReport, reports_markdown
from training.figures import ece
from training.scoring import ImageFailure

EXPOSURES = VOCABULARY["exposure"].values
WHO = Provenance("base", "adap<ter>", "0" * 64, "score_form", "digit_tree", "0", "cpu", "float32")
VOID = {"meta", "circle", "rect", "line"}


class Page(HTMLParser):
    """Counts elements; fails on what is closed wrongly."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.pictures: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs) -> None:
        given = dict(attrs)
        self.names.append(tag)
        if tag == "svg":
            self.pictures.append(given["aria-label"])
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID or tag in ("circle", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.names.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.words.append(data)


def evaluation(count: int = 12) -> Evaluation:
    rng = np.random.default_rng(0)
    true = rng.integers(0, len(EXPOSURES), size=count)
    notes = [
        Annotation(image=f"<{row}>.jpg", mos=float(row % 10), exposure=EXPOSURES[label])
        for row, label in enumerate(true)
    ]
    said = [
        Prediction(
            score=float(rng.uniform(0, 10)),
            score_std=0.5,
            exposure=EXPOSURES[rng.integers(0, len(EXPOSURES))],
            exposure_expected=2.0,
            exposure_confidence=float(rng.uniform(0.2, 1)),
        )
        for _ in notes
    ]
    return evaluate_predictions(said, notes, VOCABULARY, ScoreScale())


@pytest.fixture(scope="module")
def report() -> EvaluationReport:
    return EvaluationReport(WHO, True, "da&ta", "test", None, "given", 0, 10, {}, (), evaluation())


def test_a_page_is_well_formed_and_holds_every_picture_and_table(report: EvaluationReport) -> None:
    page = Page(evaluation_page([report]))
    assert page.pictures == [
        "Predicted score against mos",
        "Confusion matrix of exposure",
        "Reliability diagram of exposure",
    ]
    assert page.names.count("table") == 4
    points = report.evaluation.points
    assert len(points) == 12
    reliable = report.evaluation.targets[1].labels.reliability
    assert page.names.count("circle") == len(points) + len(reliable)
    assert page.names.count("rect") == len(EXPOSURES) ** 2 + 2
    words = "".join(page.words)
    assert "SYNTHETIC" in words
    assert "adap<ter>" in words
    assert "<3>.jpg: mos 3.00" in words


def test_a_page_asks_the_net_for_nothing_and_runs_nothing(report: EvaluationReport) -> None:
    text = evaluation_page([report])
    page = Page(text)
    assert page.links == []
    assert not {"script", "link", "img", "iframe"} & set(page.names)
    assert "url(" not in text
    assert "@import" not in text


def test_without_scores_and_confidences_there_are_only_the_pictures_that_can_be(report) -> None:
    labels = replace(report.evaluation.targets[1].labels, reliability=())
    exposure = replace(report.evaluation.targets[1], labels=labels)
    bare = replace(report, evaluation=replace(report.evaluation, targets=(exposure,), points=()))
    assert Page(evaluation_page([bare])).pictures == ["Confusion matrix of exposure"]


def test_several_data_sets_come_with_one_table_of_a_row_each(report: EvaluationReport) -> None:
    failed = ImageFailure("broken.jpg", "not an image")
    other = replace(report, data="other", failures=(failed,))
    page = Page(evaluation_page([report, other]))
    assert page.names.count("section") == 2
    assert page.names.count("svg") == 6
    said = reports_markdown([report, other])
    table = said.split("\n\n")[0].splitlines()
    assert table[2].startswith("| da&ta | 12 | 12 | 0 | ")
    assert table[3].startswith("| other | 12 | 12 | 1 | ")
    assert len({line.count("|") for line in table}) == 1
    assert "1 of 13, left out of every figure: broken.jpg: not an image" in said
    assert "Images that could not be read: 0 of 12." in said


def test_a_data_set_without_scores_has_a_row_of_dashes(report: EvaluationReport) -> None:
    unscored = replace(report.evaluation, targets=report.evaluation.targets[1:])
    said = reports_markdown([report, replace(report, evaluation=unscored)])
    assert "| da&ta | 0 | 0 | 0 | – | – | – | – |" in said


def test_confusion_counts_true_labels_by_row_and_decided_ones_by_column() -> None:
    matrix = confusion_matrix(("a", "b"), [("a", "a"), ("a", "b"), ("a", "b"), ("b", "b")])
    assert matrix.labels == ("a", "b")
    assert matrix.counts == ((1, 2), (0, 1))


def test_integer_attributes_are_counted_by_value() -> None:
    assert confusion_matrix(("1", "2"), [(1, 2), (2, 2)]).counts == ((0, 1), (0, 1))


def test_reliability_bins_are_those_of_the_ece() -> None:
    rng = np.random.default_rng(3)
    confidence, correct = rng.uniform(0, 1, size=200), rng.uniform(0, 1, size=200) < 0.5
    bins = reliability_bins(confidence, correct)
    assert sum(one.images for one in bins) == 200
    assert sum(one.images * abs(one.accuracy - one.confidence) for one in bins) / 200 == pytest.approx(
        ece(confidence, correct)
    )
    assert all(one.low < one.confidence <= one.high for one in bins)
