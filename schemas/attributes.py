"""The ten attributes as one table of data.

Names, order, levels and the known labels: RealQA (arXiv 2503.06141, Table 1 and section 3). Labels that
the authors do not publish are ours and carry ``ours=True``; an adapter trained on other labels brings its
own ``Vocabulary`` in its manifest. Codes are ordinal, 1 = worst upward; several labels may share one
(over- and under-exposed are equally bad).
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Level = Literal["high", "middle", "low"]
Kind = Literal["integer", "text", "choice"]

INTEGER_LOW, INTEGER_HIGH = 1, 10
"""Range of an integer attribute, both ends included; higher is better."""

_ONE_LINE = r"^\S([^\r\n]*\S)?$"
"""A label or title is one line without blanks around it: templates add those."""


class Label(BaseModel):
    """One value of a choice attribute.

    Attributes:
        text: The words the model writes.
        code: Ordinal code, 1 = worst; several labels may share one.
        ours: True where the authors publish no name and we chose one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = Field(pattern=_ONE_LINE)
    code: int = Field(ge=1, le=10)
    ours: bool = True


class Attribute(BaseModel):
    """One of the ten attributes.

    Attributes:
        name: Column name (snake case).
        title: The words in a conversation ("Composition Score", "Image Clarity").
        level: RealQA's granularity level.
        kind: ``integer`` (1–10), ``choice`` (labels) or ``text`` (not scored).
        labels: Values of a choice, worst to best by convention; empty otherwise.
        description: What it means, for column metadata and the glossary.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str = Field(pattern=_ONE_LINE)
    level: Level
    kind: Kind
    description: str
    labels: tuple[Label, ...] = ()

    @model_validator(mode="after")
    def _labels_fit_kind(self) -> Attribute:
        texts = [label.text for label in self.labels]
        if (self.kind == "choice") != (len(texts) >= 2):
            raise ValueError(f"{self.name}: a choice needs two labels or more, other kinds none")
        if len(set(texts)) != len(texts):
            raise ValueError(f"{self.name}: a label occurs twice")
        return self

    @property
    def evaluated(self) -> bool:
        """Whether the attribute has an ordinal code (nine of the ten have)."""
        return self.kind != "text"

    @property
    def values(self) -> tuple[str, ...]:
        """The texts a value can have, in order of the table; empty for text."""
        if self.kind == "integer":
            return tuple(str(value) for value in range(INTEGER_LOW, INTEGER_HIGH + 1))
        return tuple(label.text for label in self.labels)

    @property
    def codes(self) -> tuple[int, ...]:
        """The ordinal code of each of ``values``."""
        if self.kind == "integer":
            return tuple(range(INTEGER_LOW, INTEGER_HIGH + 1))
        return tuple(label.code for label in self.labels)


class Vocabulary(BaseModel):
    """The attributes in the order in which they are predicted (high → middle → low)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attributes: tuple[Attribute, ...]

    @model_validator(mode="after")
    def _same_table(self) -> Vocabulary:
        names = [attribute.name for attribute in self.attributes]
        if len(set(names)) != len(names):
            raise ValueError("an attribute occurs twice")
        return self

    def __getitem__(self, name: str) -> Attribute:
        for attribute in self.attributes:
            if attribute.name == name:
                return attribute
        raise KeyError(name)

    @property
    def names(self) -> tuple[str, ...]:
        """Attribute names in order."""
        return tuple(attribute.name for attribute in self.attributes)

    @property
    def evaluated(self) -> tuple[Attribute, ...]:
        """The nine attributes with ordinal codes."""
        return tuple(attribute for attribute in self.attributes if attribute.evaluated)

    def at_level(self, level: Level) -> tuple[Attribute, ...]:
        """The attributes of one granularity level, in order."""
        return tuple(attribute for attribute in self.attributes if attribute.level == level)


def _label(text: str, code: int, *, ours: bool = True) -> Label:
    return Label(text=text, code=code, ours=ours)


_CLUTTER = (
    _label("cluttered", 1, ours=False),
    _label("moderately cluttered", 2, ours=False),
    _label("uncluttered", 3, ours=False),
)

VOCABULARY = Vocabulary(
    attributes=(
        Attribute(
            name="composition",
            title="Composition Score",
            level="high",
            kind="integer",
            description="how well the picture is arranged",
        ),
        Attribute(
            name="eye_catching",
            title="Eye-Catching Score",
            level="high",
            kind="integer",
            description="how strongly the picture draws the eye",
        ),
        Attribute(
            name="subject_and_background",
            title="Subject and Background",
            level="middle",
            kind="text",
            description="what the picture shows, and before what; free text, not scored",
        ),
        Attribute(
            name="subject_integrity",
            title="Subject Integrity",
            level="middle",
            kind="choice",
            description="whether the subject is whole in the frame",
            labels=(
                _label("incomplete (mostly cut off or mostly obscured)", 1),
                _label("partially complete (slightly cut off or slightly obscured)", 2, ours=False),
                _label("complete", 3),
            ),
        ),
        Attribute(
            name="subject_clutter",
            title="Subject Clutter",
            level="middle",
            kind="choice",
            description="how many things compete with the subject",
            labels=_CLUTTER,
        ),
        Attribute(
            name="background_clutter",
            title="Background Clutter",
            level="middle",
            kind="choice",
            description="how busy the background is",
            labels=_CLUTTER,
        ),
        Attribute(
            name="level_shot",
            title="Level Shot",
            level="middle",
            kind="choice",
            description="whether the camera was held level",
            labels=(_label("not horizontal", 1), _label("taken straight", 2)),
        ),
        Attribute(
            name="image_clarity",
            title="Image Clarity",
            level="low",
            kind="choice",
            description="how sharp and free of noise the picture is",
            labels=(
                _label("very blurry", 1),
                _label("blurry", 2),
                _label("slightly blurry", 3),
                _label("clear", 4),
            ),
        ),
        Attribute(
            name="exposure",
            title="Exposure",
            level="low",
            kind="choice",
            description="whether the picture is neither too bright nor too dark",
            labels=(
                _label("overexposed", 1),
                _label("underexposed", 1),
                _label("slightly overexposed", 2),
                _label("slightly underexposed", 2),
                _label("properly exposed", 3, ours=False),
            ),
        ),
        Attribute(
            name="saturation",
            title="Saturation",
            level="low",
            kind="choice",
            description="whether colours are neither too strong nor too pale",
            labels=(
                _label("oversaturated", 1),
                _label("undersaturated", 1),
                _label("slightly oversaturated", 2),
                _label("slightly undersaturated", 2),
                _label("properly saturated", 3),
            ),
        ),
    )
)
"""The default vocabulary: what the embedded model was trained on."""
