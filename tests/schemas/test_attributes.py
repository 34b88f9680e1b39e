"""The table of attributes and the manifest's rules."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from schemas.annotations import Annotation
from schemas.attributes import VOCABULARY, Attribute, Label, Vocabulary
from schemas.errors import (
    ConfigurationError,
    DecodeError,
    FetchError,
    ImageLimitError,
    IngestError,
    ListingError,
    ScoringError,
)
from schemas.manifest import Conversation, ImageRule, ScoreScale


def test_the_ten_attributes_stand_in_realqas_order() -> None:
    assert VOCABULARY.names == (
        "composition",
        "eye_catching",
        "subject_and_background",
        "subject_integrity",
        "subject_clutter",
        "background_clutter",
        "level_shot",
        "image_clarity",
        "exposure",
        "saturation",
    )
    assert [len(VOCABULARY.at_level(level)) for level in ("high", "middle", "low")] == [2, 5, 3]
    assert len(VOCABULARY.evaluated) == 9


def test_published_labels_are_marked_as_theirs_and_all_others_as_ours() -> None:
    theirs = {label.text for a in VOCABULARY.attributes for label in a.labels if not label.ours}
    assert theirs == {
        "partially complete (slightly cut off or slightly obscured)",
        "cluttered",
        "moderately cluttered",
        "uncluttered",
        "properly exposed",
    }


def test_codes_start_at_one_for_the_worst_and_over_and_under_share_one() -> None:
    for attribute in VOCABULARY.evaluated:
        assert min(attribute.codes) == 1
    exposure = dict(zip(VOCABULARY["exposure"].values, VOCABULARY["exposure"].codes, strict=True))
    assert exposure["overexposed"] == exposure["underexposed"] == 1
    assert exposure["properly exposed"] == 3


def test_a_choice_needs_two_distinct_labels() -> None:
    one = Label(text="a", code=1)
    with pytest.raises(ValidationError, match="two labels"):
        Attribute(name="x", title="X", level="low", kind="choice", description="", labels=(one,))
    with pytest.raises(ValidationError, match="twice"):
        Attribute(name="x", title="X", level="low", kind="choice", description="", labels=(one, one))
    with pytest.raises(ValidationError, match="twice"):
        Vocabulary(attributes=(VOCABULARY["exposure"], VOCABULARY["exposure"]))


def test_an_annotation_says_which_labels_the_vocabulary_lacks() -> None:
    annotation = Annotation(image="a.jpg", exposure="dim", saturation="oversaturated")
    (problem,) = annotation.problems(VOCABULARY)
    assert "a.jpg" in problem
    assert "'dim'" in problem


@pytest.mark.parametrize(
    ("kind", "stage"),
    [(IngestError, "ingest"), (ListingError, "list"), (FetchError, "fetch"), (ImageLimitError, "decode")],
)
def test_errors_know_their_stage_and_survive_pickling(kind: type[ScoringError], stage: str) -> None:
    import pickle

    error = pickle.loads(pickle.dumps(kind("why", image_uri="a", retryable=True)))
    assert (type(error), error.stage, error.image_uri, error.retryable) == (kind, stage, "a", True)
    assert str(error) == "a: why"
    assert not issubclass(FetchError, DecodeError)
    assert pickle.loads(pickle.dumps(ConfigurationError(["a", "b"]))).reasons == ("a", "b")


def test_settings_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_pixels"):
        ImageRule(min_pixels=2000, max_pixels=1000)
    with pytest.raises(ValidationError, match="native_low"):
        ScoreScale(native_low=5, native_high=5)
    with pytest.raises(ValidationError, match="context"):
        Conversation(chatml_sha256="", context_template="no hole")
