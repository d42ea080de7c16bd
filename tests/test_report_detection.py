"""Reports of detection from made-up records: known numbers in, known cells and titles out."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from records import kitti, record, write

from kdlib.detection import Boxes, Detections
from kdlib.report import (
    arms,
    box_classes,
    boxes,
    figures,
    imitation,
    imitation_classes,
    imitation_costs,
    imitation_factor,
    imitation_figures,
    imitation_size,
    imitation_width,
    look,
    measure,
    notes,
    regions,
    sentences,
    starts,
    tables,
    weighting,
)
from kdlib.report import published as printed
from kdlib.report.ledger import ledger_table
from kdlib.report.look import Picture
from kdlib.report.records import RecordError, read_records, write_record
from kdlib.report.sheet import outlined

ROOT = Path(__file__).resolve().parents[1]
DET = "funmatch-det"
TEACHER, SUPERVISED = (0.30, 0.31, 0.32), (0.20, 0.21, 0.22)
DISTIL, MATCHING = (0.22, 0.24, 0.23), (0.28, 0.30, 0.32)
BASE = dict(teacher=TEACHER, supervised=SUPERVISED, distil=DISTIL, matching=MATCHING)
LETTERS = {
    "teacher": (0.60,),
    "baseline": (0.40, 0.42, 0.41),
    "i": (0.46, 0.47, 0.48),
    "f": (0.38, 0.40, 0.36),
    "g": (0.43, 0.46, 0.44),
    "d": (0.41, 0.42, 0.43),
    "id": (0.45, 0.46, 0.48),
}
# Seed by seed: i +6, +5, +7 over the baseline; below i are f 8, 7, 12, g 3, 1, 4, d 5, 5, 5.


def coco(score: float, agreement: float | None = None) -> dict:
    """Metrics of a detector on BDD100K's classes, without a train in the split."""
    val = {"map": score, "map_50": score + 0.1, "map_75": score - 0.1, "map_small": score / 4}
    val |= {"map_medium": score, "map_large": None, "ar_100": score + 0.05}
    val["ap"] = {"car": score + 0.1, "pedestrian": score - 0.1, "train": None}
    if agreement is None:
        return {"val": val}
    alike = {"map": agreement, "map_50": agreement + 0.1, "kl": 0.0123, "box_iou": 0.8}
    return {"val": val | {"agreement": alike}, "heldout": {"agreement": alike | {"map": 0.5}}}


def det(folder: Path, dense: bool = True, **rows: tuple[float, ...]) -> pd.DataFrame:
    for name, values in rows.items():
        name = name.replace("_", "-")
        for seed, score in enumerate(values):
            taught = None if name in ("teacher", "start") else score + 0.2
            metrics = coco(score, taught)
            if not dense and taught:
                for split in metrics.values():
                    split["agreement"].pop("kl"), split["agreement"].pop("box_iou")
            steps = 5000 if name.endswith("double") else 2500
            write(folder, record(f"{DET}-{name}", seed, metrics, steps=steps))
    return read_records(folder)


def letters(folder: Path, **rows: tuple[float, ...]) -> pd.DataFrame:
    for name, values in rows.items():
        for seed, score in enumerate(values):
            write(folder, record(f"imitation-kitti-{name.replace('_', '-')}", seed, kitti(score)))
    return read_records(folder)


def plain(text: str) -> str:
    return " ".join(text.replace("\N{NO-BREAK SPACE}", " ").split())


def texts(shown) -> list[str]:
    return [text.get_text() for text in shown.findobj(lambda one: hasattr(one, "get_text"))]


@pytest.fixture
def full(tmp_path) -> pd.DataFrame:
    return det(tmp_path / "det", **BASE)


@pytest.fixture
def table(tmp_path) -> pd.DataFrame:
    return letters(tmp_path / "letters", **LETTERS)


@pytest.fixture(scope="module")
def paper() -> printed.Published:
    return printed.load(ROOT / "published" / "function_matching.yaml")


@pytest.fixture(scope="module")
def fgfi() -> printed.Published:
    return printed.load(ROOT / "published" / "feature_imitation.yaml")


# Records -----------------------------------------------------------------------------------------


def test_the_score_of_a_record_is_that_of_its_task(tmp_path):
    pixels = record("funmatch-seg-distil", 0, {"val": {"miou": 0.4, "agreement": {"miou": 0.3}}})
    write(tmp_path, pixels, record("funmatch-det-distil", 0, coco(0.2, 0.5)))
    write(tmp_path, record("funmatch-det-pool", 0, {"heldout": {"agreement": {"map": 0.5}}}))
    rows = read_records(tmp_path).set_index("run")
    assert rows.loc["funmatch-seg-distil", ["score", "measure"]].tolist() == [0.4, "mIoU"]
    assert rows.loc["funmatch-det-distil", ["score", "measure"]].tolist() == [0.2, "mAP"]
    assert rows.loc["funmatch-det-pool", ["score", "measure"]].isna().all()
    assert math.isnan(rows.loc["funmatch-det-distil", "val.ap.train"])
    records = rows.reset_index()
    assert measure.of(records, "funmatch-seg") is measure.MIOU
    assert measure.of(records, "funmatch-det") is measure.MAP
    with pytest.raises(ValueError, match="have mAP and mIoU"):
        measure.of(records, "funmatch")


def test_what_the_split_lacks_is_null_and_what_must_be_there_is_not(tmp_path):
    one = record("r", 0, coco(0.2, 0.5))
    one["metrics"]["val"]["ap"]["train"] = math.nan
    one["metrics"]["val"]["agreement"] |= {"map": None, "map_50": None}
    nested = record("r", 1, kitti(0.4))
    nested["metrics"]["val"]["ap"]["Car"]["easy"] = math.nan
    write(tmp_path, one, nested)
    rows = read_records(tmp_path)
    for column in ("val.ap.train", "val.map_large", "val.agreement.map"):
        assert math.isnan(rows.loc[0, column])
    assert math.isnan(rows.loc[1, "val.ap.Car.easy"])


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("val", "map"), None, "metrics.val.map must be a finite number"),
        (("val", "map"), 21.0, "metrics.val.map must be a fraction"),
        (("val", "ar_100"), 1.2, "metrics.val.ar_100 must be a fraction"),
        (("val", "ap", "Car", "hard"), 64.0, "metrics.val.ap.Car.hard must be a fraction"),
        (("val", "agreement", "box_iou"), None, "box_iou must be a finite number"),
    ],
)
def test_wrong_metrics_of_a_detector_are_refused(tmp_path, place, value, message):
    one = record("r", 0, kitti(0.4))
    *above, last = place
    node = one["metrics"]
    for key in above:
        node = node[key]
    node[last] = value
    with pytest.raises(RecordError, match=re.escape(message)):
        write_record(tmp_path / "r.json", one)


# Function matching -------------------------------------------------------------------------------


def test_the_table_of_detection_speaks_of_map(full, paper):
    shown = tables.function_matching_table(full, paper.tables["detection"], prefix=DET)
    row = shown.frame.set_index("row").loc["matching"]
    known = (row["published_map"], row["map"], row["map_sd"], row["n"])
    assert known == pytest.approx((31.2, 30.0, 2.0, 3))
    assert row["points"] == pytest.approx(9.0)
    assert row["gap"] == pytest.approx(np.mean([80, 90, 100]))
    assert row["val.agreement.map"] == pytest.approx(50.0)
    assert not [column for column in shown.frame if "miou" in column or "pixel" in column]
    text = shown.shown.set_index("").loc["(3) function matching"]
    assert (text["published mAP"], text["ours: mAP %"]) == ("31.2†", "30.0 ± 2.0")
    assert text["published gap recovered"] == "89 %"
    assert text["gap recovered"] == "90 ± 10 %"
    assert text["agreement, reported split: mAP %"] == "50.0 ± 2.0"
    assert text["IoU of boxes, held-out frames: %"] == "80.0 ± 0.0"
    assert text["KL of scores, reported split: nats a cell"] == "0.0123 ± 0.0000"
    assert "mIoU" not in shown.to_markdown() + shown.to_csv()
    compact = tables.function_matching_table(
        full, paper.tables["detection"], prefix=DET, compact=True
    )
    assert "agreement, reported split: mAP %" in compact.shown
    assert list(compact.shown["published mAP"]) == ["31.4†", "29.5†", "30.4†", "31.2†"]


def test_agreement_that_no_record_of_the_family_has_is_left_out(tmp_path, paper):
    records = det(tmp_path, dense=False, **BASE)
    shown = tables.function_matching_table(records, None, prefix=DET).shown
    assert "agreement, held-out frames: mAP %" in shown
    assert not [column for column in shown if "KL" in column or "IoU of boxes" in column]


def test_nothing_run_takes_the_measure_of_what_is_published(tmp_path, paper):
    records = read_records(tmp_path)
    shown = tables.function_matching_table(records, paper.tables["detection"], prefix=DET).shown
    assert set(shown["ours: mAP %"]) == {"not run"}
    assert "KL of scores, reported split: nats a cell" in shown


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            {},
            "Function matching recovers 90 ± 10 % of the gap; "
            "distillation on the labelled images alone 20 ± 10 %",
        ),
        (
            {"matching": (0.19, 0.20, 0.21)},
            "Function matching ends 1.0 ± 0.0 points below supervised training",
        ),
        (
            {"supervised_double": (0.26, 0.27, 0.28)},
            "Not a fair test: longer supervised training alone closes 60 ± 0 % of the gap",
        ),
    ],
)
def test_titles_follow_the_data_of_detection_as_well(tmp_path, paper, rows, expected):
    records = det(tmp_path, **(BASE | rows))
    assert sentences.finding(arms.scores(records, DET)) == expected
    shown = figures.headline(records, paper.tables["detection"], prefix=DET)
    assert plain(shown.get_suptitle()) == expected
    said = " ".join(texts(shown))
    assert "(mAP on the reported split, %)" in said
    assert "(mAP with the teacher's boxes as truth, %)" in said
    assert "mIoU" not in said and "pixels" not in said


def test_figures_of_detection_have_its_words(tmp_path):
    more = dict(matching_x4=(0.25,), matching_double=(0.33,), supervised_double=(0.21,))
    records = det(tmp_path, **BASE, **more)
    bars = figures.class_bars(records, prefix=DET)
    assert [t.get_text() for t in bars.axes[0].get_xticklabels()] == ["car", "pedestrian"]
    assert bars.axes[0].get_ylabel() == "AP on the reported split, %"
    line = figures.class_bars(records, ("train", "car"), prefix=DET)
    assert [t.get_text() for t in line.axes[0].get_xticklabels()] == ["train (absent)", "car"]
    heights = sorted(patch.get_height() for patch in bars.axes[0].patches)
    assert heights == pytest.approx(sorted([31, 33, 40, 11, 13, 20]))
    pool = figures.curve(records, "pool", prefix=DET)
    assert "mAP points from 0× to 400×" in plain(pool.get_suptitle())
    scatter = figures.agreement_scatter(records, prefix=DET)
    assert scatter.axes[0].get_ylabel() == "mAP on the reported split, %"
    assert "Students that agree more" in plain(scatter.get_suptitle())
    by_kl = figures.agreement_scatter(records, prefix=DET, column="val.agreement.box_iou")
    assert by_kl.axes[0].get_xlabel() == "IoU of boxes, reported split: %"
    for shown in (bars, pool, scatter):
        assert "mIoU" not in " ".join(texts(shown))
    schedule = tables.curve_table(records, "schedule", prefix=DET)
    assert "mAP %" in schedule.shown and "map" in schedule.frame
    assert notes.budget(records, DET).startswith("All three ways: 2,500 steps")


def test_each_task_has_its_own_ledger(paper):
    pixels, boxes = (
        ledger_table(paper, task).frame.set_index("topic") for task in ("segmentation", "detection")
    )
    assert ledger_table(paper).to_markdown() == ledger_table(paper, "segmentation").to_markdown()
    assert "Ignored pixels" in pixels.index and "Ignored pixels" not in boxes.index
    assert "Loss of the boxes" in boxes.index and "Loss of the boxes" not in pixels.index
    assert {"Temperature", "Mixup", "Start of the student"} <= set(pixels.index) & set(boxes.index)
    assert "1 − GIoU" in boxes.loc["Loss of the boxes", "ours"]
    assert set(boxes["code"]) == {"none released"}
    topics = [topic for topic in boxes.index if topic.startswith(("Loss of", "Divisor", "Weights"))]
    assert len(topics) >= 5
    assert all(boxes.loc[topic, "paper"].startswith("not known") for topic in topics)


# What is published about imitation ---------------------------------------------------------------


def test_printed_classes_give_the_printed_means(fgfi):
    checked = 0
    for name, one in fgfi.tables.items():
        for row, figure in one.rows.items():
            if figure.parts and not name.startswith("coco"):
                assert np.mean(list(figure.parts.values())) == pytest.approx(
                    figure.value, abs=0.06
                ), (name, row)
                checked += 1
    assert checked == 7 + 3 + 3 + 3 + 9


def test_changes_become_sums_that_are_marked(fgfi):
    rows = fgfi.tables["kitti-quarter"].rows
    assert rows["f"].value == pytest.approx(45.96 - 8.9)
    assert rows["f"].text == "37.1⁼"
    assert rows["f"].parts["Car.easy"] == pytest.approx(60.36 - 12.9)
    assert rows["i"].text == "52.63◦"
    assert fgfi.tables["kitti-quarter-released"].rows["i"].text == "52.4§"
    assert fgfi.tables["psi-half"].rows["psi05"].text == "59.2≈"
    marks = " ".join(fgfi.tables["kitti-quarter"].notes())
    assert "⁼ derived" in marks and "◦ read in pictures" in marks


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("change: -8.9, trust: derived", "change: -8.9, trust: pictures", "the trust 'derived'"),
        ("change: -8.9,", "change: x,", "expected a float, found 'x'"),
        ("Car.easy: 84.56", "Car.easy: eighty", "Car.easy: expected a float"),
    ],
)
def test_wrong_changes_and_parts_are_refused(tmp_path, fgfi, old, new, message):
    text = fgfi.path.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "published.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(printed.PublishedError, match=re.escape(message)):
        printed.load(path)


def test_published_tables_side_by_side(fgfi):
    names = ("voc07-res101h", "voc07-vgg11", "voc07-res50")
    shown = imitation.printed_table({name: fgfi.tables[name] for name in names})
    assert shown.title == "Published: mAP % and points over the student"
    assert shown.shown[""].tolist() == ["teacher", "student alone", "I: region by anchors"]
    last = shown.shown.iloc[-1]
    assert [last[f"{name}: points"] for name in names] == ["+3.8", "+8.0", "+2.9"]
    letters = imitation.printed_table(
        {"0.25x": fgfi.tables["kitti-quarter"], "0.5x": fgfi.tables["kitti-half"]}
    ).shown.set_index("")
    points = letters["0.25x: points"].tolist()
    assert points == ["–", "–", "+6.7", "−8.9", "+2.0", "+0.9", "+5.2"]
    assert letters.loc["F: whole map", "0.5x"] == "–"


def test_the_ledger_of_imitation_says_what_is_not_known(fgfi):
    topics = ledger_table(fgfi).frame.set_index("topic")
    assert "not known" in topics.loc["Loss: factor", "paper"]
    assert "not known" in topics.loc["Letter F: whole map", "paper"]
    assert "not known" in topics.loc["Letter D: vanilla distillation", "paper"]
    assert all(topics["why"])


# Imitation ---------------------------------------------------------------------------------------


def test_known_scores_give_known_cells_of_the_letters(table, fgfi):
    shown = imitation.imitation_table(table, fgfi.tables["kitti-quarter"])
    row = shown.frame.set_index("row").loc["i"]
    assert (row["map"], row["points"], row["points_sd"]) == pytest.approx((47.0, 6.0, 1.0))
    assert (row["Car"], row["Cyclist"], row["Cyclist_sd"]) == pytest.approx((57.0, 37.0, 1.0))
    text = shown.shown.set_index("")
    own = text.loc["I: region by anchors"]
    assert (own["published mAP"], own["published: points over the student"]) == ("52.63◦", "+6.7")
    assert (own["ours: mAP %"], own["points over the student"]) == ("47.0 ± 1.0", "+6.0 ± 1.0")
    assert own["Car: AP %"] == "57.0 ± 1.0"
    assert text.loc["F: whole map", "points over the student"] == "−3.0 ± 1.7"
    assert text.loc["teacher", "points over the student"] == "+19.0 ± 1.0"
    assert "points over the row above" not in shown.shown
    said = " ".join(shown.notes)
    assert "All six students: 2,500 steps and the same number of samples." in said
    assert "One teacher for all seeds." in said
    assert "Records: scale sample" in shown.notes[-1]
    compact = imitation.imitation_table(table, fgfi.tables["kitti-quarter"], compact=True)
    assert len(compact.shown.columns) == 6
    assert shown.notes.count(notes.WALL) == 1 and notes.WALL not in compact.notes


def test_the_budget_tells_the_common_start_where_the_rows_use_it(tmp_path):
    students = {name: LETTERS[name] for name in imitation.ROWS}
    letters(tmp_path, **students)
    plain_budget = "All six students: 2,500 steps and the same number of samples."
    assert plain_budget in imitation.imitation_table(read_records(tmp_path)).notes
    for seed in range(3):  # the start of these runs in params.yaml
        start = record("imitation-kitti-start", seed, kitti(0.3), steps=3000)
        write(tmp_path, start)
    records = read_records(tmp_path)
    told = "All six students: 2,500 steps after 3,000 of the common start, and the same number of "
    assert told + "samples." in imitation.imitation_table(records).notes
    assert starts.common(records, "imitation-kitti", imitation.ROWS) == "imitation-kitti-start"
    mixed = pd.concat([records, records.assign(scale="gpu")])
    assert starts.common(mixed, "imitation-kitti", imitation.ROWS) == ""
    assert starts.common(records, "imitation-kitti", ["weight9000"]) == ""  # no such run
    assert starts.common(records, "structured", ["baseline", "pi"]) == ""  # from random weights


def test_a_start_that_a_scale_does_not_use_is_not_told(tmp_path):
    """At scale `paper` the ways of detection start from ImageNet; the pipeline makes `-start`."""
    det(tmp_path, start=(0.1, 0.1, 0.1), **BASE)
    records = read_records(tmp_path)
    at_paper = records.assign(scale="paper")
    assert "after 2,500 of the common start" in starts.budget(records, DET)
    assert starts.budget(at_paper, DET) == notes.budget(at_paper, DET)
    assert "start" not in " ".join(tables.function_matching_table(at_paper, prefix=DET).notes[1:2])


def test_letters_that_were_not_run_say_so(tmp_path, fgfi):
    records = letters(tmp_path, baseline=(0.4,), i=(0.45,))
    shown = imitation.imitation_table(records, fgfi.tables["kitti-quarter"]).shown.set_index("")
    assert shown.loc["G: boxes", "ours: mAP %"] == "not run"
    assert shown.loc["G: boxes", "Car: AP %"] == "–"
    assert shown.loc["G: boxes", "published mAP"] == "48.0⁼"
    assert shown.loc["I: region by anchors", "points over the student"] == "+5.0"
    nothing = imitation.imitation_table(read_records(tmp_path).iloc[:0], None)
    assert "published mAP" not in nothing.shown


def test_every_class_and_difficulty_beside_the_published_one(table, fgfi):
    shown = imitation.class_table(table, fgfi.tables["kitti-quarter"])
    own = shown.shown.set_index("").loc["I: region by anchors"]
    assert own["Car: published"] == "74.3 / 61.6 / 53.9◦"
    assert own["Car: ours"] == "62.0 / 57.0 / 52.0"
    assert shown.shown.set_index("").loc["F: whole map", "Car: published"].endswith("⁼")
    assert shown.notes[0] == "AP in percent, easy / moderate / hard."
    row = shown.frame.set_index("row").loc["f"]
    assert row["published.Cyclist.hard"] == pytest.approx(31.26 - 9.4)
    assert row["ours.Cyclist.hard"] == pytest.approx(23.0)
    alone = imitation.class_table(table).shown
    assert list(alone) == ["", "Car: ours", "Cyclist: ours", "Pedestrian: ours"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            {},
            "Imitating the region lifts the student by 6.0 ± 1.0 points; the region against the "
            "whole map with the same λ +9.0 ± 2.6, the boxes +2.7 ± 1.5, the scores +5.0 ± 0.0; "
            "scores added to the region −0.7 ± 0.6 (tie)",
        ),
        (
            {"i": (0.41, 0.40, 0.42), "f": (), "g": (), "d": (), "id": ()},
            "Imitating the region ties with the student alone (+0.0 ± 1.7 points)",
        ),
        (
            {"i": (0.35, 0.37, 0.36), "g": (), "d": (), "id": ()},
            "Imitating the region costs the student 5.0 ± 0.0 points; the region against the "
            "whole map with the same λ −2.0 ± 1.7 (tie)",
        ),
        (
            {"teacher": (0.41,), "f": (), "g": (), "d": (), "id": ()},
            "Imitating the region lifts the student by 6.0 ± 1.0 points; the teacher is not "
            "clearly above the student (+0.0 ± 1.0)",
        ),
        ({"i": ()}, "No finding yet: not run: I: region by anchors"),
        (
            {"baseline": (0.4,), "i": (0.45,), "f": (), "g": (), "d": (), "id": ()},
            "Imitating the region: +5.0 points over the student alone (one seed, no verdict)",
        ),
        (
            {"teacher": (0.405,), "baseline": (0.4,), "i": (0.39,), "g": (), "d": (), "id": ()},
            "Imitating the region: −1.0 points over the student alone; the region against the "
            "whole map with the same λ +1.0; little room: the teacher is +0.5 points over the "
            "student (one seed, no verdict)",
        ),
        (
            {"f": (0.38,), "g": (0.46, 0.44), "d": (), "id": ()},
            "Imitating the region lifts the student by 6.0 ± 1.0 points; the region against the "
            "whole map with the same λ +8.0 (one seed), the boxes +0.0 and +3.0 (two seeds)",
        ),
        (
            {"i": (0.46, 0.47), "f": (), "g": (), "d": (), "id": ()},
            "Imitating the region: +5.5 ± 0.7 points over the student alone (two seeds, no "
            "verdict)",
        ),
    ],
)
def test_the_sentence_follows_the_numbers(tmp_path, fgfi, rows, expected):
    records = letters(tmp_path, **(LETTERS | rows))
    assert imitation.finding(records) == expected
    shown = imitation_figures.imitation_figure(records, {"0.25x": fgfi.tables["kitti-quarter"]})
    assert plain(shown.get_suptitle()) == expected


def test_figures_of_the_letters(table, tmp_path):
    shown = imitation_figures.class_figure(table)
    title = plain(shown.get_suptitle())
    assert title.startswith("Imitating the region: above the student alone in 3 of 3 classes, ")
    assert "Cyclist +6.0" in title
    # a mean above 0 is no verdict: one seed has the whole lead
    gain = pd.DataFrame({"Car": [2.0, 3.0, 2.5], "Cyclist": [9.0, 0.1, 0.2]})
    assert imitation_figures.class_finding(gain) == (
        "Imitating the region: above the student alone in 1 of 2 classes, below in 0, ties in 1: "
        "Car +2.5 ± 0.5, Cyclist +3.1 ± 5.1 points"
    )
    assert imitation_figures.class_finding(gain[:1]) == (
        "Imitating the region: Car +2.0, Cyclist +9.0 points"
    )
    assert len(shown.axes[0].patches) == 3 * 5
    assert shown.axes[0].get_ylabel() == "AP, points over the student"
    empty = read_records(tmp_path / "letters").iloc[:0]
    for nothing in (
        imitation_figures.imitation_figure(empty),
        imitation_figures.class_figure(empty),
        imitation_figures.psi_figure(empty),
        imitation_figures.factor_figure(empty, 0.5),
    ):
        assert any("not run" in text for text in texts(nothing))
        assert nothing._repr_png_().startswith(b"\x89PNG")


SWEEP = {
    "i_psi00": (0.36, 0.37, 0.36),
    "i_psi02": (0.44, 0.46, 0.45),
    "i_psi08": (0.43, 0.43, 0.44),
}


def test_the_sweep_takes_its_ends_from_the_rows_of_the_table(tmp_path):
    again = {"i_psi05": (0.8, 0.8, 0.8), "i_psi10": (0.8, 0.8, 0.8)}
    records = letters(tmp_path, **LETTERS, **SWEEP, **again)
    points = imitation.psi_points(records)
    means = points.groupby("psi")["score"].mean()
    assert means.index.tolist() == [0.0, 0.2, 0.5, 0.8, 1.0]
    assert means[0.5] == pytest.approx(47.0) and means[1.0] == pytest.approx(41.0)
    assert points[points["psi"] == 0.2]["points"].tolist() == pytest.approx([4.0, 4.0, 4.0])
    alone = letters(tmp_path / "alone", baseline=(0.4,), i_psi05=(0.5,))
    assert imitation.psi_points(alone)["psi"].tolist() == [0.5, 1.0]


def test_the_sweep_beside_the_published_one(tmp_path, fgfi):
    records = letters(tmp_path, **LETTERS, **SWEEP)
    sweeps = {"0.25x": fgfi.tables["psi-quarter"], "0.5x": fgfi.tables["psi-half"]}
    shown = imitation.psi_table(records, sweeps)
    rows = shown.shown.set_index("ψ")
    assert rows.index.tolist() == [f"{i / 10:g}" for i in range(10)] + ["1 (student alone)"]
    assert rows.loc["0.5", "published: 0.25x"] == "51.3≈"
    assert rows.loc["1 (student alone)", "published: 0.5x"] == "56.8≈"
    assert rows.loc["0.2", "ours: mAP %"] == "45.0 ± 1.0"
    assert rows.loc["0.2", "points over the student"] == "+4.0 ± 0.0"
    assert rows.loc["0.3", "ours: mAP %"] == "not run"
    assert any("the whole map" in note for note in shown.notes)
    assert notes.LEVELS not in shown.notes
    fewer = imitation.psi_table(letters(tmp_path / "fewer", baseline=(0.4, 0.5), i_psi02=(0.5,)))
    assert notes.LEVELS in fewer.notes
    figure = imitation_figures.psi_figure(records, sweeps)
    assert plain(figure.get_suptitle()) == (
        "ψ = 0.5 is best with +6.0 ± 1.0 points over the student, clearly above ψ = 0.2"
    )
    assert len(figure.axes) == 2


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            {"i": (0.44, 0.46, 0.46)},
            "ψ = 0.5 is best with +4.3 ± 0.6 points over the student, not clearly above ψ = 0.2",
        ),
        (
            {"i": (0.39, 0.41, 0.42), "i_psi02": (0.38,) * 3, "i_psi08": (0.41, 0.41, 0.42)},
            "No ψ is clearly above the student alone: best ψ = 0.8, +0.3 ± 1.2 points",
        ),
        (
            {"i": (0.39, 0.41, 0.42), "i_psi00": (), "i_psi02": (), "i_psi08": (0.45,)},
            "ψ on seed 0, which all widths have: 0.5 −1.0, 0.8 +5.0 points (no verdict)",
        ),
        (
            {"i_psi00": (), "i_psi02": (0.44, 0.46), "i_psi08": ()},
            "ψ on seeds 0 and 1, which all widths have: 0.2 +4.0 ± 0.0, 0.5 +5.5 ± 0.7 points (no "
            "verdict)",
        ),
        (
            {
                name: (*LETTERS.get(name, ()), *SWEEP.get(name, ()), 0.2)
                for name in ("baseline", "i")
            },
            "ψ = 0.5 is best with +6.0 ± 1.0 points over the student, clearly above ψ = 0.2 (on "
            "seeds 0, 1 and 2, which all widths have)",
        ),
        (
            # over all its seeds 0.5 is below 0.2, in the one that both have above
            {"i": (0.46, 0.30, 0.30), "i_psi00": (), "i_psi02": (0.43,), "i_psi08": ()},
            "ψ on seed 0, which all widths have: 0.2 +3.0, 0.5 +6.0 points (no verdict)",
        ),
        (
            {"i_psi00": (), "i_psi02": (), "i_psi08": ()},
            "ψ: nothing to compare yet, fewer than two values were run",
        ),
    ],
)
def test_the_sentence_on_psi_follows_the_numbers(tmp_path, rows, expected):
    records = letters(tmp_path, **(LETTERS | SWEEP | rows))
    points = imitation.psi_points(records)
    assert imitation.psi_finding(points) == expected
    apart = points[(points["psi"] == 0.5) != (points["seed"] == 0)]  # 0.5 without seed 0
    if points["psi"].nunique() > 2:
        assert imitation.psi_finding(apart).endswith("no seed has all values")


def test_the_picture_of_psi_compares_common_seeds_only(tmp_path):
    rows = LETTERS | {"i_psi02": (0.43,), "i": (0.46, 0.30, 0.30)}
    figure = imitation_figures.psi_figure(letters(tmp_path, **rows))
    (axis,) = figure.axes
    (line,) = [line for line in axis.lines if len(line.get_xdata()) == 3 and line.get_ls() == "-"]
    assert line.get_xdata().tolist() == pytest.approx([0.2, 0.5, 1.0])
    assert line.get_ydata().tolist() == pytest.approx([3.0, 6.0, 0.0])
    further = [value for line in axis.lines if line.get_ms() == 4 for value in line.get_ydata()]
    assert sorted(further) == pytest.approx([-12.0, -11.0, -5.0, -2.0])  # F's as well
    assert any("marks and line on seed 0, which all widths" in text for text in texts(figure))


def test_rules_of_which_cells_count_stand_beside_the_tables_own(tmp_path):
    folder = tmp_path / "records"
    top, difference = (0.27, 0.30, 0.30), (0.33, 0.31)
    rows = BASE | {"matching-top": top, "matching-difference": difference}
    for name, scores in rows.items():
        for seed, score in enumerate(scores):
            facts = record(f"{DET}-{name}", seed, coco(score, agreement=score))
            write_record(folder / f"{name}-{seed}.json", facts)
    records = read_records(folder)
    table = weighting.weighting_table(records)
    shown = table.shown.set_index("which cells count")
    assert shown["ours: mAP %"].tolist() == [
        "21.0 ± 1.0", "30.0 ± 2.0", "29.0 ± 1.7", "33.0 and 31.0"
    ]  # fmt: skip
    assert shown["points over (1)"].tolist() == ["–", "+9.0 ± 1.0", "+8.0 ± 1.0", "+13.0 and +10.0"]
    assert shown["points over the first rule"].tolist() == ["–", "–", "−1.0 ± 1.0", "+5.0 and +1.0"]
    assert shown["n"].tolist() == ["3", "3", "3", "2"] and notes.LEVELS in table.notes
    one_by_one = "Two seeds are told one by one."
    assert one_by_one in table.notes
    assert weighting.weighting_finding(records) == (
        "Points against the teacher's evidence as the weight: the surest 1 % of cells "
        "−1.0 ± 1.0 (tie), how far the two differ +5.0 and +1.0 (two seeds)"
    )
    assert one_by_one not in weighting.weighting_table(records[records["seed"] == 0]).notes
    own = records[records["run"] == f"{DET}-matching"]
    assert "no other rule was run" in weighting.weighting_finding(own)
    assert weighting.weighting_table(own).shown["n"].tolist() == ["0", "3", "0", "0"]


def test_the_mean_without_the_rarest_class_stands_beside_the_mean(tmp_path):
    for name in ("teacher", "supervised", "matching"):
        for seed, score in enumerate(BASE[name]):
            one = coco(score)
            one["val"]["map_without_train"] = score + 0.02
            write(tmp_path, record(f"{DET}-{name}", seed, one))
    table = box_classes.class_table(read_records(tmp_path))
    assert table.shown[""].tolist() == [
        "mAP", "mAP without train", "mAP at IoU 0.5", "small", "medium", "car", "pedestrian"
    ]  # fmt: skip
    shown = table.shown.set_index("")
    assert plain(shown.loc["mAP without train", "teacher"]) == "33.0 ± 1.0"
    assert plain(shown.loc["pedestrian", "(3) function matching"]) == "20.0 ± 2.0"
    assert shown.loc["car", "(2) distil"] == "–"
    assert table.frame.set_index("measure").loc["map_small", "supervised"] == pytest.approx(5.25)
    assert box_classes.class_table(read_records(tmp_path).iloc[:0]).shown.empty


FACTORS = {"i_weight20": (0.50, 0.50, 0.52), "f_weight20": (0.39, 0.44, 0.40)}


def test_the_factors_stand_between_no_imitation_and_the_largest(tmp_path):
    records = letters(tmp_path, **LETTERS, **FACTORS, i_weight05=(0.43,), i_psi02=(0.8, 0.8, 0.8))
    points = imitation_factor.factor_points(records, 3.0)
    places = points[points["seed"] == 0][["letter", "factor", "points"]].to_numpy().tolist()
    assert [place[:2] for place in places] == [
        ["f", 3.0], ["f", 20.0], ["i", 0.5], ["i", 3.0], ["i", 20.0]
    ]  # fmt: skip
    assert [place[2] for place in places] == pytest.approx([-2.0, -1.0, 3.0, 6.0, 10.0])
    rows = imitation_factor.factor_table(records, 3.0).shown.set_index("λ")
    assert rows.index.tolist() == ["0 (student alone)", "0.5", "3", "20"]
    assert rows.loc["0 (student alone)"].tolist() == ["41.0 ± 1.0", "–", "–", "–", "3"]
    assert rows.loc["20"].tolist() == [
        "50.7 ± 1.2", "+9.7 ± 1.5", "41.0 ± 2.6", "+0.0 ± 1.7", "3 / 3"
    ]  # fmt: skip
    assert rows.loc["0.5", "whole map: mAP %"] == "not run" and rows.loc["0.5", "n"] == "1 / 0"
    assert notes.LEVELS in imitation_factor.factor_table(records, 3.0).notes


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            FACTORS,
            "With λ = 20 the region lifts the student by 9.7 ± 1.5 points; λ = 0.5 changes it by "
            "+6.0 ± 1.0 points; the whole map with λ = 20 changes it by +0.0 ± 1.7 points (tie)",
        ),
        (
            {"i_weight20": (0.43,)},
            "With λ = 0.5 the region lifts the student by 6.0 ± 1.0 points; the whole map with "
            "λ = 0.5 changes it by −3.0 ± 1.7 points",
        ),
        (
            # over all its seeds 0.5 is above 20, in the one that both have below
            {"i": (0.40, 0.60, 0.60), "i_weight20": (0.43,), "f": ()},
            "λ on seed 0: the region 0.5 +0.0, 20 +3.0 points (no verdict)",
        ),
        (
            {"i": (0.39, 0.43, 0.41), "i_weight20": (0.41, 0.41, 0.42), "f": ()},
            "With λ = 20 the region does not clearly lift the student (+0.3 ± 1.2 points); λ = 0.5 "
            "changes it by +0.0 ± 1.0 points (tie)",
        ),
        (
            {"i": (0.39, 0.43, 0.41), "i_weight20": (0.47,), "f_weight20": (0.39,)},
            "λ on seed 0: the region 0.5 −1.0, 20 +7.0; the whole map 0.5 −2.0, 20 −1.0 points (no "
            "verdict)",
        ),
        ({}, "λ: nothing to compare yet, fewer than two values were run"),
    ],
)
def test_the_sentence_on_the_factor_follows_the_numbers(tmp_path, rows, expected):
    records = letters(tmp_path, **(LETTERS | rows))
    points = imitation_factor.factor_points(records, 0.5)
    assert imitation_factor.factor_finding(points, 0.5) == expected
    assert plain(imitation_figures.factor_figure(records, 0.5).get_suptitle()) == expected


def test_lines_of_the_factor_join_common_seeds_only(tmp_path):
    """The whole map rises over unequal seeds and falls on the one that both factors have."""
    rows = LETTERS | {"f": (0.35, 0.42, 0.42), "f_weight05": (0.36,)}
    figure = imitation_figures.factor_figure(letters(tmp_path, **rows), 15.0)
    (axis,) = figure.axes
    (line,) = [line for line in axis.lines if line.get_ls() == "-" and line.get_marker() == "."]
    assert line.get_ydata().tolist() == pytest.approx([-4.0, -5.0])
    assert line.get_xdata().tolist() == pytest.approx([0.03, 1.03])
    assert any("seeds that all λ have (whole map seed 0)" in text for text in texts(figure))


def test_samples_of_different_size_stand_one_below_the_other(tmp_path):
    letters(tmp_path, teacher=(0.5,), baseline=(0.2, 0.3, 0.4), i=(0.3, 0.39, 0.5), g=(0.29, 0.4))
    records = read_records(tmp_path)
    assert "nothing to compare" in imitation_size.size_finding(records)
    table = imitation_size.size_table(records)
    assert table.shown.iloc[1, 0] == "not run" and table.shown.iloc[1]["n"] == "0 / 0"
    assert table.shown.iloc[0, 0] == "imitation-kitti"  # records of old do not tell their labels

    larger = {"teacher": (0.8,), "baseline": (0.4, 0.5, 0.6), "i": (0.5, 0.6, 0.7)}
    for name, values in (larger | {"g": (0.45, 0.56, 0.65)}).items():
        for seed, score in enumerate(values):
            one = record(f"imitation-large-{name}", seed, kitti(score), labels=1260)
            write(tmp_path, one)
    for seed in range(3):
        path = tmp_path / f"imitation-kitti-baseline/seed-{seed}.json"
        write_record(path, json.loads(path.read_text()) | {"labels": 180})
    records = read_records(tmp_path)
    small, large = imitation_size.size_table(records).shown.to_dict("records")
    assert small[""] == "180 labels" and large[""] == "1,260 labels"
    assert plain(small["I: region over the student"]) == "+9.7 ± 0.6"
    assert plain(small["region over boxes"]) == "+0.0 ± 1.4" and small["n"] == "3 / 2"
    assert large["teacher: mAP %"] == "80.0" and large["n"] == "3 / 3"
    assert plain(large["teacher over the student"]) == "+30.0 ± 10.0"
    assert plain(large["region over boxes"]) == "+4.7 ± 0.6"
    assert plain(imitation_size.size_finding(records)) == (
        "Size of the sample, in points: with 180 labels the region +9.7 ± 0.6 over the student and "
        "+1.0 and −1.0 (two seeds) over the boxes; with 1,260 labels the region +10.0 ± 0.0 over "
        "the student and +4.7 ± 0.6 over the boxes"
    )


def test_students_of_different_width_have_one_teacher(tmp_path, fgfi):
    letters(tmp_path, teacher=(0.5,), baseline=(0.2, 0.3, 0.4), i=(0.3, 0.39, 0.5))
    records = read_records(tmp_path)
    assert "nothing to compare" in imitation_width.width_finding(records)
    printed = {"0.25x": fgfi.tables["kitti-quarter"], "0.5x": fgfi.tables["kitti-half"]}
    quarter, half = imitation_width.width_table(records, printed).shown.to_dict("records")
    assert quarter["published mAP"] == "45.96◦" and half["published mAP"] == "57.98◦"
    assert quarter["published: points by the region"] == "+6.7"
    assert plain(quarter["points by the region"]) == "+9.7 ± 0.6" and quarter["n"] == "3"
    assert half["ours: mAP %"] == "not run" and half["points by the region"] == "–"

    for name, values in {"baseline": (0.40, 0.42, 0.44), "i": (0.43, 0.44, 0.45)}.items():
        for seed, score in enumerate(values):
            write(tmp_path, record(f"imitation-half-{name}", seed, kitti(score)))
    records = read_records(tmp_path)
    table = imitation_width.width_table(records, printed)
    quarter, half = table.shown.to_dict("records")
    assert plain(half["ours: mAP %"]) == "42.0 ± 2.0"
    assert plain(half["teacher's lead"]) == "+8.0 ± 2.0"  # the one of 0.25x
    assert plain(half["points by the region"]) == "+2.0 ± 1.0"
    assert table.frame["i"].tolist() == pytest.approx([29 / 3, 2.0])
    assert sum("pictures of the paper's tables" in note for note in table.notes) == 1
    assert sum("compare the pattern, not the level" in note for note in table.notes) == 1
    assert plain(imitation_width.width_finding(records)) == (
        "Width of the student, points by the region: 0.25x +9.7 ± 0.6 (teacher's lead "
        "+20.0 ± 10.0), 0.5x +2.0 ± 1.0 (teacher's lead +8.0 ± 2.0)"
    )


def test_a_lead_that_hangs_on_one_class_is_gone_without_it(tmp_path):
    letters(tmp_path, baseline=(0.2, 0.3, 0.4), i=(0.3, 0.4, 0.5), i_psi02=(0.2, 0.3, 0.4))
    path = tmp_path / "imitation-kitti-i/seed-1.json"
    one = json.loads(path.read_text())
    gained = one["metrics"]["val"]["ap"]["Cyclist"]
    one["metrics"]["val"]["ap"]["Cyclist"] = {level: ap + 0.3 for level, ap in gained.items()}
    for name in ("Car", "Pedestrian"):
        one["metrics"]["val"]["ap"][name] = {level: 0.3 for level in gained}
    write_record(path, one)
    records = read_records(tmp_path)
    table = imitation_classes.without_table(records, imitation.ROWS)
    frame, shown = table.frame.set_index("run"), table.shown.set_index("")
    # seed 1: Car 30 - 40, Pedestrian 30 - 30, Cyclist 60 - 20; the other seeds: 10 each
    row = frame.loc["imitation-kitti-i"]
    assert row["points"] == pytest.approx((10 + 10 + 10) / 3)
    assert row["without.Cyclist"] == pytest.approx((10 - 5 + 10) / 3)
    assert row["without.Cyclist_sd"] == pytest.approx(math.sqrt(75))
    assert row["without.Car"] == pytest.approx((10 + 20 + 10) / 3)
    text = shown.loc["I: region by anchors"]
    assert plain(text["all classes"]) == "+10.0 ± 0.0"
    assert plain(text["without Cyclist"]) == "+5.0 ± 8.7 (tie)"
    assert list(frame.index) == ["imitation-kitti-i", "imitation-kitti-i-psi02"]
    assert shown.loc["I: ψ = 0.2", "n"] == "3"
    assert plain(imitation_classes.without_finding(records)) == (
        "One class left out, I over the student in points: without Car +13.3 ± 5.8, without "
        "Cyclist +5.0 ± 8.7 (tie), without Pedestrian +11.7 ± 2.9"
    )


def test_nothing_is_left_out_where_nothing_was_run(tmp_path):
    letters(tmp_path, baseline=(0.2, 0.3, 0.4))
    records = read_records(tmp_path)
    assert "nothing to compare" in imitation_classes.without_finding(records)
    assert imitation_classes.without_table(records, imitation.ROWS).frame.empty


def test_the_same_records_give_the_same_bytes(tmp_path, table, fgfi):
    sweeps = {"0.25x": fgfi.tables["psi-quarter"]}
    for make in (
        lambda: imitation_figures.imitation_figure(table, {"0.25x": fgfi.tables["kitti-quarter"]}),
        lambda: imitation_figures.psi_figure(table, sweeps),
        lambda: imitation_figures.factor_figure(table, 0.5),
    ):
        first, second = (look.save(make(), tmp_path / f"{i}.png") for i in (0, 1))
        assert first.read_bytes() == second.read_bytes()


# Pictures of boxes -------------------------------------------------------------------------------


def truth_of(xyxy: list, classes: list[int], ignored: list[bool]) -> Boxes:
    count = len(classes)
    place = np.array(xyxy, np.float32).reshape(-1, 4)
    return Boxes(place, np.array(classes, int), np.array(ignored, bool), np.zeros(count, int))


def found_of(xyxy: list, classes: list[int], scores: list[float]) -> Detections:
    place = torch.tensor(xyxy, dtype=torch.float32).reshape(-1, 4)
    return Detections(place, torch.tensor(scores), torch.tensor(classes, dtype=torch.int64))


A, B, C = [0, 0, 10, 10], [20, 0, 30, 10], [0, 12, 10, 18]
IMAGE = np.full((20, 40, 3), 90, dtype=np.uint8)


def test_shown_boxes_are_those_of_the_score_and_objects_those_not_ignored():
    seen = boxes.shown(found_of([A, B, C], [0, 1, 1], [0.9, 0.3, 0.29]))
    assert seen.xyxy.tolist() == [A, B] and seen.classes.tolist() == [0, 1]
    assert boxes.shown(found_of([], [], [])).xyxy.shape == (0, 4)
    known = boxes.labelled(truth_of([A, B], [0, -1], [False, True]))
    assert known.xyxy.tolist() == [A] and known.scores is None


@pytest.mark.parametrize(
    ("own", "classes", "missed", "extra"),
    [
        ([A, B], [0, 1], [False, False], [False, False]),
        ([A, B], [1, 1], [True, False], [True, False]),  # the right place, the wrong class
        ([A, A, B], [0, 0, 1], [False, False], [False, True, False]),  # found twice
        ([[0, 0, 10, 5], B], [0, 1], [False, False], [False, False]),  # IoU is 0.5, enough
        ([[0, 0, 10, 4.9], B], [0, 1], [True, False], [True, False]),
        ([], [], [True, True], []),
    ],
)
def test_boxes_are_paired_by_class_and_overlap(own, classes, missed, extra):
    reference = boxes.labelled(truth_of([A, B], [0, 1], [False, False]))
    scores = [0.9 - 0.1 * i for i in range(len(own))]
    apart = boxes.difference(boxes.shown(found_of(own, classes, scores)), reference)
    assert apart.missed.tolist() == missed
    assert apart.extra.tolist() == extra


def test_a_box_takes_the_partner_that_it_overlaps_most():
    reference = boxes.labelled(truth_of([[0, 0, 10, 10], [2, 0, 12, 10]], [0, 0], [False] * 2))
    apart = boxes.difference(boxes.shown(found_of([[2, 0, 12, 10]], [0], [0.9])), reference)
    assert apart.missed.tolist() == [True, False]
    nothing = boxes.labelled(truth_of([], [], []))
    alone = boxes.difference(boxes.shown(found_of([A], [0], [0.9])), nothing)
    assert alone.extra.tolist() == [True] and alone.missed.shape == (0,)


@pytest.mark.parametrize(
    ("region", "extra"),
    [([0, 0, 10, 5], False), ([0, 0, 10, 4.9], True), ([-50, -50, 50, 50], False)],
)
def test_what_lies_in_an_ignored_region_is_not_added(region, extra):
    reference = boxes.labelled(truth_of([B], [0], [False]))
    own = boxes.shown(found_of([A], [0], [0.9]))
    apart = boxes.difference(own, reference, ignored=np.array([region, [99, 99, 99, 99]]))
    assert apart.extra.tolist() == [extra] and apart.missed.tolist() == [True]
    assert boxes.difference(own, reference, ignored=np.empty((0, 4))).extra.tolist() == [True]


def test_only_what_is_added_to_the_truth_is_excused_by_ignored_regions():
    truth = truth_of([A], [-1], [True])
    grid = boxes.comparison_grid(
        [IMAGE],
        [truth],
        [found_of([A], [0], [0.9])],
        {"student": [found_of([A, C], [0, 0], [0.9] * 2)]},
    )
    words = [axis.get_xlabel() + axis.get_title() for axis in grid.axes]
    words += [text.get_text() for axis in grid.axes for text in axis.texts]
    assert any("against truth: misses 0, adds 0" in text for text in words)
    assert any("against teacher: misses 0, adds 1" in text for text in words)


def test_the_costs_of_cells_tell_where_the_loss_of_the_whole_map_lies():
    cost = np.ones((2, 5, 10))
    region = np.zeros((2, 5, 10), bool)
    region[:, 4], cost[:, 4], cost[0, 0, 3] = True, 0.25, 901
    finding = imitation_costs.cost_finding(cost, region)
    assert finding == (
        "The dearest 1 % of the cells are 91 % of the whole map's loss; a cell costs 0.25 in the "
        "region, 12 beyond it"
    )
    shown = imitation_costs.cost_figure(cost, region)
    assert plain(shown.get_suptitle()) == finding
    assert [bar.get_width() for bar in shown.axes[2].patches] == pytest.approx([46, 1, 1, 1, 0.25])
    assert imitation_costs.cost_finding(cost, ~region).endswith("12 in the region, 0.25 beyond it")
    assert "costs" not in imitation_costs.cost_finding(cost, region & False)
    assert "0 everywhere" in imitation_costs.cost_finding(0 * cost, region)
    assert imitation_costs.cost_figure(0 * cost, region)._repr_png_()


def rectangles(axis) -> list[tuple]:
    dotted = (":", "dotted")
    return [(p.get_x() + 0.5, p.get_y() + 0.5, p.get_linestyle() in dotted) for p in axis.patches]


def test_the_grid_of_boxes_shows_every_box_in_its_place():
    truth = truth_of([A, B, C], [0, 1, -1], [False, False, True])
    teacher = found_of([A, B], [0, 1], [0.9, 0.8])
    weak, strong = found_of([B, C], [1, 0], [0.7, 0.6]), found_of([A, B], [0, 1], [0.9, 0.5])
    grid = boxes.comparison_grid(
        [IMAGE, IMAGE],
        [truth, truth],
        [teacher, teacher],
        {"(1)": [weak, weak], "(3)": [strong, strong]},
        classes=("car", "bus", "train"),
        names=("first", "second"),
    )
    assert len(grid.axes) == 2 * 2 * 4
    assert [axis.get_title() for axis in grid.axes[:4]] == ["truth", "teacher", "(1)", "(3)"]
    assert rectangles(grid.axes[0]) == [(0, 0, False), (20, 0, False), (0, 12, True)]
    assert [len(axis.patches) for axis in grid.axes[:8]] == [3, 2, 2, 2, 0, 0, 2, 0]
    missed, extra = grid.axes[6].patches
    assert (missed.get_x(), missed.get_y()) == (-0.5, -0.5)
    assert missed.get_linestyle() != extra.get_linestyle()
    assert missed.get_edgecolor() != extra.get_edgecolor()
    words = texts(grid)
    assert ".90" in words and ".60" in words
    assert "against teacher: misses 1, adds 1" in words
    assert "against truth: misses 0, adds 0" in words
    assert plain(grid.get_suptitle()) == (
        "Of the teacher's 4 boxes: (1) misses 2, adds 2; (3) misses 0, adds 0"
    )
    legend = [text.get_text() for text in grid.legends[0].get_texts()]
    assert legend == ["car", "bus", "misses", "adds", "ignored"]
    assert grid._repr_png_().startswith(b"\x89PNG")


def test_dark_classes_are_drawn_bright_enough_to_be_seen():
    axis = look.figure(2, 2).subplots()
    boxes.draw(axis, boxes.labelled(truth_of([A], [0], [False])), [(0, 0, 142)])
    rgb = np.array(axis.patches[0].get_edgecolor()[:3])
    assert rgb @ [0.299, 0.587, 0.114] == pytest.approx(boxes.LUMINANCE)
    boxes.draw(axis, boxes.labelled(truth_of([A], [0], [False])), [(255, 255, 255)])
    assert axis.patches[1].get_edgecolor()[:3] == (1.0, 1.0, 1.0)


def test_scores_evade_each_other_or_are_left_out():
    axis = Picture(figsize=(4, 2)).add_axes((0, 0, 1, 1))
    axis.imshow(np.zeros((100, 200, 3), np.uint8), aspect="auto")
    near = [[50 + i, 40, 60 + i, 60] for i in range(12)]
    boxes.draw(axis, boxes.shown(found_of(near, [0] * 12, [0.9 - 0.01 * i for i in range(12)])))
    axis.figure.canvas.draw()
    spaces = [text.get_window_extent() for text in axis.texts]
    assert 4 <= len(spaces) < 12 and len(axis.patches) == 12
    assert axis.texts[0].get_text() == ".90"  # the highest has the first choice
    for i, one in enumerate(spaces):
        assert axis.bbox.x0 <= one.x0 and one.x1 <= axis.bbox.x1
        for other in spaces[:i]:
            assert not (
                min(one.x1, other.x1) > max(one.x0, other.x0) + 1
                and min(one.y1, other.y1) > max(one.y0, other.y0) + 3
            )


def test_colours_of_ten_classes_are_told_apart():
    ten = np.array(boxes.PALETTE[1:])  # the page's, without the yellow of what is missed
    apart = np.abs(ten[:, None] - ten[None]).sum(-1)[~np.eye(len(ten), dtype=bool)]
    assert len(ten) == 10 and apart.min() >= 90


def test_the_grid_of_boxes_refuses_what_does_not_fit():
    truth, teacher = truth_of([], [], []), found_of([], [], [])
    with pytest.raises(ValueError, match="1 images but 2 of 'teacher'"):
        boxes.comparison_grid([IMAGE], [truth], [teacher, teacher], {})
    with pytest.raises(ValueError, match="uint8 HWC"):
        boxes.comparison_grid([IMAGE / 255], [truth], [teacher], {})
    grid = boxes.comparison_grid([IMAGE], [truth], [teacher], {})
    assert plain(grid.get_suptitle()) == "Boxes that the teacher finds: 0"


# Pictures of regions -----------------------------------------------------------------------------


def test_the_overlay_lights_exactly_the_cells_of_the_mask():
    mask = np.zeros((3, 4), bool)
    mask[0, 1] = mask[2, 3] = True
    lit = (regions.overlay(IMAGE, mask, 8) != np.rint(regions.DIM * IMAGE)).any(-1)
    expected = np.zeros((20, 40), bool)
    expected[0:8, 8:16] = True
    expected[16:20, 24:32] = True  # the last row of cells ends beyond the image
    assert (lit == expected).all()
    assert regions.overlay(IMAGE, mask, 8)[0, 8].tolist() == [45, 145, 172]
    half = (regions.overlay(IMAGE, np.ones((1, 1), bool), 2.5) != np.rint(regions.DIM * IMAGE)).any(
        -1
    )
    assert half.sum() == 4  # pixel centres 0.5 and 1.5 lie in the first cell, 2.5 in the second


def slow_overlay(mask: np.ndarray, stride: float) -> np.ndarray:
    """Which pixels are lit, pixel by pixel from the definition."""
    lit = np.zeros(IMAGE.shape[:2], bool)
    for y in range(lit.shape[0]):
        for x in range(lit.shape[1]):
            i, j = math.floor((y + 0.5) / stride), math.floor((x + 0.5) / stride)
            lit[y, x] = i < mask.shape[0] and j < mask.shape[1] and mask[i, j]
    return lit


@pytest.mark.parametrize("stride", [1, 3, 7.5, 16])
def test_the_overlay_agrees_with_its_definition(stride):
    mask = np.random.default_rng(0).random((6, 5)) < 0.5
    lit = (regions.overlay(IMAGE, mask, stride) != np.rint(regions.DIM * IMAGE)).any(-1)
    assert (lit == slow_overlay(mask, stride)).all()


def test_regions_stand_side_by_side():
    one, all_ = np.zeros((3, 5), bool), np.ones((3, 5), bool)
    one[1, 2] = True
    masks = {"by anchors": one, "whole map": all_}
    shown = regions.region_figure(IMAGE, np.array([A, B]), masks, 8, note="stride 8")
    assert len(shown.axes) == 2
    assert [len(axis.patches) for axis in shown.axes] == [2, 2]
    title = shown.axes[0].get_title(loc="left")
    assert title == "by anchors: 1 of 15 cells, 6.7 %"
    assert plain(shown.get_suptitle()) == "Cells that imitate: by anchors (1); whole map (15)"
    for axis, mask in zip(shown.axes, masks.values(), strict=True):
        assert np.array_equal(axis.images[0].get_array(), regions.overlay(IMAGE, mask, 8))
        assert axis.get_title() == ""
    single = regions.region_figure(IMAGE, np.zeros((0, 4)), one, 8)
    assert single.axes[0].get_title(loc="left") == "1 of 15 cells, 6.7 %"
    assert plain(single.get_suptitle()) == "Cells that imitate: 1"
    titled = regions.region_figure(IMAGE, np.zeros((0, 4)), one, 8, title="ψ = 0")
    assert plain(titled.get_suptitle()) == "ψ = 0"
    assert single._repr_png_().startswith(b"\x89PNG")


def test_regions_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(h, w\) cells of one image, found shape \(1, 3, 5\)"):
        regions.overlay(IMAGE, np.ones((1, 3, 5), bool), 8)
    with pytest.raises(ValueError, match="stride must be positive"):
        regions.overlay(IMAGE, np.ones((3, 5), bool), 0)
    with pytest.raises(ValueError, match="no masks"):
        regions.region_figure(IMAGE, np.zeros((0, 4)), {}, 8)


def test_outlines_on_an_enlarged_picture():
    """A box of 2 x 3 pixels at (1, 1) ends outside: twice as large it covers 2..5 and 2..7."""
    picture = np.zeros((6, 5, 3))
    shown = outlined(picture, [[1, 1, 3, 4]], [(255, 0, 7.0)], enlarge=2, thick=1)
    expected = np.zeros((12, 10, 3), np.uint8)
    expected[2:8, 2:6] = (255, 0, 7)
    expected[3:7, 3:5] = 0
    assert shown.dtype == np.uint8 and np.array_equal(shown, expected)
    bytes_ = np.full((2, 2, 3), 128, np.uint8)
    assert np.array_equal(
        outlined(bytes_, np.empty((0, 4)), []),
        outlined(bytes_ / 255, np.empty((0, 4)), []),
    )
    with pytest.raises(ValueError, match="shorter"):
        outlined(picture, [[1, 1, 3, 4]], [])
