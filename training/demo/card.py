"""The card beside the demo's model: what it is, what it was made of, how good it is, what it is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.manifest import EvaluationResult
from training.config import StageConfig
from training.demo.labels import INTEGER_NOISE, MOS_NOISE

_WEAK_SRCC = 0.5


@dataclass(frozen=True, slots=True)
class CardFacts:
    """Everything on the card that a run decides.

    Attributes:
        parameters: Weights of the base.
        train_photographs, test_photographs: Source photographs of the two splits.
        train_pictures, test_pictures: Degraded pictures made of them.
        minutes: Wall-clock time of the run.
        effort: Share of the full run.
        configs: Base, stage 1, stage 2.
        stage1, stage2: Results on the test pictures.
    """

    parameters: int
    train_photographs: int
    test_photographs: int
    train_pictures: int
    test_pictures: int
    minutes: float
    effort: float
    configs: tuple[StageConfig, StageConfig, StageConfig]
    stage1: Sequence[EvaluationResult]
    stage2: Sequence[EvaluationResult]


def write_card(path: Path, facts: CardFacts) -> str:
    """Write the card; returns its text."""
    text = _card(facts)
    path.write_text(text, encoding="utf-8")
    return text


def _card(facts: CardFacts) -> str:
    base, _, stage2 = facts.configs
    side = int(base.image.max_pixels**0.5)
    steps = ", ".join(f"{config.stage} {config.steps} × {config.batch_size}" for config in facts.configs)
    return f"""# The embedded model

A Qwen2-VL of {facts.parameters / 1e6:.1f} million weights with its own small tokeniser, and a LoRA adapter
(rank {stage2.lora.rank}) that answers with nine attributes and a score.

**Its labels are synthetic.** It learnt to name what a program did to free photographs (blur, exposure,
saturation, tilt, clutter, something in front), and a score that is a formula over the same severities with a
little noise ({MOS_NOISE} of 10; {INTEGER_NOISE} on the two integers). No person judged any picture. It does
**not** know human taste, and its scores must not be read as such. It is there so that the whole product runs
with no download, and for tests.

## Data

- {facts.train_photographs} photographs for training and {facts.test_photographs} others for testing, split by
  source photograph; licences and authors in `training/demo/catalog.csv`, origin in
  `training/demo/ATTRIBUTION.md`.
- {facts.train_pictures:,} and {facts.test_pictures:,} degraded pictures made of them
  (`training/demo/degradations.py`; labels and formulas: `training/demo/labels.py`), JPEG, read by the same
  code as in serving.
- At most {base.image.max_pixels:,} px ({side} × {side}, {base.image.max_pixels // 784} visual tokens).
  Blur finer than about 0.7 px at that size is not seen.

## Training

All weights of the base from scratch on the conversations of both stages, then LoRA on the base for stage 1
(attributes) and, from the base again, for stage 2 (score). Steps × conversations: {steps}.
The base has seen the same conversations, so here the adapters refine and do not teach something new.
While training, {base.wrong_integers:.0%} of the integers and {base.wrong_labels:.0%} of the labels are fed
wrong, so that later values come from the picture and not from earlier ones (`training/targets.py`).
Reproduce: `python -m training demo` (effort {facts.effort:g}: {facts.minutes:.0f} minutes when this card was
written; another processor or library version gives slightly other weights).

## Figures

On the test photographs, decoded freely from the saved weights; attributes by their decided value as ordinal
codes. n = {facts.test_pictures} pictures of {facts.test_photographs} photographs. `python -m training demo`
prints this page.

{_table(facts.stage1, facts.stage2)}

"–": no such value in that stage, or **one and the same value for every picture: not learnt**.

## Limits

- {_not_learnt(facts.stage2)}
- There is no validation split: the recipe was chosen while looking at figures on the test photographs, so
  these are a little flattered. Photographs from elsewhere were not measured.
- Synthetic degradations are cleaner than real ones, and one picture carries several: the figures say nothing
  about real defects. Clutter is pasted ovals, obstruction one plain oval, tilt a rotation with crop.
- Composition and eye-catching are formulas over the degradations: a dull photograph, untouched, scores high.
- Subject and background in words are not predicted.
"""


def _not_learnt(results: Sequence[EvaluationResult]) -> str:
    weak = [result.target for result in results if result.srcc is None or result.srcc < _WEAK_SRCC]
    if not weak:
        return f"Every target has an SRCC of {_WEAK_SRCC} or more on these pictures."
    return f"Do not use: {', '.join(weak)}. Their SRCC is below {_WEAK_SRCC}, or they never change."


def _table(stage1: Sequence[EvaluationResult], stage2: Sequence[EvaluationResult]) -> str:
    rows = ["| target | stage 1 SRCC / PLCC | stage 2 SRCC / PLCC |", "|---|---|---|"]
    first = {result.target: result for result in stage1}
    for result in stage2:
        rows.append(f"| {result.target} | {_pair(first.get(result.target))} | {_pair(result)} |")
    return "\n".join(rows)


def _pair(result: EvaluationResult | None) -> str:
    if result is None:
        return "–"
    return " / ".join("–" if value is None else f"{value:.3f}" for value in (result.srcc, result.plcc))
