"""Which adapter an option names: a directory, a pointer to one, here or in an object store."""

from __future__ import annotations

import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from beam_pipeline.scoring import adapter_cache
from beam_pipeline.scoring.adapter_cache import local_folder
from beam_pipeline.scoring.adapters import adapter_folder, adapter_problems, read_identity
from beam_pipeline.scoring.pointers import Pointer, pointer_of
from model.adapters import read_manifest
from model.backbone import EMBEDDED_ADAPTER
from schemas.errors import ConfigurationError, ManifestMismatchError
from tests.beam_pipeline.gcs_server import GcsServer
from tests.model.artefact import Artefact, write_artefact, write_embedded_variant

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embedded_variant(tmp_path_factory.mktemp("variant") / "v2", seed=1)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    """An adapter of another base."""
    return write_artefact(tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where copies of remote adapters go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def write(pointer: Path, content: str) -> Pointer:
    pointer.write_text(content, encoding="utf-8")
    return Pointer(str(pointer))


# --- reading a pointer -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "content", "expected"),
    [
        ("/serving/current", "v2", "/serving/v2"),
        ("/serving/current", "../trained/v2\n", "/serving/../trained/v2"),
        ("/serving/current", "  /trained/v2  \npublished by anna\n", "/trained/v2"),
        ("/serving/current", "\ufeffv2\r\n", "/serving/v2"),
        ("/serving/current", "gs://bucket/v2", "gs://bucket/v2"),
        ("file:///serving/current", "v2", "/serving/v2"),
        ("gs://bucket/serving/current", "v2", "gs://bucket/serving/v2"),
        ("gs://bucket/current", "trained/v2", "gs://bucket/trained/v2"),
        ("gs://bucket/current", "/baked/into/the/image", "/baked/into/the/image"),
        ("gs://bucket/current", "gs://other/v2", "gs://other/v2"),
        ("current", "v2", "v2"),
    ],
)
def test_the_first_line_names_a_directory_from_the_pointers_own_folder(
    uri: str, content: str, expected: str
) -> None:
    assert Pointer(uri).target(content) == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "first line is empty"),
        ("\n/trained/v2", "first line is empty"),
        ("v2\0", "no text file"),
        ("v\ufffd2", "no text file"),
        ("v2\n" + "x" * 5000, "no text file"),
    ],
)
def test_what_is_no_pointer_is_refused_with_its_place(content: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as caught:
        Pointer("/serving/current").target(content)
    assert "/serving/current" in str(caught.value)


def test_a_large_file_is_not_read_whole(tmp_path: Path) -> None:
    pointer = tmp_path / "current"
    pointer.write_bytes(b"\xff" * 100_000)
    assert len(Pointer(str(pointer)).read()) < 5000


def test_a_file_is_a_pointer_and_a_directory_is_an_adapter(tmp_path: Path) -> None:
    pointer = write(tmp_path / "current", "v2")
    assert pointer_of(str(tmp_path / "current")) == pointer
    assert pointer_of(f"file://{tmp_path}/current") == Pointer(f"file://{tmp_path}/current")
    assert pointer_of(str(tmp_path)) is None
    assert pointer_of(str(tmp_path / "missing")) is None
    assert pointer_of(None) is None


# --- at submission -----------------------------------------------------------------------------------


def test_a_pointer_is_followed_once_to_the_adapter_that_it_names(tmp_path: Path, variant: Path) -> None:
    pointer = write(tmp_path / "current", f"{variant}\n")
    assert adapter_folder(pointer.uri) == variant
    assert read_identity(pointer.uri).name == "variant 1"
    assert adapter_problems(pointer.uri, None, None) == []


@pytest.mark.parametrize("content", ["", "nowhere", "current", "."])
def test_a_pointer_to_no_adapter_is_a_problem_at_submission(tmp_path: Path, content: str) -> None:
    pointer = write(tmp_path / "current", content)
    (problem,) = adapter_problems(pointer.uri, None, None)
    assert str(tmp_path) in problem


def test_a_good_pair_has_no_problems(variant: Path) -> None:
    assert adapter_problems(None, None, None, str(variant), 0.05) == []
    assert adapter_problems(None, None, None, str(variant), 1.0) == []


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, float("nan")])
def test_a_share_outside_its_range_is_said(variant: Path, share: float) -> None:
    (problem,) = adapter_problems(None, None, None, str(variant), share)
    assert "--challenger-share" in problem


def test_a_challenger_that_is_the_champion_is_said(tmp_path: Path) -> None:
    copy = shutil.copytree(EMBEDDED_ADAPTER, tmp_path / "copy")
    (problem,) = adapter_problems(None, None, None, str(copy))
    assert "same adapter" in problem


def test_a_challenger_of_another_base_is_said_even_where_no_base_is(elsewhere: Artefact) -> None:
    (problem,) = adapter_problems(None, None, None, str(elsewhere.adapter))
    assert "another base" in problem
    assert "base_model.tensors_sha256" in problem


def test_everything_wrong_with_a_challenger_is_said_at_once(tmp_path: Path, variant: Path) -> None:
    pointer = write(tmp_path / "current", str(variant))
    broken = shutil.copytree(variant, tmp_path / "broken")
    (broken / "adapter_config.json").unlink()
    problems = adapter_problems(pointer.uri, "haiku", None, str(broken), 2.0)
    for reason in ("haiku", "--challenger-share 2", "not a pointer", "adapter_config.json"):
        assert any(reason in problem for problem in problems), reason
    (problem,) = adapter_problems(None, None, None, pointer.uri)
    assert "must be an adapter directory" in problem


# --- in an object store ------------------------------------------------------------------------------


def upload(server: GcsServer, folder: Path, uri: str) -> str:
    for path in folder.iterdir():
        server.upload(f"{uri}/{path.name}", path.read_bytes())
    return uri


@pytest.mark.integration
def test_a_remote_pointer_leads_to_a_verified_local_copy_made_once(
    server: GcsServer, cache: Path, variant: Path
) -> None:
    upload(server, variant, "gs://adapters-a/trained/v2")
    server.upload("gs://adapters-a/serving/current", b"../trained/v2\n")
    server.upload("gs://adapters-a/current", b"trained/v2\n")
    assert pointer_of("gs://adapters-a/trained/v2") is None
    assert pointer_of("gs://adapters-a/nothing") is None
    folder = adapter_folder("gs://adapters-a/current")
    assert folder.is_relative_to(cache)
    assert folder.name == read_manifest(variant)[1]
    for path in variant.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    (folder / "here").write_text("still")
    assert adapter_folder("gs://adapters-a/trained/v2") == folder
    assert (folder / "here").exists()
    assert adapter_problems("gs://adapters-a/current", None, None) == []


@pytest.mark.integration
def test_a_remote_adapter_that_is_not_whole_leaves_nothing_behind(
    server: GcsServer, cache: Path, variant: Path
) -> None:
    uri = upload(server, variant, "gs://adapters-b/v2")
    weights = (variant / "adapter_model.safetensors").read_bytes()
    server.upload(f"{uri}/adapter_model.safetensors", weights[:-10])
    with pytest.raises(ManifestMismatchError, match="sha256 differs"):
        local_folder(uri)
    server.delete(f"{uri}/adapter_model.safetensors")
    with pytest.raises(ManifestMismatchError, match=r"adapter_model\.safetensors: is missing"):
        local_folder(uri)
    with pytest.raises(ConfigurationError, match=r"there is no manifest\.json"):
        local_folder("gs://adapters-b/v3")
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    server.upload(f"{uri}/adapter_model.safetensors", weights)
    assert local_folder(uri).is_dir()


@pytest.mark.integration
@pytest.mark.parametrize("lost", ["adapter_model.safetensors", "manifest.json"])
def test_a_copy_that_lost_a_file_to_a_cleaner_is_made_again(
    server: GcsServer, cache: Path, variant: Path, lost: str
) -> None:
    uri = upload(server, variant, "gs://adapters-e/v2")
    (local_folder(uri) / lost).unlink()
    assert adapter_problems(uri, None, None) == []
    assert (local_folder(uri) / lost).read_bytes() == (variant / lost).read_bytes()


@pytest.mark.integration
def test_many_who_copy_the_same_adapter_at_once_share_one_whole_copy(
    server: GcsServer, cache: Path, variant: Path
) -> None:
    uri = upload(server, variant, "gs://adapters-c/v2")
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(local_folder, [uri] * 4))
    (folder,) = folders
    assert os.listdir(folder.parent) == [folder.name]


def test_a_copy_that_goes_while_old_ones_are_looked_for_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")  # listed, but not there when it is looked at
    for number in range(6):
        copy = tmp_path / str(number)
        copy.mkdir()
        os.utime(copy, (number, number))
    adapter_cache._forget_old_ones(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["2", "3", "4", "5", "gone"]


@pytest.mark.integration
def test_a_manifest_cannot_have_files_written_elsewhere(
    server: GcsServer, cache: Path, variant: Path, tmp_path: Path
) -> None:
    evil = shutil.copytree(variant, tmp_path / "evil")
    content = (evil / "manifest.json").read_text()
    (evil / "manifest.json").write_text(content.replace('"files": {', '"files": {"../evil.txt": "0",', 1))
    uri = upload(server, evil, "gs://adapters-d/sub/v2")
    server.upload("gs://adapters-d/sub/evil.txt", b"written")
    with pytest.raises(ManifestMismatchError, match="leads out"):
        local_folder(uri)
    assert not list(cache.rglob("evil.txt"))
