"""Text to token ids and back, with user text kept harmless.

Special tokens are looked up by name and never parsed out of text: a context that holds
``<|image_pad|>`` becomes plain characters (realqa.md, traps; transformers calls this
``split_special_tokens``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from tokenizers import Tokenizer

from schemas.errors import ConfigurationError

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
SPECIALS = (IM_START, IM_END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD)


class TextEncoder:
    """A Qwen2-family tokenizer, seen as segments of plain text and named specials.

    Args:
        tokenizer: As read from ``tokenizer.json``; a private copy is made.

    Raises:
        ConfigurationError: A special token of Qwen2-VL is missing, or not marked as special.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        missing = [name for name in SPECIALS if self._tokenizer.token_to_id(name) is None]
        if missing:
            raise ConfigurationError(f"the tokenizer lacks Qwen2-VL's special tokens {missing}")
        parsed = [name for name in SPECIALS if self.encode(name) == (self.special(name),)]
        if parsed:
            # Marked as ordinary in tokenizer.json, they would be read out of users' text.
            raise ConfigurationError(f"the tokenizer must mark {parsed} as special")

    @property
    def vocab_size(self) -> int:
        """Number of ids, specials included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> tuple[int, ...]:
        """Tokenise plain text; nothing in it is read as a special token."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def special(self, name: str) -> int:
        """Id of a special token such as ``IM_START``."""
        token = self._tokenizer.token_to_id(name)
        if token is None:
            raise ConfigurationError(f"the tokenizer has no token {name}")
        return int(token)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; bytes that make no character become U+FFFD, specials vanish."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    @cached_property
    def token_texts(self) -> tuple[str, ...]:
        """Text of every single token, by id; empty for specials."""
        return tuple(self._tokenizer.decode_batch([[i] for i in range(self.vocab_size)]))

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that free text must never contain."""
        added = self._tokenizer.get_added_tokens_decoder()
        return frozenset(int(index) for index, token in added.items() if token.special)
