"""Inter-region affinity distillation: its benchmarks, students and rows; what the records show.

Fact sheet inter_region_affinity, section 5. A run is `affinity-<benchmark>-<student>-<row>`, the
teacher of all students `affinity-<benchmark>-teacher`. Scores are percentages, differences are
points and paired by seed, spread is the sample standard deviation over seeds. What has no record is
shown as "not run".
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import MappingProxyType

import pandas as pd

from kdlib.report import arms, measure, rows, starts
from kdlib.report.arms import spread_text
from kdlib.report.measure import Measure
from kdlib.report.published import Published, PublishedTable
from kdlib.report.rows import BASELINE, Family

# LLAMAS has the measure's name in common with boxes, and classes and agreement with pixels.
LANE_MAP = replace(measure.MIOU, name="mAP", key="map", each="AP", classes="val.ap.", optional=True)


@dataclass(frozen=True)
class Benchmark:
    """name: in texts; table: of the published file; score: what it is judged by; part: how the
    records' columns of one class end, empty where the class's name is the end.
    """

    name: str
    table: str
    score: Measure
    part: str = ""


BENCHMARKS = MappingProxyType(
    {
        "culane": Benchmark("CULane", "culane", measure.F1, ".f1"),
        "llamas": Benchmark("LLAMAS", "llamas", LANE_MAP),
        "apollo": Benchmark("ApolloScape", "apolloscape", measure.MIOU),
    }
)
STUDENTS = MappingProxyType({"erfnet": "ERFNet", "enet": "ENet", "resnet18": "ResNet-18"})
PRINTED_STUDENT = "erfnet"  # the one whose published figures are known
ROWS = MappingProxyType(
    {
        BASELINE: "labels alone",
        "kd": "KD: soft targets",
        "at": "AT: attention",
        "skd": "SKD: soft targets and pairs of places",
        "intra": "IntRA-KD: affinity and attention",
    }
)
TICKS = MappingProxyType(
    {BASELINE: "labels\nalone", "kd": "KD", "at": "AT", "skd": "SKD", "intra": "IntRA-\nKD"}
)
FAMILY = Family(ROWS, TICKS, "labels alone")
VARIANTS = MappingProxyType(
    {
        BASELINE: "labels alone",
        "intra": "affinity and attention, both levels",
        "intra-std": "the same, skewness by the standard deviation",
        "intra-affinity": "affinity alone, both levels",
        "at": "attention alone, both levels",
        "intra-high": "affinity and attention, high level",
        "intra-middle": "affinity and attention, middle level",
        "intra-weight1": "affinity with factor 1 in place of 0.1, and attention",
        "intra-weight10": "affinity with factor 10, and attention",
    }
)
VARIANT_TICKS = MappingProxyType(
    {
        BASELINE: "labels\nalone",
        "intra": "IntRA-\nKD",
        "intra-std": "skewness\nby std",
        "intra-affinity": "affinity\nalone",
        "at": "attention\nalone",
        "intra-high": "high\nlevel",
        "intra-middle": "middle\nlevel",
        "intra-weight1": "factor\n1",
        "intra-weight10": "factor\n10",
    }
)
VARIANT_FAMILY = Family(VARIANTS, VARIANT_TICKS, "labels alone")
# What IntRA-KD is measured against, and how the sentence names it.
RIVALS = MappingProxyType(
    {"kd": "soft targets", "at": "attention", "skd": "structured distillation"}
)
PRINTED = MappingProxyType(  # rows of the published tables that students of one network have
    {
        "teacher": "teacher",
        **ROWS,
        "bifpn": "BiFPN: attention of neighbouring layers",
        "psn": "PS-N: similarity of neighbouring layers",
        "irg": "IRG: relations of three frames",
        "sad": "SAD: its own attention",
        "dks": "DKS: its own auxiliary heads",
    }
)


# Data --------------------------------------------------------------------------------------------


def of_student(records: pd.DataFrame, benchmark: str, student: str) -> tuple[pd.DataFrame, str]:
    """The records of one student and its teacher, and the prefix that all of them then have.

    The teacher's run, which all students share, is renamed to `<prefix>-teacher`.
    """
    prefix = f"affinity-{benchmark}-{student}"
    named = records["run"].replace(f"affinity-{benchmark}-teacher", f"{prefix}-teacher")
    own = records.assign(run=named)
    return own[measure.of_family(own, prefix)], prefix


def scores(
    records: pd.DataFrame,
    benchmark: str = "culane",
    student: str = "erfnet",
    names: Iterable[str] = tuple(ROWS),
) -> dict[str, pd.Series]:
    """Score in percent of the teacher and of each row, indexed by seed."""
    return rows.scores(*of_student(records, benchmark, student), tuple(names))


def ran(records: pd.DataFrame, benchmark: str = "culane") -> tuple[str, ...]:
    """The students of which any row was run; without any, the one with published figures."""
    runs = set(records["run"])
    found = [
        student
        for student in STUDENTS
        if any(f"affinity-{benchmark}-{student}-{row}" in runs for row in ROWS)
    ]
    return tuple(found) or (PRINTED_STUDENT,)


def published_of(
    published: Published | None, benchmark: str, student: str
) -> PublishedTable | None:
    """The published table of a benchmark; None for students whose figures are not known."""
    if published is None or student != PRINTED_STUDENT:
        return None
    return published.tables[BENCHMARKS[benchmark].table]


# Findings ----------------------------------------------------------------------------------------


def finding(
    records: pd.DataFrame,
    benchmark: str = "culane",
    student: str = "erfnet",
    *,
    scale: str | None = None,
) -> str:
    """What the records of one student show, in a sentence that follows the numbers.

    IntRA-KD against labels alone, then against its rivals; "tie" by the rule of `arms.compare`;
    the gap recovered where it means something; and whether the common start had learnt little
    (`starts.early`). Of fewer than three seeds the numbers and no verdict.
    """
    found = scores(arms.one_scale(records, scale), benchmark, student)
    who, where = STUDENTS[student], BENCHMARKS[benchmark]
    lead = (found["intra"] - found[BASELINE]).dropna()
    if not len(lead):
        missing = [ROWS[name] for name in (BASELINE, "intra") if not len(found[name])]
        why = f"not run: {', '.join(missing)}" if missing else "no seed in common"
        return f"No finding yet for {who} in {where.name}'s form: {why}"
    sign = arms.compare(found["intra"], found[BASELINE])
    points = f"{spread_text(sign * lead, sign=False)} points of {where.score.name}"
    form = f"in {where.name}'s form"
    text = {
        1: f"IntRA-KD lifts {who} by {points} {form}",
        0: f"IntRA-KD ties with labels alone on {who} {form} ({spread_text(lead)} points)",
        -1: f"IntRA-KD costs {who} {points} {form}",
    }[sign]
    if len(lead) < arms.VERDICT:
        points = f"{spread_text(lead)} points of {where.score.name}"
        text = f"IntRA-KD on {who} {form}: {points} over labels alone"
    gap = arms.gap_recovered(found["teacher"], found[BASELINE], found["intra"])
    if sign == 1 and gap.meaningful:
        text += f", {spread_text(gap.spread, 0, sign=False)} % of the gap to its teacher"
    if against := rows.against_text(found, "intra", RIVALS):
        text += f"; against {against}"
    if starts.early(*of_student(records, benchmark, student), ROWS):
        text += "; the common start had hardly learnt the task"
    return text + rows.room_text(found, FAMILY.over) + arms.seeds_note(len(lead))
