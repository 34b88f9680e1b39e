"""Who is evaluated, before anything is loaded: an adapter on its base, or a base that nobody tuned."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from model.backbone import base_identity, resolve_base
from model.checks import checked_manifest
from model.conversation import chatml_sha256
from model.templates import DEFAULT_TEMPLATE, AnswerTemplate, answer_template
from schemas.attributes import VOCABULARY, Vocabulary
from schemas.errors import ConfigurationError
from schemas.manifest import Conversation, ImageRule, ScoreScale, Tokenisation
from training.free_answers import spelled_out

UNTUNED = "none"
"""Stands for an adapter's name where there is none."""

_SYSTEM = Conversation.model_fields["system"].default
_UNTUNED_CONVERSATION = Conversation(
    chatml_sha256=chatml_sha256(_SYSTEM, "after_image"),
    instruction="after_image",  # as Qwen2-VL was instructed
    context_template=" Context: {context}.",
)
_UNTUNED_PIXELS = ImageRule(min_pixels=200_704, max_pixels=401_408)
"""RealQA's budget (arXiv 2503.06141), so that zero-shot figures see what the tuned model sees."""


@dataclass(frozen=True, slots=True)
class Respondent:
    """Who answers, how it is asked, and in which terms it answers.

    Attributes:
        name: The adapter's, or ``UNTUNED``.
        revision: sha256 of the adapter's manifest; empty without adapter.
        adapter: The adapter's directory; None = the base is asked as it is.
        base_model: Name or path of the base, as rows name it.
        base_path: Its directory.
        template: Question and answer. For an untuned base the question spells the answer's form out.
        conversation: How the question is put.
        tokenisation: How a context is tokenised.
        image: Pixel budget.
        vocabulary: The labels that an answer may hold.
        score: The score's scale.
        synthetic: Whether the adapter's labels were synthetic.
    """

    name: str
    revision: str
    adapter: Path | None
    base_model: str
    base_path: Path
    template: AnswerTemplate
    conversation: Conversation
    tokenisation: Tokenisation
    image: ImageRule
    vocabulary: Vocabulary
    score: ScoreScale
    synthetic: bool


def adapter_respondent(directory: Path, template: str | None, base_model: str | None) -> Respondent:
    """Check an adapter against its base and the template that is asked for.

    Args:
        directory: Of the adapter.
        template: Name of the answer template; None = the adapter's default.
        base_model: Name or path of the base; None = the one that the manifest names.

    Raises:
        ConfigurationError: With every reason found (``model.checks.checked_manifest``).
    """
    checked = checked_manifest(directory, template, base_model)
    manifest = checked.manifest
    assert checked.base_path is not None  # it was needed
    name = template or manifest.answer.default_template
    return Respondent(
        name=manifest.name,
        revision=checked.revision,
        adapter=directory,
        base_model=base_model or manifest.base_model.name,
        base_path=checked.base_path,
        template=answer_template(name, manifest.vocabulary, manifest.score),
        conversation=manifest.conversation,
        tokenisation=manifest.answer.tokenisation,
        image=manifest.image,
        vocabulary=manifest.vocabulary,
        score=manifest.score,
        synthetic=manifest.training.synthetic,
    )


def untuned_respondent(base_model: str, template: str | None) -> Respondent:
    """Find a base that is to be asked without adapter: our vocabulary, scores of 0–10, RealQA's pixels.

    Args:
        base_model: Name or path.
        template: Name of the answer template; None = ``model.templates.DEFAULT_TEMPLATE``.

    Raises:
        ConfigurationError: There is no such base or template, or the base is no Qwen2-VL; all of it.
    """
    problems: list[str] = []
    score = ScoreScale()
    try:
        shape = answer_template(template or DEFAULT_TEMPLATE, VOCABULARY, score)
    except ConfigurationError as error:
        problems += error.reasons
    try:
        path = resolve_base(base_model)
        base_identity(path, base_model)
    except ConfigurationError as error:
        problems += error.reasons
    if problems:
        raise ConfigurationError(problems)
    return Respondent(
        name=UNTUNED,
        revision="",
        adapter=None,
        base_model=base_model,
        base_path=path,
        template=replace(shape, instruction=spelled_out(shape)),
        conversation=_UNTUNED_CONVERSATION,
        tokenisation="segments",
        image=_UNTUNED_PIXELS,
        vocabulary=VOCABULARY,
        score=score,
        synthetic=False,
    )
