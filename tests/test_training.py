"""The loop: the same bits again, after a kill too; nothing lost when something breaks."""

import csv
import dataclasses
import errno
import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from processes import in_two

from kdlib import checkpoint, config, methods, models, resuming, runtime, training
from kdlib.schedule import poly_lr
from kdlib.teacher import Teacher

ROOT = Path(__file__).parents[1]
SIZE = (32, 40)
CLASSES = 3
LOG_EVERY = 4


class CrashError(RuntimeError):
    """What ends a run in the middle in these tests."""


class Squares:
    """Images of two colours whose classes follow from the colour; made on the fly from a number.

    With `stop`, reading that many images in this process raises, as a crash would.
    """

    def __init__(self, count: int = 12, stop: int | None = None):
        self.count, self.stop, self.reads = count, stop, 0

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        self.reads += 1
        if self.stop is not None and self.reads > self.stop:
            raise CrashError(f"image {self.stop}")
        numbers = np.random.default_rng(index)
        label = np.zeros(SIZE, np.uint8)
        y, x = numbers.integers(0, 12), numbers.integers(0, 20)
        label[y : y + 12, x : x + 20] = 1 + index % 2
        colours = np.array([[60, 60, 60], [220, 40, 40], [40, 60, 220]], np.uint8)
        noise = numbers.integers(0, 30, (*SIZE, 3), dtype=np.uint8)
        return colours[label] + noise, label


def make_run(method: str | config.Method = "supervised", **schedule) -> config.Run:
    subset = config.Subset("train")
    plan = {"steps": 14, "batch": 4, "lr": 4e-3, "warmup": 2, "workers": 0, "save_every_s": 0.0}
    return config.Run(
        name="toy",
        scale="smoke",
        seed=0,
        data=config.Data("bdd100k", "nowhere", SIZE, labelled=subset, report=subset),
        method=method if isinstance(method, config.Method) else config.Method(method),
        schedule=config.Schedule(**{**plan, "precision": "float32", **schedule}),
        augment=config.Augment(zoom=(1.0, 1.4), colour=0.1),
    )


def network(word: str = "student", **options):
    torch.manual_seed(runtime.seed_for(0, word))
    shape = {"blocks": (1, 1), "width": 4, "output_stride": 4, "stem": "small", **options}
    return models.build("pspnet", CLASSES, **shape)


def sure_teacher() -> Teacher:
    """A teacher whose logits spread as a trained network's do: the critic divides by the spread."""
    made = network("teacher")
    with torch.no_grad():
        made.classifier.weight *= 300
    return Teacher(made, name="t", score=0.0)


def train(folder: Path, run: config.Run, source=None, *, student=None, **options):
    method = methods.build(run.method, None, CLASSES)
    return training.train(
        run,
        network() if student is None else student,
        method,
        Squares() if source is None else source,
        fabric=runtime.fabric(run.schedule.precision),
        resume=folder,
        teacher=sure_teacher() if method.needs_teacher else None,
        **options,
    )


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """A look at the loss, and a resume point, every few steps; one thread on shared machines."""
    monkeypatch.setattr(training, "LOG_EVERY", LOG_EVERY)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def same(one: training.Trained, other: training.Trained) -> bool:
    assert one.weights.keys() == other.weights.keys()
    return one.history == other.history and all(
        torch.equal(one.weights[key], other.weights[key]) for key in one.weights
    )


def test_the_same_run_gives_the_same_bits(tmp_path):
    first, again = (train(tmp_path / name, make_run("matching")) for name in "ab")
    assert same(first, again)
    other = dataclasses.replace(make_run("matching"), seed=1)
    assert not same(first, train(tmp_path / "c", other))
    # worker processes and resume points change no bit either
    quiet = make_run("matching", workers=1, save_every_s=1e6)
    assert same(first, train(tmp_path / "d", quiet))
    assert not (tmp_path / "d").exists()


CRITIC = config.Method(
    "structured",
    structured=config.Structured(
        ("pixelwise", "pairwise", "holistic"), "journal-script", critic_blocks=1
    ),
)
VARIANTS = {
    "adamw": {},
    "adamw, clipped, matching": {"clip_norm": 0.5, "method": "matching"},
    "sgd": {"optimiser": "sgd", "lr": 0.05, "decay": "poly"},
    "averaged": {"ema": 0.9},
    "worker process": {"workers": 1},
    "with a critic": {"method": CRITIC},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, options):
    run = make_run(**options)
    whole = train(tmp_path / "whole", run)
    # before any resume point, after the first, and after the second
    for stop in (1, 22, 30) if run.schedule.workers == 0 else (22,):
        with pytest.raises(CrashError):
            train(tmp_path / "killed", run, Squares(stop=stop))
    state, _ = checkpoint.load(tmp_path / "killed" / "state.safetensors")
    assert int(state["step"]) >= LOG_EVERY
    resumed = Squares()
    assert same(whole, train(tmp_path / "killed", run, resumed))
    if run.schedule.workers == 0:
        assert resumed.reads == (run.schedule.steps - int(state["step"])) * run.schedule.batch


SCRIPT = """
    import sys, torch
    sys.path[:0] = {paths!r}
    import test_training as toy
    from kdlib import training
    torch.set_num_threads(1)
    training.LOG_EVERY = toy.LOG_EVERY
    {body}
"""


def script(folder: Path, body: str) -> Path:
    paths = [str(ROOT), str(ROOT / "tests")]
    path = folder / "script.py"
    body = textwrap.indent(textwrap.dedent(body), "    ").strip()
    path.write_text(textwrap.dedent(SCRIPT.format(paths=paths, body=body)))
    return path


def test_a_killed_process_loses_nothing(tmp_path):
    body = f"""
    import os, signal, pathlib
    class Deadly(toy.Squares):
        def read(self, index):
            if self.reads == 41:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().read(index)
    toy.train(pathlib.Path({str(tmp_path / "killed")!r}), toy.make_run(), Deadly())
    """
    done = subprocess.run(
        [sys.executable, script(tmp_path, body)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    state, _ = checkpoint.load(tmp_path / "killed" / "state.safetensors")
    assert int(state["step"]) == 8
    assert same(train(tmp_path / "whole", make_run()), train(tmp_path / "killed", make_run()))


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_resume_point(tmp_path, clip_norm):
    class Poisoned(methods.Supervised):
        def terms(self, views, student, teacher=None):
            terms = super().terms(views, student)
            calls.append(0)
            return terms | {"cross_entropy": terms["cross_entropy"] / (len(calls) != 10)}

    calls = []
    run = make_run(clip_norm=clip_norm)
    with pytest.raises(training.TrainingError, match="between steps 8 and 11") as error:
        training.train(
            run,
            network(),
            Poisoned(),
            Squares(),
            fabric=runtime.fabric("float32"),
            resume=tmp_path,
        )
    assert "cross_entropy inf" in str(error.value) or "cross_entropy nan" in str(error.value)
    assert "schedule.lr" in str(error.value)
    state, _ = checkpoint.load(tmp_path / "state.safetensors")
    assert int(state["step"]) == 8
    assert all(v.isfinite().all() for v in state.values() if v.is_floating_point())
    assert same(train(tmp_path / "whole", run), train(tmp_path, run))


def test_weights_spoilt_by_a_sound_loss_never_reach_a_resume_point(tmp_path):
    class Spoiling(methods.Supervised):
        def terms(self, views, student, teacher=None):
            terms = super().terms(views, student)
            calls.append(0)
            if len(calls) == 2 * LOG_EVERY:  # the step before a look: finite loss, NaN gradient
                terms["cross_entropy"] += (student.logits.mean() * 0).sqrt()
            return terms

    calls = []
    with pytest.raises(training.TrainingError, match=r"between steps 4 and 7 .* weights nan"):
        training.train(
            make_run(),
            network(),
            Spoiling(),
            Squares(),
            fabric=runtime.fabric("float32"),
            resume=tmp_path,
        )
    state, _ = checkpoint.load(tmp_path / "state.safetensors")
    assert int(state["step"]) == 4
    assert all(v.isfinite().all() for v in state.values() if v.is_floating_point())


def test_a_critic_that_blows_up_is_named_with_its_cure(tmp_path):
    class Exploding(methods.Structured):
        def follow(self, views, student, teacher, step):
            if step == 9:
                with torch.no_grad():
                    next(self.critic.parameters()).fill_(math.inf)
            return super().follow(views, student, teacher, step)

    run = make_run(CRITIC)
    with pytest.raises(training.TrainingError, match="between steps 8 and 11") as error:
        training.train(
            run,
            network(),
            Exploding(CRITIC.structured, CLASSES),
            Squares(),
            fabric=runtime.fabric("float32"),
            resume=tmp_path,
            teacher=sure_teacher(),
        )
    assert "critic nan" in str(error.value) and "critic: hinge" in str(error.value)
    state, _ = checkpoint.load(tmp_path / "state.safetensors")
    assert int(state["step"]) == 8
    assert all(v.isfinite().all() for v in state.values() if v.is_floating_point())


def test_a_full_disk_leaves_the_old_resume_point(tmp_path, monkeypatch):
    run, save_file, calls = make_run(), checkpoint.save_file, []

    def full(tensors, path):
        calls.append(path)
        if len(calls) == 2:
            Path(path).write_bytes(b"the first half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save_file(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        train(tmp_path / "full", run)
    monkeypatch.undo()
    monkeypatch.setattr(training, "LOG_EVERY", LOG_EVERY)
    names = sorted(path.name for path in (tmp_path / "full").iterdir())
    assert names == ["state.json", "state.safetensors"]
    state, _ = checkpoint.load(tmp_path / "full" / "state.safetensors")
    assert int(state["step"]) == LOG_EVERY
    assert same(train(tmp_path / "whole", run), train(tmp_path / "full", run))


def test_a_resume_point_that_only_some_processes_find_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Fabric, "broadcast", lambda self, first: first + 10)
    with pytest.raises(training.TrainingError, match="file system that all nodes share"):
        train(tmp_path / "own", make_run())


def test_a_resume_point_of_another_network_is_refused(tmp_path):
    with pytest.raises(CrashError):
        train(tmp_path, make_run(), Squares(stop=30))
    with pytest.raises(checkpoint.CheckpointError, match=r"state\.safetensors: made for another"):
        train(tmp_path, make_run(), student=network(width=8))


class Changing(methods.Supervised):
    """The auxiliary head counts nothing in steps 0 to 3, then 0.5, from step 5 on 0.25."""

    step = 0

    @property
    def weights(self):
        factor = 0.0 if self.step < 4 else 0.5 if self.step < 5 else 0.25
        return {"cross_entropy": 1.0, "auxiliary": factor}

    def follow(self, views, student, teacher, step):
        type(self).step = step + 1
        return {}


def test_weights_that_change_between_two_rows_count_as_they_held(tmp_path, monkeypatch):
    """Rows of four steps hold the means of rows of one, also where a weight changes in between."""
    histories = []
    for every in (1, LOG_EVERY):
        monkeypatch.setattr(training, "LOG_EVERY", every)
        monkeypatch.setattr(Changing, "step", 0)
        run, fabric = make_run(steps=10), runtime.fabric("float32")
        folder = tmp_path / str(every)
        student, source = network(aux=True), Squares()
        done = training.train(run, student, Changing(), source, fabric=fabric, resume=folder)
        histories.append(done.history)
    single, rows = histories
    factors = [0.0] * 4 + [0.5] + [0.25] * 5
    for row, factor in zip(single, factors, strict=True):
        assert row["auxiliary_weighted"] == factor * row["auxiliary"]
    for row, steps in zip(rows, (single[:4], single[4:8], single[8:]), strict=True):
        for key in ("cross_entropy", "auxiliary"):
            expected = sum(step[f"{key}_weighted"] for step in steps) / len(steps)
            assert row[f"{key}_weighted"] == pytest.approx(expected, rel=1e-6)
        total = row["cross_entropy_weighted"] + row["auxiliary_weighted"]
        assert row["loss"] == pytest.approx(total, rel=1e-6)
    assert rows[0]["auxiliary_weighted"] == 0 < rows[0]["auxiliary"]


def test_rows_hold_each_term_before_and_after_its_weight(tmp_path):
    run = make_run("matching")
    student = network(aux=True)
    live = tmp_path / "live"
    history = train(tmp_path / "resume", run, student=student, live=live).history
    assert [row["step"] for row in history] == [4, 8, 12, 14]
    for row in history:
        assert list(row)[:2] == ["step", "lr"]
        assert row["lr"] == training.learning_rate(run.schedule, row["step"] - 1)
        assert row["matching_weighted"] == row["matching"]
        assert row["auxiliary_weighted"] == pytest.approx(0.4 * row["auxiliary"])
        total = row["matching_weighted"] + row["auxiliary_weighted"]
        assert row["loss"] == pytest.approx(total, rel=1e-5)

    training.write_history(tmp_path / "history.csv", history)
    with open(tmp_path / "history.csv", newline="") as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert rows == history
    with open(live / "plots" / "metrics" / "loss.tsv", newline="") as file:
        logged = [float(row["loss"]) for row in csv.DictReader(file, delimiter="\t")]
    assert logged == pytest.approx([row["loss"] for row in history])


def test_the_running_log_of_a_resumed_run_has_no_doubles(tmp_path):
    run, live = make_run(), tmp_path / "live"
    with pytest.raises(CrashError):
        train(tmp_path / "resume", run, Squares(stop=50), live=live)
    train(tmp_path / "resume", run, live=live)
    with open(live / "plots" / "metrics" / "lr.tsv", newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file, delimiter="\t")]
    assert steps == [4, 8, 12, 14]


@pytest.mark.parametrize("method", ["supervised", "distil"])
def test_the_loss_falls(tmp_path, method):
    run = make_run(method, steps=60, lr=2e-2)
    history = train(tmp_path, run).history
    assert history[-1]["loss"] < 0.6 * history[0]["loss"]


def test_averaged_weights_are_the_result_where_asked_for(tmp_path):
    run, seen = make_run(ema=0.8, steps=3), []
    student = network()
    start = {key: value.clone() for key, value in student.state_dict().items()}

    class Watching(methods.Supervised):
        def terms(self, views, output, teacher=None):
            seen.append({key: value.clone() for key, value in student.state_dict().items()})
            return super().terms(views, output)

    fabric = runtime.fabric("float32")
    trained = training.train(run, student, Watching(), Squares(), fabric=fabric, resume=tmp_path)
    key = "classifier.weight"
    expected = start[key]
    for weights in [*(step[key] for step in seen[1:]), student.state_dict()[key]]:
        expected = 0.8 * expected + 0.2 * weights
    torch.testing.assert_close(trained.weights[key], expected)
    assert not torch.equal(trained.weights[key], student.state_dict()[key])
    counter = next(k for k in start if k.endswith("num_batches_tracked"))
    assert int(trained.weights[counter]) == 3


def clipped(gradients: list[torch.Tensor | None], **schedule) -> list[torch.Tensor | None]:
    """What is left of the gradients of so many parameters."""
    module = torch.nn.ParameterList(torch.zeros(3) for _ in gradients)
    fabric, plan = runtime.fabric("float32"), make_run(**schedule).schedule
    module, optimizer = fabric.setup(module, training.make_optimizer(plan, module))
    for parameter, gradient in zip(module.parameters(), gradients, strict=True):
        parameter.grad = None if gradient is None else gradient.clone()
    training._clip(plan, module, optimizer, fabric)
    return [parameter.grad for parameter in module.parameters()]


def test_gradients_are_clipped_together_or_each_by_itself():
    large, small = torch.tensor([30.0, 0.0, 40.0]), torch.tensor([0.3, 0.4, 0.0])
    parameters = [torch.zeros(3, requires_grad=True) for _ in "ab"]
    for parameter, gradient in zip(parameters, (large, small), strict=True):
        parameter.grad = gradient.clone()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    for got, parameter in zip(clipped([large, small], clip_norm=1.0), parameters, strict=True):
        assert torch.equal(got, parameter.grad)
    assert got.norm() == pytest.approx(0.01, rel=1e-3)  # 0.5 of a common norm of 50
    first, second, none = clipped([large, small, None], clip_norm=1.0, clip_each=True)
    torch.testing.assert_close(first, large / 50)
    assert first.norm() <= 1 and torch.equal(second, small) and none is None
    assert clipped([large * torch.nan], clip_norm=1.0, clip_each=True)[0].isnan().any()


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_each_gradient_of_a_run_is_clipped(tmp_path, monkeypatch, precision):
    norms, clip = [], training._clip

    def watched(plan, module, optimizer, fabric):
        clip(plan, module, optimizer, fabric)
        norms.extend(float(p.grad.norm()) for p in module.parameters() if p.grad is not None)

    monkeypatch.setattr(training, "_clip", watched)
    run = make_run(steps=3, clip_norm=0.02, clip_each=True, precision=precision)
    done = train(tmp_path / "a", run)
    assert max(norms) <= 0.02 * (1 + 1e-5) and min(norms) < 0.019
    assert sum(norm > 0.0199 for norm in norms) > 3  # one common norm would leave all below
    together = make_run(steps=3, clip_norm=0.02, precision=precision)
    assert not same(done, train(tmp_path / "b", together))


def test_learning_rates_by_hand():
    plan = config.Schedule(steps=100, batch=1, lr=2.0, warmup=4)
    rates = [training.learning_rate(plan, step) for step in (0, 3, 50, 75, 99)]
    cosine = [1 + math.cos(math.pi * step / 100) for step in (0, 3, 50, 75, 99)]
    assert rates == pytest.approx([0.25 * cosine[0], *cosine[1:]])
    assert rates[0] == 0.5 and rates[2] == pytest.approx(1.0) and 0 < rates[-1] < 1e-3
    poly = dataclasses.replace(plan, decay="poly", warmup=0)
    assert training.learning_rate(poly, 0) == 2.0
    assert training.learning_rate(poly, 50) == pytest.approx(2 * 0.5**0.9)
    assert poly_lr(0.01, 40000, 80000) == pytest.approx(0.005358867)
    assert poly_lr(0.01, 80000, 80000) == poly_lr(0.01, 80001, 80000) == 0.0


def test_adamw_decays_kernels_only():
    student = network()
    plan = config.Schedule(steps=1, batch=1, lr=1e-3, weight_decay=0.2)
    decayed, spared = training.make_optimizer(plan, student).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.2, 0.0)
    assert all(p.ndim == 4 for p in decayed["params"])
    assert all(p.ndim == 1 for p in spared["params"])
    count = len(decayed["params"]) + len(spared["params"])
    assert count == len(list(student.parameters()))
    (group,) = training.make_optimizer(
        dataclasses.replace(plan, optimiser="sgd"), student
    ).param_groups
    assert (group["momentum"], group["weight_decay"]) == (0.9, 0.2)
    assert len(group["params"]) == count


def test_the_resume_folder_changes_with_what_it_is_made_from():
    run = make_run()
    folders = {
        resuming.folder_of(run, Path("."), "data"),
        resuming.folder_of(run, Path("."), "other data"),
        resuming.folder_of(dataclasses.replace(run, seed=1), Path("."), "data"),
        resuming.folder_of(make_run(lr=1e-3), Path("."), "data"),
        resuming.folder_of(dataclasses.replace(run, name="toy-2"), Path("."), "data"),
    }
    assert len(folders) == 5
    assert resuming.folder_of(make_run(workers=3), Path("."), "data") in folders


def test_a_stepped_rate_is_a_tenth_after_each_drop():
    plan = make_run(steps=20, lr=0.5, warmup=0, decay="step", drops=(0.5, 0.75)).schedule
    rates = [training.learning_rate(plan, step) for step in (0, 9, 10, 14, 15, 19)]
    assert rates == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005, 0.005])


def test_two_processes_train_like_one(tmp_path):
    body = f"""
    import os
    import pathlib
    import test_training as toy
    from kdlib import checkpoint, training
    training.LOG_EVERY = toy.LOG_EVERY
    folder = pathlib.Path({str(tmp_path)!r})
    student = toy.network(norm="group", dropout=0.0)
    done = toy.train(folder / "resume", toy.make_run("distil", steps=6), student=student)
    if os.environ["RANK"] == "0":
        notes = {{"history": done.history, "samples": done.samples}}
        checkpoint.save(folder / "two.safetensors", done.weights, notes)
    """
    in_two(tmp_path, body)
    weights, notes = checkpoint.load(tmp_path / "two.safetensors")
    run = make_run("distil", steps=6)
    one = train(tmp_path / "one", run, student=network(norm="group", dropout=0.0))
    assert notes["samples"] == one.samples == 24
    for key, value in one.weights.items():
        torch.testing.assert_close(weights[key], value, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(one.history, notes["history"], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-4)
