"""Boxes on their way: from a layout through views and methods to a trained detector's scores."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from kdlib import config, detection, evaluation, methods, resuming, runtime, training
from kdlib.config import Augment, ConfigError
from kdlib.data import augment, layouts, loader
from kdlib.data.layouts.sample import Sample
from kdlib.detection import ANY_CLASS, Boxes, DetectionOutput, Detections, Targets
from kdlib.losses import imitation, matching
from kdlib.methods.boxes import at_cells
from kdlib.methods.imitation import Imitation
from kdlib.models.outputs import ModelError
from kdlib.teacher import Teacher

SIZE = (32, 64)


def boxes(*rows, ignored=()) -> Boxes:
    """Rows x1, y1, x2, y2, class."""
    table = np.array(rows, np.float32).reshape(-1, 5)
    flags = np.isin(np.arange(len(table)), ignored)
    return Boxes(table[:, :4], table[:, 4].astype(np.int64), flags, np.zeros(len(table), np.int64))


def moved(targets: Targets, **numbers) -> Targets:
    """The boxes of one 32 x 64 image in a view of its size, without chance."""
    plain = augment.draw(1, Augment(zoom=(1.0, 1.0), flip=0.0, colour=0.0), runtime.generator(0))
    drawn = dataclasses.replace(plain, **numbers)
    image = torch.zeros(1, 3, *SIZE, dtype=torch.uint8)
    return augment.apply(image, targets, drawn, SIZE).labels


def test_a_view_that_changes_nothing_leaves_the_boxes():
    targets = detection.collate([boxes((3, 4, 20, 30, 1), (0, 0, 64, 32, 0))])
    view = moved(targets)
    assert torch.allclose(view.xyxy, targets.xyxy, atol=1e-4)
    assert torch.equal(view.classes, targets.classes) and not view.ignored.any()


def test_a_flip_mirrors_the_boxes():
    view = moved(detection.collate([boxes((3, 4, 20, 30, 1))]), flip=torch.tensor([-1.0]))
    assert torch.allclose(view.xyxy[0, 0], torch.tensor([44.0, 4, 61, 30]), atol=1e-4)


def test_a_zoom_enlarges_the_boxes_around_its_centre():
    # Twice as large, the left upper quarter of the image: centre at (-1, -1) of the room.
    numbers = {"zoom": torch.tensor([2.0]), "centre": torch.tensor([[-1.0, -1.0]])}
    view = moved(detection.collate([boxes((3, 4, 10, 12, 1))]), **numbers)
    assert torch.allclose(view.xyxy[0, 0], torch.tensor([6.0, 8, 20, 24]), atol=1e-4)


def test_what_a_view_cuts_off_is_no_object_any_more():
    numbers = {"zoom": torch.tensor([2.0]), "centre": torch.tensor([[-1.0, -1.0]])}
    rows = boxes((28, 4, 36, 12, 1), (30, 4, 40, 12, 2), (50, 20, 60, 30, 3))
    view = moved(detection.collate([rows]), **numbers)
    # Half, a fifth and nothing of them lie left of column 32.
    assert view.ignored[0].tolist() == [False, True, True]
    assert view.xyxy[0, 0].tolist() == pytest.approx([56, 8, 64, 24], abs=1e-3)
    assert view.xyxy.min() >= 0 and (view.xyxy <= torch.tensor([64, 32, 64, 32])).all()


def test_boxes_move_with_the_pixels():
    """A bright rectangle stays inside its box under every random view."""
    image = torch.zeros(8, 3, *SIZE, dtype=torch.uint8)
    image[:, :, 10:20, 24:40] = 255
    targets = detection.collate([boxes((24, 10, 40, 20, 0))] * 8)
    settings = Augment(zoom=(1.0, 1.3), flip=0.5, colour=0.0)
    drawn = augment.draw(8, settings, runtime.generator(3))
    views = augment.apply(image, targets, drawn, SIZE)
    for picture, (found,) in zip(views.images[:, 0], views.labels.xyxy, strict=True):
        rows, columns = torch.nonzero(picture > 0.5, as_tuple=True)
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert torch.allclose(torch.stack(seen).float(), found, atol=1.01)


def test_batches_hold_boxes_of_unequal_number():
    images = [np.zeros((*SIZE, 3), np.uint8)] * 3
    labels = [
        boxes(),
        boxes((0, 0, 4, 4, 2)),
        boxes((0, 0, 4, 4, 1), (1, 1, 2, 2, 0), ignored=(1,)),
    ]

    class Source:
        def __len__(self):
            return 3

        def read(self, index):
            return images[index], labels[index]

    _, targets = loader.Batches(loader.Remembered(Source()), 3, seed=0)[0]
    assert targets.xyxy.shape == (3, 2, 4)
    found = sorted(len(classes) for _, classes in detection.objects(targets))
    assert found == [0, 1, 1]
    filled = targets.classes == ANY_CLASS
    assert targets.ignored[filled].all() and (detection.area(targets.xyxy[filled]) == 0).all()

    labels[0] = None  # an unlabelled frame among them: no stand-in, so no labels
    assert loader.Batches(Source(), 3, seed=0)[0][1] is None


def test_the_intersection_over_union_of_boxes():
    first = torch.tensor([[0.0, 0, 2, 2], [5, 5, 5, 5]])
    second = torch.tensor([[1.0, 0, 3, 2], [0, 0, 2, 2], [5, 5, 5, 5]])
    assert torch.allclose(detection.iou(first, second), torch.tensor([[1 / 3, 1, 0], [0, 0, 0.0]]))


# -- Methods


def settings(*letters: str, **options) -> config.Imitation:
    return config.Imitation(letters=letters, **options)


def detectors() -> tuple[nn.Module, Teacher]:
    from kdlib.models.shuffledet import ShuffleDet

    torch.manual_seed(0)
    student, teacher = (
        ShuffleDet(3, width=width, anchor_scale=0.1, dropout=0.0) for width in (0.25, 0.5)
    )
    return student.eval(), Teacher(teacher, name="a teacher", score=0.0)


def seen(size=(64, 96)) -> augment.Views:
    images = torch.rand(2, 3, *size, generator=runtime.generator(0))
    labels = detection.collate(
        [boxes((8, 8, 40, 40, 1)), boxes((50, 20, 90, 60, 0), (0, 0, 9, 9, 2))]
    )
    return augment.Views(images, labels, torch.ones(2, *size, dtype=torch.bool))


def begun(method: Imitation, student: nn.Module, teacher: Teacher) -> Imitation:
    method.begin(runtime.fabric("float32"), 0, 10, student, teacher)
    return method


@pytest.mark.parametrize("letters", [(), ("I",), ("F",), ("G",), ("D",), ("I", "D")])
def test_letters_say_which_terms_there_are(letters):
    student, teacher = detectors()
    method = begun(Imitation(settings(*letters)), student, teacher)
    views = seen()
    terms = method.terms(views, student(views.images), teacher(views.images))
    own = {"classification", "confidence", "box"}
    if {*letters} & {*"IFG"}:
        own.add("imitation")
    if "D" in letters:
        own.add("scores")
    assert terms.keys() == own <= method.weights.keys()
    assert method.needs_teacher == bool(letters)
    assert all(torch.isfinite(term) for term in terms.values())


def test_boxes_cover_cells_of_the_networks_stride_in_views_that_cells_do_not_fill():
    student, teacher = detectors()
    method = begun(Imitation(settings("G")), student, teacher)
    views = seen((60, 90))
    labels = detection.collate([boxes((20, 40, 30, 47, 1)), boxes((0, 0, 9, 9, 2))])
    views = dataclasses.replace(views, labels=labels)
    own, told = student(views.images), teacher(views.images)
    assert own.features["neck"].shape[-2:] == (4, 6)
    mask = torch.zeros(2, 4, 6, dtype=torch.bool)
    mask[0, 2, 1] = mask[1, 0, 0] = True  # rows of 60 / 4 pixels would light row 3, too
    adapted = method.joint(own.features["neck"])
    expected = imitation.imitation_loss(adapted, told.features["neck"], mask)
    assert torch.equal(method.terms(views, own, told)["imitation"], expected)


def test_imitation_is_the_loss_over_the_cells_that_the_anchors_pick():
    student, teacher = detectors()
    method = begun(Imitation(settings("I", psi=0.4)), student, teacher)
    views = seen()
    own, told = student(views.images), teacher(views.images)
    mask = imitation.imitation_mask(
        own.anchors,
        [xyxy for xyxy, _ in detection.objects(views.labels)],
        tuple(own.features["neck"].shape[-2:]),
        psi=0.4,
        inclusive=False,
    )
    expected = imitation.imitation_loss(
        method.joint(own.features["neck"]), told.features["neck"], mask
    )
    assert 0 < mask.float().mean() < 1
    assert torch.equal(method.terms(views, own, told)["imitation"], expected)


def test_ignored_boxes_light_no_cell():
    student, teacher = detectors()
    method = begun(Imitation(settings("I")), student, teacher)
    views = seen()
    nothing = views.labels._replace(ignored=torch.ones_like(views.labels.ignored))
    views = dataclasses.replace(views, labels=nothing)
    terms = method.terms(views, student(views.images), teacher(views.images))
    assert terms["imitation"] == 0


def test_the_adapter_learns_with_the_student_and_starts_small():
    student, teacher = detectors()
    method = begun(Imitation(settings("I")), student, teacher)
    convolution = method.joint[0]
    assert convolution.weight.abs().max() <= 2e-4 and not convolution.bias.any()
    views = seen()
    terms = method.terms(views, student(views.images), teacher(views.images))
    terms["imitation"].backward()
    assert convolution.weight.grad.abs().sum() > 0
    assert student.stem.weight.grad is not None
    again = begun(Imitation(settings("I")), student, teacher)
    assert torch.equal(again.joint[0].weight, convolution.weight)


def test_warm_up_counts_nothing_and_outlives_a_resume_point():
    student, teacher = detectors()
    method = begun(Imitation(settings("I", weight=0.3, warmup=2)), student, teacher)
    assert method.weights["imitation"] == 0
    for step in range(2):
        method.follow(None, None, None, step)
    assert method.weights["imitation"] == 0.3
    other = begun(Imitation(settings("I", weight=0.3, warmup=2)), student, teacher)
    with torch.no_grad():
        method.joint[0].weight.fill_(1.0)
    other.restore(method.state())
    assert other.weights == method.weights and (other.joint[0].weight == 1).all()


def test_a_network_without_a_neck_cannot_be_imitated():
    _, teacher = detectors()
    with pytest.raises(ModelError, match="no neck"):
        begun(Imitation(settings("I")), nn.Conv2d(3, 3, 1), teacher)


def test_methods_know_which_labels_they_learn_from():
    with pytest.raises(ConfigError, match="one of I, F, G"):
        settings("I", "F")
    block = config.Method("imitation", imitation=settings("I"))
    with pytest.raises(ConfigError, match="has masks"):
        methods.build(block, None, 3)
    structured = config.Structured(terms=(), weights="paper")
    with pytest.raises(ConfigError, match="has boxes"):
        methods.build(config.Method("structured", structured=structured), None, 3, "detection")
    with pytest.raises(ConfigError, match="label_weight"):
        methods.build(config.Method("distil", label_weight=0.5), None, 3, "detection")
    with pytest.raises(ConfigError, match="only for boxes"):
        methods.build(config.Method("distil", weighting="top"), None, 3)
    with pytest.raises(ConfigError, match="weighting"):
        config.Method("supervised", weighting="top")
    for name in ("supervised", "distil", "matching"):
        method = methods.build(config.Method(name), None, 3, "detection")
        assert method.weights.keys() >= {"classification", "box", "centerness"}


def test_distilled_boxes_leave_out_padding():
    from kdlib.models.fcos import FCOS

    torch.manual_seed(0)
    student, teacher = (
        FCOS(2, blocks=[1, 1, 1], width=8, channels=8, head_convs=1, levels=(3, 4, 5)).eval()
        for _ in range(2)
    )
    views = augment.Views(torch.rand(1, 3, 64, 64), None, torch.ones(1, 64, 64, dtype=torch.bool))
    half = dataclasses.replace(views, valid=views.valid.clone())
    half.valid[:, :, 32:] = False
    own, told = student(views.images), teacher(views.images)
    method = methods.DistilBoxes()
    whole, left = (method.terms(v, own, told)["classification"] for v in (views, half))
    assert whole > 0 and left > 0 and not torch.isclose(whole, left)


@pytest.mark.parametrize("weighting", ["top", "difference"])
def test_a_run_can_take_a_neighbours_rule_of_which_cells_count(weighting):
    from kdlib.models.fcos import FCOS

    settings = config.Method("matching", temperature=2.0, weighting=weighting)
    method = methods.build(settings, None, 2, "detection")
    torch.manual_seed(0)
    student, teacher = (
        FCOS(2, blocks=[1, 1, 1], width=8, channels=8, head_convs=1, levels=(3, 4, 5)).eval()
        for _ in range(2)
    )
    views = augment.Views(torch.rand(1, 3, 64, 64), None, torch.ones(1, 64, 64, dtype=torch.bool))
    own, told = student(views.images), teacher(views.images)
    expected = matching.fcos(own, told, temperature=2.0, weighting=weighting)
    assert method.terms(views, own, told) == expected
    assert expected != matching.fcos(own, told, temperature=2.0)


def test_function_matching_takes_the_pool_and_blends_where_asked():
    settings = [config.Method(name) for name in ("distil", "matching")]
    settings.append(config.Method("matching", mixup=True))
    distil, plain, mixing = (methods.build(one, None, 2, "detection") for one in settings)
    assert [one.needs_pool for one in (distil, plain, mixing)] == [False, True, True]
    images, valid = torch.rand(3, 3, 8, 8), torch.ones(3, 8, 8, dtype=torch.bool)
    valid[1, 0] = False
    views = augment.Views(images, None, valid)
    for method in (distil, plain, methods.FunctionMatchingBoxes()):
        assert method.prepare(views, runtime.generator(0)) is views
    mixed = mixing.prepare(views, runtime.generator(0))
    share = float(torch.rand(1, generator=runtime.generator(0)))
    assert 0.02 < share < 0.98
    for n in range(3):
        torch.testing.assert_close(mixed.images[n], share * images[n] + (1 - share) * images[n - 1])
    assert mixed.valid.all(dim=2).tolist() == [[True] * 8, *[[False] + [True] * 7] * 2]


def test_a_cell_is_valid_where_its_centre_is_in_views_that_cells_do_not_fill():
    valid = torch.zeros(1, 100, 70, dtype=torch.bool)
    valid[:, :50] = True
    # centres in rows 16, 48, 80 and, beyond the view, 112; columns 16, 48 and 80
    cells = at_cells(valid, (4, 3), 32)
    assert cells.tolist() == [[[True] * 3, [True] * 3, [False] * 3, [False] * 3]]
    valid[:, 48:] = False
    assert at_cells(valid, (4, 3), 32).sum() == 3
    valid[:, 99] = True
    assert at_cells(valid, (4, 3), 32)[0, 3].all()


# -- Scores


class Fixed(nn.Module):
    """A detector that finds the same boxes, in pixels of what it is shown, in every image."""

    def __init__(self, *rows):
        super().__init__()
        table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
        self.found = Detections(table[:, :4], table[:, 4], table[:, 5].long())

    def forward(self, images):
        return len(images)

    def detections(self, output, size_hw):
        return [self.found] * output


@pytest.fixture
def still(tmp_path, monkeypatch):
    """One still of 64 x 128 pixels with a car and an ignored truck."""
    truth = boxes((20, 20, 60, 60, 2), (80, 0, 120, 30, 3), ignored=(1,))
    reader = layouts.get("bdd100k-boxes")
    monkeypatch.setattr(reader, "read_image", lambda path: np.zeros((64, 128, 3), np.uint8))
    monkeypatch.setattr(reader, "read_boxes", lambda sample: truth)
    return Sample("a", tmp_path / "a.jpg", tmp_path / "labels.json")


def test_boxes_are_scored_in_pixels_of_the_still(still):
    fabric = runtime.fabric("float32")
    # Shown at half the size, so the car is at 10 ... 30 there; the truck's place is ignored.
    good = Fixed((10, 10, 30, 30, 0.9, 2), (40, 0, 60, 15, 0.8, 3))
    scores = evaluation.evaluate(good, "bdd100k-boxes", [still], SIZE, fabric=fabric)
    assert scores["map"] == pytest.approx(1) and scores["ap"]["car"] == pytest.approx(1)
    assert scores["ap"]["truck"] is None and "agreement" not in scores
    wrong = Fixed((20, 20, 60, 60, 0.9, 2))  # pixels of the still, not of what was shown
    assert evaluation.evaluate(wrong, "bdd100k-boxes", [still], SIZE, fabric=fabric)["map"] < 0.1
    assert evaluation.headline("bdd100k-boxes") == "map"
    assert evaluation.headline("bdd100k") == "miou"


def test_agreement_takes_the_teachers_boxes_for_truth(still):
    fabric = runtime.fabric("float32")
    teacher = Teacher(Fixed((0, 0, 20, 20, 0.9, 1), (0, 0, 9, 9, 0.1, 5)), name="t", score=0.0)
    same, other = Fixed((0, 0, 20, 20, 0.6, 1)), Fixed((30, 0, 50, 20, 0.6, 1))
    examined = evaluation.evaluate(teacher, "bdd100k-boxes", [still], SIZE, fabric=fabric)
    assert examined["map"] == 0  # it may be scored like any network
    for student, expected in ((same, 1.0), (other, 0.0)):
        scores = evaluation.evaluate(
            student, "bdd100k-boxes", [still], SIZE, fabric=fabric, teacher=teacher
        )
        # The teacher's second box is below the score from which it counts.
        assert scores["agreement"]["map"] == pytest.approx(expected)


class Dense(nn.Module):
    """A dense detector, answers that grow with the brightness of a cell; it finds no boxes."""

    def __init__(self, slope: float):
        super().__init__()
        self.slope = slope

    def forward(self, images_NCHW):
        x_N1hw = self.slope * nn.functional.avg_pool2d(images_NCHW.mean(1, keepdim=True), 8)
        scores, box = x_N1hw.expand(-1, 2, -1, -1), x_N1hw.exp().expand(-1, 4, -1, -1)
        return DetectionOutput((scores,), (box,), (x_N1hw,), (8,), {})

    def detections(self, output, size_hw):
        none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
        return [none] * len(output.classification[0])


@pytest.mark.parametrize("batch", [4, 3])
def test_the_batch_size_changes_no_distance_of_dense_answers(still, monkeypatch, batch):
    """Four images at once, or three and one: a mean over images, and one over the evidence."""
    brightness = np.array([20, 60, 110, 250])
    pictures = {str(k): np.full((*SIZE, 3), value, np.uint8) for k, value in enumerate(brightness)}
    monkeypatch.setattr(layouts.get("bdd100k-boxes"), "read_image", pictures.get)
    stills = [dataclasses.replace(still, image=name) for name in pictures]
    student, teacher, fabric = Dense(1.0), Dense(3.0), runtime.fabric("float32")
    found = evaluation.evaluate(
        student, "bdd100k-boxes", stills, SIZE, fabric=fabric, teacher=teacher, batch=batch
    )["agreement"]
    z_s, z_t = brightness / 255, 3 * brightness / 255
    p_s, p_t = (1 / (1 + np.exp(-z)) for z in (z_s, z_t))
    kl = p_t * np.log(p_t / p_s) + (1 - p_t) * np.log((1 - p_t) / (1 - p_s))
    assert found["kl"] == pytest.approx((2 * kl).mean(), rel=1e-5)  # two classes
    # boxes of four equal distances exp(z) around one point
    expected = np.average(np.exp(2 * (z_s - z_t)), weights=p_t)
    assert found["box_iou"] == pytest.approx(expected, rel=1e-5)


def test_a_detector_learns_and_goes_on_after_a_kill(tmp_path, monkeypatch):
    """A small imitation run: killed after a resume point it ends with the same bits."""
    student, teacher = detectors()
    pixels = np.random.default_rng(0).integers(0, 255, (4, 64, 96, 3), np.uint8)

    class Source:
        def __len__(self):
            return 4

        def read(self, index):
            return pixels[index], boxes((8, 8, 40, 40, index % 3))

    run = config.Run(
        name="imitation-test",
        scale="smoke",
        seed=0,
        data=config.Data(
            "kitti", "nowhere", (64, 96), config.Subset("train"), config.Subset("val")
        ),
        method=config.Method("imitation", imitation=settings("I", "D", weight=0.1)),
        schedule=config.Schedule(steps=4, batch=2, lr=1e-3, save_every_s=0.0, workers=0),
        augment=Augment(zoom=(1.0, 1.2)),
    )
    start = {name: value.clone() for name, value in student.state_dict().items()}

    def trained(folder, steps=None):
        student.load_state_dict(start)
        return training.train(
            run,
            student,
            Imitation(run.method.imitation),
            Source(),
            fabric=runtime.fabric("float32"),
            resume=folder,
            teacher=teacher,
        )

    monkeypatch.setattr(training, "LOG_EVERY", 2)
    whole = trained(tmp_path / "whole")
    real = resuming.save

    def killed(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(resuming, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed")
    monkeypatch.setattr(resuming, "save", real)
    resumed = trained(tmp_path / "killed")
    assert all(torch.equal(whole.weights[key], resumed.weights[key]) for key in whole.weights)
    assert whole.history == resumed.history
    assert {"imitation", "scores", "confidence"} <= whole.history[0].keys()
