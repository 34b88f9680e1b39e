from __future__ import annotations

import json
import shutil
import subprocess
import sys

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import Qwen2VLConfig

from model import backbone
from model.backbone import (
    architecture,
    base_identity,
    load_base,
    load_tokenizer,
    resolve_base,
)
from model.tensor_files import current_name, old_name, read_header
from schemas.errors import ConfigurationError
from tests.model.tiny import tiny_model


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny_model().save_pretrained(folder)
    Tokenizer(WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>")).save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def copy(base, tmp_path):
    return shutil.copytree(base, tmp_path / "copy")


def edit_config(folder, change):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# --- identity ----------------------------------------------------------------------------------------


def test_defaults_of_the_architecture_are_those_of_transformers():
    ours = architecture({"model_type": "qwen2_vl"})
    theirs = architecture(Qwen2VLConfig().to_dict())
    assert ours == theirs


def test_old_and_new_layouts_of_the_same_base_have_one_identity(base, copy):
    state = load_file(copy / "model.safetensors")
    other = current_name if any(name.startswith("visual.") for name in state) else old_name
    renamed = {other(name): tensor for name, tensor in state.items()}
    assert set(renamed) != set(state)
    save_file(renamed, copy / "model.safetensors", metadata={"format": "pt"})

    def flatten(config):
        text = config.pop("text_config")
        rope = text.pop("rope_parameters")
        text.pop("model_type")
        config |= text
        config["rope_theta"] = rope["rope_theta"]
        config["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
        config["torch_dtype"] = "bfloat16"
        config["transformers_version"] = "4.41.2"
        del config["dtype"]
        config["vision_config"]["in_chans"] = config["vision_config"].pop("in_channels")

    edit_config(copy, flatten)
    assert base_identity(copy, "x") == base_identity(base, "x")
    assert torch.equal(
        load_base(copy, torch.device("cpu"), torch.float32).lm_head.weight, tiny_model().lm_head.weight
    )


def test_a_published_configuration_saved_again_has_the_same_architecture():
    published = {
        "model_type": "qwen2_vl",
        "hidden_act": "silu",
        "hidden_size": 1536,
        "image_token_id": 151655,
        "intermediate_size": 8960,
        "num_attention_heads": 12,
        "num_hidden_layers": 28,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "vision_config": {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "in_chans": 3},
        "vocab_size": 151936,
    }
    again = json.loads(Qwen2VLConfig(**published).to_json_string(use_diff=False))
    assert "text_config" in again
    assert architecture(again) == architecture(published)


def test_shards_and_number_formats_do_not_change_the_identity(base, tmp_path):
    tiny_model().to(torch.bfloat16).save_pretrained(tmp_path, max_shard_size="200KB")
    shutil.copy(base / "tokenizer.json", tmp_path)
    assert (tmp_path / "model.safetensors.index.json").exists()
    assert base_identity(tmp_path, "x") == base_identity(base, "x")


def test_a_stored_copy_of_a_tied_head_does_not_change_the_identity(copy):
    edit_config(copy, lambda config: config.update(tie_word_embeddings=True))
    with_head = base_identity(copy, "x")
    state = load_file(copy / "model.safetensors")
    del state["lm_head.weight"]
    save_file(state, copy / "model.safetensors")
    assert base_identity(copy, "x") == with_head


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["text_config"].update(num_attention_heads=8),
        lambda config: config["text_config"].update(rms_norm_eps=1e-6),
        lambda config: config["text_config"]["rope_parameters"].update(rope_theta=1e6),
        lambda config: config["text_config"]["rope_parameters"].update(mrope_section=[4, 2, 2]),
        lambda config: config["vision_config"].update(num_heads=4),
        lambda config: config.update(image_token_id=7),
        lambda config: config.update(tie_word_embeddings=True),
    ],
)
def test_another_architecture_has_another_identity(base, copy, change):
    edit_config(copy, change)
    assert base_identity(copy, "x").config_sha256 != base_identity(base, "x").config_sha256


def test_other_tensors_and_tokenisers_have_another_identity(base, copy):
    before = base_identity(base, "x")
    state = load_file(copy / "model.safetensors")
    name = next(name for name in state if name.endswith("norm.weight"))
    state[name] = torch.ones(63)
    save_file(state, copy / "model.safetensors")
    (copy / "tokenizer.json").write_bytes((copy / "tokenizer.json").read_bytes() + b"\n")
    after = base_identity(copy, "x")
    assert after.tensors_sha256 != before.tensors_sha256
    assert after.tokenizer_sha256 != before.tokenizer_sha256
    assert after.config_sha256 == before.config_sha256


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(copy, missing):
    (copy / missing).unlink()
    with pytest.raises(ConfigurationError, match=missing):
        base_identity(copy, "x")


def test_other_models_and_damaged_files_are_refused(copy):
    edit_config(copy, lambda config: config.update(model_type="llama"))
    with pytest.raises(ConfigurationError, match="llama"):
        base_identity(copy, "x")
    (copy / "config.json").write_text("{")
    with pytest.raises(ConfigurationError, match="JSON"):
        base_identity(copy, "x")
    (copy / "model.safetensors").write_bytes(b"not tensors at all")
    with pytest.raises(ConfigurationError, match="safetensors"):
        read_header(copy / "model.safetensors")


def test_finding_and_identifying_need_no_torch(base):
    code = (
        "import sys, pathlib; from model.backbone import base_identity, resolve_base; "
        f"base_identity(resolve_base({str(base)!r}), 'x'); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'huggingface_hub')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- finding -----------------------------------------------------------------------------------------


def test_a_directory_is_itself(base):
    assert resolve_base(str(base)) == base


def test_embedded_is_the_packages_own(tmp_path, monkeypatch):
    monkeypatch.setattr(backbone, "EMBEDDED_BASE", tmp_path)
    assert resolve_base("embedded") == tmp_path
    monkeypatch.setattr(backbone, "EMBEDDED_BASE", tmp_path / "missing")
    with pytest.raises(ConfigurationError, match="embedded"):
        resolve_base("embedded")


@pytest.mark.parametrize("name", ["./missing", "/missing/dir", "a/b/c", "missing"])
def test_a_missing_directory_is_never_looked_up_on_the_hub(name, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("asked the hub"))
    with pytest.raises(ConfigurationError, match="no directory"):
        resolve_base(name)


def test_a_hub_name_is_taken_from_the_cache_first(base, monkeypatch):
    asked = []

    def snapshot(name, *, allow_patterns, local_files_only):
        asked.append(local_files_only)
        return str(base)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert resolve_base("someone/some-model") == base
    assert asked == [True]


def test_a_cache_without_weights_is_completed(base, tmp_path, monkeypatch):
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda *a, local_files_only, **k: str(tmp_path if local_files_only else base),
    )
    assert resolve_base("someone/some-model") == base


def test_an_unreachable_hub_gives_advice(monkeypatch):
    def unreachable(*arguments, **options):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no route to the hub\nmore lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ConfigurationError, match=r"no route to the hub.*HF_HUB_OFFLINE"):
        resolve_base("someone/some-model")


# --- loading -----------------------------------------------------------------------------------------


def test_the_base_loads_ready_for_inference(base):
    model = load_base(base, torch.device("cpu"), torch.bfloat16)
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.config._attn_implementation == "sdpa"
    assert model.config.vision_config._attn_implementation == "sdpa"
    assert model.config.text_config._attn_implementation == "sdpa"


def test_missing_weights_are_not_replaced_by_random_ones(copy):
    state = load_file(copy / "model.safetensors")
    name = next(name for name in state if name.endswith("layers.1.mlp.up_proj.weight"))
    del state[name]
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigurationError, match=r"missing keys: .*layers\.1\.mlp\.up_proj"):
        load_base(copy, torch.device("cpu"), torch.float32)


def test_pickled_weights_are_not_read(copy):
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ConfigurationError, match="cannot load"):
        load_base(copy, torch.device("cpu"), torch.float32)


def test_the_tokeniser_loads_or_says_why_not(copy):
    assert load_tokenizer(copy).encode("a").ids == [0]
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="damaged"):
        load_tokenizer(copy)


def test_two_trainings_of_one_architecture_are_two_bases_in_any_number_format(tmp_path):
    from tests.model.artefact import write_base

    one = write_base(tmp_path / "one", seed=0)
    write_base(tmp_path / "other", seed=1)
    one.bfloat16().save_pretrained(tmp_path / "half")
    (tmp_path / "half" / "tokenizer.json").write_bytes((tmp_path / "one" / "tokenizer.json").read_bytes())
    first, second, half = (base_identity(tmp_path / name, "x") for name in ("one", "other", "half"))
    assert first.config_sha256 == second.config_sha256
    assert first.tensors_sha256 != second.tensors_sha256
    assert first == half


def test_a_base_directory_with_an_adapter_in_it_is_refused(tmp_path):
    from tests.model.artefact import write_base

    write_base(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="holds an adapter"):
        load_base(tmp_path, torch.device("cpu"), torch.float32)
