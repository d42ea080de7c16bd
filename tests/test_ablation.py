"""Reports of structured distillation from made-up records: known numbers in, known cells out."""

import math
from pathlib import Path

import pandas as pd
import pytest
from records import record as plain_record

from kdlib.report import ablation, ablation_figures, look, notes, published, readme
from kdlib.report.ledger import ledger_table
from kdlib.report.records import read_records, write_record

ROOT = Path(__file__).resolve().parents[1]
BASE = {
    "teacher": (0.40,),
    "baseline": (0.30, 0.31, 0.32),
    "pi": (0.33, 0.33, 0.36),
    "pi-pa": (0.34, 0.33, 0.36),
    "pi-pa-ho": (0.35, 0.36, 0.37),
}
# Seed by seed: pi +3, +2, +4; pi-pa +1, 0, 0 over pi; pi-pa-ho +1, +3, +1 over pi-pa, +5 in all.


def record(run: str, seed: int, miou: float, **changes) -> dict:
    iou = {"road": miou + 0.1, "car": miou - 0.1, "train": None}
    if run.endswith("-ho"):
        iou["car"] -= 0.07
    val = {"miou": miou, "pixel_accuracy": 0.7, "iou": iou}
    if not run.endswith("teacher"):
        val["agreement"] = {"pixel": miou + 0.4, "miou": miou + 0.1, "kl": 1 - miou}
    facts = {"method": "structured", "steps": 2000, "samples_seen": 16000}
    return plain_record(run, seed, {"val": val}, **(facts | changes))


def frame(folder: Path, rows: dict, prefix: str = "structured", **changes) -> pd.DataFrame:
    """Records of the rows, one for each score; a score of None leaves its seed out."""
    for name, values in rows.items():
        for seed, miou in enumerate(values):
            if miou is not None:
                one = record(f"{prefix}-{name}", seed, miou, **changes)
                write_record(folder / one["run"] / f"seed-{seed}.json", one)
    return read_records(folder)


def plain(text: str) -> str:
    return " ".join(text.replace("\N{NO-BREAK SPACE}", " ").split())


@pytest.fixture
def full(tmp_path) -> pd.DataFrame:
    return frame(tmp_path / "full", BASE)


@pytest.fixture(scope="module")
def paper() -> published.Published:
    return published.load(ROOT / "published" / "structured_kd.yaml")


# What is published -------------------------------------------------------------------------------


def test_published_figures_carry_their_marks(paper):
    images = paper.tables["ablation-imagenet"].rows
    assert [figure.text for figure in images.values()] == [
        "78.56¶",
        "69.10§",
        "70.51§",
        "71.78§",
        "74.08§",
    ]
    full = paper.tables["ablation-full"].rows
    assert [full[name].text[-1] for name in ablation.ROWS] == ["¶", "‡", "‡", "‡"]
    assert paper.tables["ablation-half"].rows["pi-pa-ho"].text == "62.35¶"
    # The full text could not be read, so nothing may pass for read in it.
    figures = [f for table in paper.tables.values() for f in table.rows.values()]
    assert "verified" not in {figure.trust for figure in figures}


def test_camvid_figures_are_the_names_of_the_released_files(paper):
    rows = paper.tables["camvid"].rows
    compact = [56.7, 58.7, 60.3, 62.8, 64.1]
    assert [f.value for name, f in rows.items() if name.startswith("espnetc_")] == compact
    whole = [57.8, 59.8, 61.4, 63.2, 65.1]
    assert [f.value for name, f in rows.items() if name.startswith("espnet_")] == whole
    assert {row for row, _ in ablation.CAMVID.values()} <= set(rows)


def test_the_ledger_covers_what_paper_and_codes_disagree_on(paper):
    topics = ledger_table(paper).frame.set_index("topic")
    assert "cross entropy" in topics.loc["Pixel-wise term: divergence or cross entropy", "code"]
    assert "3 x 3 nodes" in topics.loc["Pair-wise term: size of a node", "code"]
    assert "last step" in topics.loc["Choice of the weights that are scored", "ours"]
    assert topics.loc["Weight decay", "paper"] == "5e-4"
    for start in ("Pixel-wise", "Pair-wise", "Holistic", "CamVid"):
        assert sum(topic.startswith(start) for topic in topics.index) >= 4


def test_printed_students_stand_side_by_side(paper):
    tables = {"half": paper.tables["ablation-half"], "large": paper.tables["ablation-imagenet"]}
    table = ablation.printed_table(tables)
    shown = table.shown.set_index("")
    last = shown.loc["+ pixel-wise + pair-wise + holistic"]
    assert last.tolist() == ["62.35¶", "+7.0", "74.08§", "+5.0"]
    assert shown.loc["teacher", "half: points"] == shown.loc["labels alone", "half: points"] == "–"
    assert sum(note.startswith("¶") for note in table.notes) == 1  # the same mark is told once


# Tables ------------------------------------------------------------------------------------------


def test_known_numbers_give_known_cells(full, paper):
    table = ablation.ablation_table(full, paper.tables["ablation-imagenet"])
    rows = table.frame.set_index("row")
    assert list(rows.index) == ["teacher", *ablation.ROWS]
    last = rows.loc["pi-pa-ho"]
    assert (last["miou"], last["miou_sd"], last["miou_n"]) == pytest.approx((36.0, 1.0, 3))
    assert (last["points"], last["points_sd"]) == pytest.approx((5.0, 0.0), abs=1e-9)
    assert (last["step"], last["step_sd"]) == pytest.approx((5 / 3, 2 / math.sqrt(3)))
    assert last["published_points"] == pytest.approx(4.98)
    assert last["val.agreement.kl"] == pytest.approx(0.64)
    assert rows.loc["teacher", "points"] == pytest.approx(9.0)  # one teacher for three seeds

    shown = table.shown.set_index("").loc["+ pixel-wise"]
    assert shown["published mIoU"] == "70.51§"
    assert shown["published: points over labels alone"] == "+1.4"
    assert shown["ours: mIoU %"] == "34.0 ± 1.7"
    assert shown["points over labels alone"] == "+3.0 ± 1.0"
    assert shown["agreement, reported split: pixels %"] == "74.0 ± 1.7"
    assert (shown["wall, min"], shown["steps"]) == ("1.5", "2,000")
    alone = table.shown.set_index("").loc["labels alone"]
    assert alone["points over labels alone"] == alone["points over the row above"] == "–"
    assert notes.LEVELS not in table.notes
    assert "All four rows: 2,000 steps and the same number of samples." in table.notes
    assert "One teacher for all seeds." in table.notes
    assert "commit 01234567" in table.notes[-1]


def test_differences_are_taken_over_common_seeds_only(tmp_path):
    rows = {"baseline": (0.30, 0.40, None), "pi": (None, 0.42, 0.60)}
    row = ablation.ablation_table(frame(tmp_path, rows)).frame.set_index("row").loc["pi"]
    assert (row["miou"], row["miou_n"]) == pytest.approx((51.0, 2))
    assert (row["points"], row["points_n"]) == pytest.approx((2.0, 1))


def test_rows_with_fewer_seeds_are_told(tmp_path):
    frame(tmp_path, BASE | {"pi": (0.36,)})
    assert ablation.ablation_table(read_records(tmp_path)).notes.count(notes.LEVELS) == 1
    frame(tmp_path, {"baseline": (0.3, 0.3), "pi": (0.3,)}, "structured-camvid")
    assert notes.LEVELS in ablation.camvid_table(read_records(tmp_path)).notes


def test_the_compact_table_says_the_same_with_fewer_words(full, paper):
    large = ablation.ablation_table(full, paper.tables["ablation-imagenet"])
    short = ablation.ablation_table(full, paper.tables["ablation-imagenet"], compact=True)
    assert short.shown.columns.tolist() == list(ablation.COMPACT)
    pd.testing.assert_frame_equal(short.shown, large.shown[list(ablation.COMPACT)])
    assert len(short.notes) == 2
    told = [note for note in large.notes[:-1] if note != notes.WALL]  # short has no such column
    assert all(note in short.notes[0] for note in told)
    assert notes.WALL in large.notes and "wall" not in short.notes[0]
    assert short.notes[1] == large.notes[-1]


def test_rows_that_were_not_run_say_so(tmp_path, paper):
    records = frame(tmp_path, {"baseline": (0.3,)})
    shown = ablation.ablation_table(records, paper.tables["ablation-imagenet"]).shown.set_index("")
    assert shown.loc["labels alone", "ours: mIoU %"] == "30.0"
    assert shown.loc["+ pixel-wise", "ours: mIoU %"] == "not run"
    assert shown.loc["+ pixel-wise", ["n", "steps", "points over labels alone"]].tolist() == [
        "0",
        "–",
        "–",
    ]
    empty = ablation.ablation_table(records, scale="paper")
    assert set(empty.shown["ours: mIoU %"]) == {"not run"}
    assert not [column for column in empty.shown if column.startswith("published")]
    assert empty.notes[-1] == "Records: No records."


def test_unequal_budgets_are_told(tmp_path):
    frame(tmp_path, BASE)
    frame(tmp_path, {"pi-pa": BASE["pi-pa"]}, steps=4000)
    text = " ".join(ablation.ablation_table(read_records(tmp_path)).notes)
    assert "Warning: the arms are not comparable: steps differ" in text
    assert "+ pixel-wise + pair-wise 4000" in text


def test_camvid_rows_take_away_what_they_add(tmp_path, paper):
    rows = {
        "teacher": (0.614,),
        "baseline": (0.30, 0.31),
        "pi": (0.33, 0.33),
        "pi-pa": (0.34, 0.33),
        "pi-unlabelled": (0.37, 0.37),
    }
    records = frame(tmp_path, rows, "structured-camvid", steps=400)
    table = ablation.camvid_table(records, paper.tables["camvid"])
    row = table.frame.set_index("row").loc["pi-unlabelled"]
    assert row["published_miou"] == 62.8
    assert row["published_points"] == pytest.approx(6.1)
    assert (row["points"], row["step"]) == pytest.approx((6.5, 4.0))  # step: over pi, not pi-pa
    shown = table.shown.set_index("published mIoU")
    assert shown.loc["61.4✓", "ours: mIoU %"] == "61.4"
    assert shown.loc["64.1✓", "ours: mIoU %"] == "not run"
    assert shown.loc["60.3✓", "points by what the row adds"] == "+0.5 ± 0.7"
    assert any("Ours: 400 steps (scale sample)" in note for note in table.notes)
    # The simulated runs are other runs: they fill no row here.
    other = ablation.ablation_table(records)
    assert set(other.shown["ours: mIoU %"]) == {"not run"}


def test_several_scales_must_be_told_apart(tmp_path):
    frame(tmp_path / "a", BASE)
    frame(tmp_path / "b", BASE, scale="gpu")
    records = read_records(tmp_path)
    with pytest.raises(ValueError, match="records of several scales: gpu, sample"):
        ablation.ablation_table(records)
    assert ablation.finding(records, scale="gpu").startswith("With all three terms")


# The finding and the figures ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            {},
            "With all three terms the student ends 5.0 ± 0.0 points above labels alone: "
            "pixel-wise +3.0 ± 1.0, pair-wise +0.3 ± 0.6 (tie), holistic +1.7 ± 1.2",
        ),
        (
            {"pi-pa-ho": (0.30, 0.32, 0.34)},
            "With all three terms the student ties with labels alone (+1.0 ± 1.0 points): "
            "pixel-wise +3.0 ± 1.0, pair-wise +0.3 ± 0.6 (tie), holistic −2.3 ± 1.5",
        ),
        (
            {"pi": (0.28, 0.29, 0.29), "pi-pa": (), "pi-pa-ho": ()},
            "With the pixel-wise term the student ends 2.3 ± 0.6 points below labels alone",
        ),
        (
            {"teacher": (0.315,), "pi-pa": (), "pi-pa-ho": ()},
            "With the pixel-wise term the student ends 3.0 ± 1.0 points above labels alone; the "
            "teacher is not clearly above labels alone (+0.5 ± 1.0)",
        ),
        (
            {name: values[:1] for name, values in BASE.items() if name != "teacher"},
            "With all three terms +5.0 points over labels alone: pixel-wise +3.0, pair-wise +1.0, "
            "holistic +1.0 (one seed, no verdict)",
        ),
        (
            {"pi": (0.33, 0.33), "pi-pa": (), "pi-pa-ho": ()},
            "With the pixel-wise term +2.5 ± 0.7 points over labels alone (two seeds, no verdict)",
        ),
        (
            {"pi": (), "pi-pa": ()},
            "With all three terms the student ends 5.0 ± 0.0 points above labels alone",
        ),
        ({"baseline": ()}, "No finding yet: not run: labels alone"),
    ],
)
def test_the_title_follows_the_data(tmp_path, rows, expected):
    records = frame(tmp_path, BASE | rows)
    assert ablation.finding(records) == expected
    shown = ablation_figures.ablation_figure(records)
    assert plain(shown.get_suptitle()) == expected
    if "one seed" in expected:  # no panel passes a verdict either
        assert shown.axes[2].get_title(loc="left").startswith("Agreement with the teacher\n")


def test_classes_are_told_by_the_last_row(full):
    title = plain(ablation_figures.class_figure(full).get_suptitle())
    assert title == (
        "With all three terms the student is above labels alone in 1 of 2 classes, below in 1, "
        "ties in 0: most in road +5.0, least in car −2.0 points"
    )


def test_published_points_stand_hollow_beside_ours(full, paper):
    tables = {"half": paper.tables["ablation-half"], "large": paper.tables["ablation-imagenet"]}
    axis = ablation_figures.ablation_figure(full, tables).axes[1]
    hollow = [list(line.get_ydata()) for line in axis.lines if line.get_mfc() == "white"]
    assert hollow[0] == pytest.approx([1.70, 6.15, 6.98])
    assert hollow[1] == pytest.approx([1.41, 2.68, 4.98])
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["half", "large"]
    assert {text.get_text() for text in axis.texts} == {"+3.0", "+3.3", "+5.0"}


def test_figures_of_nothing_say_so(tmp_path, paper):
    records = read_records(tmp_path)
    for shown in (
        ablation_figures.ablation_figure(records, {"half": paper.tables["ablation-half"]}),
        ablation_figures.class_figure(records),
    ):
        texts = [text.get_text() for text in shown.findobj(lambda a: hasattr(a, "get_text"))]
        assert any("not run" in text for text in texts)
        assert shown._repr_png_().startswith(b"\x89PNG")


def test_the_same_records_give_the_same_bytes(tmp_path, full, paper):
    tables = {"large": paper.tables["ablation-imagenet"]}
    for i in (0, 1):
        look.save(ablation_figures.ablation_figure(full, tables), tmp_path / f"headline{i}.png")
        look.save(ablation_figures.class_figure(full), tmp_path / f"classes{i}.png")
    for name in ("headline", "classes"):
        assert (tmp_path / f"{name}0.png").read_bytes() == (tmp_path / f"{name}1.png").read_bytes()


# The README --------------------------------------------------------------------------------------


def test_the_readme_gains_a_part_where_the_results_are_there(tmp_path, full, paper):
    other = tmp_path / readme.SUMMARY
    other.mkdir(parents=True)
    (other / "finding.md").write_text("Frames help.\n")
    (other / "short.md").write_text("| a |\n")
    before = readme.block(tmp_path)
    assert "Structured distillation" not in before

    (place,) = [p for p, what in readme.MORE.items() if what == "Structured distillation"]
    own = tmp_path / place
    table = ablation.ablation_table(full, paper.tables["ablation-imagenet"], compact=True)
    table.save(own / "short")
    (own / "finding.md").write_text(f"{ablation.finding(full)}.\n")
    after = readme.block(tmp_path)
    assert after.startswith(before)
    part = after.removeprefix(before)
    assert f"**Structured distillation, on simulated pictures: {ablation.finding(full)}.**" in part
    assert table.to_markdown().strip() in part
    assert f"]({place})" in part
    assert ".gif" not in after
    (own / "clip.gif").touch()
    assert f"![Structured distillation in motion]({place}/clip.gif)" in readme.block(tmp_path)
