"""One stage of training, whichever it is: base, attributes (stage 1) or score (stage 2).

The stages differ in their configuration only. A base is read from a directory; ``base`` writes a base
directory again, the others write an adapter with its manifest.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import PeftModel
from transformers import Qwen2VLForConditionalGeneration

from model.backbone import base_identity, load_base, load_tokenizer
from model.compiling import compile_template
from model.conversation import chatml_sha256
from model.fast_paths import use_fast_paths
from model.score_heads import build_head
from model.slots import ChoiceSlot, DecimalSlot
from model.templates import SCORE, answer_template, answer_templates, templates_sha256
from model.tokens import IM_END, IMAGE_PAD, TextEncoder
from schemas.attributes import VOCABULARY
from schemas.errors import ConfigurationError
from schemas.manifest import AdapterManifest, Answer, Conversation, EvaluationResult, Training
from training.config import StageConfig
from training.continuing import StartingAdapter, start_from
from training.data import (
    Collator,
    ConversationDataset,
    LabelledImages,
    Renderer,
    plan_conversations,
)
from training.loop import Trained, train
from training.lora import attach_lora
from training.ncm import NcmMeter
from training.random_weights import random_base
from training.score_losses import ScoreObjective, level_tokens, missing_deviations
from training.targets import WrongValues
from training.validator import Validator
from training.watching import Watch


@dataclass(frozen=True, slots=True)
class AdapterWords:
    """What a manifest says in words.

    Attributes:
        name: Of the adapter, as rows name it.
        description: For people.
        base_name: What people call the base.
        synthetic: True where labels are synthetic and say nothing about human taste.
    """

    name: str
    description: str
    base_name: str
    synthetic: bool


def train_stage(
    config: StageConfig,
    base: Path,
    images: LabelledImages,
    *,
    validation: LabelledImages | None = None,
    start: StartingAdapter | None = None,
    checkpoints: Path | None = None,
    tensorboard: Path | None = None,
    device: str = "auto",
) -> tuple[Qwen2VLForConditionalGeneration | PeftModel, Trained]:
    """Train what the configuration says on labelled images.

    Args:
        config: The stage.
        base: Directory of the base model; not changed.
        images: Pixels at ``config.image``'s budget, with labels.
        validation: Images to choose the best weights by; needed where ``config.validate_every`` says so.
        start: Adapter to go on from; None = a new one on the base.
        checkpoints: Folder of this very run's states: they are written there, and if there are some, training
            goes on from the last. None = a run that is killed is lost.
        tensorboard: Folder for TensorBoard's events of this run.
        device: ``auto`` or ``cpu``.

    Returns:
        The base with new weights (stage ``base``), or the base with an adapter on it; and how it went.

    Raises:
        ConfigurationError: Labels that the vocabulary does not know, or that no template asks for.
    """
    problems = [problem for label in images.annotations for problem in label.problems(VOCABULARY)]
    if problems:
        raise ConfigurationError(problems)
    encoder = TextEncoder(load_tokenizer(base))
    objective = score_objective(config, encoder, images)
    dataset = conversations(config, encoder, images)
    image_pad = encoder.special(IMAGE_PAD)
    collator = Collator(0, image_pad, config.forced_token_weight)
    model, trained = _model_to_train(config, base, start)
    validator = None
    if config.validate_every is not None:
        if validation is None:
            raise ConfigurationError("validate_every: there are no images of split validation")
        validator = Validator(model, encoder, conversation(config), config, validation)
    with tempfile.TemporaryDirectory() as scratch:
        went = train(
            trained,
            dataset,
            collator,
            config,
            checkpoints or Path(scratch),
            objective=objective,
            watch=Watch(ncm_meter(config, encoder), validator, tensorboard),
            keep_checkpoints=checkpoints is not None,
            device=device,
        )
    return trained.eval(), went


def _model_to_train(
    config: StageConfig, base: Path, start: StartingAdapter | None
) -> tuple[Qwen2VLForConditionalGeneration, Qwen2VLForConditionalGeneration | PeftModel]:
    """The base, and what of it or on it is trained."""
    # Weights are drawn (LoRA) and inputs dropped (dropout) from torch's own generator.
    torch.manual_seed(config.seed)
    # What is trained stays in float32: all of a base, else the adapter alone.
    half = config.precision == "bfloat16" and config.trainable == "lora"
    if config.initialise == "random":
        model = random_base(base, config.seed)
    else:
        model = load_base(base, torch.device("cpu"), torch.bfloat16 if half else torch.float32)
    use_fast_paths(model)
    trained: Qwen2VLForConditionalGeneration | PeftModel = model
    if config.trainable == "all":
        model.requires_grad_(True)
        model.model.visual.requires_grad_(config.vision != "frozen")
    else:
        head = build_head(config.score, model.config.get_text_config().hidden_size)
        trained = attach_lora(model, config.lora, config.vision, head)
        if start is not None:
            start_from(trained, start, config)
    if config.gradient_checkpointing:
        with warnings.catch_warnings():
            # Trainer's own switch for this has another name in every other release, and so has its argument.
            warnings.filterwarnings("ignore", category=FutureWarning)
            model.gradient_checkpointing_enable({"use_reentrant": False})
    return model, trained


def conversations(config: StageConfig, encoder: TextEncoder, images: LabelledImages) -> ConversationDataset:
    """Plan the whole stage's conversations, to be rendered on demand."""
    known = answer_templates(VOCABULARY, config.score)
    plan = plan_conversations(
        images.annotations,
        [(known[name], share) for name, share in config.templates.items()],
        config.score,
        config.optimiser_steps(len(images)) * config.batch_size,
        context_share=config.context_share,
        seed=config.seed,
    )
    renderer = Renderer(encoder, conversation(config), VOCABULARY, config.score)
    wrong = WrongValues(config.wrong_integers, config.wrong_labels)
    return ConversationDataset(images, plan, renderer, wrong)


def ncm_meter(config: StageConfig, encoder: TextEncoder) -> NcmMeter | None:
    """What measures the NCM of a stage's scores, for a tokeniser; None where they are not in digits."""
    if config.score.head != "digits":
        return None
    template = answer_template("score_direct", VOCABULARY, config.score)
    slot = compile_template(template, encoder, encoder.special(IM_END), "segments").slot(SCORE)
    assert isinstance(slot, DecimalSlot)
    return NcmMeter(slot.digit_ids, config.score.digits)


def score_objective(config: StageConfig, encoder: TextEncoder, images: LabelledImages) -> ScoreObjective:
    """How a stage's scores are taught, for a tokeniser and the labels there are.

    Raises:
        ConfigurationError: Labels or tokeniser do not fit the head.
    """
    objective = ScoreObjective(config.score, config.score_loss)
    problems = missing_deviations([label.mos_std for label in images.annotations], objective)
    if problems:
        raise ConfigurationError(problems)
    if config.score.head != "soft_levels":
        return objective
    template = answer_template("score_direct", VOCABULARY, config.score)
    slot = compile_template(template, encoder, encoder.special(IM_END), "segments").slot(SCORE)
    assert isinstance(slot, ChoiceSlot)
    return replace(objective, level_tokens=level_tokens(slot))


def conversation(config: StageConfig) -> Conversation:
    """The conversation as the manifest states it."""
    system = Conversation.model_fields["system"].default
    return Conversation(
        system=system,
        chatml_sha256=chatml_sha256(system, config.instruction),
        instruction=config.instruction,
        context_template=config.context_template,
    )


def adapter_manifest(
    config: StageConfig,
    base: Path,
    images: LabelledImages,
    words: AdapterWords,
    evaluation: Sequence[EvaluationResult] = (),
    *,
    labelled_by: str | None = None,
    start: StartingAdapter | None = None,
) -> AdapterManifest:
    """Everything serving must do as this stage did; ``files`` is filled in when the adapter is saved."""
    if config.stage == "base":
        raise ValueError("a base has no manifest")
    names = tuple(sorted(config.templates))
    return AdapterManifest(
        name=words.name,
        description=words.description,
        base_model=base_identity(base, words.base_name),
        conversation=conversation(config),
        answer=Answer(
            templates=names,
            default_template=config.default_template,
            templates_sha256=templates_sha256(names, VOCABULARY, config.score),
        ),
        score=config.score,
        image=config.image,
        training=Training(
            stage=config.stage,
            initialised_from="base" if start is None else start.revision,
            labelled_by=labelled_by,
            vision=config.vision,
            fingerprint=fingerprint(config, images, start),
            synthetic=words.synthetic,
        ),
        evaluation=tuple(evaluation),
        files={},
    )


def fingerprint(config: StageConfig, images: LabelledImages, start: StartingAdapter | None = None) -> str:
    """sha256 of configuration, seed included, of every image's bytes and labels, and of where it starts."""
    content = json.dumps(config.model_dump(mode="json"), sort_keys=True) + images.digest
    content += start.revision if start else ""
    return hashlib.sha256(content.encode()).hexdigest()
