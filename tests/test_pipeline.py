"""dvc.yaml: what its stages name, and that it runs exactly what has to run."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo

from kdlib.config import SCALES, load_run
from kdlib.notebook import NotebookError, imports, inputs

ROOT = Path(__file__).resolve().parents[1]
NAMES_ONLY = re.compile(
    r"python -m kdlib\.notebook (run notebooks/py/\w+/\w+\.py( --(run|scale|seed) [\w-]+)+"
    r"|inputs( [\w-]+| '[\w*-]+')+ --scale \w+ --out [\w/-]+"
    r"|code notebooks/py/\w+ kdlib/notebook/inputs\.py --out runs/code/\w+)"
    r"|python -m kdlib\.simulate kitti --train \d+ --val \d+ --out runs/data"
)


@pytest.fixture(scope="module")
def stages():
    """Every stage of both pipelines, templates filled in: name -> (command, deps, outs)."""
    found = {}
    with Repo(str(ROOT)) as repo:
        for stage in repo.index.stages:
            if not stage.cmd:
                continue
            outs = {o.fs_path: o for o in stage.outs}
            deps = [d for d in stage.deps if type(d).__name__ != "ParamsDependency"]
            found[stage.addressing] = (stage.cmd, [_relative(d.fs_path) for d in deps], outs)
    return found


def _relative(path: str) -> str:
    return Path(path).relative_to(ROOT).as_posix()


def _run_of(command: str):
    """The run that a stage makes, and None for stages that make none."""
    words = command.split()
    if "--run" not in words:
        return None
    seed = int(words[words.index("--seed") + 1]) if "--seed" in words else 0
    scale = words[words.index("--scale") + 1]
    return load_run(words[words.index("--run") + 1], scale=scale, seed=seed)


# -- What the files say ----------------------------------------------------------------------------


def test_code_reaches_a_stage_as_the_hashes_of_its_page_and_in_no_other_way(stages):
    for name, (command, deps, _) in stages.items():
        words = command.split()
        if words[3] == "code":
            paper = name.removeprefix("code@")
            assert words[4] == f"notebooks/py/{paper}" and words[-1] == f"runs/code/{paper}"
            assert deps == ["kdlib", f"notebooks/py/{paper}"]
            continue
        if words[2] == "kdlib.simulate":
            assert deps == ["data"]  # so it runs again when the simulator draws something else
            continue
        page = words[4].removeprefix("notebooks/py/").removesuffix(".py")
        if words[3] == "inputs":
            paper = name.split(":")[-1].split("-")[0]
            page = f"{'funmatch' if paper == 'camvid' else paper}/inputs"
            assert deps[0] == "params.yaml", name
        assert [d for d in deps if d.startswith("runs/code")] == [f"runs/code/{page}.json"], name
        assert not [d for d in deps if d.startswith("kdlib")], name


def test_commands_carry_names_only(stages):
    for name, (command, _, _) in stages.items():
        assert NAMES_ONLY.fullmatch(command), f"{name}: {command}"


def test_no_stage_depends_on_a_notebook_or_defeats_the_cache(stages):
    for name, (_, deps, _) in stages.items():
        assert not [d for d in deps if d.endswith(".ipynb")], name
    for file in imports.PIPELINES:
        text = (ROOT / file).read_text()
        assert not re.search(r"^\s*-?\s*(persist|always_changed|frozen):", text, re.M), file


def test_outs_are_cached_but_for_what_git_keeps(stages):
    for name, (_, _, outs) in stages.items():
        for path, out in outs.items():
            assert out.use_cache is not _relative(path).startswith("results/"), f"{name}: {path}"


def test_a_stage_names_its_text_settings_lock_and_all_that_its_run_is_made_from(stages):
    """A run's settings say which weights and frames it starts from; the stage must name them."""
    for name, (command, deps, outs) in stages.items():
        made = {_relative(path) for path in outs}
        if "kdlib.notebook run" not in command:
            continue
        assert deps[0] == command.split()[4] and "requirements.lock" in deps, name
        run = _run_of(command)
        if run is None:
            continue
        large = run.name.startswith("imitation-large-")
        family = "imitation-large" if large else run.name.split("-")[0]
        family = "camvid" if "evidence/camvid" in name else family
        expected = {f"runs/{run.scale}/inputs/{family}/{run.name}.json"}
        for other in (run.teacher, run.init if run.init != "imagenet" else None):
            if other is not None:
                upstream = load_run(other, scale=run.scale, seed=run.seed)
                expected.add(f"{upstream.folder.as_posix()}/model.safetensors")
        if run.data.frames is not None and run.frames is None:
            clipped = load_run(run.data.frames, scale=run.scale)
            expected.add(f"{clipped.folder.as_posix()}/manifest.csv")
        made_before = {d for d in deps if d.startswith("runs/") and not d.startswith("runs/code/")}
        assert expected == made_before, name
        folder = run.folder.as_posix()
        if run.frames is not None:
            assert made == {folder}, name
        else:
            files = ("model.safetensors", "model.json", "history.csv")
            weights = {f"{folder}/{file}" for file in files}
            record = set() if "evidence/" in name else {run.record.as_posix()}
            assert made == weights | record, name


def test_evidence_is_no_part_of_the_main_job(stages):
    """`dvc repro` follows every edge upwards: none may lead to the hours of evidence/dvc.yaml."""
    made = {_relative(out): name for name, (_, _, outs) in stages.items() for out in outs}
    for name, (_, deps, _) in stages.items():
        if "evidence/" in name:
            continue
        for dep in deps:
            makers = {n for out, n in made.items() if out == dep or out.startswith(f"{dep}/")}
            assert not [n for n in makers if "evidence/" in n], f"{name}: {dep}"


def test_every_scale_resolves_every_run_of_the_pipeline(stages):
    for command, _, _ in stages.values():
        run = _run_of(command)
        for scale in SCALES if run else ():
            load_run(run.name, scale=scale)


def test_make_knows_every_paper_that_has_stages(stages):
    """`make repro` works on papers side by side: one that it leaves out would wait for the rest."""
    named = re.search(r"^PAPERS := (.+)", (ROOT / "Makefile").read_text(), re.M).group(1).split()
    main = {name for name in stages if "evidence/" not in name and not name.startswith("code@")}
    assert sorted(named) == sorted({name.split("-")[0] for name in main})


def test_make_lets_a_paper_wait_for_one_that_it_starts_from(stages):
    """DVC refuses to look at stages that another process is at work on."""
    main = {n.removeprefix("code@"): s for n, s in stages.items() if "evidence/" not in n}
    paper = {_relative(out): name.split("-")[0] for name, s in main.items() for out in s[2]}
    needs = {(n.split("-")[0], paper[dep]) for n, s in main.items() for dep in s[1] if dep in paper}
    waits = re.findall(r"^repro-(\w+): repro-(\w+)$", (ROOT / "Makefile").read_text(), re.M)
    assert set(waits) == {(one, other) for one, other in needs if one != other}


# -- The import closure ----------------------------------------------------------------------------


def test_closure_follows_imports_and_nothing_else(tmp_path):
    files = {
        "start.py": "from kdlib.rooms import chair\nimport kdlib.door\n",
        "kdlib/__init__.py": '"""Doc."""\n__version__ = "1"\n',
        "kdlib/door.py": "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import kdlib.window\n"
        "def f():\n    from kdlib import lamp\n",
        "kdlib/window.py": "",
        "kdlib/lamp.py": "",
        "kdlib/attic.py": "",
        "kdlib/rooms/__init__.py": "from kdlib.rooms.table import top\n",
        "kdlib/rooms/table.py": "top = 1\n",
        "kdlib/rooms/chair.py": "from .leg import length\nfrom kdlib.rooms import table\n",
        "kdlib/rooms/leg.py": "length = 1\n",
        "kdlib/rooms/bed.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    names = ("door", "lamp", "rooms/__init__", "rooms/chair", "rooms/leg", "rooms/table")
    assert imports.closure(tmp_path / "start.py", tmp_path) == [f"kdlib/{n}.py" for n in names]


def test_a_page_has_the_hashes_of_its_modules(tmp_path):
    (tmp_path / "kdlib").mkdir()
    for name, text in {"a": "import kdlib.b\n", "b": "x = 1\n", "c": "x = 1\n"}.items():
        (tmp_path / f"kdlib/{name}.py").write_text(text)
    pages = tmp_path / "pages"
    (pages / "paper").mkdir(parents=True)
    (pages / "paper/1_page.py").write_text("import kdlib.a\n")
    (pages / "paper/2_page.py").write_text("import kdlib.c\n")
    starts, out = [pages, tmp_path / "kdlib/b.py"], tmp_path / "out"
    names = ("paper/1_page.json", "paper/2_page.json", "b.json")

    def found() -> list[bytes]:
        assert imports.write(starts, out, tmp_path) == [out / name for name in names]
        return [(out / name).read_bytes() for name in names]

    before = found()
    assert list(json.loads(before[0])) == ["kdlib/a.py", "kdlib/b.py"]
    assert before[2] == b"{}\n" and found() == before
    (tmp_path / "kdlib/b.py").write_text("x = 2\n")
    assert [new != old for new, old in zip(found(), before, strict=True)] == [True, False, False]
    for missing in (tmp_path / "nothing.py", tmp_path / "out"):
        with pytest.raises(NotebookError, match="no text there"):
            imports.write([missing], tmp_path / "elsewhere", tmp_path)


# -- Settings as files -----------------------------------------------------------------------------


def test_settings_leave_out_what_can_not_change_a_result():
    run = load_run("funmatch-seg-matching", scale="smoke", seed=3)
    found = run.settings()
    assert not {"name", "seed", "title"} & set(found)
    assert "workers" not in found["schedule"] and "steps" in found["schedule"]
    assert "structured" not in found["method"]  # so a new paper's options retrain no older run
    assert found == load_run("funmatch-seg-matching", scale="smoke", seed=4).settings()


def test_huge_trees_are_known_by_size(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("one")
    small = inputs.tree_hash([tmp_path / "a"])
    (tmp_path / "a").write_text("two")
    assert inputs.tree_hash([tmp_path / "a"]) != small
    monkeypatch.setattr(inputs, "HASHED_BYTES", 2)
    huge = inputs.tree_hash([tmp_path / "a"])
    assert huge.endswith("(names and sizes)")
    (tmp_path / "a").write_text("six")
    assert inputs.tree_hash([tmp_path / "a"]) == huge


# -- The whole pipeline, at smoke scale, in a fresh clone -----------------------------------------


class Clone:
    """A copy of the working tree's files, as a git repository of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        names = self._git(ROOT, "ls-files", "-co", "--exclude-standard", "-z").split("\0")
        for name in filter(None, names):
            if not (ROOT / name).is_file() or name == "data.dvc" or name.endswith("dvc.lock"):
                continue
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
        # At smoke scale the data are rendered on the spot; data/ only has to be there.
        (folder / "data").mkdir()
        (folder / "data" / "empty").touch()
        self.edit("params.yaml", r"^scale: \w+", "scale: smoke")
        # The other lane networks go through the same stage; one of them is enough here.
        self.edit("dvc.yaml", r"student: \[erfnet, enet, resnet18\]", "student: [erfnet]")
        self.edit("dvc.yaml", r"culane-enet, culane-resnet18, ", "")
        # So do these rows, and at smoke scale the results page trains what has no record. Most of a
        # stage's time is its kernel's start.
        self.edit("dvc.yaml", r"row: \[baseline, kd, at, skd, intra\]", "row: [baseline, intra]")
        self.edit("dvc.yaml", r"row: \[baseline, i, f, g, d, id\]", "row: [baseline, i, id]")
        self._git(folder, "init", "-q")
        self.commit()

    def edit(self, name: str, pattern: str, new: str) -> None:
        before = (self.folder / name).read_text()
        after = re.sub(pattern, new, before, count=1, flags=re.M)
        assert after != before, f"{name}: nothing matches {pattern}"
        (self.folder / name).write_text(after)

    def commit(self) -> None:
        self._git(self.folder, "add", "-A")
        who = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        self._git(self.folder, *who, "commit", "-qm", "test")

    def dvc(self, *words: str) -> str:
        return self.run(sys.executable, "-m", "dvc", *words)

    def run(self, *command: str) -> str:
        """What a command says; it has to succeed."""
        # Unbuffered: what papers say that run side by side mixes by lines, not within one.
        environment = dict(os.environ, DVC_NO_ANALYTICS="1", PYTHONUNBUFFERED="1")
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        environment.pop("KDLIB_HEADLESS", None)
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        # Where papers run side by side, what went wrong need not stand at the end.
        wrong = re.findall(r"^ERROR.*|^.*FAILED in.*", done.stdout, re.M)
        assert done.returncode == 0, "\n".join([done.stdout[-8000:], *wrong])
        return done.stdout

    def would_run(self) -> set[str]:
        """Groups of stages that `dvc repro` would run now."""
        return ran(self.dvc("repro", "--dry"))

    @staticmethod
    def _git(folder: Path, *words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=folder, stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout


def ran(output: str) -> set[str]:
    return {name.split("@")[0] for name in re.findall(r"Running stage '([^']+)'", output)}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The clone after its first `make repro`, which works on the papers side by side."""
    made = Clone(tmp_path_factory.mktemp("clone"))
    made.first = made.run("make", "-o", "data", "repro")  # -o: as if its data were there
    made.commit()
    return made


COUNTS = {"funmatch": 12, "structured": 5, "imitation": 8, "affinity": 15}  # records by paper


@pytest.mark.slow
def test_first_repro_runs_everything(clone, stages):
    main = {name.split("@")[0] for name in stages if "evidence/" not in name}
    assert ran(clone.first) == main
    for paper, count in COUNTS.items():
        records = list((clone.folder / f"results/{paper}/records/smoke").rglob("*.json"))
        assert len(records) == count
        for record in records:
            assert json.loads(record.read_text())["scale"] == "smoke"
    written = ("funmatch/smoke/agreement", "funmatch/smoke/summary", "funmatch/smoke/det-summary")
    written += tuple(f"{paper}/smoke/summary" for paper in ("structured", "imitation", "affinity"))
    for folder in written:
        assert list((clone.folder / "results" / folder).iterdir())
    for run in ("pretrain", "teacher", "start", "supervised", "distil", "matching"):
        folder = clone.folder / f"runs/smoke/funmatch-seg-{run}/seed-0"
        assert (folder / "notebook.ipynb").is_file()
        assert str(clone.folder) not in (folder / "model.json").read_text()
    critic = (clone.folder / "runs/smoke/structured-pi-pa-ho/seed-0/history.csv").read_text()
    assert {"pixelwise", "pairwise", "holistic", "critic"} <= set(critic.splitlines()[0].split(","))


@pytest.mark.slow
def test_second_repro_does_nothing(clone):
    said = clone.dvc("repro")
    assert not ran(said)
    assert "Data and pipelines are up to date." in said


@pytest.mark.slow
def test_looking_at_notebooks_runs_nothing(clone):
    """Opened, run and saved: other outputs, other times, an executed copy edited."""
    for notebook in clone.folder.rglob("*.ipynb"):
        if ".venv" not in notebook.parts:
            notebook.write_text(notebook.read_text() + "\n")
    for text in (clone.folder / "notebooks/py").rglob("*.py"):
        text.touch()
    assert not clone.would_run()


@pytest.mark.slow
def test_a_docstring_elsewhere_retrains_nothing(clone, stages):
    """In a room that only tables use, in the simulator, and in a paper that is not there yet."""
    pages = ("2_teacher", "3_student")
    trains = {m for page in pages for m in _modules(clone, f"funmatch/{page}")}
    tables = _modules(clone, stages["funmatch-results"][1][0][len("notebooks/py/") : -len(".py")])
    only_tables = sorted(d for d in tables - trains if d.startswith("kdlib/report/"))
    (clone.folder / "kdlib/losses/another_paper.py").write_text('"""Another paper."""\n')
    clone.edit("kdlib/simulate/__init__.py", r'\A"""', '"""Said otherwise. ')
    assert ran(clone.dvc("repro", "code")) == {"code"}
    assert not clone.would_run()
    clone.edit(only_tables[0], r'\A"""', '"""Said otherwise. ')
    assert ran(clone.dvc("repro", "code")) == {"code"}
    tables = {"funmatch-results", "funmatch-det-results", "funmatch-agreement"}
    tables |= {"structured-results", "imitation-results", "affinity-results"}
    assert "funmatch-results" in clone.would_run() <= tables
    subprocess.run(["git", "checkout", "-q", "."], cwd=clone.folder, check=True)
    (clone.folder / "kdlib/losses/another_paper.py").unlink()
    clone.dvc("repro", "code")


def _modules(clone: Clone, page: str) -> set[str]:
    return set(json.loads((clone.folder / f"runs/code/{page}.json").read_text()))


@pytest.mark.slow
def test_settings_of_another_run_or_scale_retrain_nothing(clone):
    clone.edit("params.yaml", r"^    title: Teacher, supervised", "    title: Another title")
    clone.edit("params.yaml", r"^  gpu: .*", "  gpu:\n    common: {}\n  # gpu")
    clone.edit("params.yaml", r"^  # gpu\n    common:.*\n      schedule: .*", "")
    inputs = {f"{paper}-inputs" for paper in COUNTS}
    assert ran(clone.dvc("repro", *inputs)) == inputs
    assert not clone.would_run()
    subprocess.run(["git", "checkout", "-q", "params.yaml"], cwd=clone.folder, check=True)


@pytest.mark.slow
def test_settings_of_a_run_retrain_it_and_what_follows(clone):
    """By `dvc exp run -S`: the teacher and the students, not the frames nor the pretraining."""
    changed = "runs.funmatch-seg-teacher.schedule.lr=0.002"
    said = clone.dvc("exp", "run", "-S", changed, "funmatch-teacher")
    assert ran(said) == {"funmatch-inputs", "funmatch-teacher"}
    after = clone.would_run()
    assert "funmatch-student" in after
    assert not after & {"funmatch-frames", "funmatch-pretrain"}
