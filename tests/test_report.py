"""Reports from synthetic records: known numbers in, known cells and titles out; no training."""

import dataclasses
import hashlib
import json
import math
import re
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from records import record as plain_record

from kdlib.report import (
    arms,
    figures,
    look,
    notes,
    pictures,
    provenance,
    published,
    sentences,
    tables,
)
from kdlib.report.ledger import ledger_table
from kdlib.report.records import RecordError, read_records, write_record
from kdlib.report.render import Table

ROOT = Path(__file__).resolve().parents[1]
PREFIX = "funmatch-seg"
TEACHER, SUPERVISED = (0.50, 0.52, 0.54), (0.40, 0.41, 0.42)
DISTIL, MATCHING = (0.41, 0.43, 0.42), (0.49, 0.52, 0.55)


def record(name: str, seed: int, miou: float, agreement: float | None = None, **changes) -> dict:
    val = {"miou": miou, "miou_official": miou, "pixel_accuracy": 0.7}
    val["iou"] = {"road": miou + 0.1, "car": miou - 0.1, "train": None}
    metrics = {"val": val}
    if agreement is not None:
        val["agreement"] = {"pixel": agreement, "miou": agreement - 0.3, "kl": 1 - agreement}
        metrics["heldout"] = {"agreement": {"pixel": agreement - 0.02, "miou": 0.3, "kl": 0.4}}
    facts = {"method": name.split("-")[0], "settings_hash": f"settings of {name}"}
    facts |= {"steps": 1500, "samples_seen": 12000}
    return plain_record(f"{PREFIX}-{name}", seed, metrics, **(facts | changes))


def write(folder: Path, *some: dict) -> Path:
    for one in some:
        path = folder / one["scale"] / one["run"] / f"seed-{one['seed']}.json"
        write_record(path, one)
    return folder


def frame(folder: Path, **rows: tuple[float, ...]) -> pd.DataFrame:
    """Records of the arms named, one for each seed; mIoU as given, agreement that follows it."""
    for name, values in rows.items():
        name = name.replace("_", "-")
        for seed, miou in enumerate(values):
            steps = 1500 * {"double": 2, "triple": 3, "half": 0.5}.get(name.split("-")[-1], 1)
            taught = None if name == "teacher" else miou + 0.4
            write(folder, record(name, seed, miou, taught, steps=int(steps)))
    return read_records(folder)


@pytest.fixture
def full(tmp_path) -> pd.DataFrame:
    return frame(tmp_path, teacher=TEACHER, supervised=SUPERVISED, distil=DISTIL, matching=MATCHING)


@pytest.fixture(scope="module")
def paper() -> published.Published:
    return published.load(ROOT / "published" / "function_matching.yaml")


# Records -----------------------------------------------------------------------------------------


def test_a_record_comes_back_flat(tmp_path):
    write(tmp_path, record("distil", 1, 0.4, 0.8))
    (row,) = read_records(tmp_path).to_dict("records")
    assert row["val.miou"] == 0.4
    assert row["val.agreement.kl"] == pytest.approx(0.2)
    assert row["heldout.agreement.pixel"] == pytest.approx(0.78)
    assert math.isnan(row["val.iou.train"])
    assert row["versions.torch"] == "2.15.0"
    assert row["path"] == f"sample/{PREFIX}-distil/seed-1.json"


def test_keys_are_sorted_and_absent_classes_are_null(tmp_path):
    one = record("distil", 0, 0.4)
    one["metrics"]["val"]["iou"] = {"train": math.nan, "car": np.float32(0.5)}
    path = write_record(tmp_path / "r.json", one)
    text = path.read_text()
    assert text.endswith("}\n")
    assert list(json.loads(text)) == sorted(one)
    assert json.loads(text)["metrics"]["val"]["iou"] == {"car": 0.5, "train": None}


def test_a_write_that_fails_leaves_the_old_record_and_no_rest(tmp_path, monkeypatch):
    path = write_record(tmp_path / "seed-0.json", record("distil", 0, 0.4))
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_record(path, record("distil", 0, 0.9))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["seed-0.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "0"}, "seed must be int, found '0'"),
        ({"seed": True}, "seed must be int"),
        ({"wall_s": math.nan}, "wall_s must be 0 or more"),
        ({"git_comit": "x"}, "unknown key 'git_comit'; did you mean 'git_commit'"),
        ({"versions": {"torch": 2}}, "versions.torch must be text"),
        ({"metrics": {}}, "metrics is empty"),
        ({"metrics": {"val": 0.5}}, "metrics.val must be a mapping"),
        ({"metrics": {"val": {"miou": 64.8}}}, "metrics.val.miou must be a fraction"),
        ({"metrics": {"val": {"miou": math.nan}}}, "metrics.val.miou must be a finite number"),
        ({"metrics": {"val": {"agreement": {"kl": -1.0}}}}, "can't be negative"),
    ],
)
def test_a_wrong_record_is_refused_before_it_is_written(tmp_path, change, message):
    with pytest.raises(RecordError, match=re.escape(message)):
        write_record(tmp_path / "r.json", record("distil", 0, 0.4) | change)
    assert not list(tmp_path.iterdir())


def test_a_missing_key_and_facts_of_ones_own(tmp_path):
    one = record("distil", 0, 0.4)
    write_record(tmp_path / "r.json", one | {"precision": "bf16-mixed"})
    del one["data_hash"]
    with pytest.raises(RecordError, match=r"r\.json: missing data_hash"):
        write_record(tmp_path / "r.json", one)


@pytest.mark.parametrize("key", ["settings_hash", "data_hash"])
def test_seeds_of_unlike_runs_are_not_mixed(tmp_path, key):
    write(tmp_path, record("distil", 0, 0.4), record("distil", 1, 0.4, **{key: "other"}))
    with pytest.raises(
        RecordError, match=rf"other: sample/{PREFIX}-distil/seed-1\.json.*dvc repro"
    ):
        read_records(tmp_path)


def test_other_runs_and_scales_may_differ(tmp_path):
    other = record("distil", 0, 0.4, scale="gpu", settings_hash="other")
    write(tmp_path, record("distil", 0, 0.4), other, record("matching", 0, 0.4))
    assert len(read_records(tmp_path)) == 3


def test_damaged_copied_and_missing_records_are_named(tmp_path):
    with pytest.raises(RecordError, match=r"no such folder.*dvc repro"):
        read_records(tmp_path / "none")
    write(tmp_path, record("distil", 0, 0.4))
    copied = tmp_path / "sample" / f"{PREFIX}-distil" / "seed-5.json"
    copied.write_text((copied.parent / "seed-0.json").read_text())
    with pytest.raises(RecordError, match=r"file name says seed 5, the record seed 0"):
        read_records(tmp_path)
    copied.rename(copied.with_name("again.json"))
    with pytest.raises(RecordError, match="two records"):
        read_records(tmp_path)
    (copied.parent / "again.json").write_text('{"run": ')
    with pytest.raises(RecordError, match=r"again\.json: not valid JSON"):
        read_records(tmp_path)


# Provenance --------------------------------------------------------------------------------------


def git(root: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", str(root), *who, *arguments], check=True, capture_output=True)


def test_provenance_without_git_and_with_it(tmp_path):
    (tmp_path / "requirements.lock").write_text("torch==2.15.0\n")
    (tmp_path / "data.dvc").write_text("outs:\n- md5: abc.dir\n  path: data\n")
    plain = provenance.provenance(tmp_path, started=0.0, finished=61.0)
    assert (plain["git_commit"], plain["git_dirty"]) == (None, None)
    assert plain["lock_hash"] == hashlib.sha256(b"torch==2.15.0\n").hexdigest()
    assert plain["data_hash"] == "abc.dir"
    assert plain["started"] == "1970-01-01T00:00:00Z"
    assert plain["finished"] == "1970-01-01T00:01:01Z"
    assert "device" not in plain
    assert {"python", "torch", "torchvision", "numpy", "opencv"} <= set(plain["versions"])

    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    commit, dirty = provenance.git_state(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", commit)
    assert dirty is False
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "table.md").write_text("what a pipeline writes")
    assert provenance.git_state(tmp_path) == (commit, False)
    (tmp_path / "kdlib.py").write_text("x = 1")
    assert provenance.git_state(tmp_path) == (commit, True)
    (tmp_path / "inner").mkdir()
    assert provenance.git_state(tmp_path / "inner") == (None, None)


def test_a_whole_record_from_facts_and_provenance(tmp_path):
    origin = provenance.provenance(tmp_path, data_hash="all images", device="another CPU")
    assert origin["device"] == "another CPU"
    facts = {
        key: value
        for key, value in record("distil", 0, 0.4).items()
        if key not in ("git_commit", "git_dirty", "lock_hash", "versions")
    }
    one = provenance.complete(facts | {"data_hash": "drawn by seed 0"}, origin)
    assert (one["data_hash"], one["samples_hash"]) == ("all images", "drawn by seed 0")
    assert one["device"] == "a CPU, 2 threads"  # the run knows best
    write_record(tmp_path / "r.json", one)


def test_data_hashes(tmp_path):
    with pytest.raises(RecordError, match=r"data\.dvc: no such file.*give data_hash"):
        provenance.provenance(tmp_path)
    (tmp_path / "data.dvc").write_text("outs: []\n")
    with pytest.raises(RecordError, match="expected one `outs` entry"):
        provenance.provenance(tmp_path)
    tree = tmp_path / "tree"
    (tree / "a").mkdir(parents=True)
    (tree / "a" / "1.png").write_bytes(b"1")
    first = provenance.tree_hash(tree)
    (tree / ".hidden").write_bytes(b"2")
    assert provenance.tree_hash(tree) == first
    (tree / "a" / "1.png").rename(tree / "a" / "2.png")
    assert provenance.tree_hash(tree) != first


def test_the_footnote_on_origin_names_commits_and_devices(tmp_path):
    changes = dict(git_commit="f" * 16, git_dirty=True, device="a GPU")
    write(tmp_path, record("distil", 0, 0.4), record("matching", 0, 0.4, **changes))
    text = notes.origin(read_records(tmp_path))
    assert "commits 01234567, ffffffff + changes" in text
    assert "devices a CPU, 2 threads / a GPU" in text
    assert "scale sample" in text
    assert "torch 2.15.0" in text


# Gap recovered and findings ----------------------------------------------------------------------


def test_gap_recovered_is_taken_seed_by_seed(full):
    found = arms.scores(full, PREFIX)
    gap = arms.gap_recovered(found["teacher"], found["supervised"], found["matching"])
    ratios = [90.0, 100.0, 1300 / 12]
    assert gap.per_seed.tolist() == pytest.approx(ratios)
    assert gap.spread.mean == pytest.approx(np.mean(ratios))
    assert gap.spread.sd == pytest.approx(np.std(ratios, ddof=1))


@pytest.mark.parametrize(
    ("teacher", "supervised", "why"),
    [
        ([50.0, 50.0], [49.5, 49.4], "the gap is below 1 point (0.6)"),
        ([50.0, 53.0], [49.5, 49.4], "the gap is in one seed below 1 point (0.5)"),
        ([50.0, 50.0], [48.0, 51.0], "changes its sign between seeds (-1.0 to +2.0)"),
        ([50.0, 50.0], [52.0, 51.0], "the teacher is not above the supervised student"),
    ],
)
def test_a_small_or_sign_changing_gap_is_not_meaningful(teacher, supervised, why):
    gap = arms.gap_recovered(pd.Series(teacher), pd.Series(supervised), pd.Series([51.0, 51.0]))
    assert not gap.meaningful
    assert why in gap.why
    assert math.isnan(gap.spread.mean)


def test_only_seeds_in_common_count():
    one, other = pd.Series([10.0, 10.0, 10.0]), pd.Series([5.0, 5.0], index=[1, 2])
    gap = arms.gap_recovered(one, other, pd.Series([8.0], index=[2]))
    assert gap.per_seed.to_dict() == {2: pytest.approx(60.0)}


def test_compare_asks_every_seed_and_the_spread():
    zero = pd.Series([0.0, 0.0, 0.0])
    assert arms.compare(pd.Series([1.0, 1.2, 1.1]), zero) == 1
    assert arms.compare(pd.Series([-1.0, -1.2, -1.1]), zero) == -1
    assert arms.compare(pd.Series([1.0, 1.2, -0.1]), zero) == 0
    assert arms.compare(pd.Series([0.1, 0.1, 4.0]), zero) == 0
    assert arms.compare(pd.Series([9.0, 9.1]), zero) == 0  # two seeds tell nothing
    assert arms.compare(pd.Series(dtype=float), zero) == 0


RESULTS = ("funmatch/4_agreement", "funmatch/5_results", "funmatch/6_real_images")
RESULTS += ("funmatch/9_boxes_results", "structured/6_results", "imitation/4_results")
RESULTS += ("affinity/5_results",)


def test_the_pages_tell_how_often_noise_passes_for_a_difference():
    noise = np.random.default_rng(3).normal(size=(3000, 3))
    zero = pd.Series(np.zeros(3))
    found = np.mean([arms.compare(pd.Series(one), zero) != 0 for one in noise])
    assert 100 * found == pytest.approx(21, abs=2)
    for page in RESULTS:
        text = (ROOT / "notebooks/py" / f"{page}.py").read_text(encoding="utf-8")
        text = plain(text.replace("\n# ", " "))
        assert "in about 21 % of cases with three seeds; fewer get no verdict." in text
        assert "differ in sign, or where the mean difference is not above its standard" in text
        assert "seeds do not agree" not in text


BASE = dict(teacher=TEACHER, supervised=SUPERVISED, distil=DISTIL, matching=MATCHING)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (
            {},
            "Function matching recovers 99 ± 9 % of the gap; "
            "distillation on the labelled images alone 9 ± 9 %, a tie with (1)",
        ),
        (
            {"distil": (0.49, 0.51, 0.54)},
            "Function matching recovers 99 ± 9 % of the gap, no clear lead over distillation on "
            "labelled images (94 ± 6 %)",
        ),
        (
            {"matching": DISTIL, "distil": MATCHING},
            "Function matching and supervised training tie (+1.0 ± 1.0 points)",
        ),
        (
            {"matching": (0.44, 0.45, 0.46), "distil": (0.49, 0.51, 0.52)},
            "Function matching recovers 37 ± 3 % of the gap, but distillation on the labelled "
            "images alone 88 ± 4 %",
        ),
        (
            {"matching": (0.38, 0.39, 0.40)},
            "Function matching ends 2.0 ± 0.0 points below supervised training",
        ),
        (
            {"teacher": (0.405, 0.413, 0.425)},
            "No gap to recover: the gap is below 1 point (0.4); function matching +11.0 ± 2.0 "
            "points over supervised training",
        ),
        ({"matching": ()}, "No finding yet: not run: (3) function matching"),
        ({"distil": ()}, "Function matching recovers 99 ± 9 % of the gap"),
        (
            {"distil": DISTIL[:1]},
            "Function matching recovers 99 ± 9 % of the gap; distillation on the labelled images "
            "alone 10 %, one seed",
        ),
        (
            {name: values[:2] for name, values in BASE.items()},
            "Function matching recovers 95 ± 7 % of the gap; distillation on the labelled images "
            "alone 14 ± 6 % (two seeds, no verdict)",
        ),
        (
            {name: values[:2] for name, values in (BASE | {"matching": (0.39, 0.40)}).items()},
            "Function matching recovers −10 ± 1 % of the gap; distillation on the labelled images "
            "alone 14 ± 6 % (two seeds, no verdict)",
        ),
        (
            {"supervised_double": (0.45, 0.46, 0.47)},
            "Not a fair test: longer supervised training alone closes 46 ± 4 % of the gap",
        ),
        (
            {"supervised_double": (0.45,)},
            "Perhaps not a fair test: longer supervised training alone closes 50 % of the gap (one "
            "seed, no verdict)",
        ),
        (
            {"supervised_double": (0.45, 0.46)},
            "Perhaps not a fair test: longer supervised training alone closes 48 ± 3 % of the gap "
            "(two seeds, no verdict)",
        ),
        (
            {name: values[:1] for name, values in BASE.items()},
            "Function matching recovers 90 % of the gap; "
            "distillation on the labelled images alone 10 % (one seed, no verdict)",
        ),
    ],
)
def test_the_title_follows_the_data(tmp_path, paper, rows, expected):
    records = frame(tmp_path, **(BASE | rows))
    assert sentences.finding(arms.scores(records, PREFIX)) == expected
    shown = figures.headline(records, paper.tables["segmentation"])
    assert plain(shown.get_suptitle()) == expected
    lines = shown.get_suptitle().splitlines()
    assert not [line for line in lines if line.endswith(("±", "(one", "(two", "no"))]


def plain(text: str) -> str:
    return " ".join(text.replace("\N{NO-BREAK SPACE}", " ").split())


# Tables ------------------------------------------------------------------------------------------


def test_known_numbers_give_known_cells(full, paper):
    table = tables.function_matching_table(full, paper.tables["segmentation"])
    row = table.frame.set_index("row").loc["matching"]
    assert row["published_miou"] == 64.74
    assert row["published_gap"] == pytest.approx(97.31, abs=0.01)
    assert (row["miou"], row["miou_sd"], row["n"]) == pytest.approx((52.0, 3.0, 3))
    assert (row["points"], row["points_sd"]) == pytest.approx((11.0, 2.0))
    assert row["gap"] == pytest.approx(99.44, abs=0.01)
    assert row["val.agreement.pixel"] == pytest.approx(92.0)
    assert row["wall_min"] == 1.5

    shown = table.shown.set_index("").loc["(3) function matching"]
    assert shown["published mIoU"] == "64.74†"
    assert shown["published gap recovered"] == "97 %"
    assert shown["ours: mIoU %"] == "52.0 ± 3.0"
    assert shown["points over (1)"] == "+11.0 ± 2.0"
    assert shown["gap recovered"] == "99 ± 9 %"
    assert shown["agreement, reported split: pixels %"] == "92.0 ± 3.0"
    assert shown["KL, held-out frames: nats"] == "0.400 ± 0.000"
    assert (shown["wall, min"], shown["samples seen"]) == ("1.5", "12,000")
    assert table.shown.set_index("").loc["(2) distil", "published mIoU"] == "61.70†"


def test_rows_that_were_not_run_say_so(tmp_path, paper):
    records = frame(tmp_path, teacher=TEACHER[:1], supervised=SUPERVISED[:1])
    table = tables.function_matching_table(records, paper.tables["segmentation"])
    shown = table.shown.set_index("")
    assert len(shown) == 6
    assert shown.loc["(3) function matching", "ours: mIoU %"] == "not run"
    assert shown.loc["(3) function matching", "n"] == "0"
    assert shown.loc["(3) function matching", "published mIoU"] == "64.74†"
    assert shown.loc["(1) supervised", "ours: mIoU %"] == "40.0"
    assert shown.loc["teacher", "agreement, reported split: pixels %"] == "–"
    assert not table.frame.set_index("row").loc["matching", ["miou", "gap", "points"]].any()


def test_an_empty_folder_gives_a_table_of_rows_not_run(tmp_path, paper):
    table = tables.function_matching_table(read_records(tmp_path), paper.tables["segmentation"])
    assert set(table.shown["ours: mIoU %"]) == {"not run"}
    assert table.notes[-1] == "Records: No records."


def test_a_gap_that_is_not_meaningful_is_flagged_beside_its_points(tmp_path):
    records = frame(tmp_path, teacher=(0.40, 0.43), supervised=(0.41, 0.41), matching=(0.45, 0.46))
    table = tables.function_matching_table(records)
    shown = table.shown.set_index("").loc["(3) function matching"]
    assert shown["gap recovered"] == "not meaningful"
    assert shown["points over (1)"] == "+4.5 ± 0.7"
    assert any("changes its sign" in note for note in table.notes)
    assert "published mIoU" not in table.shown


def test_footnotes_check_budget_validity_and_provenance(tmp_path, paper):
    rows = BASE | {"supervised_double": (0.41, 0.42, 0.43), "supervised_triple": (0.41, 0.41, 0.43)}
    table = tables.function_matching_table(frame(tmp_path, **rows), paper.tables["segmentation"])
    text = " ".join(table.notes)
    assert "All three ways: 1,500 steps and the same number of samples." in text
    assert "Longer supervised training closes 9 ± 1 % of the gap" in text
    assert "limited by labels, as the comparison needs it." in text  # and not on the mean only
    assert "† read on the authors' slides" in text
    assert "compare the pattern, not the level" in text
    assert "commit 01234567" in table.notes[-1]

    write(tmp_path, *(record("distil", seed, 0.4, 0.8, steps=3000) for seed in range(3)))
    write(tmp_path, *(record("supervised-double", s, v, 0.8) for s, v in enumerate(MATCHING)))
    text = " ".join(tables.function_matching_table(read_records(tmp_path)).notes)
    assert "Warning: the arms are not comparable: steps differ" in text
    assert "limited by training" in text


@pytest.mark.parametrize(
    ("double", "said"),
    [
        (
            (0.40, 0.42, 0.457),
            "closes 13 ± 16 % of the gap: the supervised student is limited by labels, as the "
            "comparison needs it. That holds on the mean only; seeds above 25 %: 1 of 3.",
        ),
        (
            (0.41, 0.44, 0.46),
            "closes 24 ± 12 % of the gap: the supervised student is limited by labels, as the "
            "comparison needs it. That holds on the mean only; seeds above 25 %: 2 of 3.",
        ),
        (
            (0.41, 0.46, 0.46),
            "closes 30 ± 18 % of the gap: the supervised student is limited by training: the gap "
            "recovered by the other arms is not a fair figure. That holds on the mean only; seeds "
            "above 25 %: 2 of 3.",
        ),
        (
            (0.41, 0.44),
            "closes 19 ± 12 % of the gap (two seeds, no verdict); above 25 % the student would "
            "count as limited by training.",
        ),
    ],
)
def test_what_holds_on_the_mean_only_is_told(tmp_path, double, said):
    found = arms.scores(frame(tmp_path, **BASE, supervised_double=double), PREFIX)
    assert notes.validity(found) == f"Longer supervised training {said}"


def test_two_seeds_are_told_one_by_one_in_a_sentence_of_more():
    zero = pd.Series([0.0, 0.0, 0.0])
    assert arms.change_text(pd.Series([1.0, -2.04]), zero, 3) == "+1.0 and −2.0 (two seeds)"
    assert arms.change_text(pd.Series([1.0, -2.0]), zero, 2) == "−0.5 ± 2.1"
    text = arms.change_text(pd.Series([1.0, -2.0, 1.0]), zero, 3, " points")
    assert text == "+0.0 ± 1.7 points (tie)"
    assert arms.signed(-0.04) == "+0.0" and arms.signed(-0.4, 0) == "+0"


def test_what_the_paper_has_no_table_of_is_not_titled_published(tmp_path):
    records = frame(tmp_path, **BASE)
    for family in ("funmatch-camvid", "funmatch-camvidown"):
        named = records["run"].str.replace(PREFIX, family)
        table = tables.function_matching_table(records.assign(run=named), prefix=family)
        assert table.title.startswith("CamVid, a") and "published" not in table.to_markdown()
    assert tables.function_matching_table(records).title == PREFIX
    assert tables.function_matching_table(records, title="Mine").title == "Mine"


def test_footnotes_tell_fewer_seeds_and_what_minutes_are_worth(tmp_path):
    records = frame(tmp_path, **BASE, supervised_double=(0.41,))
    large = tables.function_matching_table(records)
    short = tables.function_matching_table(records, compact=True)  # without the control
    assert large.notes.count(notes.LEVELS) == large.notes.count(notes.WALL) == 1
    assert notes.LEVELS not in short.notes and notes.WALL not in short.notes
    assert notes.LEVELS in tables.curve_table(records, "schedule").notes
    assert notes.LEVELS not in tables.curve_table(records, "pool").notes
    assert notes.levels([3, 0, 3]) == ""  # a row that was not run
    assert "over the seeds that they share only: points move" in notes.levels([3, 1])


def test_a_shared_teacher_stands_for_all_seeds(tmp_path):
    records = frame(tmp_path, teacher=(0.5,), supervised=SUPERVISED, matching=MATCHING)
    table = tables.function_matching_table(records)
    row = table.frame.set_index("row").loc["matching"]
    assert row["gap_n"] == 3
    assert row["gap"] == pytest.approx(np.mean([90, 1100 / 9, 1300 / 8]))
    assert "One teacher for all seeds." in table.notes


def test_several_scales_must_be_told_apart(tmp_path, full):
    write(tmp_path, record("matching", 0, 0.6, scale="gpu"))
    records = read_records(tmp_path)
    with pytest.raises(ValueError, match="records of several scales: gpu, sample"):
        tables.function_matching_table(records)
    row = tables.function_matching_table(records, scale="gpu").frame.set_index("row")
    assert row.loc["matching", "miou"] == 60.0


def test_unverified_figures_are_marked(paper, full):
    table = paper.tables["segmentation"]
    rows = {
        name: dataclasses.replace(figure, trust="unverified") for name, figure in table.rows.items()
    }
    shaky = dataclasses.replace(table, rows=rows)
    shown = tables.function_matching_table(full, shaky, compact=True)
    assert shown.shown["published mIoU"].tolist() == ["64.83‡", "61.48‡", "61.70‡", "64.74‡"]
    assert any(note.startswith("‡ unverified") for note in shown.notes)
    one = dataclasses.replace(table, rows=dict(table.rows) | {"other": rows["distil"]})
    compact = tables.function_matching_table(full, one, compact=True)
    assert not any(note.startswith("‡") for note in compact.notes)  # a row that is not shown


def test_a_title_compares_all_ways_over_the_same_lengths(tmp_path):
    lengths = dict(matching_half=(0.45,), supervised_half=(0.41,), supervised_double=(0.40,))
    records = frame(tmp_path, supervised=SUPERVISED[:1], matching=MATCHING[:1], **lengths)
    points = tables.curve_points(records, "schedule")
    title = sentences.curve_finding(points, "schedule")
    assert title.startswith("2× the steps") and title.endswith("points (one seed, no verdict)")


def test_curves_take_their_points_from_records(tmp_path):
    ways = dict(supervised=SUPERVISED, distil=DISTIL, matching=MATCHING)
    frame(tmp_path, **ways, matching_half=(0.45, 0.46))
    write(tmp_path, record("matching-x4", 0, 0.44, 0.8, labels=30, images=135))
    write(
        tmp_path, *(record("distil", s, v, 0.8, labels=30, images=30) for s, v in enumerate(DISTIL))
    )
    records = read_records(tmp_path)
    pool = tables.curve_table(records, "pool")
    assert pool.shown["mIoU %"].tolist() == [
        "42.0 ± 1.0",
        "44.0",
        "not run",
        "not run",
        "52.0 ± 3.0",
    ]
    assert pool.frame["x"].tolist() == [0.0, 3.5, 16.0, 64.0, 400.0]
    assert pool.shown["points over (1)"].iloc[1] == "+4.0"
    lengths = tables.curve_table(records, "schedule").frame
    half = lengths[(lengths["arm"] == "matching") & (lengths["x"] == 0.5)].iloc[0]
    assert (half["n"], half["steps"], half["miou"]) == pytest.approx((2, 750, 45.5))
    with pytest.raises(ValueError, match="known: pool, schedule"):
        tables.curve_table(records, "width")


def test_writers_escape_what_would_break_their_format(tmp_path):
    shown = pd.DataFrame({"a|b": ["<script>", "x*y\nz"], "n": ["1.0", "–"]})
    table = Table("T < 1", shown, shown, ("note & <b>",))
    text = table.to_markdown()
    assert "| a\\|b | n |" in text
    assert "| --- | ---: |" in text
    assert "| x\\*y z | – |" in text
    assert "<script>" not in text
    assert "<script>" not in table.to_html()
    assert "note &amp; &lt;b&gt;" in table.to_html()
    assert table._repr_html_() == table.to_html()
    markdown, csv = table.save(tmp_path / "deep" / "table")
    assert markdown.read_text() == text
    again = pd.read_csv(csv, comment="#")
    assert again["a|b"].tolist() == shown["a|b"].tolist()


# Published figures and the ledger ----------------------------------------------------------------


def test_published_figures_and_what_follows_from_them(paper):
    segmentation, detection = paper.tables["segmentation"], paper.tables["detection"]
    assert [f.value for f in segmentation.rows.values()] == [64.83, 61.48, 61.70, 64.74]
    assert [f.text for f in detection.rows.values()] == ["31.4†", "29.5†", "30.4†", "31.2†"]
    assert segmentation.gap_recovered("distil") == pytest.approx(6.57, abs=0.01)
    assert detection.gap_recovered("matching") == pytest.approx(89.47, abs=0.01)
    assert segmentation.gap_recovered("start") is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "trust: slides, model: PSPNet ResNet-101",
            "trust: sure, model: x",
            "unknown trust 'sure'",
        ),
        ("value: 64.83", "value: 65", "rows.teacher.value: expected a float"),
        ("statements:", "remarks:", "expected the keys"),
        ("paper:\n", "paper: [\n", "not valid YAML"),
    ],
)
def test_a_wrong_file_of_published_figures_is_refused(tmp_path, paper, old, new, message):
    text = paper.path.read_text()
    assert old in text
    path = tmp_path / "published.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(published.PublishedError, match=re.escape(message)):
        published.load(path)


def test_the_ledger_names_what_is_not_known(paper):
    table = ledger_table(paper)
    topics = table.frame.set_index("topic")
    for topic in ("Loss", "Temperature", "Optimiser and learning rate", "Mixup"):
        assert topics.loc[topic, "paper"].startswith("not known")
    assert set(topics["code"]) == {"none released"}
    assert "10,000" in topics.loc["Labelled images", "paper"]
    assert (
        "| topic | the paper says | the released code does | we do | why |" in table.to_markdown()
    )
    twice = dataclasses.replace(paper, deviations=paper.deviations + paper.deviations[:1])
    with pytest.raises(ValueError, match="occurs twice"):
        ledger_table(twice)


# Figures and pictures ----------------------------------------------------------------------------


def curves(folder: Path) -> pd.DataFrame:
    pools = dict(matching_x4=(0.43, 0.44), matching_x64=(0.46, 0.47), matching_double=(0.53, 0.55))
    return frame(folder, **BASE, **pools, supervised_double=(0.40, 0.42))


def test_titles_of_the_further_figures_follow_the_data(tmp_path):
    records = curves(tmp_path)
    assert plain(figures.curve(records, "pool").get_suptitle()) == (
        "More unlabelled frames help: +10.0 ± 2.6 mIoU points from 0× to 400× the labelled images"
    )
    title = plain(figures.curve(records, "schedule").get_suptitle())
    assert title.startswith("2× the steps change mIoU by: (3) matching +3.5 ± 0.7, (1) supervised")
    title = plain(figures.class_bars(records).get_suptitle())
    assert title == (
        "Function matching is above supervised training in 2 of 2 classes, below in 0, ties in 0"
    )
    title = plain(figures.agreement_scatter(records).get_suptitle())
    assert title == "Students that agree more with the teacher score higher (r = 1.00, 17 students)"


def test_titles_admit_that_nothing_was_found(tmp_path):
    flat = frame(tmp_path, supervised=SUPERVISED, distil=SUPERVISED, matching=DISTIL)
    title = plain(figures.curve(flat, "pool").get_suptitle())
    assert title.startswith("More unlabelled frames do not clearly help: +1.0 ± 1.0 mIoU points")
    agreement = {"matching": pd.Series([80.0, 81.0, 80.0]), "distil": pd.Series([80.5, 81.5, 80.5])}
    assert sentences.agreement_finding(agreement) == "Function matching does not agree more"
    two = {name: values[:2] for name, values in agreement.items()}
    assert sentences.agreement_finding(two) == "Agreement with the teacher"
    points = pd.DataFrame({"agreement": [1.0, 2.0, 3.0], "score": [1.0, 2.0, 1.0]})
    assert sentences.scatter_finding(points).startswith("Agreement with the teacher does not tell")


def test_one_seed_gives_numbers_and_no_verdict(tmp_path):
    one = {name: values[:1] for name, values in BASE.items()}
    records = frame(tmp_path, **one, supervised_double=(0.41,))
    assert plain(figures.curve(records, "pool").get_suptitle()) == (
        "From 0× to 400× the labelled images: +8.0 mIoU points (one seed, no verdict)"
    )
    two = frame(tmp_path / "two", **{name: values[:2] for name, values in BASE.items()})
    assert sentences.curve_finding(tables.curve_points(two, "pool"), "pool") == (
        "From 0× to 400× the labelled images: +8.5 ± 0.7 mIoU points (two seeds, no verdict)"
    )
    title = plain(figures.class_bars(records).get_suptitle())
    assert title.endswith("in 2 of 2 classes (one seed, no verdict)")
    panel = figures.headline(records).axes[-1].get_title(loc="left")
    assert panel.startswith("Agreement with the teacher\n")
    assert notes.validity(arms.scores(records, PREFIX)) == (
        "Longer supervised training closes 10 % of the gap (one seed, no verdict); above 25 % the "
        "student would count as limited by training."
    )


def test_figures_of_nothing_say_so(tmp_path, paper):
    records = read_records(tmp_path)
    for shown in (
        figures.headline(records, paper.tables["segmentation"]),
        figures.curve(records, "pool"),
        figures.curve(records, "schedule"),
        figures.class_bars(records),
        figures.agreement_scatter(records),
    ):
        texts = [text.get_text() for text in shown.findobj(lambda a: hasattr(a, "get_text"))]
        assert any("not run" in text for text in texts)
        assert shown._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_same_records_give_the_same_bytes(tmp_path, full, paper, suffix):
    segmentation = paper.tables["segmentation"]
    first, second = (
        look.save(figures.headline(full, segmentation), tmp_path / f"{i}{suffix}") for i in (0, 1)
    )
    assert first.read_bytes() == second.read_bytes()
    with pytest.raises(ValueError, match=r"\.png or \.svg"):
        look.save(figures.headline(full), tmp_path / "figure.jpg")


def test_a_curve_of_one_point_leaves_no_file(tmp_path, full):
    (tmp_path / "pool.png").write_bytes(b"an older one")
    shown = figures.curve(full, "schedule")
    assert shown.nothing and not figures.curve(full, "pool").nothing
    look.save(shown, tmp_path / "pool.png")
    assert not (tmp_path / "pool.png").exists()
    look.save(shown, tmp_path / "pool.png")  # nothing there to remove
    assert look.save(figures.curve(full, "pool"), tmp_path / "pool.png").is_file()


def test_longer_training_stands_by_its_points_over_the_mean_of_its_own(tmp_path):
    """Of one low seed it would stand below a mean of three that it beats."""
    supervised = (0.30, 0.42, 0.42)
    records = frame(tmp_path, **(BASE | {"supervised": supervised}), supervised_double=(0.32,))
    axis = figures.headline(records).axes[0]
    (hollow,) = [line for line in axis.lines if line.get_mfc() == "white"]
    assert hollow.get_ydata().tolist() == pytest.approx([38.0 + 2.0])
    assert axis.get_xlabel() == "hollow: what 2× the steps add to (1), n = 1"
    records = frame(tmp_path, supervised_double=(0.32, 0.43, 0.43))
    label = figures.headline(records).axes[0].get_xlabel()
    assert label == "hollow: what 2× the steps add to (1)"


def test_curves_join_common_seeds_only(tmp_path):
    """(1) ends lower on seed 0 alone than its three seeds begin, and higher than seed 0 begins."""
    records = frame(tmp_path, supervised=(0.30, 0.42, 0.42), supervised_double=(0.32,))
    figure = figures.curve(records, "schedule")
    (line,) = [line for line in figure.axes[0].lines if line.get_ls() == "-"]
    assert line.get_ydata().tolist() == pytest.approx([30.0, 32.0])
    said = "Lines: the seeds that all points of a curve have."
    assert said in figure.get_supxlabel()
    assert said not in figures.curve(frame(tmp_path / "even", **BASE), "pool").get_supxlabel()


def test_no_mark_hides_another_or_a_label(tmp_path):
    records = curves(tmp_path)
    axis = figures.curve(records, "schedule").axes[0]
    places = {line.get_color(): line.get_xdata()[0] for line in axis.lines if line.get_ls() == "-"}
    assert len(set(places.values())) == len(places) == 3
    pool = figures.curve(records, "pool").axes[0]
    assert pool.get_xlim()[0] < 0 and pool.get_xscale() == "symlog"
    assert [t.get_text() for t in pool.get_xticklabels()] == ["0×", "4×", "64×", "400×"]
    for label in ("teacher", "(1) supervised"):
        (text,) = [text for text in pool.texts if text.get_text() == label]
        assert text.xy[0] == 1 and text.get_ha() == "left" and text.get_position()[0] > 0


PALETTE = [(128, 64, 128), (70, 130, 180), (0, 0, 142)]


def test_colourise_and_overlay():
    labels = np.array([[0, 1], [2, 255]], dtype=np.uint8)
    colours = pictures.colourise(labels, PALETTE)
    assert colours.tolist() == [[list(PALETTE[0]), list(PALETTE[1])], [list(PALETTE[2]), [0, 0, 0]]]
    image = np.full((2, 2, 3), 100, dtype=np.uint8)
    mixed = pictures.overlay(image, labels, PALETTE)
    assert mixed[0, 0].tolist() == [114, 82, 114]
    assert mixed[1, 1].tolist() == [100, 100, 100]
    with pytest.raises(ValueError, match=r"labels \[7\] are not in the palette of 3 classes"):
        pictures.colourise(np.array([[7]]), PALETTE)
    with pytest.raises(ValueError, match="do not fit the image"):
        pictures.overlay(image, labels[:1], PALETTE)


def test_disagreement_marks_exactly_the_pixels_that_differ():
    image = np.full((2, 2, 3), 200, dtype=np.uint8)
    one, other = np.array([[0, 1], [2, 1]]), np.array([[0, 2], [2, 255]])
    shown = pictures.disagreement(image, one, other, ignore=255)
    assert shown[0, 1].tolist() == list(pictures.DISAGREE)
    assert shown[1, 1].tolist() == [0, 0, 0]
    assert shown[0, 0].tolist() == shown[1, 0].tolist() == [215, 215, 215]
    assert pictures.difference_share(one, other, ignore=255) == pytest.approx(1 / 3)
    assert pictures.difference_share(one, other) == 0.5
    assert math.isnan(pictures.difference_share(one, np.full((2, 2), 255), ignore=255))


def test_the_grid_shows_every_picture_in_its_place():
    image = np.full((4, 6, 3), 90, dtype=np.uint8)
    truth, teacher = np.zeros((4, 6), np.uint8), np.zeros((4, 6), np.uint8)
    truth[0] = 255
    student = teacher.copy()
    student[:, :3] = 1
    grid = pictures.comparison_grid(
        [image, image],
        [truth, truth],
        [teacher, teacher],
        {"(1)": [student, student], "(3)": [teacher, teacher]},
        PALETTE,
        classes=("road", "sky", "car"),
        names=("first", "second"),
    )
    assert len(grid.axes) == 2 * 2 * 4
    assert [axis.get_title() for axis in grid.axes[:4]] == ["image", "teacher", "(1)", "(3)"]
    upper = [axis.images[0].get_array() for axis in grid.axes[:4]]
    assert (upper[0] == image).all()
    assert (upper[2][0, 0] == PALETTE[1]).all()
    lower = [axis.images[0].get_array() for axis in grid.axes[4:8]]
    assert (lower[0] == pictures.colourise(truth, PALETTE)).all()
    assert (lower[2][0, 0] == pictures.DISAGREE).all()
    assert not (lower[3] == pictures.DISAGREE).all(axis=-1).any()
    assert plain(grid.get_suptitle()) == (
        "Pixels where the student differs from the teacher: (1) 50.0 %, (3) 0.0 %"
    )
    legend = [text.get_text() for text in grid.legends[0].get_texts()]
    assert legend == ["road", "sky", "ignored", "differs"]


def test_the_grid_refuses_what_does_not_fit():
    image, labels = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match="1 images but 2 of 'teacher'"):
        pictures.comparison_grid([image], [labels], [labels, labels], {}, PALETTE)
    with pytest.raises(ValueError, match="uint8 HWC"):
        pictures.comparison_grid([image / 255], [labels], [labels], {}, PALETTE)
    with pytest.raises(ValueError, match="no images"):
        pictures.comparison_grid([], [], [], {}, PALETTE)
