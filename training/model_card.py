"""The card beside a published adapter, written from nothing but its manifest."""

from __future__ import annotations

import yaml

from model.adapter_config import SCORE_HEAD_NAME
from model.templates import SCORE, AnswerTemplate, Decimal, Forced, FreeText, answer_template
from schemas.manifest import (
    READOUT_HEADS,
    AdapterManifest,
    Decoder,
    EvaluationResult,
    ImageRule,
    ScoreHead,
    ScoreScale,
)

_TOKEN_PIXELS = 28 * 28
_TAGS = ["qwen2_vl", "lora", "image-quality-assessment", "image-aesthetics"]
_SYNTHETIC = """> **Trained on synthetic labels.** They say what a program did to photographs, and nothing
> about human taste. Do not read these scores as anybody's opinion."""
_HEADS: dict[ScoreHead, str] = {
    "levels": "Written as one of the levels {words}",
    "soft_levels": "A distribution over the levels {words}, the best of them 10",
    "bins": "A distribution over {bins} equal bins, read off the last hidden state",
    "regression": "One linear output over the last hidden state",
    "mlp": "A small network over the last hidden state",
}
_READOUTS: dict[ScoreHead, str] = {
    "bins": "softmax of its outputs over the bins' middles",
    "regression": "ten times its output",
    "mlp": "ten times its output; GELU between the layers",
}
_DECODERS: dict[Decoder, str] = {
    "digit_tree": "the mean over the tree of its first digits, with a standard deviation",
    "per_position": "expected digits, each given the greedy ones before it",
    "greedy": "the number that greedy decoding writes",
    "mean": "the mean over them, with a standard deviation",
    "mode": "the most probable of them",
    "point": "it is, without a standard deviation",
}


def model_card(manifest: AdapterManifest, revision: str, *, merged: bool = False) -> str:
    """Write the card, README.md with YAML front matter, of a published adapter.

    A licence and a training set are in no manifest: who publishes adds them.

    Args:
        manifest: Of the adapter.
        revision: sha256 of the manifest.
        merged: Whether the card stands beside merged weights, and not beside an adapter.

    Raises:
        ConfigurationError: The default template is unknown to this version.
    """
    template = answer_template(manifest.answer.default_template, manifest.vocabulary, manifest.score)
    parts = [
        _front_matter(manifest, merged),
        f"# {manifest.name}",
        manifest.description,
        _SYNTHETIC if manifest.training.synthetic else "",
        _what(manifest, template, merged),
        _question(manifest, template),
        _image(manifest.image),
        _serving(manifest, merged),
        _evaluation(manifest.evaluation),
        _limits(manifest, template),
        f"Adapter revision: `{revision}`.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(manifest: AdapterManifest, merged: bool) -> str:
    content: dict[str, object] = {}
    if _is_public(manifest.base_model.name):
        content["base_model"] = manifest.base_model.name
    content["library_name"] = "transformers" if merged else "peft"
    content["tags"] = [tag for tag in _TAGS if not (merged and tag == "lora")]
    return f"---\n{yaml.safe_dump(content, sort_keys=False)}---"


def _is_public(base: str) -> bool:
    # A path of the machine that trained says nothing to others, and is nobody else's business.
    return base.count("/") == 1 and not base.startswith(("/", ".", "~")) and "\\" not in base


def _base_name(manifest: AdapterManifest) -> str:
    name = manifest.base_model.name
    return name if _is_public(name) else name.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _what(manifest: AdapterManifest, template: AnswerTemplate, merged: bool) -> str:
    slots = {slot.name for slot in template.slots}
    attributes = [attribute.title for attribute in manifest.vocabulary.attributes if attribute.name in slots]
    kind = "Weights with a LoRA adapter merged in" if merged else "A LoRA adapter"
    lines = [f"{kind}; the base is `{_base_name(manifest)}`. It answers about one photograph:", ""]
    if SCORE in slots:
        scale = manifest.score
        lines.append(
            f"- a score in [0, 10), higher is better; [0, 10) is {scale.native_low:g}–"
            f"{scale.native_high:g} of the training labels, linear. {_head(scale)}. Read as "
            f"{_DECODERS[scale.decoder]}"
        )
    if manifest.score.head in READOUT_HEADS:
        lines.append(
            f"- nobody writes the score: `{SCORE_HEAD_NAME}`, which PEFT and transformers pass over, holds "
            f"the head that reads it off the hidden state of the last token before [score] (behind the final "
            f"norm, in float32): {_READOUTS[manifest.score.head]}"
        )
    if attributes:
        lines.append(f"- {', '.join(attributes)}")
    if template.has_free_text:
        lines.append("- words of its own before that, which cost one pass a token")
    if manifest.composite is not None:
        lines.append(f"- a composite score of {', '.join(sorted(manifest.composite.weights))}")
    return "## What it predicts\n\n" + "\n".join(lines)


def _head(scale: ScoreScale) -> str:
    if scale.head == "digits":
        return f"Written with {scale.digits} digits{', zeros at the end dropped' if scale.trimmed else ''}"
    return _HEADS[scale.head].format(words=", ".join(scale.level_words), bins=scale.bins)


def _question(manifest: AdapterManifest, template: AnswerTemplate) -> str:
    conversation = manifest.conversation
    image = "<image>"
    asked = (
        f"{template.instruction}{image}"
        if conversation.instruction == "before_image"
        else f"{image}{template.instruction}"
    )
    others = [f"`{name}`" for name in manifest.answer.templates if name != template.name]
    lines = [
        "## Question and answer",
        f"Qwen2-VL's ChatML; system: “{conversation.system}” Template `{template.name}`:",
        f"```text\n{asked}{conversation.context_template or ''}\n\n{_skeleton(template)}\n```",
    ]
    if conversation.context_template is not None:
        lines.append(
            "`{context}` is text about this image; where there is none, the whole sentence is left out."
        )
    if others:
        lines.append(f"It was also trained on {', '.join(others)}.")
    return "\n\n".join(lines)


def _skeleton(template: AnswerTemplate) -> str:
    pieces = []
    for part in template.parts:
        if isinstance(part, Forced):
            pieces.append(part.text)
        else:
            pieces.append(f"[{part.name}]" if isinstance(part, Decimal) else f" [{part.name}]")
    return "".join(pieces).strip()


def _image(rule: ImageRule) -> str:
    first = (
        "First NEAREST to at most 262,144 px where it is larger, then bicubic"
        if rule.resize_rule == "nearest_262144"
        else "Bicubic, as Qwen2-VL's own `smart_resize`"
    )
    return f"""## Pixels

{first}, to {rule.min_pixels:,}–{rule.max_pixels:,} px with sides that are multiples of 28
({rule.min_pixels // _TOKEN_PIXELS}–{rule.max_pixels // _TOKEN_PIXELS} visual tokens). Other pixels give other
scores: training saw these. Decoder: `{rule.image_decoder}`."""


def _serving(manifest: AdapterManifest, merged: bool) -> str:
    base = _base_name(manifest)
    if merged:
        unwritten = ", but for the score" if manifest.score.head in READOUT_HEADS else ""
        return f"""## Loading

```python
from transformers import Qwen2VLForConditionalGeneration

model = Qwen2VLForConditionalGeneration.from_pretrained("THIS_FOLDER")
```

It generates the answer above as text{unwritten}.
Distributions, confidences and the pixel rule come with realqa-beam and the adapter, not with
merged weights."""
    spread = "" if manifest.score.decoder == "point" else ", with confidences and a standard deviation"
    return f"""## Serving

With realqa-beam, exactly as in training{spread}:

```python
from model.scorer import Scorer

scorer = Scorer.load("THIS_FOLDER", base_model="{base}")
print(scorer.score(["photograph.jpg"])[0])
```

Without it, PEFT loads the weights; question, pixels and reading of the answer are then yours:

```python
from peft import PeftModel
from transformers import Qwen2VLForConditionalGeneration

model = PeftModel.from_pretrained(Qwen2VLForConditionalGeneration.from_pretrained("{base}"), "THIS_FOLDER")
```"""


def _evaluation(results: tuple[EvaluationResult, ...]) -> str:
    if not results:
        return "## Evaluation\n\nNone is recorded in the manifest."
    rows = [
        f"| {found.dataset} | {found.target} | {found.n} | {_figure(found.srcc)} | {_figure(found.plcc)} |"
        for found in results
    ]
    return "## Evaluation\n\n| data | target | n | SRCC | PLCC |\n|---|---|---|---|---|\n" + "\n".join(rows)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _limits(manifest: AdapterManifest, template: AnswerTemplate) -> str:
    limits = [
        "It holds for the base, the question and the pixels above; of photographs unlike those of its "
        "training nothing is known.",
        "A confidence is conditional on what the answer decided before it: a lower bound of the uncertainty.",
    ]
    if any(isinstance(slot, FreeText) for slot in template.slots):
        limits.append(
            "Its words are generated: they may be wrong where the values are right, and the reverse."
        )
    ours = [
        attribute.title
        for attribute in manifest.vocabulary.attributes
        if any(label.ours for label in attribute.labels)
        and attribute.name in {s.name for s in template.slots}
    ]
    if ours:
        limits.append(f"Labels of {', '.join(ours)} are partly not RealQA's published ones.")
    if manifest.training.labelled_by is not None:
        limits.append(
            f"Its training labels were written by another adapter, `{manifest.training.labelled_by[:12]}`."
        )
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)
