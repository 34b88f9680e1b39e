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
from operator import or_
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from apache_beam import coders

from schemas.errors import ConfigurationError
from schemas.records import Chunk, ImageRef, ScoredChunk

VERSION = 1
"""Of the format that is written; all from 1 to this one are read."""

_SINCE: dict[tuple[type, str], int] = {}
"""Fields that joined the format after version 1, and with which one."""

_RECORDS: dict[tuple[type, int], _Codec] = {}
_R = TypeVar("_R")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FLOAT = struct.Struct(">d")


class _Source:
    """Bytes that are read from front to back."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        if len(piece) != count:
            raise ValueError("an encoded record ends too early")
        self._at += count
        return piece

    def close(self) -> None:
        if self._at != len(self._data):
            raise ValueError(f"an encoded record has {len(self._data) - self._at} bytes too many")


class _Codec(NamedTuple):
    """How values of one type are written and read."""

    write: Callable[[bytearray, Any], None]
    read: Callable[[_Source], Any]


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
    source = _Source(data)
    (version,) = source.take(1)
    if not 1 <= version <= VERSION:
        raise ConfigurationError(
            f"an encoded {kind.__name__} has format version {version}; this program reads 1 to {VERSION}, "
            "a later one started the job: run that one, or drain the job with it first"
        )
    record: _R = _record(kind, version).read(source)
    source.close()
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


class ChunkCoder(RecordCoder):
    """Of chunks: where a runner puts a step boundary behind the grouping."""

    record = Chunk


class ScoredChunkCoder(RecordCoder):
    """Of scored chunks: never shuffled, but a runner may write them down between scoring and writing."""

    record = ScoredChunk


def register_coders() -> None:
    """Make Beam take these coders wherever a type hint names one of the records."""
    for coder in (ImageRefCoder, ChunkCoder, ScoredChunkCoder):
        coders.registry.register_coder(coder.record, coder)


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
    codecs = [(name, _codec(_without_none(hints[name]), version)) for name in names]
    bits = {name: 1 << index for index, name in enumerate(n for n in names if _may_be_none(hints[n]))}
    width = -(-len(bits) // 8)

    def write(out: bytearray, record: Any) -> None:
        there = sum(bit for name, bit in bits.items() if getattr(record, name) is not None)
        out += there.to_bytes(width, "little")
        for name, codec in codecs:
            value = getattr(record, name)
            if name not in bits or value is not None:
                codec.write(out, value)

    def read(source: _Source) -> Any:
        there = int.from_bytes(source.take(width), "little")
        values = {
            name: codec.read(source) if name not in bits or there & bits[name] else None
            for name, codec in codecs
        }
        return kind(**values)

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

    def read(source: _Source) -> tuple[Any, ...]:
        return tuple(item.read(source) for _ in range(_read_count(source)))

    return _Codec(write, read)


def _either(kinds: Sequence[type], version: int) -> _Codec:
    codecs = [_codec(kind, version) for kind in kinds]

    def write(out: bytearray, value: Any) -> None:
        index = kinds.index(type(value))
        out.append(index)
        codecs[index].write(out, value)

    def read(source: _Source) -> Any:
        return codecs[source.take(1)[0]].read(source)

    return _Codec(write, read)


def _write_count(out: bytearray, number: int) -> None:
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)


def _read_count(source: _Source) -> int:
    number = shift = 0
    while True:
        (byte,) = source.take(1)
        number |= (byte & 127) << shift
        if byte < 128:
            return number
        shift += 7


def _write_int(out: bytearray, number: int) -> None:
    _write_count(out, number * 2 if number >= 0 else -number * 2 - 1)


def _read_int(source: _Source) -> int:
    count = _read_count(source)
    return count // 2 if count % 2 == 0 else -(count + 1) // 2


def _write_text(out: bytearray, text: str) -> None:
    # Messages of the file system may quote names that are no Unicode.
    data = text.encode(errors="surrogatepass")
    _write_count(out, len(data))
    out += data


def _read_text(source: _Source) -> str:
    return source.take(_read_count(source)).decode(errors="surrogatepass")


def _write_time(out: bytearray, time: datetime) -> None:
    if time.tzinfo is None:
        raise ValueError(f"the time {time} has no zone")
    _write_int(out, (time - _EPOCH) // _MICROSECOND)


def _read_time(source: _Source) -> datetime:
    return _EPOCH + _read_int(source) * _MICROSECOND


_PLAIN: dict[Any, _Codec] = {
    str: _Codec(_write_text, _read_text),
    int: _Codec(_write_int, _read_int),
    bool: _Codec(lambda out, value: out.append(bool(value)), lambda source: bool(source.take(1)[0])),
    float: _Codec(
        lambda out, value: out.extend(_FLOAT.pack(value)), lambda source: _FLOAT.unpack(source.take(8))[0]
    ),
    datetime: _Codec(_write_time, _read_time),
}
