from __future__ import annotations

from decimal import Decimal

import pytest

from model.tokens import TextEncoder
from schemas.errors import ConfigurationError
from tests.training.toy import toy_base
from training.demo.tokenizer import learn_tokenizer
from training.probe import (
    SortingSettings,
    draw_lists,
    parse_numbers,
    probe_sorting,
    question,
    sorting_figures,
)


def numbers(text: str) -> tuple[Decimal, ...]:
    return tuple(Decimal(number) for number in text.split())


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("1.2, 3.45, 7", "1.2 3.45 7"),
        ("[1.2,3.45,7.0]", "1.2 3.45 7.0"),
        ("7.", "7"),
        ("The 3 numbers in order are: 1.2, 3.45, 7", "1.2 3.45 7"),
        ("1. 1.2\n2. 3.45\n3. 7", "1.2 3.45 7"),
        ("1) 1.2\n2) 3.45\n3) 7", "1.2 3.45 7"),
        ("5. 6\n7. 8", "5 6 7 8"),
        ("-1.5, 3 < 4", "-1.5 3 4"),
        ("1.2.3, v2, x7", ""),
        ("I cannot sort", ""),
        ("", ""),
    ],
)
def test_numbers_of_an_answer_are_read_in_order(answer: str, found: str) -> None:
    assert parse_numbers(answer) == numbers(found)


def test_a_sorted_list_is_right_however_it_writes_its_numbers() -> None:
    given = numbers("7 1.2 3.9")
    for answer in ("1.2, 3.9, 7", "1.20 3.90 7.0", "1.2\n3.9\n7.00"):
        figures = sorting_figures([given], [answer])
        assert (figures.accuracy, figures.recall, figures.hallucination) == (1, 1, 0)


def test_a_number_that_was_given_twice_must_come_twice() -> None:
    given = numbers("2 1 2 5")
    assert sorting_figures([given], ["1, 2, 2, 5"]).accuracy == 1
    once = sorting_figures([given], ["1, 2, 5"])
    assert (once.accuracy, once.recall, once.hallucination) == (0, 0.75, 0)
    often = sorting_figures([given], ["1, 2, 2, 2, 5"])
    assert (often.accuracy, often.recall, often.hallucination) == (0, 1, 0)


def test_order_counts_for_accuracy_alone_and_invented_numbers_for_hallucination() -> None:
    given = numbers("3 1 2 4")
    wrong = sorting_figures([given], ["4, 3, 2, 1"])
    assert (wrong.accuracy, wrong.recall, wrong.hallucination) == (0, 1, 0)
    invented = sorting_figures([given], ["1, 2, 3.5, 9"])
    assert (invented.accuracy, invented.recall, invented.hallucination) == (0, 0.5, 0.5)


def test_an_answer_without_numbers_is_counted_and_is_wrong() -> None:
    figures = sorting_figures([numbers("1 2")] * 4, ["1, 2", "no", "", "2, 1"])
    assert (figures.runs, figures.unparsable) == (4, 2)
    assert (figures.accuracy, figures.recall, figures.hallucination) == (0.25, 0.5, 0)
    assert "| 4 | 2 | 0.250 | 0.500 | 0.000 |" in figures.to_markdown()


def test_lists_are_hundredths_from_1_to_10_and_the_same_for_a_seed() -> None:
    lists = draw_lists(200, 10, 0)
    assert [len(found) for found in lists] == [10] * 200
    drawn = [number for found in lists for number in found]
    assert min(drawn) >= 1
    assert max(drawn) <= 10
    assert all(number * 100 == int(number * 100) for number in drawn)
    assert draw_lists(200, 10, 0) == lists
    assert draw_lists(200, 10, 1) != lists


def test_the_question_holds_the_numbers_without_zeros_at_their_end() -> None:
    encoder = TextEncoder(learn_tokenizer())
    asked = encoder.decode(question(encoder, numbers("7.00 3.90 10 1.25")))
    assert asked.endswith("separated by commas.\n7, 3.9, 10, 1.25\nassistant\n")


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_base_that_never_learnt_to_sort_is_measured_all_the_same(tmp_path, batch_size) -> None:
    base = toy_base(tmp_path / "base")
    figures = probe_sorting(SortingSettings(str(base), 3, 4, device="cpu", batch_size=batch_size))
    assert figures.runs == 3
    assert 0 <= figures.unparsable <= 3
    assert figures.accuracy == 0


def test_answers_do_not_depend_on_the_batch(tmp_path) -> None:
    base = toy_base(tmp_path / "base")
    found = [
        probe_sorting(SortingSettings(str(base), 3, 4, device="cpu", batch_size=size)) for size in (1, 3)
    ]
    assert found[0] == found[1]


def test_a_base_that_is_not_there_is_an_error(tmp_path) -> None:
    with pytest.raises(ConfigurationError, match="base model"):
        probe_sorting(SortingSettings(str(tmp_path / "nowhere"), device="cpu"))
