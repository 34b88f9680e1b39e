"""``dataset.json`` beside a data set's annotations: what they cannot say themselves."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from schemas.errors import ConfigurationError
from training.score_ranges import ScoreRange
from training.text_files import replace_text

DATASET_NAME = "dataset.json"


class DatasetFacts(BaseModel):
    """What holds for all annotations of a data set.

    Attributes:
        name: Of the data set, for people.
        layout: Which reader the annotations came from (``training.layouts.registry``).
        native_low, native_high: Range of mos; mos_std is on the same scale.
        labelled_by: Revision of the adapter that named attributes; None = labels from outside.
        notes: What the import had to decide or leave out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    layout: str
    native_low: float = Field(allow_inf_nan=False)
    native_high: float = Field(allow_inf_nan=False)
    labelled_by: str | None = None
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _ordered(self) -> DatasetFacts:
        if not self.native_low < self.native_high:
            raise ValueError("native_low must be below native_high")
        return self

    @property
    def native(self) -> ScoreRange:
        """Range of mos."""
        return self.native_low, self.native_high


def write_facts(folder: Path, facts: DatasetFacts) -> Path:
    """Write a data set's facts into its folder, all or nothing."""
    file = folder / DATASET_NAME
    replace_text(file, facts.model_dump_json(indent=2) + "\n")
    return file


def read_facts(data: Path) -> DatasetFacts | None:
    """Read a data set's facts, by its folder or its file of annotations; None where there are none.

    Raises:
        ConfigurationError: The file cannot be read, or is not what ``write_facts`` writes; every reason.
    """
    file = (data if data.is_dir() else data.parent) / DATASET_NAME
    if not file.exists():
        return None
    try:
        return DatasetFacts.model_validate_json(file.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror or error}") from error
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise ConfigurationError(
            [f"{file}: {'.'.join(map(str, part['loc']))}: {part['msg']}" for part in found]
        ) from error
