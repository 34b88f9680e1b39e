"""A small byte-level tokeniser with Qwen2's digit rule, learnt from our own templates."""

from __future__ import annotations

from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from model.templates import Choice, Forced, answer_templates
from model.tokens import SPECIALS, TextEncoder
from schemas.attributes import VOCABULARY
from schemas.manifest import ScoreScale
from tests.model.qwen import PATTERN


@cache
def small_encoder(vocab_size: int = 480) -> TextEncoder:
    """Train it; takes a fraction of a second."""
    texts = []
    for template in answer_templates(VOCABULARY, ScoreScale()).values():
        texts.append(template.instruction)
        for part in template.parts:
            if isinstance(part, Forced):
                texts.append(part.text)
            elif isinstance(part, Choice):
                texts += part.values
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(name, special=True) for name in ("<|endoftext|>", *SPECIALS)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return TextEncoder(tokenizer)
