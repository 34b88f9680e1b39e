from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from model.adapter_config import ADAPTER_CONFIG_NAME, WEIGHTS_NAME, parse_adapter_config
from model.adapters import (
    save_adapter,
)
from model.lora import MergedAdapter, load_adapter_weights, merge_adapter, parse_state
from model.tensor_files import old_name, read_header
from schemas.errors import ManifestMismatchError
from tests.model.small_adapters import (
    BOTH,
    LLM,
    config,
    edit,
    logits,
    manifest,
    peft_model,
    problems,
    rewrite,
)
from tests.model.tiny import tiny_model

# PEFT asks transformers for an attribute that transformers renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


# --- merging -----------------------------------------------------------------------------------------


def test_merged_logits_equal_pefts_unmerged_ones(any_adapter):
    folder, peft = any_adapter
    model = tiny_model()
    untuned = logits(model)
    merge_adapter(model, load_adapter_weights(folder))
    expected = logits(peft)
    assert (expected - untuned).abs().max() > 0.1
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-5)


def test_rank_stabilised_lora_is_scaled_by_the_root_of_the_rank(tmp_path):
    peft = peft_model(use_rslora=True)
    save_adapter(tmp_path / "adapter", peft, None, manifest())
    model = tiny_model()
    merge_adapter(model, load_adapter_weights(tmp_path / "adapter"))
    torch.testing.assert_close(logits(model), logits(peft), rtol=0, atol=1e-5)


def test_peft_itself_loads_our_directory(any_adapter):
    folder, peft = any_adapter
    theirs = PeftModel.from_pretrained(tiny_model(), str(folder)).eval()
    torch.testing.assert_close(logits(theirs), logits(peft), rtol=0, atol=1e-6)


def test_the_base_comes_back_bit_by_bit_after_several_rounds_in_bf16(any_adapter):
    folder, _ = any_adapter
    model = tiny_model().to(torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = load_adapter_weights(folder)
    for _ in range(4):
        merged = merge_adapter(model, weights)
        assert any(not torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
        merged.restore()
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_merging_in_bf16_rounds_once(saved):
    model, exact = tiny_model().to(torch.bfloat16), tiny_model()
    exact.load_state_dict(model.state_dict())
    weights = load_adapter_weights(saved)
    changed = merge_adapter(model, weights).changed
    merge_adapter(exact, weights)
    rounded = exact.to(torch.bfloat16).state_dict()
    assert all(torch.equal(model.state_dict()[name], rounded[name]) for name in changed)


def test_adapters_are_not_stacked_and_not_restored_twice(saved):
    model = tiny_model()
    merged = merge_adapter(model, load_adapter_weights(saved))
    with pytest.raises(RuntimeError, match="restore the base first"):
        merge_adapter(model, load_adapter_weights(saved))
    merged.restore()
    with pytest.raises(RuntimeError, match="restored already"):
        merged.restore()
    merge_adapter(model, load_adapter_weights(saved))


def to_old_layout(state):
    prefix = "base_model.model."
    return {prefix + old_name(key.removeprefix(prefix)): tensor for key, tensor in state.items()}


def test_an_old_layout_adapter_changes_the_logits_as_the_new_layout_does(any_adapter, tmp_path):
    folder, peft = any_adapter
    old = shutil.copytree(folder, tmp_path / "old")
    rewrite(old, to_old_layout)
    keys = read_header(old / WEIGHTS_NAME).shapes
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in keys
    model = tiny_model()
    merge_adapter(model, load_adapter_weights(old))
    torch.testing.assert_close(logits(model), logits(peft), rtol=0, atol=1e-5)


def test_target_patterns_written_for_old_names_hold(adapter):
    rewrite(adapter, to_old_layout)
    pattern = r"model\.layers\.\d+\..*_proj|^(?!.*(patch_embed|merger)).*visual.*(?:qkv|proj|fc1|fc2)"
    edit(adapter / ADAPTER_CONFIG_NAME, lambda config: config.update(target_modules=pattern))
    merge_adapter(tiny_model(), load_adapter_weights(adapter))


def test_an_old_layout_state_is_saved_in_the_layout_that_peft_loads(saved, tmp_path):
    state = to_old_layout(load_file(saved / WEIGHTS_NAME))
    content = json.loads((saved / ADAPTER_CONFIG_NAME).read_text())
    save_adapter(tmp_path / "again", state, content, manifest())
    peft = PeftModel.from_pretrained(tiny_model(), str(tmp_path / "again")).eval()
    assert (logits(peft) - logits(tiny_model())).abs().max() > 0.1


# --- giving way to another adapter -------------------------------------------------------------------


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Adapters that change other, and more, tensors than ``saved`` does."""
    folder = tmp_path_factory.mktemp("others")
    for kind in ("frozen", "full"):
        save_adapter(folder / kind, peft_model(kind), None, manifest(kind))
    return {kind: load_adapter_weights(folder / kind) for kind in ("frozen", "full")}


def tensors(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other) -> bool:
    return all(torch.equal(one[name], tensor) for name, tensor in other.items())


def test_adapters_that_follow_each_other_leave_the_tensors_of_a_fresh_merge(saved, others):
    sequence = [load_adapter_weights(saved), others["full"], others["frozen"], load_adapter_weights(saved)]
    model = tiny_model().to(torch.bfloat16)
    base = tensors(model)
    current = merge_adapter(model, sequence[0])
    for weights in sequence[1:]:
        successor = MergedAdapter(model, weights)
        current.give_way(successor)
        current = successor
        fresh = tiny_model().to(torch.bfloat16)
        merge_adapter(fresh, weights)
        assert same(tensors(model), tensors(fresh))
    current.restore()
    assert same(tensors(model), base)


def test_only_the_adapter_in_place_has_a_turn(saved, others):
    model = tiny_model()
    first = merge_adapter(model, load_adapter_weights(saved))
    second = MergedAdapter(model, others["frozen"])
    with pytest.raises(RuntimeError, match="does not hold"), second.turn():
        pass
    with first.turn():
        pass
    first.give_way(second)
    with pytest.raises(RuntimeError, match="does not hold"), first.turn():
        pass
    with second.turn():
        pass
    with pytest.raises(RuntimeError, match="restored already"):
        first.give_way(MergedAdapter(model, others["full"]))


def test_an_adapter_that_cannot_be_merged_leaves_the_one_in_place_as_it_was(saved, others, monkeypatch):
    model = tiny_model()
    first = merge_adapter(model, load_adapter_weights(saved))
    before = tensors(model)
    second = MergedAdapter(model, others["full"])
    left = 5

    def no_memory(*arguments, whole=torch.addmm, **options):
        nonlocal left
        left -= 1
        if left == 0:
            raise torch.OutOfMemoryError("no memory")
        return whole(*arguments, **options)

    monkeypatch.setattr(torch, "addmm", no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        first.give_way(second)
    assert same(tensors(model), before)
    with first.turn():
        pass
    first.give_way(second)


def test_without_the_base_kept_there_is_no_way_back(saved, others):
    model = tiny_model()
    merged = merge_adapter(model, load_adapter_weights(saved), keep_base=False)
    with pytest.raises(RuntimeError, match="not kept"):
        merged.give_way(MergedAdapter(model, others["full"]))
    with merged.turn():
        pass


# --- weights that do not fit -------------------------------------------------------------------------


def refusal(folder, model=None) -> str:
    with pytest.raises(ManifestMismatchError) as caught:
        merge_adapter(model or tiny_model(), load_adapter_weights(folder))
    return str(caught.value)


def zeroed(state, part):
    return {key: torch.zeros_like(t) if "lora_B" in key and part in key else t for key, t in state.items()}


def test_a_lora_that_changes_nothing_is_refused(adapter):
    rewrite(adapter, lambda state: zeroed(state, ""))
    assert "B = 0" in refusal(adapter)


def test_a_vision_tower_that_was_never_trained_is_refused(adapter):
    rewrite(adapter, lambda state: zeroed(state, "visual"))
    message = refusal(adapter)
    assert "vision tower has B = 0" in message
    assert "language model" not in message


def test_a_single_untrained_module_passes(adapter):
    rewrite(adapter, lambda state: zeroed(state, "layers.1.mlp.up_proj"))
    merge_adapter(tiny_model(), load_adapter_weights(adapter))


def test_missing_and_unexpected_modules_are_both_named_and_nothing_is_changed(adapter):
    prefix = "base_model.model.model.language_model.layers."

    def rename(state):
        return {
            key.replace(f"{prefix}1.mlp.up_proj", f"{prefix}7.mlp.up_proj"): t for key, t in state.items()
        }

    rewrite(adapter, rename)
    model = tiny_model()
    before = logits(model)
    message = refusal(adapter, model)
    assert "missing LoRA" in message
    assert "layers.1.mlp.up_proj" in message
    assert "unexpected LoRA" in message
    assert "layers.7.mlp.up_proj" in message
    assert torch.equal(logits(model), before)


def test_half_a_pair_a_wrong_rank_and_bad_numbers_are_refused_together(adapter):
    def damage(state):
        keys = sorted(state)
        b = [key for key in keys if "lora_B" in key]
        del state[b[0]]
        state[b[1]] = state[b[1]][:, :2].contiguous()
        state[b[2]] = state[b[2]] * float("nan")
        return state

    rewrite(adapter, damage)
    message = refusal(adapter)
    assert "lora_A only" in message
    assert "not rank 4" in message
    assert "not finite" in message


def test_another_size_of_base_is_refused(saved):
    assert "the LoRA is for" in refusal(saved, tiny_model(hidden_size=128))


def test_missing_tensors_of_a_whole_vision_tower_are_named(tmp_path):
    save_adapter(tmp_path / "full", peft_model("full"), None, manifest("full"))
    rewrite(tmp_path / "full", lambda state: {k: t for k, t in state.items() if "merger.ln_q.bias" not in k})
    assert "model.visual.merger.ln_q.bias" in refusal(tmp_path / "full")


def test_lora_on_the_vision_tower_together_with_saving_it_whole_is_refused(tmp_path):
    save_adapter(tmp_path / "full", peft_model("full"), None, manifest("full"))
    edit(tmp_path / "full" / ADAPTER_CONFIG_NAME, lambda config: config.update(target_modules=[*LLM, "qkv"]))
    assert "no LoRA was trained there" in refusal(tmp_path / "full")
    assert any("no LoRA was trained there" in problem for problem in problems(tmp_path / "full"))
    peft = peft_model("full", target_modules=[*LLM, "qkv"])
    with pytest.raises(ManifestMismatchError, match="no LoRA was trained there"):
        save_adapter(tmp_path / "other", peft, None, manifest("full"))


def test_lora_on_a_convolution_is_refused_by_name(tmp_path):
    peft = peft_model(target_modules=rf"{BOTH}|.*patch_embed\.proj")
    state = {key: tensor for key, tensor in peft.state_dict().items() if "lora_" in key}
    (tmp_path / "adapter").mkdir()
    save_file({k.replace(".default", ""): t for k, t in state.items()}, tmp_path / "adapter" / WEIGHTS_NAME)
    peft.peft_config["default"].save_pretrained(tmp_path / "adapter")
    assert "patch_embed.proj" in refusal(tmp_path / "adapter")


@pytest.mark.parametrize(
    "change",
    [
        {"use_dora": True},
        {"fan_in_fan_out": True},
        {"bias": "all"},
        {"bias": "lora_only"},
        {"lora_bias": True},
        {"layers_to_transform": [0]},
        {"layers_pattern": "layers"},
        {"alpha_pattern": {"q_proj": 3}},
        {"rank_pattern": {"q_proj": 3}},
        {"layer_replication": [[0, 1]]},
        {"trainable_token_indices": [3]},
        {"target_parameters": ["x"]},
        {"init_lora_weights": "pissa"},
        {"peft_type": "LOHA"},
        {"something_of_a_later_peft": 1},
        {"r": 0},
        {"target_modules": "(("},
        {"target_modules": None},
    ],
)
def test_unsupported_features_are_refused_by_name(adapter, change):
    edit(adapter / ADAPTER_CONFIG_NAME, lambda config: config.update(change))
    (name,) = change
    assert name in refusal(adapter)
    assert any(name in problem for problem in problems(adapter))


def test_every_default_of_this_peft_is_supported():
    rule = parse_adapter_config(config().to_dict())
    assert rule.scale == 2.0


def test_lora_on_a_head_that_is_tied_is_refused():
    peft = peft_model("frozen", target_modules=[*LLM, "lm_head"])
    tied = tiny_model()
    tied.lm_head.weight = tied.model.language_model.embed_tokens.weight
    state = {k.replace(".default", ""): t for k, t in peft.state_dict().items() if "lora_" in k}
    weights = parse_state(parse_adapter_config(peft.peft_config["default"].to_dict()), state)
    with pytest.raises(ManifestMismatchError, match="same tensor"):
        merge_adapter(tied, weights)
