"""Structured distillation as a method: its terms, its critic's steps, and going on after a kill.

Two processes train like one: student and critic alike.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import test_training as toy
import torch
from processes import in_two
from torch import nn

from kdlib import checkpoint, config, methods, runtime, training
from kdlib.data.augment import Views
from kdlib.losses import structured, supervised
from kdlib.methods.structured import WEIGHTS, Structured, feature
from kdlib.models.outputs import SegmentationOutput
from kdlib.runtime import generator

N, C, H, W = 2, 4, 72, 80
ALL = ("pixelwise", "pairwise", "holistic")


def output(word: str, channels: int = 6, stride: int = 4) -> SegmentationOutput:
    def map_of(kind: str, c: int) -> torch.Tensor:
        return torch.randn(N, c, H // stride, W // stride, generator=generator(0, word, kind))

    return SegmentationOutput(
        map_of("logits", C), None, {"pyramid": map_of("pyramid", channels).relu()}
    )


@pytest.fixture
def views():
    labels = torch.randint(0, C, (N, H, W), generator=generator(0, "labels"))
    images = torch.rand(N, 3, H, W, generator=generator(0, "images"))
    return Views(images, labels, torch.ones(N, H, W, dtype=torch.bool))


def method(terms=ALL, weights="journal-script", **settings) -> Structured:
    settings = {"critic_blocks": 2} | settings
    made = Structured(config.Structured(terms, weights, **settings), C)
    made.begin(runtime.fabric("float32"), seed=0, steps=10)
    return made


def test_the_terms_are_the_losses(views):
    student, teacher = output("student"), output("teacher", channels=10)
    terms = method(("pixelwise", "pairwise")).terms(views, student, teacher)
    assert terms.keys() == {"cross_entropy", "pixelwise", "pairwise"}
    expected = supervised.segmentation_ce(student.logits, views.labels)
    assert torch.equal(terms["cross_entropy"], expected)
    expected = structured.pixelwise(student.logits, teacher.logits, variant="journal")
    assert torch.equal(terms["pixelwise"], expected)
    expected = structured.pairwise(student.features["pyramid"], teacher.features["pyramid"])
    assert torch.equal(terms["pairwise"], expected)
    assert method(()).terms(views, student, teacher).keys() == {"cross_entropy"}


def test_published_sets_of_weights():
    """Fact sheet structured_kd 1.5, and the normalisation each factor belongs to."""
    found = {
        name: (one.pixelwise, one.variant, one.pairwise, one.holistic, one.kind)
        for name, one in WEIGHTS.items()
    }
    assert found == {
        "paper": (10.0, "paper", 10.0, 0.1, "wgan-gp"),
        "journal-default": (10.0, "journal", 1.0, 0.1, "wgan-gp"),
        "journal-script": (10.0, "journal", 0.5, 0.1, "wgan-gp"),
        "conference": (1.0, "conference", 1.0, 1.0, "hinge"),
    }
    assert method().weights == {
        "cross_entropy": 1.0, "auxiliary": 0.4, "existence": 0.1,
        "pixelwise": 10.0, "pairwise": 0.5, "holistic": 0.1, "critic": 0.1, "penalty": 0.1,
    }  # fmt: skip
    assert {one.conditional for one in WEIGHTS.values()} == {True, False}


@pytest.mark.parametrize("weights", list(WEIGHTS))
def test_every_set_trains_student_and_critic(views, weights):
    one = method(weights=weights)
    student, teacher = output("student"), output("teacher", channels=10)
    student.logits.requires_grad_()
    student.features["pyramid"].requires_grad_()
    with torch.inference_mode():  # as the loop makes them
        teacher = SegmentationOutput(
            teacher.logits.clone(), None, {"pyramid": teacher.features["pyramid"].clone()}
        )
    before = {k: v.clone() for k, v in one.critic.named_parameters()}
    terms = one.terms(views, student, teacher)
    sum(one.weights[name] * term for name, term in terms.items()).backward()
    assert student.logits.grad.abs().sum() > 0
    assert student.features["pyramid"].grad.abs().sum() > 0
    assert all(torch.equal(before[k], v) for k, v in one.critic.named_parameters())
    assert all(p.grad is None for p in one.critic.parameters())

    logged = one.follow(views, student, teacher, step=0)
    assert set(logged) == ({"critic", "penalty"} if one.kind == "wgan-gp" else {"critic"})
    assert terms.keys() | logged.keys() <= one.weights.keys()
    assert any(not torch.equal(before[k], v) for k, v in one.critic.named_parameters())
    assert one.optimizer.param_groups[0]["lr"] == 4e-4
    one.follow(views, student, teacher, step=10)
    assert one.optimizer.param_groups[0]["lr"] == 0


def test_the_critic_learns_to_tell_them_apart(views):
    one = method(critic="hinge")
    student, teacher = output("student"), output("teacher")
    teacher = teacher._replace(logits=5 * teacher.logits)
    one.steps = 10_000
    for group in one.optimizer.param_groups:
        group["lr"] = 1e-2
    first = float(one.follow(views, student, teacher, 0)["critic"])
    for _ in range(60):
        last = float(one.follow(views, student, teacher, 0)["critic"])
    assert last < 0.7 * first


def test_a_critic_goes_on_where_it_was(views):
    student, teacher = output("student"), output("teacher")

    def steps(one: Structured, which: range) -> list[float]:
        found = []
        for step in which:
            torch.manual_seed(step)  # as the loop does
            found.append(float(sum(one.follow(views, student, teacher, step).values())))
        return found

    whole = method()
    expected = steps(whole, range(4))
    first = method()
    assert steps(first, range(2)) == expected[:2]
    second = method()
    second.restore({key: value.clone() for key, value in first.state().items()})
    assert steps(second, range(2, 4)) == expected[2:]
    for key, value in whole.state().items():
        assert torch.equal(value, second.state()[key]), key


def test_begin_makes_the_same_critic_anew(views):
    one = method()
    start = {key: value.clone() for key, value in one.state().items()}
    one.follow(views, output("student"), output("teacher"), 0)
    one.begin(runtime.fabric("float32"), seed=0, steps=10)
    assert all(torch.equal(start[key], value) for key, value in one.state().items())
    one.begin(runtime.fabric("float32"), seed=1, steps=10)
    assert any(not torch.equal(start[key], value) for key, value in one.state().items())


def test_a_batch_without_labels_has_no_cross_entropy(views):
    student, teacher = output("student"), output("teacher")
    terms = method(("pixelwise",), unlabelled=True).terms(
        replace(views, labels=None), student, teacher
    )
    assert float(terms["cross_entropy"]) == 0 and float(terms["pixelwise"]) > 0
    assert method(unlabelled=True).needs_pool and not method().needs_pool


def test_a_teacher_on_another_grid_is_brought_to_the_students(views):
    student, fine = output("student"), output("teacher", stride=2)
    terms = method(("pixelwise", "pairwise")).terms(views, student, fine)
    averaged = nn.functional.adaptive_avg_pool2d(fine.logits, student.logits.shape[-2:])
    expected = structured.pixelwise(student.logits, averaged)
    torch.testing.assert_close(terms["pixelwise"], expected)


def test_a_window_of_ones_own(views):
    student, teacher = output("student"), output("teacher")
    terms = method(("pairwise",), window=2).terms(views, student, teacher)
    expected = structured.pairwise(
        student.features["pyramid"], teacher.features["pyramid"], window=2
    )
    assert torch.equal(terms["pairwise"], expected)


def test_a_network_without_a_known_feature_is_named():
    with pytest.raises(ValueError, match=r"'pyramid', 'level3'.*stage1"):
        feature(SegmentationOutput(torch.zeros(1, 2, 3, 4), None, {"stage1": torch.zeros(1)}))


def test_settings_and_method_agree():
    block = config.Structured((), "paper")
    made = methods.build(config.Method("structured", structured=block), None, C)
    assert isinstance(made, Structured) and made.settings == block
    with pytest.raises(config.ConfigError, match="structured needs this block"):
        config.Method("structured")
    with pytest.raises(config.ConfigError, match="supervised has none, only structured"):
        config.Method("supervised", structured=block)


def test_the_cure_is_said_where_the_critic_may_blow_up():
    assert "hinge" in method().cure
    assert method(critic="hinge").cure == "" and method(("pixelwise",)).cure == ""


def train_one(folder: Path, weights: str) -> None:
    """Train the toy run of test_training under all three terms; files of what came out.

    Group norm and no dropout, so that the student's own numbers do not depend on the processes.
    """
    block = config.Structured(ALL, weights, critic_blocks=1)
    run = toy.make_run(config.Method("structured", structured=block), steps=6)
    fabric, trained = runtime.fabric("float32"), methods.build(run.method, None, toy.CLASSES)
    done = training.train(
        run,
        toy.network(norm="group", dropout=0.0),
        trained,
        toy.Squares(),
        fabric=fabric,
        resume=folder / "resume",
        teacher=toy.sure_teacher(),
    )
    notes = {"history": done.history}
    name = f"{weights}-{fabric.global_rank}.safetensors"
    checkpoint.save(folder / name, done.weights | trained.state(), notes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of the same two runs, made by two processes and by one."""
    two, one = (tmp_path_factory.mktemp(name) for name in ("two", "one"))
    body = f"""
    from pathlib import Path
    import test_structured_method as tests
    for weights in ("paper", "journal-script"):
        tests.train_one(Path({str(two)!r}), weights)
    """
    in_two(two, body)
    for weights in ("paper", "journal-script"):
        train_one(one, weights)
    return two, one


@pytest.mark.parametrize("weights", ["paper", "journal-script"])
def test_two_processes_have_one_critic(trained, weights):
    mine, theirs = (
        checkpoint.load(trained[0] / f"{weights}-{rank}.safetensors")[0] for rank in (0, 1)
    )
    own = [key for key in mine if "running" not in key]  # statistics, which no score depends on
    assert {"critic.last.weight", "critic.blocks.0.u", "momentum.0"} <= set(own)
    for key in own:
        assert torch.equal(mine[key], theirs[key]), key


def test_two_processes_train_student_and_critic_like_one(trained):
    """The conditional critic has no statistics of the batch: all numbers agree, momenta too."""
    (mine, ours), (theirs, others) = (
        checkpoint.load(folder / "paper-0.safetensors") for folder in trained
    )
    assert mine.keys() == theirs.keys() and any(key.startswith("momentum") for key in mine)
    for key, value in theirs.items():
        torch.testing.assert_close(mine[key], value, rtol=1e-3, atol=1e-5, msg=key)
    for row, other in zip(ours["history"], others["history"], strict=True):
        assert row == pytest.approx(other, rel=1e-4)


def test_the_sum_over_images_does_not_depend_on_the_processes(trained):
    """The journal's critic normalises each process's images, so its own terms may differ a bit."""
    two, one = (
        checkpoint.load(folder / "journal-script-0.safetensors")[1]["history"][-1]
        for folder in trained
    )
    for name in ("cross_entropy", "pixelwise", "pairwise", "loss"):
        assert two[name] == pytest.approx(one[name], rel=1e-3), name
