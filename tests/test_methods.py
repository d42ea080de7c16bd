"""What each method turns views and outputs into, and what a teacher guarantees."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from kdlib import config, methods
from kdlib.config import ConfigError
from kdlib.data.augment import Views
from kdlib.losses import matching, supervised
from kdlib.methods import Distil, FunctionMatching, Supervised
from kdlib.methods import matching as matching_method
from kdlib.models.outputs import SegmentationOutput
from kdlib.runtime import generator
from kdlib.teacher import Teacher, TeacherError

N, C, H, W, STRIDE = 3, 4, 8, 12, 4


def logits(word: str) -> torch.Tensor:
    return 2 * torch.randn(N, C, H // STRIDE, W // STRIDE, generator=generator(0, word))


def output(word: str, aux: bool = False) -> SegmentationOutput:
    return SegmentationOutput(logits(word), logits(word + " aux") if aux else None, {})


@pytest.fixture
def views():
    labels = torch.randint(0, C, (N, H, W), generator=generator(0, "labels"))
    labels[:, :3] = 255
    images = torch.rand(N, 3, H, W, generator=generator(0, "images"))
    return Views(images, labels, torch.ones(N, H, W, dtype=torch.bool))


def without_labels(views: Views) -> Views:
    return Views(views.images, None, views.valid)


WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 4.0])


@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
def test_supervised_is_the_cross_entropy_with_the_labels(views, class_weights):
    method = Supervised(class_weights)
    student = output("student", aux=True)
    terms = method.terms(views, student)
    for name, scores in (("cross_entropy", student.logits), ("auxiliary", student.aux)):
        expected = supervised.segmentation_ce(scores, views.labels, class_weights=class_weights)
        assert torch.equal(terms[name], expected)
    assert terms.keys() <= method.weights.keys()
    assert method.weights == {"cross_entropy": 1.0, "auxiliary": 0.4, "existence": 0.1}
    assert method.terms(views, output("student")).keys() == {"cross_entropy"}
    assert (method.needs_labels, method.needs_teacher, method.needs_pool) == (True, False, False)
    assert method.prepare(views, generator(0)) is views


def test_distil_is_the_distance_to_the_teacher(views):
    method = Distil(temperature=2.0)
    student, teacher = output("student", aux=True), output("teacher")
    terms = method.terms(without_labels(views), student, teacher)
    for name, scores in (("matching", student.logits), ("auxiliary", student.aux)):
        expected = matching.segmentation(scores, teacher.logits, temperature=2.0)
        torch.testing.assert_close(terms[name], expected)
    assert method.weights.keys() == terms.keys()
    assert (method.needs_labels, method.needs_teacher, method.needs_pool) == (False, True, False)
    same = method.terms(without_labels(views), teacher, teacher)["matching"]
    assert float(same) == pytest.approx(0, abs=1e-6)


def test_ignored_pixels_are_matched_and_padding_is_not(views):
    method = Distil()
    student, teacher = output("student"), output("teacher")
    whole = float(method.terms(views, student, teacher)["matching"])
    assert whole == float(method.terms(without_labels(views), student, teacher)["matching"])
    views.labels[:] = 255
    assert whole == float(method.terms(views, student, teacher)["matching"])

    views.valid[:, :, 8:] = False  # the right third of every view is padding
    padded = float(method.terms(views, student, teacher)["matching"])
    expected = matching.segmentation(student.logits[..., :2], teacher.logits[..., :2])
    assert padded == pytest.approx(float(expected), rel=1e-6) and padded != whole
    student.logits[..., 2] = 1e3
    assert float(method.terms(views, student, teacher)["matching"]) == padded


def test_class_weights_follow_what_the_teacher_sees(views):
    student, teacher = output("student"), output("teacher")
    terms = Distil(class_weights=WEIGHTS).terms(without_labels(views), student, teacher)
    expected = matching.segmentation(
        student.logits, teacher.logits, weight_NHW=WEIGHTS[teacher.logits.argmax(1)]
    )
    torch.testing.assert_close(terms["matching"], expected)


def test_distil_uses_labels_only_when_asked(views):
    method = Distil(label_weight=0.3, class_weights=WEIGHTS)
    student, teacher = output("student"), output("teacher")
    terms = method.terms(views, student, teacher)
    expected = supervised.segmentation_ce(student.logits, views.labels, class_weights=WEIGHTS)
    assert torch.equal(terms["cross_entropy"], expected)
    assert method.needs_labels and method.weights["cross_entropy"] == 0.3


@pytest.mark.parametrize("method", [Distil(), FunctionMatching(), FunctionMatching(mixup=True)])
def test_the_gradient_reaches_the_student_alone(views, method):
    student = output("student")
    student.logits.requires_grad_()
    with torch.inference_mode():
        teacher = output("teacher")
    method.terms(without_labels(views), student, teacher)["matching"].backward()
    assert student.logits.grad.abs().sum() > 0


def test_matching_takes_the_pool_and_leaves_views_alone_without_mixup(views):
    method = FunctionMatching()
    assert (method.needs_labels, method.needs_teacher, method.needs_pool) == (False, True, True)
    assert method.prepare(views, generator(0)) is views
    student, teacher = output("student"), output("teacher")
    assert torch.equal(
        method.terms(views, student, teacher)["matching"],
        Distil().terms(views, student, teacher)["matching"],
    )


def test_mixup_blends_each_view_with_its_neighbour(views):
    views.valid[1, 0] = False
    method = FunctionMatching(mixup=True)
    mixed = method.prepare(without_labels(views), generator(5, "views", 9))
    share = float(torch.rand(1, generator=generator(5, "views", 9)))
    assert 0.02 < share < 0.98
    for n in range(N):
        expected = share * views.images[n] + (1 - share) * views.images[n - 1]
        torch.testing.assert_close(mixed.images[n], expected)
    # a blend with padding is padding
    assert not mixed.valid[1, 0].any() and not mixed.valid[2, 0].any()
    assert mixed.valid[0].all() and mixed.valid[:, 1:].all()
    assert torch.equal(
        method.prepare(without_labels(views), generator(5, "views", 9)).images, mixed.images
    )
    other = method.prepare(without_labels(views), generator(5, "views", 10)).images
    assert not torch.equal(other, mixed.images)


def test_a_single_image_has_no_neighbour_to_blend_with(views):
    one = replace(views, images=views.images[:1], valid=views.valid[:1])
    with pytest.raises(ConfigError, match="mixup"):
        FunctionMatching(mixup=True).prepare(one, generator(0, "one"))


def test_mixup_ratios_are_uniform(views):
    one, zero = torch.ones(1, 3, H, W), torch.zeros(1, 3, H, W)
    pair = Views(torch.cat([one, zero]), None, torch.ones(2, H, W, dtype=torch.bool))
    method, numbers = FunctionMatching(mixup=True), generator(0, "many")
    shares = torch.tensor(
        [float(method.prepare(pair, numbers).images[0].mean()) for _ in range(400)]
    )
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.06)
    assert float(shares.var()) == pytest.approx(1 / 12, abs=0.02)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (config.Method("supervised"), Supervised()),
        (config.Method("distil", label_weight=0.5), Distil(label_weight=0.5)),
        (config.Method("distil", temperature=3.0), Distil(temperature=3.0)),
        (config.Method("matching", mixup=True), FunctionMatching(mixup=True)),
    ],
)
def test_parameters_name_the_method(settings, expected):
    assert methods.build(settings, None, C) == expected
    assert methods.build(settings, WEIGHTS, C).class_weights is WEIGHTS


def test_class_weights_by_hand():
    # frequencies 1/4, 1/16, 11/16; the last class does not occur
    counts = torch.tensor([4, 1, 11, 0])
    raw = [2.0, 4.0, math.sqrt(16 / 11), 4.0]
    mean = (4 * raw[0] + raw[1] + 11 * raw[2]) / 16
    expected = torch.tensor([value / mean for value in raw])
    torch.testing.assert_close(methods.inverse_sqrt_weights(counts), expected)


def test_class_weights_without_any_label_are_refused():
    with pytest.raises(ValueError, match="no labelled pixel"):
        methods.inverse_sqrt_weights(torch.zeros(3, dtype=torch.int64))


def test_a_cell_is_valid_where_its_centre_is():
    valid = torch.zeros(1, 8, 12, dtype=torch.bool)
    valid[:, :, :7] = True
    cells = matching_method.at_stride(valid, (2, 3))
    assert cells.tolist() == [[[True, True, False], [True, True, False]]]
    valid[:, :, 6] = False
    assert matching_method.at_stride(valid, (2, 3)).tolist() == [[[True, False, False]] * 2]
    assert torch.equal(matching_method.at_stride(valid, (8, 12)), valid)
    # logits of a size that does not divide the view's: the mask has their size all the same
    odd = torch.ones(2, 9, 13, dtype=torch.bool)
    assert matching_method.at_stride(odd, (3, 4)).shape == (2, 3, 4)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(3, C, 1))

    def forward(self, images_NCHW):
        return SegmentationOutput(self.classifier(self.norm(images_NCHW)), None, {})


def test_a_teacher_stays_as_it_is(views):
    teacher = Teacher(Network().train(), name="t", score=0.5)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    holder = nn.Sequential(teacher).train()
    assert holder.training and not any(part.training for part in teacher.modules())
    first = teacher(views.images)
    assert torch.equal(first.logits, teacher(views.images).logits)  # no dropout
    assert not first.logits.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())


def test_a_teacher_below_its_recorded_score_is_refused():
    teacher = Teacher(Network(), name="funmatch-seg-teacher, seed 1", score=0.5)
    teacher.check(0.5)
    teacher.check(0.496)
    teacher.check(0.6)
    for reached in (0.49, 0.0, math.nan):
        with pytest.raises(TeacherError, match="teacher funmatch-seg-teacher, seed 1: scores"):
            teacher.check(reached)
