from __future__ import annotations

from dataclasses import replace
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
from tests.training.pictures import toy_cutout, toy_picture
from training.demo import judges, ladders, run
from training.demo.base import cosine_rows, create_base, save_base
from training.demo.dataset import Material
from training.demo.eyes import EYES
from training.demo.photo_files import PhotoFile
from training.demo.run import DATASETS, DemoSettings, train_demo
from training.demo.tokenizer import learn_tokenizer


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
    first = len(cosine_rows())
    fine = [float(hidden[:, first + 6 : first + 13].mean()) for hidden in seen]
    assert fine[0] > 1.5 * fine[1] > 0


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
        train_demo(DemoSettings(tmp_path))


def _material(folder: Path, splits: tuple[str, str]) -> dict[str, Material]:
    found = {}
    for start, split in enumerate(splits):
        files = [PhotoFile(f"{split}-{number}", folder / f"{split}-{number}.png") for number in range(5)]
        for number, file in enumerate(files):
            Image.fromarray(toy_picture(10 * start + number, 300, 400)).save(file.path)
        found[split] = Material(files, [toy_cutout(colour, 90, 120) for colour in ("red", "lime")])
    return found


@pytest.mark.integration
@pytest.mark.parametrize("split", ["test", "validation"])
def test_the_whole_demo_at_toy_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str) -> None:
    (tmp_path / "photos").mkdir()
    material = _material(tmp_path / "photos", ("train", split))
    asked = []
    monkeypatch.setattr(run, "find_material", lambda *arguments: asked.append(arguments) or material)
    monkeypatch.setattr(run, "_FEWEST_PICTURES", 12)
    monkeypatch.setattr(ladders, "LADDERS", (ladders.LADDERS[0], ladders.LADDERS[-1]))
    monkeypatch.setattr(judges, "load_brisque", lambda: None)
    output = tmp_path / "out"
    (output / "base").mkdir(parents=True)
    settings = DemoSettings(
        output,
        photos_cache=tmp_path,
        effort=0.0001,
        threads=1,
        replace=True,
        validate=split == "validation",
    )
    card = train_demo(settings)
    assert asked == [(("train", split), None, tmp_path)]
    assert {path.name for path in output.iterdir()} == {"base", "stage1", "adapter", "CARD.md"}
    assert (output / "CARD.md").read_text(encoding="utf-8") == card
    assert "does **not** know human taste" in card
    assert f"## Figures on the {split} pictures" in card
    assert judges.BRISQUE_MISSING in card
    assert "| colour cast |" in card
    assert all(f"{phase} " in card for phase in ("pictures", "eyes", "base", "evaluation", "ladders"))
    for folder, stage in (("stage1", "stage1"), ("adapter", "stage2")):
        manifest, _ = read_manifest(output / folder)
        assert manifest.training.stage == stage
        assert manifest.training.synthetic
        assert {result.n for result in manifest.evaluation} == {12}
        assert manifest.evaluation[0].dataset == DATASETS[split]
    scorer = Scorer.load(output / "adapter", base_model=str(output / "base"), device="cpu")
    assert scorer.score([material[split].photographs[0].path])[0].score is not None


def test_less_effort_means_fewer_steps_and_nothing_else() -> None:
    recipe, full = run._recipe(0.1), run._recipe(1.0)
    assert full.eyes == EYES
    assert recipe.eyes == tuple(replace(phase, steps=round(phase.steps * 0.1)) for phase in EYES)
    for name in ("base", "stage1", "stage2"):
        short, whole = getattr(recipe, name), getattr(full, name)
        assert short == whole.model_copy(update={"steps": round(whole.steps * 0.1)})
