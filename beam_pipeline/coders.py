"""Coders of the records that sit in state or cross a shuffle: versioned, compact, deterministic.

An encoded record is one byte, the version of the format, and the record: a bitmap of its fields that may
be None, then the values of those that are there, in the order of declaration. Text and sequences carry
their length, whole numbers are zigzag varints, times are microseconds since 1970 UTC, floats eight bytes.

To add a field to a record: give it a default, count ``VERSION`` up, and name the field in ``_SINCE`` with
the new version. Bytes of earlier versions stay readable and give it its default; fields are never
removed, moved, or given another type. So a stream that is updated in place reads the state of the
program before it. ``tests/beam_pipeline/test_coders.py`` keeps golden bytes of every version.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import attrgetter, or_
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from apache_beam import coders

from beam_pipeline.scoring.turns import Turn
from schemas.errors import ConfigurationError
from schemas.records import Chunk, ImageRef, ScoredChunk

VERSION = 1
"""Of the format that is written; all from 1 to this one are read."""

_SINCE: dict[tuple[type, str], int] = {}
"""Fields that joined the format after version 1, and with which one."""

_USUAL_BYTES = 28
"""Of a described ref less its texts."""

_RECORDS: dict[tuple[type, int], _Codec] = {}
_R = TypeVar("_R")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FLOAT = struct.Struct(">d")


class _Codec(NamedTuple):
    """How values of one type are written and read.

    Attributes:
        write: Appends a value.
        read: Bytes and where the value begins → the value and where it ends. Raises ``IndexError`` where
            the bytes end before it does.
    """

    write: Callable[[bytearray, Any], None]
    read: Callable[[bytes, int], tuple[Any, int]]


def encode(record: Any) -> bytes:
    """Encode a record of ``schemas.records``; equal records give equal bytes.

    Raises:
        ValueError: A time in it has no zone.
    """
    out = bytearray((VERSION,))
    _record(type(record), VERSION).write(out, record)
    return bytes(out)


def decode(data: bytes, kind: type[_R]) -> _R:
    """Decode a record.

    Args:
        data: As ``encode`` gave it, in this version or an earlier one.
        kind: Its type.

    Raises:
        ConfigurationError: A later version wrote it.
        ValueError: It is damaged.
    """
    if not data:
        raise ValueError("an encoded record ends too early")
    version = data[0]
    if not 1 <= version <= VERSION:
        raise ConfigurationError(
            f"an encoded {kind.__name__} has format version {version}; this program reads 1 to {VERSION}, "
            "a later one started the job: run that one, or drain the job with it first"
        )
    record: _R
    try:
        record, end = _record(kind, version).read(data, 1)
    except (IndexError, OverflowError) as error:
        raise ValueError("an encoded record is damaged, or ends too early") from error
    if end != len(data):
        raise ValueError(f"an encoded record has {len(data) - end} bytes too many")
    return record


class RecordCoder(coders.Coder):
    """Beam's shell around ``encode`` and ``decode``."""

    record: ClassVar[type]

    def encode(self, value: Any) -> bytes:
        """Encode one record."""
        return encode(value)

    def decode(self, encoded: bytes) -> Any:
        """Decode one record."""
        return decode(encoded, self.record)

    def is_deterministic(self) -> bool:
        """Equal records give equal bytes."""
        return True

    def to_type_hint(self) -> type:
        """Of what it is the coder."""
        return self.record


class ImageRefCoder(RecordCoder):
    """Of refs: they wait in the state of a stream, and are shuffled in batch."""

    record = ImageRef

    def estimate_size(self, value: Any) -> int:
        """Say about how many bytes a ref takes: its texts, and what the rest usually takes."""
        texts = (value.image_uri, value.context, value.passthrough_json)
        return _USUAL_BYTES + sum(len(text) for text in texts if text is not None)


class ChunkCoder(RecordCoder):
    """Of chunks: where a runner puts a step boundary behind the grouping."""

    record = Chunk

    def estimate_size(self, value: Any) -> int:
        """Say about how many bytes a chunk takes."""
        return _estimated(value.refs)


class TurnCoder(RecordCoder):
    """Of turns: within one worker, where only their size is asked for. Elsewhere nothing follows."""

    record = Turn

    def encode(self, value: Any) -> bytes:
        """Encode the chunk."""
        return encode(value.chunk)

    def decode(self, encoded: bytes) -> Any:
        """Decode the chunk."""
        return Turn(decode(encoded, Chunk))

    def estimate_size(self, value: Any) -> int:
        """Say about how many bytes a turn takes."""
        return _estimated(value.chunk.refs)


class ScoredChunkCoder(RecordCoder):
    """Of scored chunks: never shuffled, but a runner may write them down between scoring and writing."""

    record = ScoredChunk

    def estimate_size(self, value: Any) -> int:
        """Say about how many bytes a scored chunk takes."""
        return _estimated(value.outcomes) + _estimated(value.challenger_outcomes)


def register_coders() -> None:
    """Make Beam take these coders wherever a type hint names one of the records."""
    for coder in (ImageRefCoder, ChunkCoder, TurnCoder, ScoredChunkCoder):
        coders.registry.register_coder(coder.record, coder)


def _estimated(records: Sequence[Any]) -> int:
    # For its metrics Beam asks often; by default it would encode all of them each time.
    return len(encode(records[0])) * len(records) if records else 0


def _record(kind: type, version: int) -> _Codec:
    """The codec of a record as it was in a version."""
    known = _RECORDS.get((kind, version))
    if known is None:
        known = _RECORDS[(kind, version)] = _made_record(kind, version)
    return known


def _made_record(kind: type, version: int) -> _Codec:
    hints = get_type_hints(kind)
    known = [field.name for field in fields(kind) if _since(kind, field.name) <= version]
    # Younger fields come last, wherever the record declares them.
    names = sorted(known, key=lambda name: _since(kind, name))
    codecs = [_codec(_without_none(hints[name]), version) for name in names]
    optional = [name for name in names if _may_be_none(hints[name])]
    bits = [1 << optional.index(name) if name in optional else 0 for name in names]
    width = -(-len(optional) // 8)
    # As a tuple also of one: attrgetter gives the value itself there.
    values_of = attrgetter(*names) if len(names) > 1 else lambda record: (getattr(record, names[0]),)
    writers = [(bit, codec.write) for bit, codec in zip(bits, codecs, strict=True)]
    readers = [(name, bit, codec.read) for name, bit, codec in zip(names, bits, codecs, strict=True)]

    def write(out: bytearray, record: Any) -> None:
        there = 0
        start = len(out)
        out += bytes(width)
        for value, (bit, write_value) in zip(values_of(record), writers, strict=True):
            if value is not None or not bit:
                there |= bit
                write_value(out, value)
        out[start : start + width] = there.to_bytes(width, "little")

    def read(data: bytes, at: int) -> tuple[Any, int]:
        there = int.from_bytes(_piece(data, at, width), "little")
        at += width
        values: dict[str, Any] = {}
        for name, bit, read_value in readers:
            if bit and not there & bit:
                values[name] = None
            else:
                values[name], at = read_value(data, at)
        return kind(**values), at

    return _Codec(write, read)


def _since(kind: type, name: str) -> int:
    return _SINCE.get((kind, name), 1)


def _may_be_none(hint: Any) -> bool:
    return NoneType in get_args(hint)


def _without_none(hint: Any) -> Any:
    return (
        reduce(or_, (part for part in get_args(hint) if part is not NoneType)) if _may_be_none(hint) else hint
    )


def _codec(hint: Any, version: int) -> _Codec:
    """The codec of a type, which must be one that records are made of."""
    if hint in _PLAIN:
        return _PLAIN[hint]
    if get_origin(hint) is Literal:
        return _PLAIN[str]
    if get_origin(hint) is tuple:
        item, _ = get_args(hint)
        return _sequence(_codec(item, version))
    if get_origin(hint) in (Union, UnionType):
        return _either(get_args(hint), version)
    if is_dataclass(hint) and isinstance(hint, type):
        return _record(hint, version)
    raise TypeError(f"no codec for {hint}")


def _sequence(item: _Codec) -> _Codec:
    def write(out: bytearray, values: Sequence[Any]) -> None:
        _write_count(out, len(values))
        for value in values:
            item.write(out, value)

    def read(data: bytes, at: int) -> tuple[tuple[Any, ...], int]:
        count, at = _read_count(data, at)
        values = []
        for _ in range(count):
            value, at = item.read(data, at)
            values.append(value)
        return tuple(values), at

    return _Codec(write, read)


def _either(kinds: Sequence[type], version: int) -> _Codec:
    codecs = [_codec(kind, version) for kind in kinds]

    def write(out: bytearray, value: Any) -> None:
        index = kinds.index(type(value))
        out.append(index)
        codecs[index].write(out, value)

    def read(data: bytes, at: int) -> tuple[Any, int]:
        return codecs[data[at]].read(data, at + 1)

    return _Codec(write, read)


def _write_count(out: bytearray, number: int) -> None:
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)


def _read_count(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while (byte := data[at]) > 127:
        number |= (byte & 127) << shift
        shift += 7
        at += 1
    return number | byte << shift, at + 1


def _write_int(out: bytearray, number: int) -> None:
    _write_count(out, number * 2 if number >= 0 else -number * 2 - 1)


def _read_int(data: bytes, at: int) -> tuple[int, int]:
    count, at = _read_count(data, at)
    return (-(count + 1) // 2 if count & 1 else count // 2), at


def _write_text(out: bytearray, text: str) -> None:
    # Messages of the file system may quote names that are no Unicode.
    data = text.encode(errors="surrogatepass")
    _write_count(out, len(data))
    out += data


def _read_text(data: bytes, at: int) -> tuple[str, int]:
    count, at = _read_count(data, at)
    return _piece(data, at, count).decode(errors="surrogatepass"), at + count


def _piece(data: bytes, at: int, count: int) -> bytes:
    piece = data[at : at + count]
    if len(piece) != count:
        raise IndexError(at + count)
    return piece


def _write_time(out: bytearray, time: datetime) -> None:
    if time.tzinfo is None:
        raise ValueError(f"the time {time} has no zone")
    _write_int(out, (time - _EPOCH) // _MICROSECOND)


def _read_time(data: bytes, at: int) -> tuple[datetime, int]:
    microseconds, at = _read_int(data, at)
    return _EPOCH + timedelta(microseconds=microseconds), at


def _write_bool(out: bytearray, value: bool) -> None:
    out.append(bool(value))


def _read_bool(data: bytes, at: int) -> tuple[bool, int]:
    return bool(data[at]), at + 1


def _write_float(out: bytearray, number: float) -> None:
    out += _FLOAT.pack(number)


def _read_float(data: bytes, at: int) -> tuple[float, int]:
    (number,) = _FLOAT.unpack(_piece(data, at, 8))
    return number, at + 8


_PLAIN: dict[Any, _Codec] = {
    str: _Codec(_write_text, _read_text),
    int: _Codec(_write_int, _read_int),
    bool: _Codec(_write_bool, _read_bool),
    float: _Codec(_write_float, _read_float),
    datetime: _Codec(_write_time, _read_time),
}
