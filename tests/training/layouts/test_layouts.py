from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.errors import ConfigurationError
from tests.training.layouts import made
from training.annotation_files import read_annotations
from training.dataset_file import read_facts
from training.importing import import_dataset
from training.layouts.public_dataset import HASH_SPLIT_NOTE, PublicDataset, hash_split
from training.layouts.realqa import read_answer
from training.layouts.registry import LAYOUTS, layout

WRITERS: dict[str, Callable[[Path], Path]] = {
    "realqa": made.write_realqa,
    "koniq10k": made.write_koniq,
    "koniq10k_zscore": made.write_koniq,
    "spaq": made.write_spaq,
    "live_challenge": made.write_live_challenge,
    "ava": made.write_ava,
    "tad66k": made.write_tad66k,
    "agiqa3k": made.write_agiqa,
    "konvid1k": made.write_konvid,
}


def read(name: str, folder: Path) -> PublicDataset:
    return layout(name).read(folder)


def facts_of(found: PublicDataset) -> dict[str, tuple[object, ...]]:
    return {Path(a.image).name: (a.mos, a.mos_std, a.split) for a in found.annotations}


def reasons(name: str, folder: Path) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        read(name, folder)
    return caught.value.reasons


@pytest.mark.parametrize("name", [known.name for known in LAYOUTS])
def test_every_layout_is_imported_and_read_again_with_mos_inside_its_range(name: str, tmp_path: Path) -> None:
    source = WRITERS[name](tmp_path / "source")
    done = import_dataset(name, source, tmp_path / "ours")
    annotations = read_annotations(tmp_path / "ours", vocabulary=_vocabulary_with_tilted())
    facts = read_facts(tmp_path / "ours")
    assert facts == done.facts
    assert facts is not None
    assert facts.layout == name
    assert sum(done.splits.values()) == len(annotations) >= 2
    for annotation in annotations:
        assert Path(annotation.image).is_absolute()
        assert facts.native_low <= annotation.mos <= facts.native_high  # type: ignore[operator]


def _vocabulary_with_tilted():
    """RealQA's own labels travel with the adapter; this one label is not ours."""
    from schemas.attributes import VOCABULARY, Label, Vocabulary

    return Vocabulary(
        attributes=tuple(
            found.model_copy(update={"labels": (*found.labels, Label(text="tilted", code=1))})
            if found.name == "level_shot"
            else found
            for found in VOCABULARY.attributes
        )
    )


def test_koniq_mos_and_std_are_of_votes_whichever_table_there_is(tmp_path: Path) -> None:
    both = read("koniq10k", made.write_koniq(tmp_path / "both"))
    sets = read("koniq10k", made.write_koniq(tmp_path / "sets", scores=False))
    assert (both.native_low, both.native_high) == (1, 5)
    for found in (both, sets):
        mos, std, split = facts_of(found)["10004473376.jpg"]
        assert mos == pytest.approx((3 * 25 + 4 * 73 + 5 * 7) / 105)
        assert std == pytest.approx(0.527277894494)
        assert split == "train"
        assert facts_of(found)["10050349236.jpg"][2] == "test"
        assert facts_of(found)["3.jpg"][2] == "validation"
        assert found.notes == ()


def test_koniq_zscores_stretch_the_std_with_the_scale(tmp_path: Path) -> None:
    both = read("koniq10k_zscore", made.write_koniq(tmp_path / "both"))
    sets = read("koniq10k_zscore", made.write_koniq(tmp_path / "sets", scores=False))
    for found in (both, sets):
        assert (found.native_low, found.native_high) == (0, 100)
        mos, std, _ = facts_of(found)["10004473376.jpg"]
        assert (mos, std) == (pytest.approx(77.3836206897), pytest.approx(25 * 0.527277894494))


def test_koniq_without_the_sets_is_split_by_hash_and_says_so(tmp_path: Path) -> None:
    found = read("koniq10k", made.write_koniq(tmp_path, sets=False))
    assert found.notes == (HASH_SPLIT_NOTE,)
    assert {name: split for name, (_, _, split) in facts_of(found).items()} == {
        name: hash_split(name) for name in facts_of(found)
    }


def test_koniq_names_every_bad_row_of_either_table(tmp_path: Path) -> None:
    folder = made.write_koniq(tmp_path)
    row = ("a.jpg", 1, 1, 1, 1, 1, 5, "good", 0.5, 50)
    made.write_csv(folder / "koniq10k_scores_and_distributions.csv", made.KONIQ_SCORES, [row, row[:3]])
    assert "line 3: 3 cells, but the header has 10" in reasons("koniq10k", folder)[0]
    made.write_csv(folder / "koniq10k_scores_and_distributions.csv", made.KONIQ_SCORES, [row])
    (reason,) = reasons("koniq10k", folder)
    assert reason.endswith("koniq10k_scores_and_distributions.csv, line 2: MOS 'good' is no number")
    made.write_csv(folder / "koniq10k_distributions_sets.csv", ("image_name", "set"), [("a.jpg", "dev")])
    assert "line 2: set 'dev' is none of training, validation, test" in reasons("koniq10k", folder)[0]


def test_spaq_scores_have_no_std_and_attribute_scores_stay_behind(tmp_path: Path) -> None:
    found = read("spaq", made.write_spaq(tmp_path))
    assert (found.native_low, found.native_high) == (0, 100)
    assert facts_of(found)["00001.jpg"] == (42.5, None, hash_split("00001.jpg"))
    assert any("stay behind" in note for note in found.notes)


def test_spaq_as_a_spreadsheet_needs_openpyxl_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made.write_spaq(tmp_path)
    table = folder / "Annotations" / "MOS and Image attribute scores.csv"
    table.rename(table.with_suffix(".xlsx"))
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    (reason,) = reasons("spaq", folder)
    assert "pip install openpyxl" in reason
    assert "save it as .csv" in reason


def test_spaq_spreadsheet_reads_as_its_csv_does(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    folder = made.write_spaq(tmp_path)
    from_csv = read("spaq", folder)
    table = folder / "Annotations" / "MOS and Image attribute scores.csv"
    table.unlink()
    book = openpyxl.Workbook()
    for row in (made.SPAQ, *((name, *map(float, cells)) for name, *cells in made.SPAQ_ROWS)):
        book.active.append(row)
    book.save(table.with_suffix(".xlsx"))
    assert read("spaq", folder) == from_csv


def test_live_challenge_leaves_out_the_images_that_taught_the_raters(tmp_path: Path) -> None:
    found = read("live_challenge", made.write_live_challenge(tmp_path))
    assert facts_of(found) == {
        "3.bmp": (63.96, 20.1, hash_split("3.bmp")),
        "4.bmp": (25.3, 15.2, hash_split("4.bmp")),
        "10.JPG": (48.98, 21.5, hash_split("10.JPG")),
    }
    assert "2 images that taught the raters are left out" in found.notes


def test_live_challenge_files_of_different_length_are_an_error(tmp_path: Path) -> None:
    import numpy as np
    from scipy.io import savemat

    folder = made.write_live_challenge(tmp_path)
    savemat(folder / "Data" / "AllStdDev_release.mat", {"AllStdDev_release": np.ones((1, 2))})
    assert "AllMOS_release 5, AllStdDev_release 2" in reasons("live_challenge", folder)[0]
    (folder / "Data" / "AllStdDev_release.mat").write_bytes(b"no matrix")
    assert "AllStdDev_release.mat" in reasons("live_challenge", folder)[0]


def test_ava_votes_become_mean_and_std_and_titles_context(tmp_path: Path) -> None:
    found = read("ava", made.write_ava(tmp_path))
    counts = {2: 1, 3: 5, 4: 17, 5: 38, 6: 36, 7: 15, 8: 6, 9: 5, 10: 1}
    mean = sum(vote * n for vote, n in counts.items()) / sum(counts.values())
    variance = sum(n * (vote - mean) ** 2 for vote, n in counts.items()) / sum(counts.values())
    first, second, third = found.annotations
    assert (first.mos, first.mos_std) == (pytest.approx(mean), pytest.approx(variance**0.5))
    assert (first.context, first.split) == ("Rule of Thirds", "train")
    assert second.split == "test"
    assert third.context is None
    assert any(note.startswith("images without context") and note.endswith(": 1") for note in found.notes)
    assert (found.native_low, found.native_high) == (1, 10)


def test_ava_without_its_test_list_is_split_by_hash(tmp_path: Path) -> None:
    found = read("ava", made.write_ava(tmp_path, test_list=False))
    assert HASH_SPLIT_NOTE in found.notes
    assert found.annotations[0].split == hash_split("953619")


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("4 1 0 0 0", "5 numbers, not 15"),
        ("4 1 0 0 0 0 0 0 0 0 0 0 1 2 3", "are no votes"),
        ("4 1 0 0 0 0 0 0 0 0 0 x 1 2 3", "'x'"),
    ],
)
def test_ava_names_the_bad_line(line: str, part: str, tmp_path: Path) -> None:
    folder = made.write_ava(tmp_path)
    with (folder / "AVA.txt").open("a") as file:
        file.write(line + "\n")
    (reason,) = reasons("ava", folder)
    assert "AVA.txt, line 4: " in reason
    assert part in reason


def test_tad66k_keeps_the_official_split_and_has_no_std(tmp_path: Path) -> None:
    found = read("tad66k", made.write_tad66k(tmp_path))
    assert facts_of(found) == {
        "1043.jpg": (6.25, None, "train"),
        "77.jpg": (3.1, None, "train"),
        "9.jpg": (8.0, None, "test"),
    }


def test_agiqa_prompts_are_context_and_keep_their_pictures_on_one_side(tmp_path: Path) -> None:
    found = read("agiqa3k", made.write_agiqa(tmp_path))
    first, second, third = found.annotations
    assert (first.mos, first.mos_std) == (0.965602553, 0.223270101)
    assert first.context == first.source == "statue of a man"
    assert first.split == second.split
    assert third.context == "artwork, anime style"
    assert (found.native_low, found.native_high) == (0, 5)


def test_konvid_lists_videos_by_name_or_id_from_either_table(tmp_path: Path) -> None:
    found = read("konvid1k", made.write_konvid(tmp_path / "a"))
    named, by_id = found.annotations
    assert Path(named.image).name == "2999049224_original_centercrop_960x540_8s.mp4"
    assert (named.mos, named.mos_std) == (3.2, 0.61)
    assert Path(by_id.image).name == "3015990628.mp4"
    (only,) = read("konvid1k", made.write_konvid(tmp_path / "b", attributes=False)).annotations
    assert (only.mos, only.mos_std) == (1.5, None)


def test_realqa_conversations_of_one_image_are_merged(tmp_path: Path) -> None:
    found = read("realqa", made.write_realqa(tmp_path))
    by_name = {Path(annotation.image).name: annotation for annotation in found.annotations}
    first = by_name["a.jpg"]
    assert (first.composition, first.eye_catching, first.mos, first.split) == (7, 3, 6.59, "train")
    assert first.composition_reason == "the bed fills the frame, and lines lead out of it"
    assert first.subject_and_background == "bed"
    assert first.subject_integrity == "partially complete (slightly cut off or slightly obscured)"
    assert (first.subject_clutter, first.background_clutter) == ("uncluttered", "moderately cluttered")
    assert (first.image_clarity, first.exposure) == ("clear", "properly exposed")
    assert (by_name["b.jpg"].mos, by_name["b.jpg"].composition) == (3.9, None)
    assert (by_name["c.jpg"].saturation, by_name["c.jpg"].split) == ("properly saturated", "test")
    assert "level_shot 'tilted' (2 images) is not in the default vocabulary" in found.notes


def test_realqa_without_splits_in_the_names_is_split_by_hash_wherever_the_folder_lies(tmp_path: Path) -> None:
    for place in ("here", "there"):
        folder = tmp_path / place
        folder.mkdir()
        (folder / "all.json").write_text(json.dumps([made.conversation("x/a.jpg", made.FORM_ANSWER)]))
        found = read("realqa", folder)
        assert found.annotations[0].split == hash_split("x/a.jpg")
        assert HASH_SPLIT_NOTE in found.notes


def test_realqa_contradictions_and_broken_entries_are_named(tmp_path: Path) -> None:
    entries = [
        made.conversation("a.jpg", "Composition Score: 7"),
        made.conversation("a.jpg", "Composition Score: 8\nExposure: overexposed"),
        {"messages": [], "images": []},
        {"images": ["a.jpg"]},
        made.conversation("b.jpg", "Exposure: overexposed, 1.2 Exposure: properly exposed"),
    ]
    (tmp_path / "all.json").write_text(json.dumps(entries))
    found = sorted(reasons("realqa", tmp_path))
    assert "entry 2: a.jpg: composition is '7' and '8' (first in" in found[0]
    assert "entry 3: images is not a list of one path" in found[1]
    assert "entry 4: neither messages nor conversations" in found[2]
    assert "entry 5: exposure is 'overexposed' and 'properly exposed'" in found[3]


def test_realqa_a_label_that_is_no_number_names_its_conversation(tmp_path: Path) -> None:
    (tmp_path / "all.jsonl").write_text(json.dumps(made.conversation("a.jpg", "Composition Score: 7/10")))
    (reason,) = reasons("realqa", tmp_path)
    assert "all.jsonl, line 1: composition: " in reason


def test_our_own_answers_are_read_back() -> None:
    answer = (
        "Reason for Composition Score: lines lead in. They meet.\nComposition Score: 10\n"
        "Eye-Catching Score: 4\nSubject and Background: a dog, on grass\n"
        "Level Shot: not horizontal\nThe final score is <7.25>."
    )
    assert read_answer(answer) == {
        "composition_reason": "lines lead in. They meet",
        "composition": "10",
        "eye_catching": "4",
        "subject_and_background": "a dog, on grass",
        "level_shot": "not horizontal",
        "mos": "7.25",
    }


def test_prose_after_a_label_is_no_part_of_it() -> None:
    found = read_answer("Exposure: overexposed. The sky is lost. The final score is <2.5>.")
    assert found == {"exposure": "overexposed", "mos": "2.5"}


def test_shares_of_the_hash_split_are_as_documented() -> None:
    drawn = [hash_split(f"image {number}") for number in range(4000)]
    assert drawn.count("train") / 4000 == pytest.approx(0.7, abs=0.03)
    assert drawn.count("validation") / 4000 == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("name", [known.name for known in LAYOUTS])
def test_a_folder_without_the_layouts_files_is_an_error_that_says_what_is_missing(
    name: str, tmp_path: Path
) -> None:
    (reason,) = reasons(name, tmp_path)
    assert str(tmp_path) in reason
    assert "no " in reason


def test_an_unknown_layout_names_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match="no layout 'coco'; there are: realqa, koniq10k,"):
        layout("coco")
