"""Which context an evaluation shows with every image: its own, none, or that of another image.

Shuffled contexts tell an adapter that reads them from one that only likes to have some: words that are right
about another image are worth nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from model.templates import SCORE, AnswerTemplate
from schemas.annotations import Annotation
from schemas.manifest import Conversation

Context = Literal["none", "given", "shuffled"]
ContextChoice = Literal["given", "none", "shuffled", "all"]
"""``all``: as given, and the score once more with each of the others."""

SHUFFLE_SEED = 0


def has_context(annotation: Annotation) -> bool:
    """Whether there is text about the image; white space is none."""
    return bool(_words(annotation))


def shown_contexts(
    annotations: Sequence[Annotation], context: Context, *, seed: int = SHUFFLE_SEED
) -> list[str | None]:
    """The text to show with every image, in their order.

    Args:
        annotations: Of the images.
        context: Which. Shuffled, every image that has a context gets that of another image, and those
            without stay without; the words are the same where two images have the same.
        seed: Of the shuffle.
    """
    if context == "none":
        return [None] * len(annotations)
    own = [annotation.context for annotation in annotations]
    if context == "given":
        return own
    rows = [row for row, annotation in enumerate(annotations) if has_context(annotation)]
    # One ring through all of them: nobody is left with the own one, as in a plain permutation.
    ring = np.random.default_rng(seed).permutation(rows).tolist()
    shown = list(own)
    for row, neighbour in zip(ring, [*ring[1:], *ring[:1]], strict=True):
        shown[row] = own[neighbour]
    return shown


def conversation_context_problems(
    choice: ContextChoice, conversation: Conversation, template: AnswerTemplate
) -> list[str]:
    """Say why contexts cannot be compared by what is asked, one sentence each.

    Args:
        choice: What is to be shown.
        conversation: How the question is put.
        template: Which answer is asked for.
    """
    problems = []
    if choice in ("shuffled", "all") and conversation.context_template is None:
        problems.append(f"--context {choice}: the adapter takes no context")
    if choice == "all" and SCORE not in {slot.name for slot in template.slots}:
        problems.append(f"--context all: compares scores, and template {template.name!r} answers none")
    return problems


def data_context_problems(
    choice: ContextChoice, data: Path, annotations: Sequence[Annotation], fewest_images: int
) -> list[str]:
    """Say why contexts cannot be compared on a data set, one sentence each.

    Args:
        choice: What is to be shown.
        data: The data set, as errors name it.
        annotations: Of the images that are evaluated.
        fewest_images: With fewer labelled images nothing is measured.
    """
    having = [annotation for annotation in annotations if has_context(annotation)]
    problems = []
    if choice in ("shuffled", "all") and len({_words(annotation) for annotation in having}) < 2:
        problems.append(f"{data}: --context {choice} needs two images with different contexts")
    if choice == "all" and sum(annotation.mos is not None for annotation in having) < fewest_images:
        problems.append(
            f"{data}: --context all needs mos on {fewest_images} images or more that have a context"
        )
    return problems


def _words(annotation: Annotation) -> str:
    return " ".join((annotation.context or "").split())
