"""Does a base understand numbers? RealQA's sorting test (arXiv 2503.06141, Table 3), for any Qwen2-VL.

The paper gives no wording of the question and no rule for reading an answer; both are ours here, so figures
compare with each other, and with the paper's only roughly.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

import torch

from model.backbone import load_base, load_tokenizer, resolve_base
from model.placement import resolve_device
from model.tokens import IM_END, IM_START, TextEncoder
from training.greedy_writing import write_greedily

_LOW_CENTS, _HIGH_CENTS = 100, 1000  # 1 to 10
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?!\.?\w)")
_ENUMERATOR = re.compile(r"^\s*(\d+)[.)]\s+", re.MULTILINE)
_PROMPT = (
    "Sort the following numbers in ascending order. Answer with the sorted numbers only, separated by "
    "commas.\n{numbers}"
)
_TOKENS_A_NUMBER, _OTHER_TOKENS = 8, 64


@dataclass(frozen=True, slots=True)
class SortingFigures:
    """What a base made of the lists it was given.

    Attributes:
        runs: Lists.
        unparsable: Answers without any number; they count as wrong, with nothing recalled or invented.
        accuracy: Share of answers that are exactly the sorted list.
        recall: Share of a list's numbers that are in the answer, each as often as it was given; mean of runs.
        hallucination: Share of an answer's numbers that were not in the list; mean of runs.
    """

    runs: int
    unparsable: int
    accuracy: float
    recall: float
    hallucination: float

    def to_json(self) -> str:
        """All figures as a JSON object."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def to_markdown(self) -> str:
        """A table as in the paper, with what could not be read."""
        return (
            "| runs | unparsable | accuracy | recall | hallucination |\n|---|---|---|---|---|\n"
            f"| {self.runs} | {self.unparsable} | {self.accuracy:.3f} | {self.recall:.3f} "
            f"| {self.hallucination:.3f} |"
        )


@dataclass(frozen=True, slots=True)
class SortingSettings:
    """One sorting test.

    Attributes:
        base: Name or path of the base model, or ``embedded``.
        runs: Lists to sort.
        numbers: Length of a list.
        seed: Of the lists.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        batch_size: Lists that are answered at a time.
    """

    base: str
    runs: int = 200
    numbers: int = 10
    seed: int = 0
    device: str = "auto"
    batch_size: int = 16


def probe_sorting(settings: SortingSettings) -> SortingFigures:
    """Ask a base to sort lists of numbers, greedily, and count.

    Raises:
        ConfigurationError: There is no such base or device.
    """
    device = resolve_device(settings.device)
    path = resolve_base(settings.base)
    encoder = TextEncoder(load_tokenizer(path))
    model = load_base(path, device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    lists = draw_lists(settings.runs, settings.numbers, settings.seed)
    prompts = [question(encoder, numbers) for numbers in lists]
    length = _TOKENS_A_NUMBER * settings.numbers + _OTHER_TOKENS
    answers: list[str] = []
    for start in range(0, len(prompts), settings.batch_size):
        answers += _answers(model, encoder, prompts[start : start + settings.batch_size], length)
    return sorting_figures(lists, answers)


def draw_lists(runs: int, numbers: int, seed: int) -> list[tuple[Decimal, ...]]:
    """Draw lists of hundredths from 1 to 10, both ends included, uniformly; a number may come twice."""
    draw = random.Random(seed)
    return [
        tuple(Decimal(draw.randint(_LOW_CENTS, _HIGH_CENTS)) / 100 for _ in range(numbers))
        for _ in range(runs)
    ]


def question(encoder: TextEncoder, numbers: Iterable[Decimal]) -> list[int]:
    """Ask for a list in order, in Qwen2-VL's ChatML, without image; zeros at the end are left out ("7")."""
    start, end = encoder.special(IM_START), encoder.special(IM_END)
    newline = encoder.encode("\n")
    asked = _PROMPT.format(numbers=", ".join(f"{number.normalize():f}" for number in numbers))
    return [
        start,
        *encoder.encode("system\nYou are a helpful assistant."),
        end,
        *newline,
        start,
        *encoder.encode(f"user\n{asked}"),
        end,
        *newline,
        start,
        *encoder.encode("assistant\n"),
    ]


@torch.inference_mode()
def _answers(
    model: Any, encoder: TextEncoder, prompts: Sequence[Sequence[int]], length: int
) -> Iterator[str]:
    end = encoder.special(IM_END)
    return (encoder.decode(row) for row in write_greedily(model, prompts, end, end, length))


def parse_numbers(answer: str) -> tuple[Decimal, ...]:
    """Read the numbers of an answer in order: behind its first colon, or all where there is none.

    The numbers of a numbered list ("1. 3.2⏎2. 4") are no numbers of the answer.
    """
    text = answer.partition(":")[2] or answer
    places = [int(place) for place in _ENUMERATOR.findall(text)]
    if len(places) > 1 and places == list(range(1, len(places) + 1)):
        text = _ENUMERATOR.sub("", text)
    return tuple(Decimal(found) for found in _NUMBER.findall(text))


def sorting_figures(lists: Sequence[Sequence[Decimal]], answers: Sequence[str]) -> SortingFigures:
    """Count what answers made of their lists; numbers are compared by value, so 7.0 is 7."""
    read = [parse_numbers(answer) for answer in answers]
    pairs = list(zip(lists, read, strict=True))
    return SortingFigures(
        runs=len(lists),
        unparsable=sum(not found for found in read),
        accuracy=_mean(float(list(found) == sorted(given)) for given, found in pairs),
        recall=_mean((Counter(given) & Counter(found)).total() / len(given) for given, found in pairs),
        hallucination=_mean(
            sum(number not in given for number in found) / len(found) if found else 0.0
            for given, found in pairs
        ),
    )


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
