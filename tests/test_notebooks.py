"""Every notebook runs as its reader would run it, and is stored as its tests need it."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import nbformat
import pytest

from kdlib import unlabelled
from kdlib.config import load_run
from kdlib.notebook import NotebookError, check_tree, launch, pairs

ROOT = Path(__file__).resolve().parents[1]
TEXTS = pairs.texts(ROOT)
IDS = [text.relative_to(ROOT / "notebooks/py").as_posix() for text in TEXTS]

DEMO = """\
# %% [markdown]
# # A demo

# %% tags=["parameters"]
run = "a"
scale = "smoke"
seed = 0

# %% tags=["nbval-check-output"]
print(run, scale, seed)

# %% [markdown]
# ## The end

# %%
if seed == 7:
    raise ValueError("seven is wrong")
if seed == 9:
    __import__("os")._exit(9)
"""
PARAMS = """\
scale: smoke
seeds: [0]
scales: {smoke: {}, sample: {}}
runs:
  a: &block
    data: {layout: bdd100k, root: data, size: [8, 16], labelled: {split: train},
           report: {split: val}}
  once: {<<: *block, shared: true}
"""


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A tiny repository with one notebook; its kdlib is the one under test."""
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "jupytext.toml").write_bytes((ROOT / "jupytext.toml").read_bytes())
    (tmp_path / "notebooks/py/demo").mkdir(parents=True)
    text = tmp_path / "notebooks/py/demo/1_demo.py"
    text.write_text(DEMO)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- The notebooks that are there ------------------------------------------------------------------


def test_there_are_notebooks():
    assert TEXTS, "no text under notebooks/py"
    stored = {
        p for p in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts
    }
    assert stored == {pairs.notebook_of(text, ROOT) for text in TEXTS}


@pytest.mark.parametrize("text", TEXTS, ids=IDS)
def test_text_and_notebook_are_in_order(text):
    assert not pairs.problems(text, ROOT)


# Papers side by side. A page makes the runs that it needs and that are missing: so the pages of a
# paper follow one another, and those of structured distillation follow the one whose weights they
# start from.
LANES = (("funmatch", "imitation"), ("affinity", "structured"))
FIRST = {"structured": ROOT / "notebooks/py/funmatch/2_teacher.py"}


def test_every_paper_has_a_lane():
    assert {text.parent.name for text in TEXTS} == {paper for lane in LANES for paper in lane}


@pytest.fixture(scope="module")
def nbval(request):
    """nbval of every page that a test asks for, at work in the background: text -> its future."""
    tests = [item for item in request.session.items if "nbval" in item.fixturenames]
    wanted = {item.callspec.params["text"] for item in tests}
    unlabelled.require_data(load_run("funmatch-frames", scale="smoke"), ROOT)  # not by two at once
    pages: dict[Path, Future] = {}
    with contextlib.ExitStack() as stack:
        for papers in LANES:
            lane = stack.enter_context(ThreadPoolExecutor(1))
            for text in (t for paper in papers for t in TEXTS if t.parent.name == paper):
                if text in wanted:
                    pages[text] = lane.submit(_nbval, text, pages.get(FIRST.get(text.parent.name)))
        yield pages
        for page in pages.values():
            page.cancel()


def _nbval(text: Path, first: Future | None) -> subprocess.CompletedProcess:
    """nbval-lax at the default parameters, in the notebook's own folder, as JupyterLab runs it."""
    if first is not None:
        wait([first])
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout", "300"),
            *("--nbval-sanitize-with", str(ROOT / "tests/nbval_sanitize.cfg")),
            str(pairs.notebook_of(text, ROOT)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS, ids=IDS)
def test_notebook_runs_and_prints_what_is_stored(text, nbval):
    done = nbval[text].result()
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.slow
def test_plain_papermill(tmp_path):
    """papermill's own command line on a stored notebook, from the root."""
    text = TEXTS[0]
    name = pairs.parameters(pairs.read_text(text), str(text))["run"]
    out = tmp_path / "out.ipynb"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "papermill", "--no-progress-bar"),
            *(str(pairs.notebook_of(text, ROOT)), str(out), "-p", "run", name),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    tags = [t for cell in nbformat.read(out, 4).cells for t in cell.metadata.get("tags", [])]
    assert "injected-parameters" in tags


# -- Text and notebook -----------------------------------------------------------------------------


def test_sync_makes_the_same_bytes_twice_and_keeps_outputs(tree):
    text = tree / "notebooks/py/demo/1_demo.py"
    assert pairs.sync(text, tree)
    target = pairs.notebook_of(text, tree)
    first = target.read_bytes()
    target.unlink()
    pairs.sync(text, tree)
    assert target.read_bytes() == first
    assert not pairs.sync(text, tree)

    notebook = nbformat.read(target, 4)
    notebook.cells[2].outputs = [nbformat.v4.new_output("stream", text="a smoke 0\n")]
    notebook.cells[2].execution_count = 2
    target.write_text(pairs.dump(notebook))
    text.write_text(text.read_text().replace("# ## The end", "# ## The very end"))
    assert pairs.sync(text, tree)
    after = nbformat.read(target, 4)
    assert after.cells[2].outputs[0].text == "a smoke 0\n"
    assert after.cells[3].source == "## The very end"


def test_a_moved_cell_keeps_its_id_and_twins_differ(tree):
    text = tree / "notebooks/py/demo/1_demo.py"
    before = [cell.id for cell in pairs.read_text(text).cells]
    text.write_text("# %%\nnew = 1\n\n" + DEMO + "\n# %%\nnew = 1\n")
    after = [cell.id for cell in pairs.read_text(text).cells]
    assert after[1:-1] == before
    assert len(set(after)) == len(after)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.replace(' tags=["parameters"]', ""), "must be tagged `parameters`"),
        (lambda s: s.replace("seed = 0", "seed = 1 + 1"), "only `name = constant`"),
        (lambda s: s + "\n# %%\n" + "x = 1\n" * 16, "16 lines; 15 at most"),
        (lambda s: s + '\n# %%\nx = "/home/someone/x"\n', "absolute path"),
        (lambda s: s.replace("# ## The end", "# ## Another end"), "differs from its text"),
        (lambda s: s.replace("print(run, scale, seed)", "print(run)"), "has no stored output"),
        (lambda s: s.replace("# %%\nif", "#%%\nif"), "not in the form"),
    ],
)
def test_check_finds(tree, change, said):
    text = tree / "notebooks/py/demo/1_demo.py"
    pairs.sync(text, tree)
    target = pairs.notebook_of(text, tree)
    notebook = nbformat.read(target, 4)
    notebook.cells[2].outputs = [nbformat.v4.new_output("stream", text="a smoke 0\n")]
    notebook.cells[2].execution_count = 2
    target.write_text(pairs.dump(notebook))
    assert not pairs.problems(text, tree)
    text.write_text(change(text.read_text()))
    found = "\n".join(pairs.problems(text, tree))
    if said == "has no stored output":
        assert "differs from its text" in found
        pairs.sync(text, tree)
        found = "\n".join(pairs.problems(text, tree))
    assert said in found


@contextlib.contextmanager
def contents_api(folder, log):
    """JupyterLab's server on a folder; gives a function that calls its contents API."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "jupyter", "server", "--no-browser", f"--port={port}"),
        *("--ip=127.0.0.1", "--allow-root", "--IdentityProvider.token="),
        *("--ServerApp.disable_check_xsrf=True", f"--ServerApp.root_dir={folder}"),
    ]
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call(method, path, body=None):
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/{path}",
            method=method,
            data=json.dumps(body).encode() if body else None,
            headers={"Content-Type": "application/json"},
        )
        return json.load(direct.open(request, timeout=30))

    with open(log, "w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder)
        try:
            until = time.monotonic() + 60
            while True:
                try:
                    call("GET", "status")
                    break
                except OSError:
                    assert server.poll() is None and time.monotonic() < until, log.read_text()
                    time.sleep(0.2)
            yield call
        finally:
            server.kill()
            server.wait()


def test_open_and_save_in_jupyterlab_leaves_the_text_alone(tree, tmp_path_factory):
    """The text is what DVC hashes: looking at a notebook must not retrain anything."""
    text = tree / "notebooks/py/demo/1_demo.py"
    pairs.sync(text, tree)
    path, before = "contents/notebooks/demo/1_demo.ipynb", text.read_bytes()
    with contents_api(tree, tmp_path_factory.mktemp("server") / "log") as call:
        for age in (-5000, 5000):  # git gives files any order of times
            os.utime(
                text, (text.stat().st_atime, pairs.notebook_of(text, tree).stat().st_mtime + age)
            )
            notebook = call("GET", f"{path}?type=notebook&content=1")["content"]
            notebook["metadata"]["language_info"] = {"name": "python", "version": "3.99"}
            notebook["cells"][2]["outputs"] = [
                {"output_type": "stream", "name": "stdout", "text": "a smoke 0\n"}
            ]
            for cell in notebook["cells"]:
                cell["metadata"]["collapsed"] = True
            body = {"type": "notebook", "format": "json", "content": notebook}
            call("PUT", path, body)
            assert text.read_bytes() == before
        notebook["cells"][3]["source"] = "## Another end"
        call("PUT", path, body)
        assert text.read_text() == DEMO.replace("The end", "Another end")


# -- The launcher ----------------------------------------------------------------------------------


@pytest.fixture
def run(tree, monkeypatch, capsys):
    """Run the demo through the launcher: exit code, what it printed, the executed notebook."""
    monkeypatch.setattr(launch, "check_tree", lambda root: None)
    monkeypatch.setattr(launch, "_CHECK", "pass")

    def go(**given):
        code = launch.run(tree / "notebooks/py/demo/1_demo.py", given)
        seed = given.get("seed", 0)
        place = tree / f"runs/{given.get('scale', 'smoke')}/{given.get('run', 'a')}/seed-{seed}"
        assert [p.name for p in place.iterdir()] == ["notebook.ipynb"]
        return code, capsys.readouterr().out, nbformat.read(place / "notebook.ipynb", 4)

    return go


def test_launcher_passes_typed_parameters(run):
    code, said, executed = run(run="a", scale="sample", seed=3)
    assert code == 0
    assert "    a sample 3\n" in said
    assert "[a sample seed 3] cell 6 of 7: The end" in said
    assert executed.metadata.papermill["input_path"] == "notebooks/py/demo/1_demo.py"
    assert not any("check" in tag for c in executed.cells[:1] for tag in c.metadata.get("tags", []))


def test_launcher_keeps_a_failed_notebook_and_shows_the_error_once(run):
    code, said, executed = run(seed=7)
    assert code == 1
    assert said.count("ValueError: seven is wrong") == 1
    assert "\x1b" not in said
    assert any(o.output_type == "error" for c in executed.cells for o in c.get("outputs", []))


def test_launcher_tells_of_a_dead_kernel(run):
    code, said, _ = run(seed=9)
    assert code == 138
    assert "memory" in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"run": "b"}, "unknown name 'b'"),
        ({"scale": "huge"}, "unknown name 'huge'"),
        ({"sede": 1}, "no parameter 'sede'; its parameters: run, scale, seed"),
        ({"seed": "1"}, "must be int, not '1'"),
    ],
)
def test_launcher_refuses_before_anything_starts(run, tree, given, said):
    from kdlib.config import ConfigError

    with pytest.raises((NotebookError, ConfigError), match=re.escape(said)):
        run(**given)
    assert not (tree / "runs").exists()


def test_a_kdlib_from_elsewhere_is_refused(tree):
    check_tree(ROOT)
    with pytest.raises(NotebookError, match="outside the working tree"):
        check_tree(tree)


def test_shared_runs_have_one_folder(tree):
    values = {"run": "once", "scale": "smoke", "seed": 5}
    text = tree / "notebooks/py/demo/1_demo.py"
    assert launch.folder_of(values, text, tree, False) == Path("runs/smoke/once/seed-0")
    assert launch.folder_of(values, text, tree, True) == Path("runs/smoke/demo-1_demo/seed-5")
