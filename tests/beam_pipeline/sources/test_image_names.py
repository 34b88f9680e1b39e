from __future__ import annotations

import pytest

from beam_pipeline.sources.image_names import is_offered, is_shown


@pytest.mark.parametrize(
    ("name", "offered"),
    [
        ("a.jpg", True),
        ("a", True),
        ("a.svg", True),
        ("a.jpg.json", False),
        ("a.XMP", False),
        (".a.jpg", False),
    ],
)
def test_the_rule_for_names(name: str, offered: bool) -> None:
    assert is_offered(name) is offered


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("a.jpg", True),
        ("deep/a.jpg", True),
        ("deep.er/a..jpg", True),
        ("deep/", False),
        (".git/a.jpg", False),
        ("deep/.git/er/a.jpg", False),
        ("deep/.a.jpg", False),
        ("deep/a.txt", False),
    ],
)
def test_the_rule_for_paths(path: str, shown: bool) -> None:
    assert is_shown(path) is shown


def test_a_pattern_that_spells_the_dot_finds_what_lies_in_hidden_folders_but_no_hidden_file() -> None:
    assert is_shown("deep/.git/a.jpg", "*/.git/*")
    assert is_shown(".git/a.jpg", ".g*/*")
    assert not is_shown("deep/.git/a.jpg", "*/*/*")
    assert not is_shown("deep/.git/.a.jpg", "*/.git/*")
