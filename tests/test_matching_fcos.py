"""The matching loss of detectors against its formula, written as slow loops."""

import math

import pytest
import torch

from kdlib.detection import DetectionOutput
from kdlib.losses import matching
from kdlib.losses.fcos import paired_iou

SIZES, STRIDES, CLASSES = ((3, 4), (2, 2), (1, 1)), (8, 16, 32), 3
TERMS = ("classification", "box", "centerness")
WEIGHTINGS = ("foreground", "top", "difference")


def output(seed: int, images: int = 2, dtype: torch.dtype = torch.float64) -> DetectionOutput:
    generator = torch.Generator().manual_seed(seed)

    def random(channels: int) -> tuple[torch.Tensor, ...]:
        return tuple(
            torch.randn(images, channels, *size, generator=generator, dtype=torch.float64).to(dtype)
            for size in SIZES
        )

    box = tuple((1.5 * x).exp() for x in random(4))
    return DetectionOutput(tuple(2 * x for x in random(CLASSES)), box, random(1), STRIDES, {})


def part(whole: DetectionOutput, images: slice) -> DetectionOutput:
    return DetectionOutput(*(tuple(x[images] for x in levels) for levels in whole[:3]), STRIDES, {})


def leaves(whole: DetectionOutput) -> list[torch.Tensor]:
    return [x for levels in whole[:3] for x in levels]


def from_leaves(tensors) -> DetectionOutput:
    n = len(SIZES)
    return DetectionOutput(tensors[:n], tensors[n : 2 * n], tensors[2 * n :], STRIDES, {})


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def bce(p: float, target: float) -> float:
    return -target * math.log(p) - (1 - target) * math.log(1 - p)


def corners_iou(first, second) -> tuple[float, float]:
    """IoU and GIoU of two boxes around the origin, by corners."""
    (a, b, c, d), (e, f, g, h) = ((-x[0], -x[1], x[2], x[3]) for x in (first, second))
    shared = max(0, min(c, g) - max(a, e)) * max(0, min(d, h) - max(b, f))
    union = (c - a) * (d - b) + (g - e) * (h - f) - shared
    hull = (max(c, g) - min(a, e)) * (max(d, h) - min(b, f))
    return shared / union, shared / union - (hull - union) / hull


def cells(student, teacher, temperature, valid):
    """Per valid cell: probabilities of both, IoU, GIoU, quality of both."""
    for level, (h, w) in enumerate(SIZES):
        for n in range(student.classification[0].shape[0]):
            for i in range(h):
                for j in range(w):
                    if valid is not None and not valid[level][n, i, j]:
                        continue
                    p, q, b = [], [], []
                    for net in (student, teacher):
                        z = net.classification[level][n, :, i, j].tolist()
                        p.append([sigmoid(x / temperature) for x in z])
                        q.append(sigmoid(float(net.quality[level][n, 0, i, j])))
                        b.append(net.box[level][n, :, i, j].tolist())
                    yield *p, *corners_iou(*b), *q


def reference(student, teacher, temperature=1.0, weighting="foreground", top=0.01, valid=None):
    """Fact sheet function_matching 2.3, cell by cell, in Python floats."""
    rows = list(cells(student, teacher, temperature, valid))
    w = [max(p_t) for _, p_t, *_ in rows]
    images = student.classification[0].shape[0]
    region_size = max(1, int(top * images * sum(h * w for h, w in SIZES)))
    region = set(sorted(range(len(rows)), key=lambda i: -w[i])[:region_size])
    classes = box = centre = 0.0
    for i, (p_s, p_t, _, giou, q_s, q_t) in enumerate(rows):
        inside = i in region
        gap = max(abs(t - s) for s, t in zip(p_s, p_t, strict=True))
        for s, t in zip(p_s, p_t, strict=True):
            if weighting == "foreground":
                classes += t * math.log(t / s) + (1 - t) * math.log((1 - t) / (1 - s))
            elif weighting == "difference":
                classes += abs(t - s) * bce(s, t)
            else:
                classes += (t - s) ** 2 * bce(s, t) if inside else s**2 * bce(s, 0)
        box += {"foreground": w[i], "difference": gap, "top": inside}[weighting] * (1 - giou)
        centre += {"foreground": w[i], "difference": w[i], "top": inside}[weighting] * bce(q_s, q_t)
    z = max(sum(w), 1)
    if weighting == "top":
        z, count = max(sum(w[i] for i in region), 1), max(len(region), 1)
        return {
            "classification": temperature**2 * classes / z,
            "box": box / count,
            "centerness": centre / count,
        }
    return {
        "classification": temperature**2 * classes / z, "box": box / z, "centerness": centre / z
    }  # fmt: skip


def masks(images: int = 2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(9)
    return tuple(torch.rand(images, *size, generator=generator) > 0.3 for size in SIZES)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("temperature", [0.7, 1.0, 3.0])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_formula(weighting, temperature, masked):
    student, teacher = output(0), output(1)
    valid = masks() if masked else None
    options = {"weighting": weighting, "top": 0.2, "temperature": temperature, "valid": valid}
    losses = matching.fcos(student, teacher, **options)
    expected = reference(student, teacher, **options)
    assert tuple(losses) == TERMS
    for term in TERMS:
        assert losses[term].shape == ()
        assert float(losses[term]) == pytest.approx(expected[term], rel=1e-9), term


def one_cell(z: float, box: tuple[float, ...], o: float) -> DetectionOutput:
    return DetectionOutput(
        (torch.tensor([[[[z]]]]),), (torch.tensor(box).view(1, 4, 1, 1),),
        (torch.tensor([[[[o]]]]),), (8,), {},
    )  # fmt: skip


def test_one_cell_by_hand():
    # p^t = 3/4, p^s = 1/2; boxes 2 x 2 and 4 x 2 with 4 shared of 8; q^t = 1/4, q^s = 1/2
    teacher = one_cell(math.log(3), (1, 1, 1, 1), -math.log(3))
    student = one_cell(0, (3, 1, 1, 1), 0)
    losses = matching.fcos(student, teacher)
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    # one cell's evidence of 3/4 is below 1, and Z = 1
    assert float(losses["classification"]) == pytest.approx(kl, rel=1e-6)
    assert float(losses["box"]) == pytest.approx(0.75 * (1 - 0.5), rel=1e-6)
    assert float(losses["centerness"]) == pytest.approx(0.75 * math.log(2), rel=1e-6)
    assert float(matching.evidence(teacher)) == pytest.approx(0.75)
    assert float(matching.box_agreement(student, teacher)) == pytest.approx(0.5)
    assert float(matching.score_divergence(student, teacher)) == pytest.approx(kl, rel=1e-6)


def test_giou_by_hand():
    # 2 wide and 4 high against 4 wide and 2 high: 4 shared, 12 covered, 16 enclosing
    first = torch.tensor([1.0, 2, 1, 2]).view(1, 4, 1)
    second = torch.tensor([2.0, 1, 2, 1]).view(1, 4, 1)
    assert float(paired_iou(first, second)) == pytest.approx(4 / 12)
    assert float(paired_iou(first, second, generalised=True)) == pytest.approx(4 / 12 - 4 / 16)


def test_equal_networks_have_nothing_to_learn():
    teacher = output(1)
    student = from_leaves([x.clone().requires_grad_() for x in leaves(teacher)])
    losses = matching.fcos(student, teacher, temperature=2.0)
    assert losses["classification"].item() == 0
    assert losses["box"].item() == pytest.approx(0, abs=1e-12)
    # a cross entropy ends at the teacher's entropy: what vanishes is its gradient
    assert losses["centerness"].item() > 0.1
    (losses["classification"] + losses["centerness"]).backward()
    for x in (*student.classification, *student.quality):
        assert float(x.grad.abs().max()) < 1e-12
    assert matching.score_divergence(teacher, teacher).item() == 0
    assert matching.box_agreement(teacher, teacher).item() == pytest.approx(1)
    # BCKD's vanishes too, Dense Teacher's does not
    assert matching.fcos(teacher, teacher, weighting="difference")["classification"].item() == 0
    assert matching.fcos(teacher, teacher, weighting="top")["classification"].item() > 0.1


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_gradients(weighting):
    # the weight of BCKD's boxes passes no gradient, so its two parts are checked alone
    teacher, options = output(1, 1), {"weighting": weighting, "top": 0.2, "temperature": 1.5}
    tensors = [x.requires_grad_() for x in leaves(output(0, 1))]
    n = len(SIZES)
    for some in (slice(0, n), slice(n, None)) if weighting == "difference" else (slice(None),):
        terms = TERMS[:1] if some == slice(0, n) else TERMS

        def total(*changed, some=some, terms=terms):
            inputs = list(tensors)
            inputs[some] = changed
            losses = matching.fcos(from_leaves(inputs), teacher, **options)
            return sum(losses[term] for term in terms)

        assert torch.autograd.gradcheck(total, tuple(tensors[some]))


def test_the_weight_of_bckds_boxes_passes_no_gradient():
    student = from_leaves([x.requires_grad_() for x in leaves(output(0))])
    matching.fcos(student, output(1), weighting="difference")["box"].backward()
    assert student.classification[0].grad is None
    assert student.box[0].grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_half_types_are_computed_in_float32(dtype, weighting):
    student, teacher = output(0, dtype=dtype), output(1, dtype=dtype)
    losses = matching.fcos(student, teacher, weighting=weighting)
    exact = reference(student, teacher, weighting=weighting)
    for term in TERMS:
        assert losses[term].dtype == torch.float32
        assert float(losses[term]) == pytest.approx(exact[term], rel=1e-4)


def test_extreme_outputs_stay_finite():
    far = from_leaves([x.float().requires_grad_() for x in leaves(output(0))])
    with torch.no_grad():
        for x in (*far.classification, *far.quality):
            x.mul_(100)
        for x in far.box:
            x.copy_(torch.where(x > 1, 8e6, 1e-7))
    for weighting in WEIGHTINGS:
        losses = matching.fcos(far, output(1, dtype=torch.float32), weighting=weighting)
        for x in torch.autograd.grad(sum(losses.values()), leaves(far)):
            assert x.isfinite().all()
        assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("weighting", ["foreground", "difference"])
def test_parts_of_a_batch_add_up_under_one_normaliser(weighting):
    student, teacher = output(0, 4), output(1, 4)
    whole = matching.fcos(student, teacher, weighting=weighting)
    z = matching.evidence(teacher)
    assert z > 1
    parts = [
        matching.fcos(part(student, s), part(teacher, s), weighting=weighting, normaliser=z)
        for s in (slice(0, 1), slice(1, 4))
    ]
    for term in TERMS:
        assert float(sum(losses[term] for losses in parts)) == pytest.approx(float(whole[term]))
    # the same images twice leave every mean as it is
    twice = [from_leaves([torch.cat([x, x]) for x in leaves(net)]) for net in (student, teacher)]
    for term, loss in matching.fcos(*twice, weighting=weighting).items():
        assert float(loss) == pytest.approx(float(whole[term]))


def test_the_evidence_of_a_region_is_what_its_classification_is_divided_by():
    student, teacher = output(0, 4), output(1, 4)
    options = {"weighting": "top", "top": 0.2}
    z = matching.evidence(teacher, **options)
    assert 1 < z < matching.evidence(teacher)
    assert matching.fcos(student, teacher, normaliser=z, **options) == matching.fcos(
        student, teacher, **options
    )


def test_background_counts_little_for_boxes_and_fully_for_classes():
    student, teacher = output(0), output(1)
    quiet = teacher._replace(classification=tuple(x - 20 for x in teacher.classification))
    losses = matching.fcos(student, quiet)
    assert losses["box"].item() < 1e-5
    assert losses["centerness"].item() < 1e-5
    # nothing is found, so Z = 1 and the sum over all cells remains
    assert losses["classification"].item() > 1


def test_padding_has_no_part():
    student, teacher, valid = output(0), output(1), masks()
    other = from_leaves(
        [
            torch.where(mask[:, None], x, 7.0)
            for x, mask in zip(leaves(student), valid * 3, strict=True)
        ]
    )
    for weighting in WEIGHTINGS:
        options = {"weighting": weighting, "valid": valid, "top": 0.3}
        assert matching.fcos(student, teacher, **options) == matching.fcos(
            other, teacher, **options
        )
        assert matching.fcos(student, teacher, weighting=weighting) != matching.fcos(
            other, teacher, weighting=weighting
        )
    for measure in (matching.score_divergence, matching.box_agreement):
        assert measure(student, teacher, valid=valid) == measure(other, teacher, valid=valid)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_no_valid_cell_gives_zero_with_zero_gradients(weighting):
    student = from_leaves([x.requires_grad_() for x in leaves(output(0))])
    none = tuple(torch.zeros_like(mask) for mask in masks())
    losses = matching.fcos(student, output(1), weighting=weighting, valid=none)
    for x in torch.autograd.grad(sum(losses.values()), leaves(student)):
        assert not x.any()
    assert [loss.item() for loss in losses.values()] == [0, 0, 0]
    assert matching.box_agreement(student, output(1), valid=none) == 0
    assert matching.score_divergence(student, output(1), valid=none) == 0


@pytest.mark.parametrize("masked", [False, True])
def test_agreement_equals_the_formula(masked):
    student, teacher = output(0), output(1)
    valid = masks() if masked else None
    rows = list(cells(student, teacher, 1.0, valid))
    w = [max(p_t) for _, p_t, *_ in rows]
    kl = sum(
        t * math.log(t / s) + (1 - t) * math.log((1 - t) / (1 - s))
        for p_s, p_t, *_ in rows
        for s, t in zip(p_s, p_t, strict=True)
    )
    iou = sum(w_i * row[2] for w_i, row in zip(w, rows, strict=True)) / sum(w)
    got = matching.score_divergence(student, teacher, valid=valid)
    assert float(got) == pytest.approx(kl / len(rows))
    assert float(matching.box_agreement(student, teacher, valid=valid)) == pytest.approx(iou)
    assert float(matching.evidence(teacher, valid=valid)) == pytest.approx(sum(w))


def test_agreement_is_the_loss_itself():
    student, teacher = output(0), output(1)
    losses = matching.fcos(student, teacher)
    count = 2 * sum(h * w for h, w in SIZES)
    divergence = matching.score_divergence(student, teacher) * count / matching.evidence(teacher)
    assert float(losses["classification"]) == pytest.approx(float(divergence))


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_teacher_in_inference_mode(weighting):
    student = from_leaves([x.requires_grad_() for x in leaves(output(0))])
    with torch.inference_mode():
        teacher = from_leaves([x.clone() for x in leaves(output(1))])
    assert teacher.box[0].is_inference()
    losses = matching.fcos(student, teacher, weighting=weighting, valid=masks())
    sum(losses.values()).backward()
    expected = matching.fcos(student, output(1), weighting=weighting, valid=masks())
    assert losses == expected


def test_errors():
    student, teacher = output(0), output(1)
    with pytest.raises(ValueError, match="temperature"):
        matching.fcos(student, teacher, temperature=0)
    with pytest.raises(ValueError, match="weighting"):
        matching.fcos(student, teacher, weighting="labels")
    with pytest.raises(ValueError, match="top"):
        matching.fcos(student, teacher, top=0)
    with pytest.raises(ValueError, match="same levels"):
        matching.fcos(part(student, slice(0, 1)), teacher)
    with pytest.raises(ValueError, match="same strides"):
        matching.fcos(student._replace(strides=(4, 8, 16)), teacher)
    with pytest.raises(ValueError, match="one \\(N, h, w\\) mask per level"):
        matching.fcos(student, teacher, valid=masks()[:2])
