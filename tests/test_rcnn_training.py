"""Two-stage detectors in the loop: learning from labels and a teacher, scores, resume points."""

import dataclasses
import hashlib
import json
import math
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from processes import in_two
from records import kitti, record, write

from kdlib import (
    checkpoint,
    config,
    detection,
    evaluation,
    experiment,
    methods,
    preparing,
    resuming,
    runtime,
    training,
    unlabelled,
)
from kdlib.config import Augment, ConfigError, load_run
from kdlib.data import augment
from kdlib.detection import Boxes, Targets
from kdlib.losses import imitation
from kdlib.methods.boxes import SupervisedBoxes, labelled_terms
from kdlib.methods.imitation import Imitation
from kdlib.models import rcnn, rcnn_detector
from kdlib.models.fcos import FCOS
from kdlib.models.outputs import ModelError
from kdlib.models.shuffledet import ShuffleDet
from kdlib.report import pairs, published
from kdlib.report.records import read_records
from kdlib.teacher import Teacher

ROOT = Path(__file__).parents[1]
SIZE = (64, 96)
SMALL = {"scales": (1, 2, 4), "roi_batch": 16, "rpn_batch": 32, "proposals": (40, 20)}
RESNET = {"blocks": (1, 1, 1, 1), "norm": "group", **SMALL}
PYRAMID = {**RESNET, "scales": (4,), "head_channels": 32}
LOSSES = {"rpn_objectness", "rpn_box", "roi_class", "roi_box"}


def make(kind: str, width: int) -> rcnn.TwoStageDetector:
    """A small network of three classes whose channels follow its width."""
    if kind == "vgg":
        return rcnn.vgg11(3, width=width, head_channels=32, dropout=0.3, **SMALL)
    if kind == "c4":
        return rcnn.r50(3, width=width, rpn_channels=16, **RESNET)
    return rcnn.fpn_r50(3, width=width, pyramid_channels=2 * width, **PYRAMID)


def pair(kind: str) -> tuple[rcnn.TwoStageDetector, Teacher]:
    torch.manual_seed(0)
    return make(kind, 4).train(), Teacher(make(kind, 8), name="a teacher", score=0.0)


def boxes(*rows) -> Boxes:
    """Rows x1, y1, x2, y2, class."""
    table = np.array(rows, np.float32).reshape(-1, 5)
    count = len(table)
    flags = np.zeros(count, bool), np.zeros(count, np.int64)
    return Boxes(table[:, :4], table[:, 4].astype(np.int64), *flags)


def seen(size=SIZE, rows=None) -> augment.Views:
    """Two images with a small and a large box in the first and one in the second."""
    images = torch.rand(2, 3, *size, generator=runtime.generator(0))
    rows = rows or [boxes((8, 8, 40, 40, 1), (0, 0, 20, 12, 0)), boxes((50, 20, 90, 60, 2))]
    return augment.Views(images, detection.collate(rows), torch.ones(2, *size, dtype=torch.bool))


def settings(*letters: str, **options) -> config.Imitation:
    return config.Imitation(letters=letters, **options)


def begun(chosen: config.Imitation, student: torch.nn.Module, teacher: Teacher) -> Imitation:
    method = Imitation(chosen)
    method.begin(runtime.fabric("float32"), 0, 10, student, teacher)
    return method


def one_step(method: Imitation, student, teacher, views) -> tuple:
    """Outputs and terms as the loop has them: the teacher's tensors are those of inference mode."""
    with torch.inference_mode():
        told = teacher(views.images)
    own = student(views.images, views.labels)
    return own, told, method.terms(views, own, told)


# -- Terms


@pytest.mark.parametrize("kind", ["vgg", "c4", "pyramid"])
@pytest.mark.parametrize("letters", [(), ("I",), ("F",), ("G",), ("D",), ("I", "D")])
def test_letters_say_which_terms_a_two_stage_student_has(kind, letters):
    student, teacher = pair(kind)
    method = begun(settings(*letters), student, teacher)
    _, _, terms = one_step(method, student, teacher, seen())
    own = set(LOSSES)
    own |= {"imitation"} if {*letters} & {*"IFG"} else set()
    own |= {"scores"} if "D" in letters else set()
    assert terms.keys() == own <= method.weights.keys()
    sum(method.weights[name] * term for name, term in terms.items()).backward()
    assert all(torch.isfinite(term) for term in terms.values())
    if "imitation" in own:
        assert terms["imitation"] > 0
        kernel = next(p for p in method.joint.parameters() if p.ndim == 4)  # of the finest map
        assert kernel.grad.abs().sum() > 0
    grads = [p.grad for p in student.parameters() if p.grad is not None]
    assert grads and all(torch.isfinite(grad).all() for grad in grads)


def test_the_detectors_own_losses_are_the_labelled_terms():
    student, _ = pair("c4")
    views = seen()
    torch.manual_seed(3)
    output = student(views.images, views.labels)
    terms = SupervisedBoxes().terms(views, output)
    assert terms == output.losses and terms.keys() == LOSSES
    assert {name: SupervisedBoxes.weights[name] for name in LOSSES} == dict.fromkeys(LOSSES, 1.0)
    with pytest.raises(ModelError, match="training mode only"):
        labelled_terms(student.eval()(views.images), views.labels)


@pytest.mark.parametrize("kind", ["vgg", "c4"])
def test_one_map_imitates_in_the_cells_that_its_anchors_pick(kind):
    student, teacher = pair(kind)
    method = begun(settings("I", psi=0.4), student, teacher)
    views = seen()
    own, told, terms = one_step(method, student, teacher, views)
    ((name, map_),) = own.features.items()
    grid = imitation.anchor_grid(map_.shape[-2:], scales=(1, 2, 4))
    inside = [xyxy - torch.tensor([0, 0, 1, 1]) for xyxy, _ in detection.objects(views.labels)]
    mask = imitation.imitation_mask(grid, inside, tuple(map_.shape[-2:]), psi=0.4)
    expected = imitation.imitation_loss(method.joint(map_), told.features[name], mask)
    assert 0 < mask.float().mean() < 1
    torch.testing.assert_close(terms["imitation"], expected)


def large() -> augment.Views:
    """Boxes of the levels 0, 2 and 3 of four at scale 4, or 0, 1 and 3 at 8; and an ignored one."""
    rows = (
        boxes((8, 8, 60, 60, 1), (0, 0, 150, 120, 0), (10, 10, 30, 40, 2)),
        boxes((0, 0, 500, 460, 2)),
    )
    views = seen((480, 512), list(rows))
    ignored = views.labels.ignored.clone()
    ignored[0, 2] = True
    return dataclasses.replace(views, labels=views.labels._replace(ignored=ignored))


def region_of(method: Imitation, output, targets: Targets) -> dict[str, torch.Tensor]:
    return method._region()(method._levels(output), targets)


def level_masks(student, output, views, chosen) -> dict[str, torch.Tensor]:
    """Masks of hand-made lists of boxes: per level and image."""
    masks = {}
    for level, name in enumerate(("p2", "p3", "p4", "p5")):
        stride, hw = 2 ** (level + 2), tuple(output.features[name].shape[-2:])
        grid = imitation.anchor_grid(hw, stride=stride, base=stride, scales=(4,))
        grid[:, 2:] += 1
        own = [views.labels.xyxy[image, rows] for image, rows in enumerate(chosen[level])]
        masks[name] = imitation.imitation_mask(grid, own, hw, inclusive=False)
    return masks


@pytest.mark.parametrize(
    ("assign", "chosen"),
    [
        (None, [[[0], []], [[], []], [[1], []], [[], [0]]]),
        ("area", [[[0], []], [[], []], [[1], []], [[], [0]]]),
        ("every", [[[0, 1], [0]]] * 4),
    ],
)
def test_boxes_make_the_region_of_their_levels(assign, chosen):
    student, teacher = pair("pyramid")
    method = begun(settings("I", assign=assign), student, teacher)
    views = large()
    with torch.no_grad():
        output = student.eval()(views.images)
    got = region_of(method, output, views.labels)
    expected = level_masks(student, output, views, chosen)
    assert got.keys() == expected.keys()
    for name in got:
        assert torch.equal(got[name], expected[name]), name
    assert got["p4"][0].any() and got["p4"][1].any() == (assign == "every")


def test_smaller_anchors_send_smaller_boxes_to_a_level():
    """At scale 8 the box of 150 x 120 pixels belongs to P3, at 4 to P4, at 2 to P5."""
    student, teacher = pair("pyramid")
    for scale, level in ((8, 1), (4, 2), (2, 3)):
        student.config = dataclasses.replace(student.config, scales=(scale,))
        shared = begun(settings("I"), student, teacher)._shared(large().labels, 4)
        assert [bool(boxes[0][1].any()) for boxes in shared] == [k == level for k in range(4)]


def test_anchors_give_boxes_to_the_levels_that_see_them_best():
    """One best overlap over all levels: the masks of the levels' anchors taken as one list."""
    student, teacher = pair("pyramid")
    method = begun(settings("I", assign="anchors"), student, teacher)
    views = large()
    with torch.no_grad():
        output = student.eval()(views.images)
    got = region_of(method, output, views.labels)
    anchors = [student.anchors(output.features)[name] for name in got]
    for image, (xyxy, _) in enumerate(detection.objects(views.labels)):
        overlap = detection.iou(torch.cat(anchors), xyxy)
        near = (overlap > 0.5 * overlap.amax(0)).any(1)
        for mask, own in zip(
            got.values(), near.split([len(part) for part in anchors]), strict=True
        ):
            assert torch.equal(mask[image], own.view(*mask.shape[1:], -1).any(-1))
    # the large box of the second image is seen by the coarse levels, not by the finest
    assert not got["p2"][1].any() and got["p5"][1].any()


def test_boxes_of_the_labels_make_the_region_g_of_their_level():
    student, teacher = pair("pyramid")
    method = begun(settings("G"), student, teacher)
    views = large()
    with torch.no_grad():
        output = student.eval()(views.images)
    got = region_of(method, output, views.labels)
    fine = torch.zeros_like(got["p2"])
    fine[0, 2:15, 2:15] = True  # 8 to 60 in steps of 4
    assert torch.equal(got["p2"], fine)
    assert got["p4"][0].sum() == 10 * 8 and not got["p4"][1].any() and not got["p3"].any()
    everywhere = region_of(begun(settings("F"), student, teacher), output, views.labels)
    assert all(mask.all() for mask in everywhere.values()) and everywhere.keys() == got.keys()


def test_the_levels_of_a_pyramid_share_one_divisor_and_have_adapters_of_their_own():
    student, teacher = pair("pyramid")
    method = begun(settings("I", assign="every"), student, teacher)
    with torch.no_grad():
        for adapter in method.joint.values():
            adapter[0].weight.mul_(1e3)
    own, told, terms = one_step(method, student, teacher, seen())
    masks = region_of(method, own, seen().labels)
    assert list(masks) == ["p2", "p3", "p4", "p5"] == list(method.joint)
    total = cells = 0
    for name, mask in masks.items():
        apart = method.joint[name](own.features[name]) - told.features[name]
        total += float((apart.detach().double().square() * mask[:, None]).sum())
        cells += int(mask.sum())
    assert float(terms["imitation"].detach()) == pytest.approx(total / (2 * cells), rel=1e-5)
    kernels = [adapter[0].weight for adapter in method.joint.values()]
    assert all(kernel.shape == (16, 8, 3, 3) for kernel in kernels)
    assert not torch.equal(kernels[0], kernels[1])


def test_scores_are_those_of_both_heads_on_the_students_regions():
    student, teacher = pair("c4")
    method = begun(settings("D"), student, teacher)
    own, _, terms = one_step(method, student, teacher, seen())
    network = teacher.network
    with torch.no_grad():
        features = network.maps(seen().images)
        pooled = network.roi_heads.box_roi_pool(features, own.regions, [SIZE] * 2)
        told, _ = network.roi_heads.box_predictor(network.roi_heads.box_head(pooled))
    p, q = told.double().softmax(1), own.scores.detach().double().log_softmax(1)
    expected = (p * (p.log() - q)).sum(1).mean()
    assert float(terms["scores"].detach()) == pytest.approx(float(expected), rel=1e-4)
    terms["scores"].backward()
    assert student.roi_heads.box_predictor.cls_score.weight.grad.abs().sum() > 0
    assert student.rpn.head.cls_logits.weight.grad is None  # proposals are not learnt from D


@pytest.mark.parametrize("kind", ["vgg", "pyramid"])
def test_batches_without_objects_and_without_proposals_train(kind, monkeypatch):
    student, teacher = pair(kind)
    method = begun(settings("I", "D"), student, teacher)
    views = seen(rows=[boxes(), boxes()])
    proposals = type(student.rpn).filter_proposals

    def none(*arguments):
        return tuple([own[:0] for own in part] for part in proposals(*arguments))

    for lost in (False, True):
        if lost:
            monkeypatch.setattr(type(student.rpn), "filter_proposals", none)
        _, _, terms = one_step(method, student, teacher, views)
        sum(terms.values()).backward()
        assert terms["imitation"] == 0 and terms["roi_box"] == 0
        assert all(torch.isfinite(term) for term in terms.values())
        assert all(
            p.grad is not None and torch.isfinite(p.grad).all() for p in method.joint.parameters()
        )


# -- What does not fit


def test_networks_and_methods_that_do_not_fit_are_refused():
    student, teacher = pair("c4")
    _, other = pair("vgg")
    with pytest.raises(ModelError, match="has the maps c4, its teacher conv5"):
        begun(settings("I"), student, other)
    small = Teacher(ShuffleDet(3, width=0.25, anchor_scale=0.1), name="t", score=0.0)
    with pytest.raises(ModelError, match="its teacher neck"):
        begun(settings("I"), student, small)
    with pytest.raises(ConfigError, match="G takes no anchors"):
        settings("G", assign="anchors")
    cells = FCOS(3, channels=8, head_convs=1, levels=(3, 4, 5), blocks=[1, 1, 1], width=8)
    fits, fabric = Teacher(cells, name="t", score=0.0), runtime.fabric("float32")
    unfit = [("student", own, fits) for own in (student, small.network)]
    unfit += [("teacher", cells, told) for told in (teacher, small)]
    for name in ("distil", "matching"):
        method = methods.build(config.Method(name), None, 3, "detection")
        for role, own, told in unfit:
            with pytest.raises(ModelError, match=f"the {role}, a .* imitation or supervised"):
                method.begin(fabric, 0, 10, own, told)
        method.begin(fabric, 0, 10, cells, fits)
        views = seen()
        with torch.no_grad():
            answer, other = fits(views.images), small(views.images)
        assert method.terms(views, answer, answer)
        with pytest.raises(ModelError, match="the teacher answers with AnchorOutput"):
            method.terms(views, answer, other)
        with pytest.raises(ModelError, match="the student answers with AnchorOutput"):
            method.terms(views, other, answer)


# -- The loop


class Pictures:
    """Noise with a box each; one picture shows none."""

    def __len__(self):
        return 6

    def read(self, index):
        pixels = np.random.default_rng(index).integers(0, 255, (*SIZE, 3), np.uint8)
        rows = [(8, 8, 30 + 8 * index, 30 + 5 * index, index % 3)] if index else []
        return pixels, boxes(*rows)


def run_of(method: config.Method, steps: int = 4, batch: int = 2) -> config.Run:
    return config.Run(
        name="imitation-test",
        scale="smoke",
        seed=0,
        data=config.Data("kitti", "nowhere", SIZE, config.Subset("train"), config.Subset("val")),
        method=method,
        schedule=config.Schedule(
            steps=steps, batch=batch, lr=1e-3, save_every_s=0.0, workers=0, clip_norm=5.0
        ),
        augment=Augment(zoom=(1.0, 1.2)),
    )


IMITATES = config.Method("imitation", imitation=settings("I", "D", weight=0.1, warmup=1))


def trained(kind: str, method: config.Method, folder: Path) -> training.Trained:
    student, teacher = pair(kind)
    return training.train(
        run_of(method),
        student,
        methods.build(method, None, 3, "detection"),
        Pictures(),
        fabric=runtime.fabric("float32"),
        resume=folder,
        teacher=teacher if method.name == "imitation" else None,
    )


@pytest.mark.parametrize(
    ("kind", "method"),
    [("vgg", config.Method("supervised")), ("c4", IMITATES), ("pyramid", IMITATES)],
)
def test_a_killed_run_goes_on_with_the_same_bits(kind, method, tmp_path, monkeypatch):
    """Sampled boxes and dropout are drawn by the step, wherever the run began."""
    monkeypatch.setattr(training, "LOG_EVERY", 2)
    whole = trained(kind, method, tmp_path / "whole")
    assert whole.history[0].keys() >= LOSSES
    assert all(math.isfinite(value) for row in whole.history for value in row.values())
    before = pair(kind)[0].state_dict()
    assert any(not torch.equal(value, before[key]) for key, value in whole.weights.items())
    real = resuming.save

    def killed(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(resuming, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(kind, method, tmp_path / "killed")
    monkeypatch.setattr(resuming, "save", real)
    resumed = trained(kind, method, tmp_path / "killed")
    assert all(torch.equal(whole.weights[key], resumed.weights[key]) for key in whole.weights)
    assert whole.history == resumed.history


def test_other_networks_are_not_shown_the_labels():
    class Alone(torch.nn.Module):
        def forward(self, images):
            return len(images)

    class Shown(Alone):
        wants_targets = True

        def forward(self, images, targets):
            return targets

    views = seen()
    assert training._answer(Alone(), Alone(), views) == 2
    assert training._answer(Shown(), Shown(), views).targets is views.labels


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_boxes_reach_the_network_exact(precision):
    """In bfloat16 the box would begin and end at 804 pixels, and hold nothing."""

    given = []

    def spied(targets, num_classes, size_hw):
        given.append(targets)
        raise StopIteration

    student, _ = pair("vgg")
    fabric = runtime.fabric(precision)
    module = fabric.setup(student)
    views = seen((64, 832), [boxes((802.5, 8, 805.5, 40, 1)), boxes((3.3, 4.7, 60.1, 50.9, 2))])
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StopIteration):
        patch.setattr(rcnn_detector, "shifted_targets", spied)
        training._answer(module, student, views)
    (targets,) = given
    assert all(torch.equal(own, got) for own, got in zip(views.labels, targets, strict=True))
    losses = training._answer(module, student, views).losses
    assert all(torch.isfinite(loss) for loss in losses.values())


def train_one(folder: Path) -> None:
    """A few steps with imitation; weights of student and adapters in a file of this process."""
    student, teacher = pair("pyramid")
    method = methods.build(IMITATES, None, 3, "detection")
    fabric = runtime.fabric("float32")
    done = training.train(
        run_of(IMITATES, batch=4),
        student,
        method,
        Pictures(),
        fabric=fabric,
        resume=folder / "resume",
        teacher=teacher,
    )
    own = {key: value.clone() for key, value in method.state().items()}
    notes = {"history": done.history}
    checkpoint.save(folder / f"{fabric.global_rank}.safetensors", done.weights | own, notes)


def test_two_processes_train_one_student(tmp_path):
    """Each samples boxes of its own images; the weights stay the same in both."""
    body = f"""
    from pathlib import Path
    import test_rcnn_training as tests
    tests.train_one(Path({str(tmp_path)!r}))
    """
    in_two(tmp_path, body)
    (mine, notes), (theirs, _) = (
        checkpoint.load(tmp_path / f"{rank}.safetensors") for rank in (0, 1)
    )
    assert {"adapter.p2.0.weight", "adapter.p5.0.bias"} <= mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert mine["adapter.p2.0.weight"].abs().max() > 2.1e-4  # it has left its first values
    assert all(math.isfinite(value) for row in notes["history"] for value in row.values())


# -- From the parameters to a score


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """The parameters of this repository and a KITTI tree of six stills at the place of smoke's."""
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    tree = tmp_path / unlabelled.SMOKE_DATA / "kitti"
    for part in ("training/image_2", "training/label_2", "ImageSets"):
        (tree / part).mkdir(parents=True)
    rest = "1.5 1.6 3.9 0.0 0.0 20.0 0.0"
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 90, (96, 312, 3), np.uint8)
        x = 20 + 40 * number
        pixels[30:80, x : x + 70] = (40, 40, 220)
        cv2.imwrite(str(tree / f"training/image_2/{number:06d}.png"), pixels)
        lines = f"Car 0.00 0 0.00 {x}.00 30.00 {x + 70}.00 80.00 {rest}\n" if number else ""
        (tree / f"training/label_2/{number:06d}.txt").write_text(lines)
    for split, numbers in (("train", range(4)), ("val", (4, 5))):
        (tree / f"ImageSets/{split}.txt").write_text("".join(f"{n:06d}\n" for n in numbers))
    recipe = hashlib.sha256(unlabelled.RECIPE.read_bytes()).hexdigest()
    (tmp_path / unlabelled.SMOKE_DATA / ".recipe").write_text(recipe)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["imitation-voc-r101h-i", "imitation-coco-r50h-i-anchors"])
def test_a_run_goes_from_its_name_to_its_score(repository, name):
    """Teacher, start and student of the smallest scale, made by parameters alone."""
    run = load_run(name, scale="smoke")
    facts = experiment.make(run)
    assert json.loads(json.dumps(facts)) == facts
    assert facts["steps"] == 3 and facts["settings_hash"] == run.settings_hash()
    val = facts["metrics"]["val"]
    assert 0 <= val["map"] <= 1 and set(val["agreement"]) == {"map", "map_50"}
    teacher = load_run(run.teacher, scale="smoke")
    tensors, notes = checkpoint.load(repository / run.folder / "model.safetensors")
    _, told = checkpoint.load(repository / teacher.folder / "model.safetensors")
    assert notes["parameters"] == facts["parameters"] < told["parameters"]
    assert not any(key.startswith(("adapter", "joint")) for key in tensors)
    history = (repository / run.folder / "history.csv").read_text()
    assert "roi_class" in history and "imitation_weighted" in history


@pytest.mark.parametrize("scale", [1.0, 312 / 200])
def test_a_two_stage_detector_is_scored_in_pixels_of_the_still(repository, scale):
    """What the heads find in pixels of the view is right in the still; pixels of the still are not.

    Two cars of two: a precision of 1, which KITTI's rule reads at one of its eleven recalls.
    """
    run = load_run("imitation-voc-r101h-teacher", scale="smoke")
    parts = experiment.prepare(run)
    still = torch.tensor([[180.0, 30, 250, 80], [220.0, 30, 290, 80]])  # the cars of 4 and 5
    view = still * torch.tensor([200 / 312, 64 / 96] * 2)

    def find(features, proposals, sizes):
        assert len(proposals) == len(sizes) == 2 and sizes[0] == (64, 200)
        return [
            detection.Detections(box[None] * scale, torch.ones(1), torch.zeros(1).long())
            for box in view
        ]

    parts.network.roi_heads.find = find
    scores = evaluation.evaluate(
        parts.network, "kitti", parts.report, run.data.size, fabric=parts.fabric
    )
    assert scores["ap"]["Car"]["easy"] == pytest.approx(1 / 11 if scale == 1 else 0)


# -- Settings


@pytest.fixture(scope="module")
def params() -> dict:
    """Of this repository, read once."""
    return config.read_params(ROOT / "params.yaml")


def test_records_keep_the_hash_of_their_settings(params):
    """An option that a network or a method got later changes nothing of a run that was made."""
    checked = 0
    for path in sorted(ROOT.glob("results/*/records/*/*/seed-*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["scale"] == "smoke":  # made anew by any page that is run
            continue
        run = config.build_run(params, record["run"], scale=record["scale"], seed=record["seed"])
        assert run.settings_hash() == record["settings_hash"], path
        checked += 1
    assert checked > 50


def test_an_option_that_is_not_set_is_not_in_the_settings(params):
    run = config.build_run(params, "imitation-coco-r50h-i", scale="sample")
    held = run.settings()
    assert held["method"]["imitation"]["assign"] == "area"
    assert held["model"]["detector"]["pyramid_channels"] == 32
    small = config.build_run(params, "imitation-kitti-i", scale="sample").settings()
    assert "assign" not in small["method"]["imitation"]
    assert small["model"]["detector"].keys() == {"width", "anchor_scale"}
    other = dataclasses.replace(
        run,
        method=dataclasses.replace(
            run.method, imitation=dataclasses.replace(run.method.imitation, assign="every")
        ),
    )
    assert other.settings_hash() != run.settings_hash()


@pytest.mark.parametrize("scale", config.SCALES)
def test_every_two_stage_run_has_a_network_and_a_teacher_that_fits(params, scale):
    checked = 0
    for name in params["runs"]:
        if not name.startswith(("imitation-voc", "imitation-coco")):
            continue
        run = config.build_run(params, name, scale=scale)
        network = network_of(run)
        if run.teacher is None:
            continue
        taught = config.build_run(params, run.teacher, scale=scale)
        told = network_of(taught)
        assert network.neck_channels.keys() == told.neck_channels.keys()
        count, more = (experiment.parameter_count(one) for one in (network, told))
        assert count < more
        assert run.data == taught.data and run.augment == taught.augment
        family = name.removesuffix("-anchors").removesuffix("-every").rsplit("-", 1)[0]
        baseline = config.build_run(params, f"{family}-baseline", scale=scale)
        assert run.schedule == baseline.schedule and run.init == baseline.init
        checked += 1
    assert checked == 12


def network_of(run: config.Run) -> rcnn.TwoStageDetector:
    with torch.device("meta"):
        return preparing.build_network(dataclasses.replace(run, init=None))


def test_the_paper_scale_follows_the_released_readme(params):
    teacher, student, coco = (
        config.build_run(params, f"imitation-{name}", scale="paper")
        for name in ("voc-vgg11-teacher", "voc-vgg11-i", "coco-r50h-i")
    )
    flipped = 2 * 5011  # VOC07's trainval with mirror images
    assert (teacher.schedule.batch, teacher.schedule.lr) == (1, 1e-3)
    assert teacher.schedule.steps == 7 * flipped
    assert (student.schedule.batch, student.schedule.lr) == (16, 3e-3)
    assert student.schedule.steps == math.ceil(15 * flipped / 16)
    assert (student.method.imitation.weight, student.method.imitation.warmup) == (0.01, 400)
    assert (teacher.data.layout, teacher.data.labelled.split) == ("voc07", "trainval")
    assert teacher.data.report.split == "test" and teacher.init == student.init == "imagenet"
    network = network_of(student)
    assert network.config.inside_only and network.config.scales == (8.0, 16.0, 32.0)
    frozen = [
        p.shape[0] for p in network.backbone.parameters() if not p.requires_grad and p.ndim > 1
    ]
    assert frozen == [64, 128, 256]  # conv3_1 goes with blocks 1 and 2
    for name in ("voc-vgg11-teacher", "voc-vgg11-i", "voc-r101h-i", "voc-r50-i"):
        rules = network_of(config.build_run(params, f"imitation-{name}", scale="paper"))
        assert (rules.roi_heads.score_thresh, rules.roi_heads.nms_thresh) == (0.0, 0.3)
    for name, scale in (("coco-r101h-i", "paper"), ("coco-r50h-i", "paper"), ("voc-r50-i", "gpu")):
        rules = network_of(config.build_run(params, f"imitation-{name}", scale=scale))
        assert (rules.roi_heads.score_thresh, rules.roi_heads.nms_thresh) == (0.05, 0.5)
    assert coco.data.layout == "coco" and coco.method.imitation.assign == "area"
    assert network_of(coco).config.scales == (8.0,)


# -- The table of pairs


@pytest.fixture(scope="module")
def fgfi() -> published.Published:
    return published.load(ROOT / "published/feature_imitation.yaml")


def test_pairs_without_records_are_not_run(tmp_path, fgfi):
    write(tmp_path, record("imitation-kitti-i", 0, kitti(0.4)))
    table = pairs.pairs_table(read_records(tmp_path), fgfi.tables)
    shown = table.shown.set_index("")
    assert len(shown) == 7 and (shown["ours: with I, mAP %"] == "not run").all()
    vgg = shown.loc["VOC07: VGG16 → VGG11"]
    assert (vgg["published: teacher"], vgg["published: with I"]) == ("70.4◦", "67.6◦")
    assert (vgg["published: points"], vgg["ours: points"], vgg["n"]) == ("+8.0", "–", "0")
    assert "None of these pairs was run" in table.notes[0]


def test_pairs_that_were_run_stand_beside_the_published(tmp_path, fgfi):
    scores = {"baseline": (0.40, 0.42), "i": (0.43, 0.47)}
    for step, values in scores.items():
        for seed, value in enumerate(values):
            write(tmp_path, record(f"imitation-voc-r50-{step}", seed, kitti(value)))
    write(tmp_path, record("imitation-voc-r101h-teacher", 0, kitti(0.6)))
    table = pairs.pairs_table(read_records(tmp_path), fgfi.tables)
    shown = table.shown.set_index("")
    own = shown.loc["VOC07: R101 → R50"]
    assert own["ours: teacher, mAP %"] == "60.0"  # the other pair's teacher, trained once
    assert own["ours: with I, mAP %"] == "45.0 ± 2.8" and own["n"] == "2"
    assert own["ours: points"] == "+4.0 ± 1.4"
    assert shown.loc["VOC07: R101 → R101, half the channels", "ours: teacher, mAP %"] == "60.0"
    assert "simulated KITTI" in table.notes[1] and "scale sample" in table.notes[-1]


def test_variants_of_the_pyramid_have_rows_of_their_own(tmp_path, fgfi):
    values = {"teacher": 0.5, "baseline": 0.3, "i": 0.31, "i-anchors": 0.32, "i-every": 0.28}
    for step, value in values.items():
        write(tmp_path, record(f"imitation-coco-r50h-{step}", 0, kitti(value)))
    table = pairs.pairs_table(read_records(tmp_path), fgfi.tables)
    rows = table.frame.set_index("pair")
    names = ["coco-res50h-fpn", "coco-res50h-fpn-anchors", "coco-res50h-fpn-every"]
    assert [round(rows.loc[name, "i"], 1) for name in names] == [31.0, 32.0, 28.0]
    assert [round(rows.loc[name, "points"], 1) for name in names] == [1.0, 2.0, -2.0]
    assert (rows.loc[names, "teacher"] == 50).all() and (rows.loc[names, "baseline"] == 30).all()
    assert rows.loc[names, "published_i"].isna().tolist() == [False, True, True]
    unprinted = [one for one in table.shown.to_dict("records") if one[""].startswith("the same")]
    assert [one["published: with I"] for one in unprinted] == ["–", "–"]


def test_every_run_of_a_pair_is_among_the_parameters(params):
    families = ("imitation-voc", "imitation-coco")
    wanted = {name for name in params["runs"] if name.startswith(families)}
    listed = {pair.run(step) for pair in pairs.PAIRS.values() for step in pairs.STEPS}
    assert listed == {name for name in wanted if not name.endswith("-start")}


# -- The pages of the book


def page(name: str, **parameters: str) -> None:
    """A page as one piece of Python, other parameters in place of its own."""
    text = (ROOT / f"notebooks/py/imitation/{name}.py").read_text(encoding="utf-8")
    for key, value in parameters.items():
        text, count = re.subn(rf'^{key} = "[^"]*"', f'{key} = "{value}"', text, flags=re.MULTILINE)
        assert count == 1
    exec(compile(text, name, "exec"), {"__name__": name})


@pytest.mark.parametrize("name", ["1_teacher", "3_student"])
def test_pages_of_the_small_detector_refuse_the_larger_ones(repository, name):
    with pytest.raises(ValueError, match="use `kdlib run imitation-voc-vgg11-i --scale smoke`"):
        page(name, run="imitation-voc-vgg11-i")


def test_the_page_of_results_needs_no_kitti(repository):
    """With VOC07 alone, a pair's records make the table of pairs, and no picture is shown."""
    shutil.copytree(ROOT / "published", repository / "published")
    folder = repository / "results/imitation/records/paper"
    for step, value in {"teacher": 0.7, "baseline": 0.58, "i": 0.66}.items():
        one = record(f"imitation-voc-vgg11-{step}", 0, kitti(value), scale="paper")
        path = folder / one["run"] / "seed-0.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(one))
    page("4_results", scale="paper")
    out = repository / "results/imitation/paper/summary"
    written = (out / "pairs.md").read_text()
    assert "70.0" in written and "58.0" in written and "66.0" in written
    assert (out / "table.md").is_file() and not (out / "pictures.png").exists()
