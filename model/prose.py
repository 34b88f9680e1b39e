"""Prose for stage 2's Q2: labels as sentences, composed from templates by a seed.

The wording of the published prose is unknown and cannot be compiled into slots (realqa.md,
"Conversations"); training prose is composed here, serving reads it back as one bounded free text.
"""

from __future__ import annotations

import random

from schemas.annotations import Annotation
from schemas.attributes import VOCABULARY

_CHOICE = (
    "Its {title} is {value}.",
    "As to {title}, it is {value}.",
    "{Title}: {value}.",
)
_INTEGER = (
    "The {title} deserves {value} of 10.",
    "I give the {title} {value} of 10.",
)
_TEXT = ("The picture shows {value}.", "One sees {value}.")


def compose_prose(annotation: Annotation, seed: int) -> str | None:
    """Say an image's labels in sentences, in order of the attributes.

    Args:
        annotation: The labels; missing ones are passed over.
        seed: Same seed, same prose.

    Returns:
        One paragraph, or None where there is no label at all.
    """
    draw = random.Random(seed)
    sentences = []
    for attribute in VOCABULARY.attributes:
        value = getattr(annotation, attribute.name)
        if value is None:
            continue
        forms = {"choice": _CHOICE, "integer": _INTEGER, "text": _TEXT}[attribute.kind]
        title = attribute.title.removesuffix(" Score").lower()
        form = draw.choice(forms)
        sentences.append(form.format(title=title, Title=title.capitalize(), value=value))
    return " ".join(sentences) or None
