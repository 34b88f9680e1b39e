from __future__ import annotations

import pytest
import torch

from model.fast_paths import has_fast_paths
from tests.benchmarks.__main__ import main
from tests.benchmarks.bare_scorer import Feeding
from tests.benchmarks.built import Built
from tests.benchmarks.generating import answers_of, image_batch
from tests.benchmarks.pictures import jpegs, read_photographs
from tests.benchmarks.reference_scores import against_reference, reference, spans
from tests.model.teacher import Setup

CPU = torch.device("cpu")
FEEDING = Feeding(3, 2048, 1, 3)


@pytest.fixture(scope="module")
def built() -> Built:
    return Built.of("tiny", CPU, torch.float32)


def test_the_fast_path_scores_as_transformers_own_model_does(built: Built) -> None:
    model = built.reference(torch.float32)
    assert not has_fast_paths(model.get_base_model())
    found = against_reference(built.scorer(None, 9), model, read_photographs(None, 3), 0.03, FEEDING)
    assert found["images"] == 3
    assert found["score_std"] > 0.01
    ours = found["ours"]
    assert ours["srcc"] == 1
    assert ours["median_delta"] <= ours["largest_delta"] < 1e-4
    assert (ours["decided_otherwise"], ours["values_otherwise"]) == (0, 0)
    assert "peer" not in found


def test_rounding_shows_for_both() -> None:
    rounding = Built.of("tiny", CPU, torch.bfloat16)
    exact, peer = rounding.reference(torch.float32), rounding.stock()
    scorer, photos = rounding.scorer(None, 9), read_photographs(None, 3)
    found = against_reference(scorer, exact, photos, 0.03, FEEDING, peer)
    assert found["dtype"] == "float32"
    assert found["ours"]["largest_delta"] > 1e-4
    assert found["peer"]["largest_delta"] > 1e-4


def test_a_proposal_that_the_reference_would_not_write_is_not_taken(built: Built) -> None:
    scorer = built.scorer(None, 9)
    (data,) = jpegs(read_photographs(None, 1), 150, 120)
    prepared = scorer.prepare(data)
    (answer,) = answers_of(scorer.decoder, scorer.decide([prepared]))
    setup = Setup(
        built.reference(torch.float32), scorer.encoder, scorer.decoder.prompt, scorer.decoder.program
    )
    where = spans(setup.program, answer)
    other = list(answer)
    place = where["score"].start
    other[place] = next(token for token in setup.program.slot("score").digit_ids if token != answer[place])
    found = [reference(setup, image_batch([prepared], CPU), proposal) for proposal in (answer, other)]
    assert found[0].answer == found[1].answer == answer
    assert found[0].score == pytest.approx(found[1].score, abs=1e-6)


def test_an_answer_is_cut_at_its_slots(built: Built) -> None:
    scorer = built.scorer(None, 9)
    (data,) = jpegs(read_photographs(None, 1), 150, 120)
    (answer,) = answers_of(scorer.decoder, scorer.decide([scorer.prepare(data)]))
    where = spans(scorer.decoder.program, answer)
    assert list(where) == [step.slot.name for step in scorer.decoder.program.steps]
    assert scorer.encoder.decode(answer[where["exposure"]]).strip().endswith("exposed")
    assert len(answer[where["score"]]) == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--reference-images", "2"], "--reference-images: at least 3"),
        (["--reference-images", "7"], "there are only 6 photographs"),
        (["--reference-images", "3", "--templates", "score_form_subject"], "writes free text"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_measured(options, said, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["scorer", "--visual-tokens", "4", "--against-reference", *options])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err
