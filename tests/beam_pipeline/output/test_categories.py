from __future__ import annotations

import pyarrow as pa
import pytest

from beam_pipeline.output.categories import codes_of, is_one_of

_PLAIN = pa.array(["b", None, "a", "b"])
_FORMS = {
    "strings": _PLAIN,
    "dictionary": _PLAIN.dictionary_encode(),
    "dictionary with a value that no row has": pa.DictionaryArray.from_arrays(
        pa.array([2, None, 1, 2], pa.int32()), pa.array(["c", "a", "b"])
    ),
    "a slice": pa.array(["x", "b", None, "a", "b", "y"]).dictionary_encode()[1:5],
}
_EACH_FORM = pytest.mark.parametrize("column", _FORMS.values(), ids=_FORMS.keys())


@_EACH_FORM
def test_values_by_their_codes_are_the_column(column: pa.Array) -> None:
    values, codes = codes_of(column)
    assert [values[code] for code in codes] == ["b", None, "a", "b"]


@_EACH_FORM
def test_null_is_wanted_only_where_it_is_named(column: pa.Array) -> None:
    assert is_one_of(column, ("b",)).tolist() == [True, False, False, True]
    assert is_one_of(column, (None, "a")).tolist() == [False, True, True, False]
    assert not is_one_of(column, ()).any()


def test_null_has_an_index_though_the_others_fill_their_type() -> None:
    named = [str(number) for number in range(128)]
    full = pa.DictionaryArray.from_arrays(pa.array([*range(128), None], pa.int8()), pa.array(named))
    values, codes = codes_of(full)
    assert [values[code] for code in codes] == [*named, None]


def test_booleans_and_columns_without_rows_have_codes_too() -> None:
    values, codes = codes_of(pa.array([True, None, True]))
    assert [values[code] for code in codes] == [True, None, True]
    assert codes_of(pa.array([], pa.string()))[1].tolist() == []
    assert is_one_of(pa.array([None, None], pa.string()), (None,)).tolist() == [True, True]
