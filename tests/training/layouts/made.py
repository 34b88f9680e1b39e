"""Public data sets in small: one function a layout writes one exactly as it is published."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from tests.odd_files import encoded, picture

KONIQ_SCORES = ("image_name", "c1", "c2", "c3", "c4", "c5", "c_total", "MOS", "SD", "MOS_zscore")
KONIQ_SETS = ("image_name", "c1", "c2", "c3", "c4", "c5", "c_total", "MOS", "SD", "set")
AGIQA = ("name", "prompt", "adj1", "adj2", "style", "mos_quality", "std_quality", "mos_align", "std_align")
SPAQ = ("Image name", "MOS", "Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness")
SPAQ_ROWS = (
    ("00001.jpg", "42.5", "50", "40.2", "30", "60", "55"),
    ("00002.jpg", "80", "1", "2", "3", "4", "5"),
)


def write_image(file: Path, seed: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    kinds = {".png": "PNG", ".bmp": "BMP"}
    file.write_bytes(encoded(picture(64, 48, seed), kinds.get(file.suffix, "JPEG")))
    return file


def write_csv(file: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerows([header, *rows])
    return file


def write_koniq(folder: Path, *, scores: bool = True, sets: bool = True) -> Path:
    """Three photographs; the first two as published (votes as counts, and as shares)."""
    votes = {
        "10004473376.jpg": (0, 0, 25, 73, 7),
        "10050349236.jpg": (6, 69, 27, 0, 0),
        "3.jpg": (1, 1, 1, 1, 1),
    }
    zscores = {"10004473376.jpg": 77.3836206897, "10050349236.jpg": 30.9418103448, "3.jpg": 50.0}
    stds = {"10004473376.jpg": 0.527277894494, "10050349236.jpg": 0.532846555181, "3.jpg": 1.58}
    parts = {"10004473376.jpg": "training", "10050349236.jpg": "test", "3.jpg": "validation"}
    score_rows, set_rows = [], []
    for seed, (name, counts) in enumerate(votes.items()):
        write_image(folder / "1024x768" / name, seed)
        total = sum(counts)
        mean = sum(vote * count for vote, count in enumerate(counts, 1)) / total
        score_rows.append((name, *counts, total, mean, stds[name], zscores[name]))
        shares = [count / total for count in counts]
        set_rows.append((name, *shares, total, zscores[name], stds[name], parts[name]))
    if scores:
        write_csv(folder / "koniq10k_scores_and_distributions.csv", KONIQ_SCORES, score_rows)
    if sets:
        write_csv(folder / "koniq10k_distributions_sets.csv", KONIQ_SETS, set_rows)
    return folder


def write_spaq(folder: Path) -> Path:
    for seed, row in enumerate(SPAQ_ROWS):
        write_image(folder / "TestImage" / row[0], seed)
    write_csv(folder / "Annotations" / "MOS and Image attribute scores.csv", SPAQ, SPAQ_ROWS)
    return folder


def write_live_challenge(folder: Path) -> Path:
    """Two of the seven images that taught the raters, and three others."""
    import numpy as np
    from scipy.io import savemat

    names = ["t1.bmp", "t2.bmp", "3.bmp", "4.bmp", "10.JPG"]
    for seed, name in enumerate(names):
        place = folder / "Images" / "trainingImages" if name.startswith("t") else folder / "Images"
        write_image(place / name, seed)
    data = folder / "Data"
    data.mkdir()
    cells = np.empty((len(names), 1), dtype=object)
    cells[:, 0] = names
    savemat(data / "AllImages_release.mat", {"AllImages_release": cells})
    savemat(data / "AllMOS_release.mat", {"AllMOS_release": np.array([[50.0, 60, 63.96, 25.3, 48.98]])})
    savemat(data / "AllStdDev_release.mat", {"AllStdDev_release": np.array([[18.0, 19, 20.1, 15.2, 21.5]])})
    return folder


def write_ava(folder: Path, *, test_list: bool = True) -> Path:
    """Lines as published: index, image id, ten counts, two tags, challenge."""
    lines = [
        "1 953619 0 1 5 17 38 36 15 6 5 1 1 22 1396",
        "2 953958 10 7 15 26 26 21 10 8 1 2 15 21 1396",
        "3 954184 0 0 4 8 41 56 10 3 4 0 0 0 1397",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "AVA.txt").write_text("\n".join(lines) + "\n")
    (folder / "challenges.txt").write_text("1396 Rule of Thirds\n12 Sky\n")
    for seed, line in enumerate(lines):
        write_image(folder / "images" / f"{line.split()[1]}.jpg", seed)
    if test_list:
        (folder / "aesthetics_image_lists").mkdir()
        (folder / "aesthetics_image_lists" / "generic_test.jpgl").write_text("953958\n")
    return folder


def write_tad66k(folder: Path) -> Path:
    write_csv(
        folder / "labels/merge/train.csv", ("image", "score"), [("1043.jpg", "6.25"), ("77.jpg", "3.1")]
    )
    write_csv(folder / "labels/merge/test.csv", ("image", "score"), [("9.jpg", "8.0")])
    for seed, name in enumerate(("1043.jpg", "77.jpg", "9.jpg")):
        write_image(folder / "TAD66K" / name, seed)
    return folder


def write_agiqa(folder: Path) -> Path:
    """One prompt drawn by two generators; another with a comma and a style."""
    rows = [
        ("AttnGAN_normal_000.jpg", "statue of a man", "", "", "", 0.965602553, 0.223270101, 0.4, 0.6),
        ("sd1.5_normal_000.jpg", "statue of a man", "", "", "", 3.1, 0.7, 2.9, 0.6),
        ("sd1.5_normal_060.jpg", "artwork, anime style", "", "", "anime style", 2.5, 0.72, 0.85, 0.8),
    ]
    for seed, row in enumerate(rows):
        write_image(folder / "AGIQA-3K" / row[0], seed)
    write_csv(folder / "data.csv", AGIQA, rows)
    return folder


def write_konvid(folder: Path, *, attributes: bool = True) -> Path:
    """Videos by name and by id; nothing reads them here."""
    videos = folder / "KoNViD_1k_videos"
    videos.mkdir(parents=True)
    (videos / "2999049224_original_centercrop_960x540_8s.mp4").write_bytes(b"first")
    (videos / "3015990628.mp4").write_bytes(b"second")
    if attributes:
        rows = [
            ("2999049224", "2999049224_original_centercrop_960x540_8s.mp4", 3.2, 0.61),
            ("3015990628", "3015990628_centercrop_960x540_8s.mp4", 1.5, 0.5),
        ]
        table = folder / "KoNViD_1k_metadata" / "KoNViD_1k_attributes.csv"
        write_csv(table, ("flickr_id", "file_name", "MOS", "SD"), rows)
    else:
        write_csv(folder / "KoNViD_1k_mos.csv", ("flickr_id", "mos"), [("3015990628", 1.5)])
    return folder


STAGE1_ANSWER = (
    "1.1 Reason for Composition Score: the bed fills the frame, and lines lead out of it., "
    "1.2 Composition Score: 7, 1.3 Reason for Eye-Catching Score: plain colours., 1.4 Eye-Catching Score: 3, "
    "2.1 Subject: bed, 2.2 Subject Integrity: partially complete (slightly cut off or slightly obscured), "
    "2.3 Subject Clutter: Uncluttered, 2.4 Background Clutter: moderately cluttered, 2.5 Level Shot: tilted, "
    "3.1 Image Clarity: clear, 3.2 Exposure: properly exposed, 3.3 Saturation: properly saturated."
)
FORM_ANSWER = STAGE1_ANSWER + " The final score is <6.59>."


def conversation(image: str, *answers: str, messages: bool = True) -> dict[str, object]:
    turns: list[dict[str, str]] = []
    for answer in answers:
        question = "<image>Rate the aesthetics and quality of this image step by step."
        if messages:
            turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        else:
            turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"messages" if messages else "conversations": turns, "images": [image]}


def write_realqa(folder: Path) -> Path:
    """Three conversations about two images for training, one for testing."""
    for seed, name in enumerate(("a.jpg", "b.jpg", "c.jpg")):
        write_image(folder / "images" / name, seed)
    train = [
        conversation("images/a.jpg", STAGE1_ANSWER),
        conversation("images/a.jpg", "The score of this image is 6.59.", messages=False),
        conversation("images/b.jpg", "A dull street, blurred at the left. The final score is <3.9>."),
    ]
    (folder / "realqa_train.json").write_text(json.dumps(train), encoding="utf-8")
    test = [json.dumps(conversation("images/c.jpg", FORM_ANSWER))]
    (folder / "realqa_test.jsonl").write_text("\n".join(test) + "\n", encoding="utf-8")
    return folder
