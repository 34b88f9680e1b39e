"""What the embedded model was meant to reach, and what a run reached: met or missed, from the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from training.demo.ladder_report import LadderReport
from training.demo.ladders import Climb
from training.evaluate import SCORE
from training.evaluation import Evaluation

_SCORE_SRCC = 0.85
_ATTRIBUTE_SRCC = {"image_clarity": 0.80, "exposure": 0.80, "saturation": 0.80}
_MEAN_SRCC = 0.60
_BLURS = ("Gaussian blur", "defocus", "motion blur")
_BEHIND_BRISQUE = 0.05
_FEWEST_UNSEEN = 3
_MINUTES, _THREADS, _MEGABYTES = 60, 2, 12


@dataclass(frozen=True, slots=True)
class Aim:
    """One aim.

    Attributes:
        aim: What was wanted.
        figure: What came out.
        met: None = not measured.
    """

    aim: str
    figure: str
    met: bool | None


def check_aims(
    evaluation: Evaluation, ladders: LadderReport, minutes: float | None, threads: int, megabytes: float
) -> tuple[Aim, ...]:
    """Hold a run against every aim that it can measure itself.

    Args:
        evaluation: Of the score adapter on pictures that it was not trained on; decided values count.
        ladders: Of the same adapter.
        minutes: Wall-clock time of the whole run; None = it was not a full one.
        threads: CPU threads that the run had.
        megabytes: What base and adapters take on disk.
    """
    srcc = {target.target: target.decided.srcc.value for target in evaluation.targets}
    wanted = {SCORE: _SCORE_SRCC, **_ATTRIBUTE_SRCC}
    unseen = sum(found.ladder.family == "unseen" for found in ladders.climbs)
    return (
        *(_srcc_aim(target, srcc, least) for target, least in wanted.items()),
        _mean_aim(srcc),
        *(_blur_aim(found) for found in ladders.climbs if found.ladder.name in _BLURS),
        Aim(
            f"{_FEWEST_UNSEEN} or more kinds of degradation that training never uses, reported",
            str(unseen),
            unseen >= _FEWEST_UNSEEN,
        ),
        _time_aim(minutes, threads),
        Aim(f"{_MEGABYTES} MB at most", f"{megabytes:.1f} MB", megabytes <= _MEGABYTES),
    )


def aim_table(aims: Sequence[Aim]) -> str:
    """The aims as Markdown."""
    words = {True: "met", False: "**missed**", None: "not measured"}
    rows = [f"| {one.aim} | {one.figure} | {words[one.met]} |" for one in aims]
    return "\n".join(["| aim | figure | |", "|---|---|---|", *rows])


def _time_aim(minutes: float | None, threads: int) -> Aim:
    aim = f"the whole run in {_MINUTES} minutes with {_THREADS} threads"
    if minutes is None:
        return Aim(aim, "not a full run", None)
    if threads != _THREADS:
        return Aim(aim, f"not measured on {_THREADS} threads", None)
    return Aim(aim, f"{minutes:.0f} minutes", minutes <= _MINUTES)


def _srcc_aim(target: str, srcc: Mapping[str, float | None], least: float) -> Aim:
    value = srcc.get(target)
    name = target.replace("_", " ")
    if value is None:
        return Aim(f"SRCC of {name} ≥ {least:.2f}", "none: one and the same value everywhere", False)
    return Aim(f"SRCC of {name} ≥ {least:.2f}", f"{value:.3f}", value >= least)


def _mean_aim(srcc: Mapping[str, float | None]) -> Aim:
    """A target that never changes ranks nothing: it counts 0."""
    values = [value or 0.0 for target, value in srcc.items() if target != SCORE]
    average = sum(values) / len(values)
    return Aim(
        f"mean SRCC of the {len(values)} attributes ≥ {_MEAN_SRCC:.2f}",
        f"{average:.3f}",
        average >= _MEAN_SRCC,
    )


def _blur_aim(found: Climb) -> Aim:
    aim = (
        f"{found.ladder.name}: pooled SRCC of the {found.ladder.compared} at most {_BEHIND_BRISQUE:.2f} "
        "below BRISQUE's"
    )
    if found.lead is None or found.lead.value is None:
        return Aim(aim, "no figure of BRISQUE's beside the model's", None)
    return Aim(aim, f"{found.lead.value:+.3f}", found.lead.value >= -_BEHIND_BRISQUE)
