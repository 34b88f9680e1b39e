"""Adapter directories that several files test."""

from __future__ import annotations

import shutil

import pytest

from model.adapters import save_adapter
from tests.model.small_adapters import manifest, peft_model


@pytest.fixture(scope="module", params=["frozen", "lora", "full"])
def any_adapter(request, tmp_path_factory):
    """A directory of every kind, and the PEFT model that it was saved from."""
    folder = tmp_path_factory.mktemp("adapters") / request.param
    peft = peft_model(request.param)
    save_adapter(folder, peft, None, manifest(request.param))
    return folder, peft


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters") / "saved"
    save_adapter(folder, peft_model(), None, manifest())
    return folder


@pytest.fixture
def adapter(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "adapter")
