from __future__ import annotations

import shutil
import threading

import pytest
import torch

from model.adapters import save_adapter
from model.fast_paths import use_fast_paths
from model.lora import load_adapter_weights, merge_adapter
from model.unmerged import UnmergedAdapters
from schemas.errors import ManifestMismatchError
from tests.model.small_adapters import LLM, logits, manifest, peft_model, rewrite
from tests.model.tiny import tiny_model

# PEFT asks transformers for an attribute that transformers renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Weights of adapters that change different parts of one base, the last with another rank."""
    folder = tmp_path_factory.mktemp("kinds")
    found = {}
    for kind in ("frozen", "lora", "full"):
        save_adapter(folder / kind, peft_model(kind), None, manifest(kind))
        found[kind] = load_adapter_weights(folder / kind)
    save_adapter(folder / "wide", peft_model("frozen", r=8, target_modules=LLM[:2]), None, manifest("frozen"))
    return {**found, "wide": load_adapter_weights(folder / "wide")}


def merged_logits(weights):
    model = tiny_model()
    merge_adapter(model, weights)
    return logits(model)


def test_each_adapter_gives_the_logits_of_its_merged_form_in_any_order(kinds):
    expected = {name: merged_logits(weights) for name, weights in kinds.items()}
    model = tiny_model()
    untuned = logits(model)
    adapters = UnmergedAdapters(model, kinds)
    assert torch.equal(logits(model), untuned)
    for name in ("frozen", "full", "lora", "full", "wide", "frozen"):
        adapters.activate(name)
        found = logits(model)
        assert (found - untuned).abs().max() > 0.1
        torch.testing.assert_close(found, expected[name], rtol=0, atol=1e-5)


def test_the_base_is_itself_again_bit_by_bit(kinds):
    model = tiny_model().to(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    untuned = logits(model)
    adapters = UnmergedAdapters(model, kinds)
    for name in ("full", "lora", None):
        adapters.activate(name)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(logits(model), untuned)


def test_an_adapter_answers_the_same_before_and_after_another_had_its_turn(kinds):
    model = tiny_model()
    use_fast_paths(model)
    adapters = UnmergedAdapters(model, kinds)
    adapters.activate("lora")
    first = logits(model)
    adapters.activate("full")
    adapters.activate("lora")
    assert torch.equal(logits(model), first)


def test_in_bf16_it_is_as_near_to_the_exact_answer_as_the_merged_form(kinds):
    exact = merged_logits(kinds["lora"])
    merged, unmerged = tiny_model().to(torch.bfloat16), tiny_model().to(torch.bfloat16)
    merge_adapter(merged, kinds["lora"])
    UnmergedAdapters(unmerged, {"lora": kinds["lora"]}).activate("lora")
    error = (logits(merged).float() - exact).abs().mean()
    assert (logits(unmerged).float() - exact).abs().mean() < 1.5 * error


def test_turns_exclude_each_other_and_each_has_its_adapter(kinds):
    model = tiny_model()
    adapters = UnmergedAdapters(model, kinds)
    expected = {name: merged_logits(kinds[name]) for name in ("lora", "full")}
    wrong = []

    def ask(name):
        for _ in range(5):
            with adapters.turn(name):
                if (logits(model) - expected[name]).abs().max() > 1e-5:
                    wrong.append(name)

    threads = [threading.Thread(target=ask, args=(name,)) for name in ("lora", "full")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_model_holds_merged_or_unmerged_adapters_never_both(kinds):
    model = tiny_model()
    UnmergedAdapters(model, kinds)
    with pytest.raises(RuntimeError, match="holds an adapter already"):
        merge_adapter(model, kinds["lora"])
    merged = tiny_model()
    merge_adapter(merged, kinds["lora"])
    with pytest.raises(RuntimeError, match="holds an adapter already"):
        UnmergedAdapters(merged, kinds)


def test_an_adapter_that_does_not_fit_is_named_and_nothing_is_changed(kinds, tmp_path):
    save_adapter(tmp_path / "frozen", peft_model("frozen"), None, manifest("frozen"))
    broken = shutil.copytree(tmp_path / "frozen", tmp_path / "broken")
    rewrite(broken, lambda state: {key: tensor for key, tensor in state.items() if "layers.1.mlp" not in key})
    model = tiny_model()
    untuned = logits(model)
    with pytest.raises(ManifestMismatchError, match="broken: missing LoRA for 3 names"):
        UnmergedAdapters(model, {"good": kinds["frozen"], "broken": load_adapter_weights(broken)})
    assert torch.equal(logits(model), untuned)
    merge_adapter(model, kinds["frozen"])
