"""The tokeniser of the demo's base model: byte-level BPE by Qwen2's rules, learnt from our own words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from model.templates import MIX_LOW_TO_HIGH, Choice, Decimal, Forced, answer_templates
from model.tokens import SPECIALS
from schemas.attributes import VOCABULARY
from schemas.manifest import ScoreScale

END_OF_TEXT = "<|endoftext|>"
VOCABULARY_SIZE = 1200
_TEMPLATE_WEIGHT = 50
"""Template words are counted so often that nearly each becomes one token: answers stay short."""

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's pre-tokenisation: every digit is a piece of its own, a space belongs to the word after it."""

_ENGLISH = """
A photograph shows what stood before the camera when somebody pressed the button. A man and a woman walk
along the beach in the evening sun. Two children play with a dog in the garden behind the house. The kitchen
table is set for breakfast: bread, butter, coffee, orange juice and a bowl of fruit. On the wall hangs an old
picture of a ship in a storm. The hotel room has a large bed, a small desk, a chair and a window with a view
of the sea. Our restaurant serves fish, pizza, noodles, soup, salad and ice cream. The museum opens at nine
in the morning and closes at six. The train to the city leaves every half hour from the station near the
bridge. Mountains, rivers, lakes and forests make the north of the country famous. In summer many people
visit the castle, the church, the tower and the market square. In winter the streets are white with snow.
A black cat sleeps on a red sofa. A brown horse stands in a green field under a blue sky. Birds sit on the
roof. Flowers grow beside the path. The street is full of cars, buses, bicycles and signs. At night the lights
of the shops shine on the wet road. She wears a yellow dress and a hat; he wears a grey coat and glasses.
The sky is cloudy and it may rain. A waterfall runs over dark rocks. The temple stands on a hill above the
village. The swimming pool is behind the building. A group of friends take a selfie in front of the statue.
There is a person in the foreground and a tree in the background. The subject is in the centre of the frame,
the horizon is straight, the light comes from the left and the shadow falls to the right. The picture is too
dark, too bright, out of focus, noisy, pale, colourful, sharp, soft, tilted, cropped, busy or empty. It was
taken from above, from below, from far away, close up, through a window, by hand, with a telephone. I like it
because it tells a story. This one could be better with less clutter and more light. Title: view from the top.
Category: food, travel, family, pets, sports, architecture, nature, night, portrait, product, landscape.
"""


def learn_tokenizer() -> Tokenizer:
    """Learn the tokeniser; always the same.

    All 256 bytes are in the alphabet, so no text is unknown. The specials are Qwen2-VL's.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[END_OF_TEXT, *SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    return tokenizer


def _texts() -> Iterator[str]:
    yield from _ENGLISH.strip().splitlines()
    for _ in range(_TEMPLATE_WEIGHT):
        yield from _template_texts()


def _template_texts() -> Iterable[str]:
    yield "system\nYou are a helpful assistant."
    yield "user\nassistant\n"
    for template in answer_templates(VOCABULARY, ScoreScale()).values():
        # Asked for later than the shipped tokeniser was learnt; its words are those of "mix".
        if template.name.startswith(MIX_LOW_TO_HIGH):
            continue
        yield template.instruction
        for part in template.parts:
            if isinstance(part, Forced):
                yield part.text
            elif isinstance(part, Choice):
                yield from part.values
            elif isinstance(part, Decimal):
                yield "0.123456789"
