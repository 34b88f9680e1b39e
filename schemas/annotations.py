"""One labelled image: what training reads, whoever made the labels.

Every label may be missing; a template is rendered only for images that have all of its labels.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.attributes import INTEGER_HIGH, INTEGER_LOW, Vocabulary

Split = Literal["train", "validation", "test"]


class Annotation(BaseModel):
    """Labels of one image.

    Attributes:
        image: Path relative to the data set, or an absolute path or uri.
        mos: Mean opinion score on the data set's native scale, higher is better.
        mos_std: Its standard deviation on the same scale.
        context: Text about this image.
        split: Which part of the data set it belongs to.
        source: What the image was made of or belongs to: a photograph, a scene, a series. Images of one
            source stay on one side of a split and are drawn together when intervals are estimated.
            None = the image stands for itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: str
    composition: int | None = Field(default=None, ge=INTEGER_LOW, le=INTEGER_HIGH)
    eye_catching: int | None = Field(default=None, ge=INTEGER_LOW, le=INTEGER_HIGH)
    subject_and_background: str | None = None
    subject_integrity: str | None = None
    subject_clutter: str | None = None
    background_clutter: str | None = None
    level_shot: str | None = None
    image_clarity: str | None = None
    exposure: str | None = None
    saturation: str | None = None
    composition_reason: str | None = None
    eye_catching_reason: str | None = None
    mos: float | None = Field(default=None, allow_inf_nan=False)
    mos_std: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    context: str | None = None
    split: Split = "train"
    source: str | None = None

    def problems(self, vocabulary: Vocabulary) -> list[str]:
        """Say which labels the vocabulary does not know, one sentence each."""
        found = []
        for attribute in vocabulary.attributes:
            value = getattr(self, attribute.name)
            if attribute.kind == "choice" and value is not None and value not in attribute.values:
                found.append(f"{self.image}: {attribute.name} {value!r} is none of {list(attribute.values)}")
        return found
