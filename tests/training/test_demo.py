from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.adapters import read_manifest
from model.backbone import base_identity, load_base
from model.patches import PATCH, normalised_patches
from model.scorer import Scorer
from schemas.errors import ConfigurationError
from tests.training.pictures import toy_picture
from tests.training.toy import RULE
from training.demo import run
from training.demo.base import cosine_rows, create_base, save_base
from training.demo.photographs import Photograph
from training.demo.pictures import decoded, degraded_pictures
from training.demo.run import DemoSettings, train_demo
from training.demo.tokenizer import learn_tokenizer


def _photographs(count: int = 4, seed: int = 0) -> list[tuple[Photograph, Image.Image]]:
    return [
        (
            Photograph("toy", f"toy/{i}.webp", 320, 240, "CC0", "", "", "0" * 16, "train"),
            Image.fromarray(toy_picture(seed + i, 240, 320)),
        )
        for i in range(count)
    ]


def test_pictures_are_the_same_for_the_same_seed_and_fit_the_budget() -> None:
    photographs = _photographs()
    one, two = (list(degraded_pictures(photographs, photographs, 9, RULE, seed=3)) for _ in range(2))
    assert [p.data for p in one] == [p.data for p in two]
    assert [p.annotation for p in one] == [p.annotation for p in two]
    other = list(degraded_pictures(photographs, photographs, 9, RULE, seed=4))
    assert [p.data for p in one] != [p.data for p in other]
    counts = [sum(p.photograph == str(i) for p in one) for i in range(4)]
    assert max(counts) - min(counts) <= 1
    for image in decoded(iter(one), RULE):
        assert image.pixels.shape[0] * image.pixels.shape[1] <= RULE.max_pixels


def test_the_patch_embedding_starts_as_orthogonal_cosines() -> None:
    rows = np.stack([row.weights.ravel() for row in cosine_rows()])
    luma = rows[: len(rows) - 14]
    gram = luma @ luma.T
    scale = np.sqrt(np.diag(gram))
    np.testing.assert_allclose(gram / np.outer(scale, scale), np.eye(len(luma)), atol=1e-9)


def test_the_untrained_first_block_already_tells_sharp_from_blurred() -> None:
    visual = create_base(learn_tokenizer(), seed=0).model.visual
    sharp = toy_picture(0, 56, 56)
    blurred = np.array(Image.fromarray(sharp).reduce(4).resize((56, 56)))
    grid = torch.tensor([[1, 56 // PATCH, 56 // PATCH]])
    seen: list[torch.Tensor] = []
    visual.blocks[0].register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        for pixels in (sharp, blurred):
            visual(normalised_patches(pixels), grid_thw=grid)
    bands = [hidden[:, 142:159].mean(dim=0) for hidden in seen]
    assert (bands[0][6:10] > 1.5 * bands[1][6:10]).all()


def test_the_base_is_the_same_for_the_same_seed_and_leaves_the_random_state_alone(tmp_path: Path) -> None:
    tokenizer = learn_tokenizer()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    models = [create_base(tokenizer, seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [model.model.language_model.layers[0].mlp.up_proj.weight for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert sum(p.numel() for p in models[0].parameters()) < 4_000_000
    save_base(models[0], tokenizer, tmp_path / "base")
    loaded = load_base(tmp_path / "base", torch.device("cpu"), torch.float32)
    assert base_identity(tmp_path / "base", "toy").tensors_sha256
    torch.testing.assert_close(
        loaded.lm_head.weight, create_base(tokenizer, 1).lm_head.weight, atol=1e-3, rtol=1e-3
    )
    assert sum(file.stat().st_size for file in (tmp_path / "base").iterdir()) < 12_000_000


def test_leftovers_are_refused_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    with pytest.raises(ConfigurationError, match="exist already"):
        train_demo(DemoSettings(tmp_path, None, 1.0, 1))


@pytest.mark.integration
def test_the_whole_demo_at_toy_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "load", lambda split, cache: _photographs(seed=10 * (split == "test")))
    monkeypatch.setattr(run, "_FEWEST_PICTURES", 12)
    (tmp_path / "base").mkdir()
    card = train_demo(DemoSettings(tmp_path, tmp_path, 0.0001, 1, replace=True))
    assert not list(tmp_path.glob(".unfinished*"))
    assert "does\n**not** know human taste" in card
    assert (tmp_path / "CARD.md").read_text(encoding="utf-8") == card
    for folder, stage in (("stage1", "stage1"), ("adapter", "stage2")):
        manifest, _ = read_manifest(tmp_path / folder)
        assert manifest.training.stage == stage
        assert manifest.training.synthetic
        assert manifest.evaluation
    prediction = Scorer.load(tmp_path / "adapter", base_model=str(tmp_path / "base"), device="cpu").score(
        [next(degraded_pictures(_photographs(), _photographs(), 1, RULE, 0)).data]
    )[0]
    assert prediction.score is not None
