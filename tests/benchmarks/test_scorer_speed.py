from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from tests.benchmarks.__main__ import main
from tests.benchmarks.built import Built
from tests.benchmarks.generating import Rival, image_batch, prefill_only
from tests.benchmarks.pictures import jpegs, read_photographs
from tests.benchmarks.scorer_speed import ScorerPlan, measure_scorer
from tests.benchmarks.split import PARTS
from tests.benchmarks.swapping import replayed, results_of

CPU = torch.device("cpu")


def _figures(**changes: Any) -> dict[str, Any]:
    plan = {
        "shape": "toy", "device": CPU, "dtype": torch.float32, "visual_tokens": (9,), "megapixels": 0.03,
        "micro_batches": 2, "runs": 1, "micro_batch_images": 2, "threads": 2,
        "generate_batches": (2,), "generate_images": 2,
    }  # fmt: skip
    told: list[str] = []
    figures = measure_scorer(ScorerPlan(**{**plan, **changes}), told.append)
    assert len(told) == len(figures["rows"])
    return figures


def test_rows_hold_together() -> None:
    figures = _figures()
    assert (figures["shape"], figures["device"], figures["dtype"]) == ("toy", "cpu", "float32")
    for row in figures["rows"]:
        assert row["image_tokens"] == row["visual_tokens"]
        assert row["template"] == "score_form"
        assert (row["images"], row["micro_batch"]) == (4, 2)
        assert tuple(row["split_ms"]) == ("fetch", "decode", *PARTS)
        assert row["fraction_of_floor"] == pytest.approx(
            row["images_per_s"] / row["floor_images_per_s"], 1e-2
        )
        (beside,) = row["generate"]
        assert beside["equal_answers"] == 1
        assert beside["ratio"] == pytest.approx(row["images_per_s"] / beside["images_per_s"], 1e-2)
        assert beside["ratio_same_batch"] == pytest.approx(  # one turn: the median is the turn
            beside["slots_images_per_s"] / beside["images_per_s"], 1e-2
        )
        assert beside["ratio_past_vision"] > 0
        assert isinstance(beside["ratio_past_prefill"], float)


def test_free_text_has_its_own_row_and_no_mask_to_compare_with() -> None:
    (row,) = _figures(templates=("score_form_subject",), visual_tokens=(4,))["rows"]
    (beside,) = row["generate"]
    assert row["template"] == "score_form_subject"
    assert beside["masked_images_per_s"] is None
    assert "equal_answers" not in beside
    assert beside["answer_tokens"] > 60


def test_with_what_the_vision_tower_said_at_hand_both_write_the_same() -> None:
    built = Built.of("toy", CPU, torch.float32)
    scorer, stock = built.scorer("score_form", 9), built.stock()
    photos = jpegs(read_photographs(None, 3), 84, 84)
    images = [scorer.prepare(data) for data in photos]
    rival = Rival(stock, scorer, [image_batch(images[:2], CPU), image_batch(images[2:], CPU)], [4, 4])
    for owner, method, answer in (
        (scorer.decoder, "_embed_images", lambda: [scorer.decide([image]).format_mass for image in images]),
        (stock.model.visual, "forward", rival.masked),
    ):
        plain = answer()
        said = results_of(owner, method, answer)
        with replayed(owner, method, said):
            assert answer() == plain


def test_the_prefill_alone_is_the_question_to_its_last_token() -> None:
    built = Built.of("toy", CPU, torch.float32)
    scorer, stock = built.scorer("score_form", 9), built.stock()
    images = [scorer.prepare(data) for data in jpegs(read_photographs(None, 2), 84, 84)]
    rival = Rival(stock, scorer, [image_batch(images, CPU)], [1])
    (inputs,) = rival.inputs
    with torch.inference_mode():
        hidden = stock.model(**inputs).last_hidden_state[:, -1]
    (read,) = prefill_only(scorer.decoder).decode(image_batch(images, CPU)).slots
    torch.testing.assert_close(read.outputs, hidden, atol=1e-4, rtol=1e-4)


def test_the_reference_stands_beside_a_row() -> None:
    (row,) = _figures(shape="tiny", generate_batches=(), visual_tokens=(4,), reference_images=3)["rows"]
    assert row["reference"]["images"] == 3
    assert row["reference"]["dtype"] == "float32"
    assert row["reference"]["ours"]["largest_delta"] < 1e-4


def test_a_run_of_one_micro_batch_is_refused(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["scorer", "--micro-batches", "1"])
    assert caught.value.code == 2
    assert "--micro-batches: at least 2" in capsys.readouterr().err


def test_transformers_model_has_the_very_weights() -> None:
    built = Built.of("toy", CPU, torch.float32)
    ours = dict(built.host.model.named_parameters())
    theirs = dict(built.stock().named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(theirs[name].data_ptr() == tensor.data_ptr() for name, tensor in ours.items())


def test_random_weights_have_a_reference_and_an_adapter() -> None:
    built = Built.of("toy", CPU, torch.float32)
    assert next(built.reference(torch.bfloat16).parameters()).dtype == torch.bfloat16
    assert built.host.model.dtype == torch.float32
    layers = [module for name, module in built.unmerged().named_modules() if name.endswith("_proj")]
    assert len(layers) == 7 * built.host.model.config.get_text_config().num_hidden_layers
    assert all("forward" in vars(layer) for layer in layers)


def test_the_command_prints_what_it_writes(tmp_path, capsys) -> None:
    file = tmp_path / "figures.json"
    options = ["--visual-tokens", "4", "--micro-batches", "2", "--runs", "1", "--micro-batch-images", "2"]
    options += ["--against-reference", "--reference-images", "3"]
    assert main(["scorer", *options, "--megapixels", "0.03", "--threads", "1", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert report["benchmark"] == "scorer"
    assert report["figures"]["weights"] == "trained"
    assert report["settings"]["micro_batch_images"] == 2
    shown = capsys.readouterr().out
    assert main(["table", str(file)]) == 0
    assert capsys.readouterr().out == shown
    assert f"| {report['figures']['rows'][0]['images_per_s']} |" in shown
    assert f"| {report['figures']['rows'][0]['reference']['ours']['largest_delta']} |" in shown
