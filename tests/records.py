"""Records of runs as tests of reports make them up."""

from pathlib import Path

from kdlib.report.records import write_record


def record(run: str, seed: int, metrics: dict, **changes) -> dict:
    """A record with all that it must have, changed as told."""
    return {
        "run": run,
        "scale": "sample",
        "seed": seed,
        "method": "supervised",
        "settings_hash": f"settings of {run}",
        "data_hash": "d" * 32,
        "git_commit": "0123456789abcdef",
        "git_dirty": False,
        "lock_hash": "fedcba9876543210",
        "versions": {"python": "3.11.7", "torch": "2.15.0"},
        "device": "a CPU, 2 threads",
        "wall_s": 90.0,
        "steps": 2500,
        "samples_seen": 20000,
        "parameters": 1000,
        "metrics": metrics,
    } | changes


def kitti(score: float) -> dict:
    """Metrics of a detector on KITTI; the mean of the nine is the score."""
    levels = {"easy": 0.05, "moderate": 0.0, "hard": -0.05}
    ap = {
        name: {level: score + by + step for level, step in levels.items()}
        for name, by in (("Car", 0.1), ("Pedestrian", 0.0), ("Cyclist", -0.1))
    }
    return {"val": {"map": score, "ap": ap, "agreement": {"map": 0.5, "map_50": 0.6}}}


def write(folder: Path, *some: dict) -> None:
    for one in some:
        write_record(folder / one["run"] / f"seed-{one['seed']}.json", one)
