"""Reports of inter-region affinity distillation: known records in, known cells and titles out."""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from records import record as plain_record

from kdlib.metrics.lanes import culane_scores
from kdlib.report import (
    affinity,
    affinity_figures,
    affinity_length,
    affinity_parts,
    affinity_tables,
    look,
    measure,
    notes,
)
from kdlib.report import published as printed
from kdlib.report.ledger import ledger_table
from kdlib.report.records import RecordError, read_records, write_record

ROOT = Path(__file__).resolve().parents[1]
# Seed by seed over labels alone: kd +1, 0, +2; at +2, +2, +2; skd +2, +3, +1; intra +4, +5, +3.
# IntRA-KD over kd: +3, +5, +1; over at: +2, +3, +1; over skd: +2, +2, +2. Teacher: +10, +9, +8.
ERFNET = {
    "baseline": (0.60, 0.61, 0.62),
    "kd": (0.61, 0.61, 0.64),
    "at": (0.62, 0.63, 0.64),
    "skd": (0.62, 0.64, 0.63),
    "intra": (0.64, 0.66, 0.65),
}
TEACHER = (0.70,)


def record(run: str, seed: int, metrics: dict, **changes) -> dict:
    facts = {"method": "affinity", "steps": 1500, "samples_seen": 12000}
    return plain_record(run, seed, {"val": metrics}, **(facts | changes))


def culane(score: float, taught: bool = True) -> dict:
    """F1 of lanes, as evaluation writes it; miou stands beside it and is not the score."""
    nothing = {"precision": None, "recall": None, "f1": None, "tp": 0, "fp": 0, "fn": 0}
    scenarios = {
        "normal": nothing | {"precision": score, "recall": score, "f1": score + 0.1, "tp": 9},
        "night": nothing | {"precision": score, "recall": score, "f1": 2 * score - 0.7, "fn": 4},
        "noline": nothing,
        "cross": {"fp": round(100 * score)},
    }
    val = {"f1": score, "precision": score, "recall": None, "tp": 9, "fp": 1, "fn": 4}
    val |= {"miou": 0.5, "iou": {"background": 0.9, "lane 1": None}, "scenarios": scenarios}
    agreement = {"pixel": 0.9, "miou": 0.4, "kl": 0.0123}
    return val | ({"agreement": agreement} if taught else {})


def llamas(score: float) -> dict:
    ap = {"l1": score + 0.1, "l0": score, "r0": score, "r1": score - 0.1}
    return {"map": score, "ap": ap, "agreement": {"pixel": 0.8, "miou": 0.4, "kl": 0.02}}


def apollo(score: float) -> dict:
    return {"miou": score, "miou36": score, "miou18": None, "iou": {"void": 0.9, "s_w_d": score}}


def write(folder: Path, metrics, benchmark: str, student: str, **rows: tuple) -> None:
    for name, values in rows.items():
        name = name.replace("_", "-")
        who = "" if name == "teacher" else f"-{student}"
        for seed, score in enumerate(values):
            one = record(f"affinity-{benchmark}{who}-{name}", seed, metrics(score))
            write_record(folder / one["run"] / f"seed-{seed}.json", one)


def erfnet(folder: Path, **rows: tuple) -> pd.DataFrame:
    write(folder, culane, "culane", "erfnet", **({"teacher": TEACHER} | ERFNET | rows))
    return read_records(folder)


def plain(text: str) -> str:
    return " ".join(text.replace("\N{NO-BREAK SPACE}", " ").split())


def texts(shown) -> list[str]:
    return [text.get_text() for text in shown.findobj(lambda one: hasattr(one, "get_text"))]


@pytest.fixture
def table(tmp_path) -> pd.DataFrame:
    return erfnet(tmp_path / "erfnet")


@pytest.fixture(scope="module")
def paper() -> printed.Published:
    return printed.load(ROOT / "published" / "inter_region_affinity.yaml")


# Records -----------------------------------------------------------------------------------------


def test_each_benchmark_has_its_own_score(tmp_path):
    for metrics, name in ((culane, "culane"), (llamas, "llamas"), (apollo, "apollo")):
        one = record(f"affinity-{name}-teacher", 0, metrics(0.4))
        write_record(tmp_path / f"{name}.json", one)
    found = read_records(tmp_path).set_index("run")[["score", "measure"]]
    assert found.loc["affinity-culane-teacher"].tolist() == [0.4, "F1"]
    assert found.loc["affinity-llamas-teacher"].tolist() == [0.4, "mAP"]
    assert found.loc["affinity-apollo-teacher"].tolist() == [0.4, "mIoU"]
    assert measure.of(found.reset_index(), "affinity-culane") is measure.F1


def test_scores_of_the_evaluator_go_into_a_record(tmp_path):
    counts = {"normal": (3, 1, 1), "noline": (0, 0, 0), "cross": (0, 7, 0)}
    write_record(tmp_path / "r.json", record("r", 0, culane_scores(counts)))
    (row,) = read_records(tmp_path).to_dict("records")
    assert row["score"] == pytest.approx(6 / (6 + 8 + 1))
    assert row["val.scenarios.cross.fp"] == 7
    assert math.isnan(row["val.scenarios.noline.f1"])


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("f1",), None, "metrics.val.f1 must be a finite number"),
        (("f1",), 72.4, "metrics.val.f1 must be a fraction"),
        (("recall",), 1.5, "metrics.val.recall must be a fraction"),
        (("scenarios", "night", "f1"), 67.1, "metrics.val.scenarios.night.f1 must be a fraction"),
        (("agreement", "pixel"), None, "pixel must be a finite number"),
    ],
)
def test_wrong_scores_of_lanes_are_refused(tmp_path, place, value, message):
    one = record("r", 0, culane(0.4))
    *above, last = place
    node = one["metrics"]["val"]
    for key in above:
        node = node[key]
    node[last] = value
    with pytest.raises(RecordError, match=re.escape(message)):
        write_record(tmp_path / "r.json", one)


def test_a_student_has_the_teacher_of_its_benchmark_and_no_other_student(table, tmp_path):
    write(tmp_path / "erfnet", culane, "culane", "enet", baseline=(0.5,))
    write(tmp_path / "erfnet", llamas, "llamas", "erfnet", teacher=(0.9,), baseline=(0.1,))
    records = read_records(tmp_path / "erfnet")
    own, prefix = affinity.of_student(records, "culane", "erfnet")
    assert set(own["run"]) == {f"{prefix}-{row}" for row in ("teacher", *ERFNET)}
    assert affinity.ran(records, "culane") == ("erfnet", "enet")
    assert affinity.ran(records, "apollo") == ("erfnet",)
    found = affinity.scores(records, "culane", "erfnet")
    assert found["teacher"].tolist() == [70.0, 70.0, 70.0]  # one teacher stands for all seeds
    assert affinity.scores(records, "llamas", "erfnet")["teacher"].tolist() == [90.0]


# What is published -------------------------------------------------------------------------------


def test_published_figures_carry_how_far_they_can_be_trusted(paper):
    culane_rows = paper.tables["culane"].rows
    assert [culane_rows[n].text for n in ("teacher", "baseline", "kd", "intra", "scnn")] == [
        "72.8¶", "70.2¶", "70.5‡", "72.4¶", "71.6§",
    ]  # fmt: skip
    assert paper.tables["llamas"].rows["intra"].text == "59.8‡"
    assert paper.tables["apolloscape"].rows["teacher"].text == "46.6§"
    assert {f.trust for f in paper.tables["culane-scenarios"].rows.values()} == {"repository"}
    for one in paper.tables.values():  # nothing is known of these students' rows
        assert not [name for name in one.rows if name.startswith(("enet-intra", "resnet18-"))]


def test_three_benchmarks_side_by_side(paper):
    shown = affinity_tables.printed_table(paper).shown.set_index("")
    last = shown.loc["IntRA-KD: affinity and attention"]
    gains = [last[f"{name}: points"] for name in ("CULane", "LLAMAS", "ApolloScape")]
    assert gains == ["+2.2", "+2.8", "+2.8"]
    gaps = [last[f"{name}: gap recovered"] for name in ("CULane", "LLAMAS", "ApolloScape")]
    assert gaps == ["85 %", "76 %", "45 %"]
    assert "AT: attention" not in shown.index  # no figure of it is known
    assert shown.loc["teacher", "CULane: gap recovered"] == "–"
    assert "BiFPN: attention of neighbouring layers" in shown.index


def test_the_gap_of_print_needs_teacher_and_baseline(paper):
    rows = dict(paper.tables["culane"].rows)
    assert affinity_tables.printed_gap(rows, "intra") == pytest.approx(100 * 2.2 / 2.6)
    assert math.isnan(affinity_tables.printed_gap(rows, "at"))
    del rows["teacher"]
    assert math.isnan(affinity_tables.printed_gap(rows, "intra"))


def test_the_ledger_speaks_of_what_was_never_released(paper):
    for task in ("lanes", "segmentation"):
        topics = ledger_table(paper, task).frame.set_index("topic")
        assert len(topics) == len(paper.deviations)
        assert all(topics["why"])
    divisor = topics.loc["Moments: divisor of the skewness"]
    assert divisor["paper"] == "the variance" and "1e-10" in divisor["ours"]
    assert "inside the area" in topics.loc["Moments: where the sums run", "ours"]
    assert "issue 14" in topics.loc["Area of interest: smoothing", "code"]
    assert "how blocks are counted is not told" in topics.loc["Levels", "paper"]
    assert "ENet: end of stage 1 at 1/4 and of stage 3 at 1/8" in topics.loc["Levels", "ours"]
    assert "the encoder's last map" in topics.loc["Structured distillation (SKD)", "ours"]


# Tables ------------------------------------------------------------------------------------------


def test_known_scores_give_known_cells(table, paper):
    shown = affinity_tables.student_table(table, paper)
    row = shown.frame.set_index("row").loc["intra"]
    known = (row["f1"], row["f1_sd"], row["points"], row["points_sd"], row["gap"])
    assert known == pytest.approx((65.0, 1.0, 4.0, 1.0, (40 + 500 / 9 + 37.5) / 3))
    assert row["published_gap"] == pytest.approx(84.6, abs=0.05)
    text = shown.shown.set_index("")
    own = text.loc["IntRA-KD: affinity and attention"]
    assert (own["published F1"], own["published: points over labels alone"]) == ("72.4¶", "+2.2")
    assert own["published: gap recovered"] == "85 %"
    assert (own["ours: F1 %"], own["n"]) == ("65.0 ± 1.0", "3")
    assert (own["points over labels alone"], own["gap recovered"]) == ("+4.0 ± 1.0", "44 ± 10 %")
    assert own["agreement, reported split: pixels %"] == "90.0 ± 0.0"
    assert text.loc["teacher", "ours: F1 %"] == "70.0"
    assert text.loc["teacher", "points over labels alone"] == "+9.0 ± 1.0"
    assert text.loc["AT: attention", "published F1"] == "–"
    assert text.loc["labels alone", "gap recovered"] == "–"
    said = " ".join(shown.notes)
    assert "All five rows: 1,500 steps and the same number of samples." in said
    assert "One teacher for all seeds and students." in said
    assert shown.notes.count(notes.WALL) == 1
    assert notes.LEVELS not in shown.notes  # one teacher, three seeds of each row
    assert shown.title.startswith("ERFNet in CULane's form (published: ERFNet taught by ResNet-101")


def test_students_without_published_figures_and_rows_that_were_not_run(tmp_path, paper):
    write(tmp_path, culane, "culane", "enet", baseline=(0.5, 0.52), intra=(0.53, 0.55))
    shown = affinity_tables.student_table(read_records(tmp_path), paper, student="enet").shown
    assert not [column for column in shown if column.startswith("published")]
    text = shown.set_index("")
    assert text.loc["KD: soft targets", "ours: F1 %"] == "not run"
    own = text.loc["IntRA-KD: affinity and attention"]
    assert (own["points over labels alone"], own["gap recovered"]) == ("+3.0 ± 0.0", "–")
    assert text.loc["teacher", "ours: F1 %"] == "not run"


def test_a_gap_that_is_too_small_gives_no_share(tmp_path, paper):
    records = erfnet(tmp_path, teacher=(0.625,))
    shown = affinity_tables.student_table(records, paper).shown.set_index("")
    assert set(shown["gap recovered"]) == {"–", "not meaningful"}
    assert "of the gap" not in affinity.finding(records)


def test_a_start_that_had_learnt_little_is_told(tmp_path, paper):
    rows = {"baseline": (0.80, 0.82), "kd": (0.70, 0.70), "intra": (0.82, 0.81)}
    write(tmp_path, culane, "culane", "enet", start=(0.36, 0.38), **rows)
    records = erfnet(tmp_path, start=(0.59, 0.60, 0.61))
    note = "the common start stands at 37.0, labels alone then reach 81.0"
    one = affinity_tables.student_table(records, paper, student="enet")
    assert sum(note[1:] in text for text in one.notes) == 1
    both = affinity_tables.overview_table(records, paper)
    (said,) = [text for text in both.notes if "common start stands" in text]
    assert said.startswith(f"ENet: {note}")
    said = "; the common start had hardly learnt the task"
    assert said in affinity.finding(records, student="enet")
    assert not any(
        "start stands" in text for text in affinity_tables.student_table(records, paper).notes
    )
    assert "hardly" not in affinity.finding(records)


def test_all_students_side_by_side(tmp_path, paper):
    write(tmp_path, culane, "culane", "enet", baseline=(0.50, 0.51), intra=(0.50, 0.52))
    shown = affinity_tables.overview_table(erfnet(tmp_path), paper)
    text = shown.shown.set_index("")
    own = text.loc["IntRA-KD: affinity and attention"]
    assert list(own) == ["72.4¶", "+2.2", "65.0 ± 1.0", "+4.0 ± 1.0", "51.0 ± 1.4", "+0.5 ± 0.7"]
    assert text.loc["teacher", "ours: ENet, F1 %"] == "70.0"
    assert text.loc["KD: soft targets", "ours: ENet, F1 %"] == "not run"
    assert not [column for column in text if "ResNet-18" in column]
    assert "(ERFNet 3, ENet 2)" in shown.notes[0]
    assert shown.notes.count("One teacher for all seeds and students.") == 1
    assert notes.LEVELS not in shown.notes  # no student's rows differ
    write(tmp_path, culane, "culane", "enet", kd=(0.52,))
    records = read_records(tmp_path)
    for fewer in (
        affinity_tables.overview_table(records, paper),
        affinity_tables.student_table(records, paper, student="enet"),
        affinity_parts.part_table(records, paper, student="enet"),
    ):
        assert fewer.notes.count(notes.LEVELS) == 1
    assert shown.frame.set_index("row").loc["kd", "erfnet_points"] == pytest.approx(1.0)


def test_several_teachers_or_one_for_one_student_are_no_shared_teacher(tmp_path, paper):
    said = "One teacher for all seeds and students."
    several = erfnet(tmp_path, teacher=(0.7, 0.71, 0.72))
    assert said not in affinity_tables.overview_table(several, paper).notes
    alone = several[several["seed"] == 0]
    assert said not in affinity_tables.overview_table(alone, paper).notes
    shared = several[~(several["run"].str.endswith("teacher") & (several["seed"] > 0))]
    assert affinity_tables.overview_table(shared, paper).notes.count(said) == 1


def test_marks_that_no_shown_figure_carries_are_not_explained(table, paper):
    assert paper.tables["culane"].rows["scnn"].text.endswith("§")  # a row that is not shown
    for shown in (
        affinity_tables.overview_table(table, paper),
        affinity_tables.student_table(table, paper),
    ):
        marks = {note[0] for note in shown.notes if note[0] in "§¶‡"}
        assert marks == {"¶", "‡"}
        assert {cell[-1] for cell in shown.shown.iloc[:, 1] if cell != "–"} == marks
    (notes_mark,) = [note for note in shown.notes if note.startswith("¶")]
    assert notes_mark == (
        "¶ unverified: read in issues of the authors' repository, in third-party notes or in "
        "quotations of the paper."
    )


def test_other_steps_than_the_rivals_are_told(tmp_path, paper):
    records = erfnet(tmp_path)
    longer = records["run"].eq("affinity-culane-erfnet-intra")
    records.loc[longer, "steps"] = 3000
    for shown in (
        affinity_tables.student_table(records, paper),
        affinity_tables.overview_table(records, paper),
    ):
        assert any("Warning: the arms are not comparable: steps differ" in n for n in shown.notes)


def test_benchmarks_have_their_own_words(tmp_path, paper):
    write(tmp_path, llamas, "llamas", "erfnet", teacher=(0.6,), baseline=(0.5,), intra=(0.55,))
    shown = affinity_tables.student_table(read_records(tmp_path), paper, benchmark="llamas")
    own = shown.shown.set_index("").loc["IntRA-KD: affinity and attention"]
    assert (own["published mAP"], own["ours: mAP %"], own["gap recovered"]) == (
        "59.8‡", "55.0", "50 %",
    )  # fmt: skip
    assert own["agreement, reported split: pixels %"] == "80.0"
    assert not [column for column in shown.shown if "boxes" in column]
    lanes = affinity_parts.part_table(read_records(tmp_path), paper, benchmark="llamas").shown
    assert lanes[""].tolist() == ["l1", "l0", "r0", "r1"]
    assert lanes["IntRA-KD: affinity and attention"].tolist() == ["65.0", "55.0", "55.0", "45.0"]


def test_what_of_it_helps(tmp_path):
    parts = {"intra_affinity": (0.63, 0.65, 0.64), "intra_high": (0.64, 0.66, 0.66)}
    records = erfnet(tmp_path, **parts)
    shown = affinity_tables.ablation_table(records)
    text = shown.shown.set_index("")
    assert text.index.tolist() == list(affinity.VARIANTS.values())
    alone = text.loc["affinity alone, both levels"]
    assert alone["points over labels alone"] == "+3.0 ± 1.0"
    assert alone["points over the whole of it"] == "−1.0 ± 0.0"
    missing = text.loc["affinity and attention, middle level"]
    assert (missing["ours: F1 %"], missing["points over the whole of it"]) == ("not run", "–")
    row = shown.frame.set_index("row").loc["at"]
    assert row["over_intra"] == pytest.approx(-2.0)
    figure = affinity_figures.ablation_figure(records)
    assert plain(figure.get_suptitle()) == (
        "The whole of IntRA-KD is above affinity alone (+1.0 ± 0.0 points), attention alone "
        "(+2.0 ± 1.0 points); ties with the high level alone"
    )


def test_scenarios_beside_networks_without_this_teacher(table, paper):
    shown = affinity_parts.part_table(table, paper)
    text = shown.shown.set_index("")
    assert text.index[-1] == "crossroads: false lanes"
    assert text.loc["night", "published: ERFNet in PyTorch"] == "67.1"
    assert text.loc["night", "IntRA-KD: affinity and attention"] == "60.0 ± 2.0"
    assert text.loc["night", "published: ENet with self attention distillation (SAD)"] == "65.9"
    assert text.loc["noline", "labels alone"] == "–"  # in print, and absent from these stills
    assert text.loc["crossroads: false lanes", "published: SCNN"] == "1,990"
    assert text.loc["crossroads: false lanes", "labels alone"] == "61.0 ± 1.0"
    row = shown.frame.set_index("part").loc["normal"]
    assert (row["intra"], row["intra_sd"], row["intra_n"]) == pytest.approx((75.0, 1.0, 3))
    assert any("number of lanes found there" in note for note in shown.notes)
    alone = affinity_parts.part_table(table).shown
    assert alone[""].tolist() == ["normal", "night", "crossroads: false lanes"]


# Findings and figures ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            {},
            "IntRA-KD lifts ERFNet by 4.0 ± 1.0 points of F1 in CULane's form, 44 ± 10 % of the "
            "gap to its teacher; against soft targets +3.0 ± 2.0, attention +2.0 ± 1.0, structured "
            "distillation +2.0 ± 0.0",
        ),
        (
            {"intra": (0.61, 0.60, 0.62), "kd": (), "at": ()},
            "IntRA-KD ties with labels alone on ERFNet in CULane's form (+0.0 ± 1.0 points); "
            "against structured distillation −2.0 ± 1.7",
        ),
        (
            {"intra": (0.58, 0.59, 0.60), "kd": (), "at": (), "skd": ()},
            "IntRA-KD costs ERFNet 2.0 ± 0.0 points of F1 in CULane's form",
        ),
        (
            {"teacher": (0.61,), "kd": (), "at": (), "skd": ()},
            "IntRA-KD lifts ERFNet by 4.0 ± 1.0 points of F1 in CULane's form; the teacher is not "
            "clearly above labels alone (+0.0 ± 1.0)",
        ),
        (
            {"intra": ()},
            "No finding yet for ERFNet in CULane's form: not run: IntRA-KD: affinity and attention",
        ),
        (
            {"baseline": (0.6,), "intra": (0.65,), "kd": (), "at": (), "skd": ()},
            "IntRA-KD on ERFNet in CULane's form: +5.0 points of F1 over labels alone (one seed, "
            "no verdict)",
        ),
        (
            {"teacher": (0.608,), "baseline": (0.6,), "intra": (0.59,), "at": (), "skd": ()},
            "IntRA-KD on ERFNet in CULane's form: −1.0 points of F1 over labels alone; against "
            "soft targets −2.0; little room: the teacher is +0.8 points over labels alone (one "
            "seed, no verdict)",
        ),
        (
            {"kd": (), "at": (), "skd": (), "intra": (0.64, 0.66)},
            "IntRA-KD on ERFNet in CULane's form: +4.5 ± 0.7 points of F1 over labels alone (two "
            "seeds, no verdict)",
        ),
        (
            {"teacher": (0.61,), "baseline": (0.60, 0.62), "kd": (), "at": (), "skd": ()},
            "IntRA-KD on ERFNet in CULane's form: +4.0 ± 0.0 points of F1 over labels alone; "
            "little room: the teacher is +0.0 ± 1.4 points over labels alone (two seeds, no "
            "verdict)",
        ),
    ],
)
def test_the_sentence_follows_the_numbers(tmp_path, paper, rows, expected):
    records = erfnet(tmp_path, **rows)
    assert affinity.finding(records) == expected
    shown = affinity_figures.headline(records, paper)
    assert plain(shown.get_suptitle()) == expected


def test_the_headline_has_a_panel_for_each_student(tmp_path, paper):
    write(tmp_path, culane, "culane", "resnet18", baseline=(0.6, 0.6), kd=(0.65, 0.63))
    shown = affinity_figures.headline(erfnet(tmp_path), paper)
    assert len(shown.axes) == 2
    words = texts(shown)
    assert "ERFNet, alone 61.0 ± 1.0 %\n(points of F1 over labels alone)" in words
    assert "ResNet-18, alone 60.0 ± 0.0 %\n(points of F1 over labels alone)" in words
    assert "published, ERFNet" in words
    assert any(word.endswith("Seeds: ERFNet 3, ResNet-18 2.") for word in words)
    assert words.count("not run") == 3  # at, skd and intra of the second student
    # three of the four rows have a published figure, hollow
    hollow = [line for line in shown.axes[0].lines if line.get_marker() == "v"]
    known = [value for value in hollow[0].get_ydata() if not math.isnan(value)]
    assert known == pytest.approx([0.3, 0.5, 2.2])


def test_published_marks_stand_beside_their_own(table, paper):
    axis = affinity_figures.headline(table, paper).axes[0]
    (hollow,) = [line for line in axis.lines if line.get_mfc() == "white"]
    ours = [text.xy[0] for text in axis.texts if text.get_text().startswith(("+", "−"))]
    assert len(ours) == 4 and max(ours) < axis.get_xlim()[1] - 0.7  # room for its number
    for i, theirs in enumerate(hollow.get_xdata()):
        apart = [abs(theirs - x) for x in ours]
        assert apart.index(min(apart)) == i and min(apart) < 0.3


def test_stills_tell_what_each_network_finds():
    picture = np.zeros((4, 8, 3), np.uint8)
    shown = {"teacher": [picture] * 2, "IntRA-KD: affinity": [picture] * 2}
    hits = {"teacher": [[True, False], []], "IntRA-KD: affinity": [[True], [True, False]]}
    figure = affinity_figures.stills_figure(shown, hits, 4)
    assert plain(figure.get_suptitle()) == (
        "Of 4 lanes in these stills: teacher finds 1, adds 1; IntRA-KD finds 2, adds 1"
    )
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(affinity_figures.TINTS)
    assert [len(axis.images) for axis in figure.axes] == [1, 1, 1, 1]
    pixels = affinity_figures.stills_figure(shown)
    assert plain(pixels.get_suptitle()) == "The same stills as 2 networks see them"
    assert not pixels.legends


def test_scenarios_as_bars(table, tmp_path):
    shown = affinity_figures.part_figure(table)
    assert plain(shown.get_suptitle()) == (
        "IntRA-KD on ERFNet: above labels alone in 2 of 2 scenarios, below in 0, ties in 0"
    )
    assert [t.get_text() for t in shown.axes[0].get_xticklabels()] == ["night", "normal"]
    assert shown.axes[0].get_ylabel() == "F1, points over labels alone"
    legend = [text.get_text() for text in shown.axes[0].get_legend().get_texts()]
    assert legend == ["KD", "AT", "SKD", "IntRA-KD"]
    assert len(shown.axes[0].patches) == 2 * 4
    write(tmp_path, culane, "culane", "enet", baseline=(0.6,), intra=(0.64,))
    few = read_records(tmp_path)
    expected = (
        "IntRA-KD on ENet over labels alone in 2 scenarios: most in night +8.0, least in normal "
        "+4.0 points"
    )
    shown = affinity_figures.part_figure(few, student="enet")
    assert plain(shown.get_suptitle()) == f"{expected} (one seed, no verdict)"
    write(tmp_path, culane, "culane", "enet", baseline=(0.6, 0.6, 0.6), kd=(0.6, 0.6, 0.6))
    shown = affinity_figures.part_figure(read_records(tmp_path), student="enet")
    assert plain(shown.get_suptitle()) == f"{expected} (one seed)"


def test_a_part_is_above_by_the_rule_of_the_seeds():
    """A mean above 0 is no verdict: seeds that disagree, or differ by as much as the lead, tie."""
    nan = math.nan
    points = pd.DataFrame(
        {
            "l1": (2.0, 3.0, 4.0),  # above
            "l0": (5.0, -1.0, 2.0),  # a lead of 2 on average, in two seeds of three
            "r0": (0.1, 0.1, 9.0),  # in all seeds, by less than they spread
            "r1": (-2.0, -3.0, -4.0),
        }
    )
    alone = 0 * points + 50
    found = affinity_figures.part_finding(alone + points, alone, "llamas", "enet")
    assert found == "IntRA-KD on ENet: above labels alone in 1 of 4 lanes, below in 1, ties in 2"
    points["r0"], points["r1"] = (1.0, 2.0, nan), nan  # a class that fewer seeds meet, and no seed
    found = affinity_figures.part_finding(alone + points, alone, "apollo")
    assert found == (
        "IntRA-KD on ERFNet: above labels alone in 1 of 3 classes, below in 0, ties in 1, too few "
        "seeds in 1"
    )
    found = affinity_figures.part_finding(alone[:1], alone)
    assert found == "IntRA-KD on ERFNet over labels alone in 4 scenarios: +0.0 points"


def test_nothing_run_says_so(table, paper):
    empty = table.iloc[:0]
    for shown in (
        affinity_tables.student_table(empty, paper).shown,
        affinity_tables.overview_table(empty, paper).shown,
    ):
        column = next(name for name in shown if name.startswith("ours"))
        assert set(shown[column]) == {"not run"}
    for figure in (
        affinity_figures.headline(empty, paper),
        affinity_figures.part_figure(empty),
        affinity_figures.ablation_figure(empty),
    ):
        assert any("not run" in text for text in texts(figure))
        assert figure._repr_png_().startswith(b"\x89PNG")


def test_the_same_records_give_the_same_bytes(tmp_path, table, paper):
    for make in (
        lambda: affinity_figures.headline(table, paper),
        lambda: affinity_figures.part_figure(table),
    ):
        first, second = (look.save(make(), tmp_path / f"{i}.png") for i in (0, 1))
        assert first.read_bytes() == second.read_bytes()


def test_the_other_means_of_apolloscape_stand_below_its_table(tmp_path):
    for name, score in (("teacher", 0.5), ("erfnet-baseline", 0.3), ("erfnet-intra", 0.4)):
        metrics = apollo(score) | {"miou36": score - 0.1, "miou18": score + 0.05}
        if name == "erfnet-intra":
            metrics["miou18"] = None
        write_record(tmp_path / f"{name}.json", record(f"affinity-apollo-{name}", 0, metrics))
    (said,) = (
        plain(note)
        for note in affinity_tables.overview_table(read_records(tmp_path), benchmark="apollo").notes
        if "mean is over" in note
    )
    assert said == (
        "ERFNet's mean is over all training ids that occur; over the 36 without noise: teacher "
        "40.0, labels alone 20.0, IntRA-KD: affinity and attention 30.0; over the 18 evaluated: "
        "teacher 55.0, labels alone 35.0."
    )
    metrics = apollo(0.3) | {"miou36": 0.3, "miou18": 0.3}
    for name in ("teacher", "erfnet-baseline", "erfnet-intra"):
        write_record(tmp_path / f"{name}.json", record(f"affinity-apollo-{name}", 0, metrics))
    assert any(
        "all that occur are among the 36 without noise and the 18 evaluated" in note
        for note in affinity_tables.overview_table(read_records(tmp_path), benchmark="apollo").notes
    )


def test_distances_from_the_teacher_are_told_against_labels_alone():
    measured = {"affinity": [0.04, 0.05, 0.01], "attention": [0.2, 0.1, 0.25]}
    distances = pd.DataFrame(measured, ["baseline", "kd", "intra"])
    figure = affinity_figures.distance_figure(distances, 3)
    assert plain(figure.get_suptitle()) == (
        "IntRA-KD against labels alone: it changes the distance from the teacher's affinity by "
        "−75 % and attention by +25 %"
    )
    assert [bar.get_height() for bar in figure.axes[0].patches] == measured["affinity"]
    assert any("seed 3" in text for text in texts(figure))
    nothing = affinity_figures.distance_figure(distances.iloc[:0], 0)
    assert texts(nothing).count("not run") == 2
    assert "not measured" in nothing.get_suptitle()


# Length of training ------------------------------------------------------------------------------


def test_rows_of_two_lengths_stand_side_by_side(tmp_path):
    write(tmp_path, culane, "culane", "resnet18", teacher=TEACHER, **ERFNET)
    records = read_records(tmp_path)
    assert "nothing to compare" in affinity_length.length_finding(records)
    table = affinity_length.length_table(records)
    assert table.shown["longer: F1 %"].tolist()[1:] == ["not run"] * 5
    assert table.shown["n"].tolist()[1:] == ["3 / 0"] * 5

    # over labels alone +7, +3, +5; without attention and structured terms; soft targets: one seed
    longer = {"baseline": (0.63, 0.65, 0.64), "intra": (0.70, 0.68, 0.69), "kd": (0.64,)}
    for name, values in longer.items():
        for seed, score in enumerate(values):
            run = f"affinity-culane-resnet18-{name}-long"
            one = record(run, seed, culane(score), steps=6000, samples_seen=48000)
            write_record(tmp_path / run / f"seed-{seed}.json", one)
    records = read_records(tmp_path)
    table = affinity_length.length_table(records)
    shown = table.shown.set_index("")
    row = {key: plain(text) for key, text in shown.loc["IntRA-KD: affinity and attention"].items()}
    assert row == {
        "1,500 steps: F1 %": "65.0 ± 1.0",
        "1,500 steps: points": "+4.0 ± 1.0",
        "6,000 steps: F1 %": "69.0 ± 1.0",
        "6,000 steps: points": "+5.0 ± 2.0",
        "by the further steps": "+4.0 ± 2.0",
        "n": "3 / 3",
    }
    assert shown.loc["AT: attention", "6,000 steps: F1 %"] == "not run"
    assert plain(shown.loc["teacher", "6,000 steps: points"]) == "+6.0 ± 1.0"
    assert shown.loc["teacher", "6,000 steps: F1 %"] == "70.0"  # made once, without a spread
    assert shown.loc["teacher", "n"] == "1 / 1"
    assert any("1,500 steps" in note for note in table.notes)  # the budget of the shorter rows
    assert not any("not comparable" in note for note in table.notes)
    said = plain(affinity_length.length_finding(records))
    assert said.endswith(
        "; after 6,000 steps +5.0 ± 2.0 over labels alone, against soft targets +6.0 (one seed)"
    )
    figure = affinity_length.length_figure(records)
    assert plain(figure.get_suptitle()) == said
    titles = [plain(axis.get_title("left")) for axis in figure.axes]
    assert titles[1].startswith("6,000 steps, labels alone 64.0 ± 1.0 %")


def test_lengths_of_one_row_that_differ_are_no_fair_test(tmp_path):
    write(tmp_path, culane, "culane", "resnet18", teacher=TEACHER, **ERFNET)
    for name, steps in (("baseline", 6000), ("intra", 9000)):
        run = f"affinity-culane-resnet18-{name}-long"
        write_record(tmp_path / run / "seed-0.json", record(run, 0, culane(0.6), steps=steps))
    table = affinity_length.length_table(read_records(tmp_path))
    assert any("not comparable" in note for note in table.notes)
