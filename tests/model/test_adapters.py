from __future__ import annotations

import hashlib
import json
import shutil
import struct
import subprocess
import sys

import pytest
from peft import get_peft_model

from model.adapter_config import ADAPTER_CONFIG_NAME, WEIGHTS_NAME
from model.adapters import (
    SEAL_FIELD,
    check_adapter,
    read_manifest,
    save_adapter,
    verify_adapter,
)
from model.images import IMAGE_DECODER
from schemas.errors import ConfigurationError, ManifestMismatchError
from tests.model.small_adapters import (
    BASE,
    config,
    edit,
    manifest,
    peft_model,
    problems,
    rewrite,
)
from tests.model.tiny import tiny_model

# PEFT asks transformers for an attribute that transformers renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def test_a_fresh_directory_verifies(any_adapter):
    folder, _ = any_adapter
    read, revision = read_manifest(folder)
    assert verify_adapter(folder, read, BASE) == []
    assert revision == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert set(read.files) == {ADAPTER_CONFIG_NAME, WEIGHTS_NAME}
    assert sorted(path.name for path in folder.iterdir()) == sorted([*read.files, "manifest.json"])


OTHER_NAMES = {
    "stage2": "stage1",
    "lora": "frozen",
    "before_image": "after_image",
    "segments": "whole_text",
    "bicubic": "nearest_262144",
    "digit_tree": "greedy",
    "digits": "levels",
    "one": "two",
}


def another(value):
    """A value of the same type that the schema also accepts, or None."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value + 0.25
    if isinstance(value, str):
        return OTHER_NAMES.get(value, value + " {x}")
    if isinstance(value, dict):
        return {name: other + 1 for name, other in value.items()}
    return None


# Lists are one field each; what another value of theirs is, is said here.
LISTS = {
    "answer.templates": ["one", "two", "three"],
    "evaluation": [],
    "score.level_words": ["low", "high"],
}


def changed_fields() -> list[str]:
    return sorted(manifest().field_digests())


@pytest.mark.parametrize("field", changed_fields())
def test_every_manifest_field_changed_in_turn_is_refused_by_its_name(adapter, field):
    def change(content):
        *parents, last = field.split(".")
        for part in parents:
            content = content[part]
        if field == "vocabulary.attributes":
            content[last][0]["title"] = "Another title"
        else:
            content[last] = LISTS[field] if field in LISTS else another(content[last])

    before = (adapter / "manifest.json").read_bytes()
    edit(adapter / "manifest.json", change)
    assert json.loads(before) != json.loads((adapter / "manifest.json").read_text())
    if field in ("manifest_version", "score.head"):
        # No other version is valid, nor this head with that decoder: the schema itself names them.
        with pytest.raises(ManifestMismatchError, match=rf"^{field.split('.')[0]}: "):
            read_manifest(adapter)
        return
    found = [problem for problem in problems(adapter) if "changed since training" in problem]
    assert [problem.split(":")[0] for problem in found] == [field]
    with pytest.raises(ManifestMismatchError, match=field):
        check_adapter(adapter, read_manifest(adapter)[0])


@pytest.mark.parametrize("name", [ADAPTER_CONFIG_NAME, WEIGHTS_NAME])
def test_a_changed_hash_or_file_is_refused_by_its_name(adapter, name):
    edit(adapter / "manifest.json", lambda content: content["files"].update({name: "0" * 64}))
    assert f"files.{name}: changed since training (sha256 differs)" in problems(adapter)
    edit(adapter / "manifest.json", lambda content: content["files"].pop(name))
    assert f"files.{name}: the manifest holds no hash of it" in problems(adapter)


def test_one_flipped_bit_of_the_weights_is_found(adapter):
    content = bytearray((adapter / WEIGHTS_NAME).read_bytes())
    content[-1] ^= 1
    (adapter / WEIGHTS_NAME).write_bytes(content)
    assert problems(adapter) == [f"files.{WEIGHTS_NAME}: changed since training (sha256 differs)"]


def test_what_the_schema_refuses_is_named_with_every_reason(adapter):
    def change(content):
        content["score"]["digits"] = 17
        content["image"]["max_pixels"] = "many"
        content["surprise"] = 1

    edit(adapter / "manifest.json", change)
    with pytest.raises(ManifestMismatchError) as caught:
        read_manifest(adapter)
    assert {reason.split(":")[0] for reason in caught.value.reasons} == {
        "score.digits",
        "image.max_pixels",
        "surprise",
    }


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]"])
def test_a_missing_or_broken_manifest_is_refused(adapter, content):
    (adapter / "manifest.json").unlink()
    if content is not None:
        (adapter / "manifest.json").write_bytes(content)
    with pytest.raises(ManifestMismatchError, match=r"manifest\.json"):
        read_manifest(adapter)


@pytest.mark.parametrize("name", ["adapter_model.bin", "optimizer.pt", "deep/rng_state.PTH"])
def test_pickles_are_refused(adapter, name):
    (adapter / name).parent.mkdir(exist_ok=True)
    (adapter / name).write_bytes(b"\x80\x04.")
    assert any(problem.startswith(f"files.{name}: a pickle") for problem in problems(adapter))


def test_paths_that_leave_the_directory_are_refused(adapter, tmp_path):
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    digest = hashlib.sha256(b"{}").hexdigest()
    (adapter / "link.json").symlink_to(outside)
    for name in ("../outside.json", str(outside), "link.json", "sub/../../outside.json"):
        edit(adapter / "manifest.json", lambda content, name=name: content["files"].update({name: digest}))
        assert f"files.{name}: leads out of the adapter's directory" in problems(adapter)


def test_weights_behind_a_link_that_leaves_the_directory_are_refused(adapter, tmp_path):
    shutil.move(adapter / WEIGHTS_NAME, tmp_path / "elsewhere")
    (adapter / WEIGHTS_NAME).symlink_to(tmp_path / "elsewhere")
    assert problems(adapter) == [f"files.{WEIGHTS_NAME}: leads out of the adapter's directory"]


def test_missing_files_are_named(adapter):
    for name in (ADAPTER_CONFIG_NAME, WEIGHTS_NAME):
        (adapter / name).unlink()
    found = problems(adapter)
    assert f"files.{ADAPTER_CONFIG_NAME}: is missing" in found
    assert f"files.{WEIGHTS_NAME}: is missing" in found


def test_a_readme_is_nobodys_business(adapter):
    (adapter / "README.md").write_text("edited")
    assert problems(adapter) == []
    edit(adapter / "manifest.json", lambda content: content["files"].update({"README.md": "0" * 64}))
    assert "files.README.md: must not be hashed by the manifest" in problems(adapter)


def test_weights_without_a_seal_are_refused(adapter):
    rewrite(adapter, dict)
    assert any("no seal" in problem for problem in problems(adapter))


def test_another_base_is_refused_by_the_field_that_differs(adapter):
    for field in ("config_sha256", "tokenizer_sha256", "tensors_sha256"):
        other = BASE.model_copy(update={field: "0" * 64, "name": "other"})
        (problem,) = problems(adapter, base=other)
        assert problem.startswith(f"base_model.{field}: trained on 'tiny'")
    assert problems(adapter, base=BASE.model_copy(update={"name": "elsewhere/tiny"})) == []


def test_what_this_version_computes_otherwise_is_refused_by_its_field(adapter):
    right = {"conversation.chatml_sha256": "a" * 64, "image.image_decoder": IMAGE_DECODER}
    assert problems(adapter, expected=right) == []
    wrong = {"conversation.chatml_sha256": "0" * 64, "image.image_decoder": "other/2"}
    assert [problem.split(":")[0] for problem in problems(adapter, expected=wrong)] == sorted(wrong)


def test_a_manifest_that_misstates_the_vision_tower_is_refused(tmp_path):
    with pytest.raises(ManifestMismatchError, match=r"training\.vision"):
        save_adapter(tmp_path / "adapter", peft_model("frozen"), None, manifest("lora"))
    with pytest.raises(ManifestMismatchError, match=r"training\.vision"):
        save_adapter(tmp_path / "adapter", peft_model("full"), None, manifest("lora"))


# --- saving ------------------------------------------------------------------------------------------


def test_an_adapter_is_never_changed_in_place(adapter):
    with pytest.raises(ConfigurationError, match="never changed in place"):
        save_adapter(adapter, peft_model(), None, manifest())
    assert problems(adapter) == []


def test_a_save_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError("no space left")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="no space"):
        save_adapter(tmp_path / "adapter", peft_model(), None, manifest())
    assert list(tmp_path.iterdir()) == []


def test_an_empty_directory_and_missing_parents_are_fine(tmp_path):
    (tmp_path / "empty").mkdir()
    save_adapter(tmp_path / "empty", peft_model(), None, manifest())
    save_adapter(tmp_path / "a" / "b", peft_model(), None, manifest())
    assert problems(tmp_path / "empty") == problems(tmp_path / "a" / "b") == []


def test_an_untrained_adapter_is_not_saved(tmp_path):
    with pytest.raises(ManifestMismatchError, match="B = 0"):
        save_adapter(tmp_path / "adapter", get_peft_model(tiny_model(), config()), None, manifest())


def test_the_configuration_names_the_base_not_a_path_of_the_machine(saved):
    content = json.loads((saved / ADAPTER_CONFIG_NAME).read_text())
    assert content["base_model_name_or_path"] == "tiny"
    assert content["inference_mode"] is True


def test_the_seal_is_in_the_header_and_equal_adapters_are_equal_files(saved, tmp_path):
    content = (saved / WEIGHTS_NAME).read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    seal = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][SEAL_FIELD])
    assert seal == manifest().field_digests()
    again = save_adapter(tmp_path / "again", peft_model(), None, manifest())
    assert again == read_manifest(saved)[0]


def test_reading_and_verifying_need_no_torch(saved):
    code = (
        "import sys, pathlib; from model.adapters import read_manifest, check_adapter; "
        f"folder = pathlib.Path({str(saved)!r}); check_adapter(folder, read_manifest(folder)[0]); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'peft', 'safetensors')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_field_that_a_later_version_adds_leaves_older_adapters_whole(adapter, monkeypatch):
    from pydantic import create_model

    import model.adapters
    from schemas.manifest import AdapterManifest

    later = create_model("Later", __base__=AdapterManifest, epochs=(int, 0))
    monkeypatch.setattr(model.adapters, "AdapterManifest", later)
    read, _ = read_manifest(adapter)
    assert read.epochs == 0
    assert verify_adapter(adapter, read, BASE) == []
    edit(adapter / "manifest.json", lambda content: content.update(epochs=3))
    assert [p for p in problems(adapter) if p.startswith("epochs")]
