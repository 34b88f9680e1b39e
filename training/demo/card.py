"""The card beside the demo's model: what it is, what it was made of, how good it is, what it is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.manifest import Decoder
from training.config import StageConfig
from training.demo.aims import Aim, aim_table
from training.demo.dataset import (
    EVERY_CUTOUT,
    EVERY_PHOTOGRAPH,
    LESSONS_SEED,
    PICTURES,
    SEED,
    EvaluationSplit,
)
from training.demo.eyes import EyesPhase
from training.demo.labels import INTEGER_NOISE, MOS_NOISE, SUBJECT_SHARE, UNTOUCHED_SHARE
from training.demo.ladder_report import LadderReport
from training.evaluation import DecoderEvaluation, Evaluation
from training.evaluation_tables import agreement_table, evaluation_tables, shown

_WEAK_SRCC = 0.5
_TOKEN_PIXELS = 28 * 28
_HOW_CHOSEN = f"""
**How the recipe was chosen.** Since 2026-11-22 by pictures of every {EVERY_PHOTOGRAPH}th training
photograph and every {EVERY_CUTOUT}th training cut-out, which trials leave out (`--validate`) and the final
run trains on. The general shape of an earlier recipe was chosen while looking at figures on the test
photographs, so those may still be a little flattered.

**What was tried, and what bounds the score.** On validation pictures: with all of the tower learning, a
head read clarity with an SRCC of 0.74 after 28,800 pictures; with the measuring blocks frozen 0.91 after
16,000. A tower that learns at 0.001 sees tilt a little better (0.36, at 0.0025: 0.31), clarity and score
worse. On the same tower a language model that learns alone beats one that learns together with it (score
0.83 against 0.80, tilt 0.35 against 0.19) at twice the speed. Evening out the tokens, and teaching the head
before the tower, gained nothing sure. The score multiplies in tilt, cut and covered subjects, their place
and the clutter around them, which so small a tower hardly sees: were all else known exactly and these not
at all, the SRCC would be 0.92.
"""


@dataclass(frozen=True, slots=True)
class Sources:
    """What pictures of one split were made of.

    Attributes:
        photographs: How many.
        photograph_licences: How many of each licence; None = not known to this program.
        cutout_licences: The same for cut-outs.
        pictures: Degraded pictures made of them.
    """

    photographs: int
    photograph_licences: Mapping[str, int] | None
    cutout_licences: Mapping[str, int]
    pictures: int


@dataclass(frozen=True, slots=True)
class CardFacts:
    """Everything on the card that a run decides.

    Attributes:
        parameters: Weights of the base.
        megabytes: What base and adapters take on disk.
        train, evaluated: Of what the pictures were made.
        split: That all figures are of.
        photos: Whether the photographs were a folder's and not the catalogue's.
        minutes: Wall-clock time by phase, in order.
        effort: Share of the full run.
        threads: CPU threads that it had.
        configs: Base, stage 1, stage 2.
        eyes: Pre-training of the vision tower.
        stage1, stage2: Of the two adapters on the pictures of ``split``.
        ladders: Of the second adapter.
        aims: What was wanted and what came out.
    """

    parameters: int
    megabytes: float
    train: Sources
    evaluated: Sources
    split: EvaluationSplit
    photos: bool
    minutes: Mapping[str, float]
    effort: float
    threads: int
    configs: tuple[StageConfig, StageConfig, StageConfig]
    eyes: Sequence[EyesPhase]
    stage1: Evaluation
    stage2: Evaluation
    ladders: LadderReport
    aims: tuple[Aim, ...]


def write_card(path: Path, facts: CardFacts) -> str:
    """Write the card; returns its text."""
    parts = (_head(facts), _data(facts), _training(facts), _figures(facts), _limits(facts))
    text = "\n\n".join(parts) + "\n"
    path.write_text(text, encoding="utf-8")
    return text


def licence_counts(licences: Iterable[str]) -> dict[str, int]:
    """How often every licence occurs, the most frequent first."""
    return dict(Counter(licences).most_common())


def _head(facts: CardFacts) -> str:
    return f"""# The embedded model

A Qwen2-VL of {facts.parameters / 1e6:.1f} million weights with its own small tokeniser, and a LoRA adapter
(rank {facts.configs[2].lora.rank}) that answers with nine attributes and a score. {facts.megabytes:.1f} MB.

**Its labels are synthetic.** It learnt to name what a program did to photographs, and a score that is a
formula over the same severities with a little noise (standard deviation {MOS_NOISE} of 10; {INTEGER_NOISE}
on the two integers). No person judged any picture. It does **not** know human taste, and its scores must not
be read as such. It is there so that the whole product runs with no download, and for tests."""


def _data(facts: CardFacts) -> str:
    base = facts.configs[0]
    side = int(base.image.max_pixels**0.5)
    catalog = "" if facts.photos else "`training/demo/catalog.csv`, "
    return f"""## Data

| | train | {facts.split} |
|---|---|---|
| photographs | {_photographs(facts.train)} | {_photographs(facts.evaluated)} |
| cut-outs | {_counted(facts.train.cutout_licences)} | {_counted(facts.evaluated.cutout_licences)} |
| pictures made of them | {facts.train.pictures:,} | {facts.evaluated.pictures:,} |

{facts.split.capitalize()} pictures hold no photograph and no cut-out that a training picture holds.
Authors and origins: {catalog}`training/demo/cutouts.csv`, `training/demo/ATTRIBUTION.md`.

Into {SUBJECT_SHARE:.0%} of the pictures a drawn figure with alpha is put as the subject: whole, cut by the
frame, or behind an oval, by a share that is known to the pixel; centred or aside. Other figures lie in or
around it or in the background. The picture is tilted and cropped, then blurred (Gaussian, defocus, motion),
exposed (both ways, or its highlights blown out), flattened, its colours made strong or pale, noise added, and
saved as a JPEG file of some quality: several at once, each in several severities or not at all;
{UNTOUCHED_SHARE:.0%} of the pictures stay untouched. Labels name what was done; formulas:
`training/demo/labels.py`.

Pictures are read by the same code as in serving, at most {base.image.max_pixels:,} px ({side} × {side},
{base.image.max_pixels // _TOKEN_PIXELS} visual tokens); blur is measured in those pixels. The {facts.split}
pictures as a data set: `{_demo_data_command(facts)}`."""


def _photographs(sources: Sources) -> str:
    if sources.photograph_licences is None:
        return f"{sources.photographs}, of a folder (licences: the folder's)"
    return _counted(sources.photograph_licences)


def _counted(licences: Mapping[str, int]) -> str:
    return f"{sum(licences.values())}: " + ", ".join(f"{count} {name}" for name, count in licences.items())


def _training(facts: CardFacts) -> str:
    base = facts.configs[0]
    steps = ", ".join(
        f"{config.stage} {config.optimiser_steps(facts.train.pictures):,} × {config.batch_size}"
        for config in facts.configs
    )
    minutes = ", ".join(f"{phase} {minutes:.1f}" for phase, minutes in facts.minutes.items())
    seeds = ", ".join(f"{config.stage} {config.seed}" for config in facts.configs)
    eyes = ", then ".join(
        f"{phase.steps:,} steps × {phase.batch_size} pictures at {phase.pixel_share:.0%} of the pixels"
        for phase in facts.eyes
    )
    total = sum(facts.minutes.values())
    threads = "1 thread" if facts.threads == 1 else f"{facts.threads} threads"
    return f"""## Training

1. Eyes: the vision tower starts from texture statistics, and alone is asked for every severity, every label
   and, for every visual token, how much of it shows the subject, what hides it, or foreign objects;
   {eyes}.
   Its first blocks, which measure the statistics, stay as they are. None of these pictures is seen twice, and
   none is in the data set. The head that answers is thrown away.
2. Base: the language model, on the conversations of both stages; the tower stays as it is.
3. LoRA on the base for stage 1 (attributes) and, from the base again, for stage 2 (score). The base has seen
   the same conversations, so here the adapters refine and do not teach something new.

Steps × conversations: {steps}. While training, {base.wrong_integers:.0%} of the integers and
{base.wrong_labels:.0%} of the labels are fed wrong, so that later values come from the picture and not from
earlier ones (`training/targets.py`).
{"" if facts.photos else _HOW_CHOSEN}
**Reproduce**: `{_demo_command(facts)}` (seeds: pictures {SEED} and more, of the eyes
{LESSONS_SEED} and more, {seeds}).
{total:.0f} minutes with {threads} when this card was written: {minutes}.
Another processor, number of threads or library version gives slightly other weights."""


def _demo_command(facts: CardFacts) -> str:
    options = [
        " --photos PHOTOS" if facts.photos else "",
        f" --effort {facts.effort:g}" if facts.effort != 1 else "",
        f" --threads {facts.threads}",
        " --validate" if facts.split == "validation" else "",
    ]
    return f"python -m training demo{''.join(options)}"


def _demo_data_command(facts: CardFacts) -> str:
    pictures = facts.evaluated.pictures
    count = f" --pictures {pictures}" if pictures != PICTURES[facts.split] else ""
    return f"python -m training demo-data DIR{_split_options(facts)}{count}"


def _ladders_command(facts: CardFacts) -> str:
    photographs = len(facts.ladders.photographs)
    return f"python -m training ladders --adapter ADAPTER{_split_options(facts)} --photographs {photographs}"


def _split_options(facts: CardFacts) -> str:
    split = " --split validation" if facts.split == "validation" else ""
    return split + (" --photos PHOTOS" if facts.photos else "")


def _figures(facts: CardFacts) -> str:
    default = facts.configs[2].score.decoder
    split = " --split validation" if facts.split == "validation" else ""
    return f"""## Aims

Decided values of the second adapter; the other figures stand below.

{aim_table(facts.aims)}

## Figures on the {facts.split} pictures

Decoded freely from the saved weights. Of these weights the same tables:
`{_demo_data_command(facts)}` and `python -m training evaluate ADAPTER DIR{split}`.

### Stage 2: attributes, then the score

{evaluation_tables(facts.stage2)}

**Which decoder.** {decoder_words(facts.stage2.decoders, default)}

### Stage 1: attributes only

{agreement_table(facts.stage1)}

## One degradation at a time, BRISQUE, and degradations never seen

{facts.split.capitalize()} photographs without cut-outs, degraded in five steps
(`{_ladders_command(facts)}`).
{facts.ladders.to_markdown()}"""


def decoder_words(decoders: tuple[DecoderEvaluation, ...], default: Decoder) -> str:
    """Say which is best, and how sure that is; the figures decide, not the default."""
    rmse = {found.decoder: found.figures.rmse.value for found in decoders}
    srcc = {found.decoder: found.figures.srcc.value for found in decoders}
    ranked = {decoder: value for decoder, value in srcc.items() if value is not None}
    if not decoders or not ranked:
        return f"The score never changes, so decoders cannot be told apart; `{default}` is the default."
    errors = {decoder: value for decoder, value in rmse.items() if value is not None}
    by_error, by_rank = min(errors, key=errors.__getitem__), max(ranked, key=ranked.__getitem__)
    sentences = [
        f"Smallest RMSE: `{by_error}` ({errors[by_error]:.3f}).",
        f"Highest SRCC: `{by_rank}` ({ranked[by_rank]:.3f}).",
    ]
    sentences += [
        f"`{found.decoder}` − `digit_tree`: RMSE {shown(found.difference.rmse, signed=True)}, "
        f"SRCC {shown(found.difference.srcc, signed=True)}."
        for found in decoders
        if found.difference is not None
    ]
    verdict = {
        (True, True): "is best by both, which is why it is the default.",
        (True, False): "is the default for its RMSE; by SRCC it is **not** the best here.",
        (False, True): "is the default for its SRCC; by RMSE it is **not** the best here.",
        (False, False): "is the default, and **not** the best here by either figure.",
    }[by_error == default, by_rank == default]
    sentences.append(f"`{default}` {verdict} Where an interval holds 0, the difference may be chance.")
    if default == "digit_tree":
        sentences.append("It is also the only one whose standard deviation belongs to it.")
    return " ".join(sentences)


def _limits(facts: CardFacts) -> str:
    return f"""## Limits

- {_not_learnt(facts.stage2)}
- Synthetic degradations are cleaner than real ones: the figures say nothing about real defects, and
  photographs from elsewhere were not measured. Subjects and clutter are drawings on photographs, and what
  obstructs a subject is a plain oval.
- Composition and eye-catching are formulas over the degradations: a dull photograph, untouched, scores high.
- Subject and background in words are not predicted."""


def _not_learnt(evaluation: Evaluation) -> str:
    srcc = {target.target: target.decided.srcc.value for target in evaluation.targets}
    weak = [target for target, value in srcc.items() if value is None or value < _WEAK_SRCC]
    if not weak:
        return f"Every target has an SRCC of {_WEAK_SRCC} or more on these pictures."
    return f"Do not use: {', '.join(weak)}. Their SRCC is below {_WEAK_SRCC}, or they never change."
