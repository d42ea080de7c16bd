"""The matching loss against its formula, written as slow loops."""

import math

import pytest
import torch

from kdlib.losses import matching


def reference(student, teacher, temperature=1.0, valid=None, weight=None) -> float:
    """Fact sheet function_matching 2.2, pixel by pixel, in Python floats."""
    n_images, n_classes, height, width = student.shape
    total, norm = 0.0, 0.0
    for n in range(n_images):
        for i in range(height):
            for j in range(width):
                if valid is not None and not valid[n, i, j]:
                    continue
                probabilities = []
                for logits in (student, teacher):
                    powers = [math.exp(logits[n, c, i, j] / temperature) for c in range(n_classes)]
                    probabilities.append([power / sum(powers) for power in powers])
                p_s, p_t = probabilities
                kl = sum(t * (math.log(t) - math.log(s)) for s, t in zip(p_s, p_t, strict=True))
                w = 1.0 if weight is None else float(weight[n, i, j])
                total, norm = total + w * kl, norm + w
    return temperature**2 * total / norm if norm else 0.0


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return [2 * torch.randn(2, 5, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2)]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_the_formula(logits, temperature, masked, weighted):
    generator = torch.Generator().manual_seed(1)
    valid = torch.rand(2, 3, 4, generator=generator) > 0.4 if masked else None
    weight = torch.rand(2, 3, 4, generator=generator) if weighted else None
    loss = matching.segmentation(
        *logits, temperature=temperature, valid_NHW=valid, weight_NHW=weight
    )
    assert loss.shape == ()
    assert float(loss) == pytest.approx(reference(*logits, temperature, valid, weight), rel=1e-6)


def test_one_pixel_by_hand():
    # teacher (1/4, 3/4), student (1/2, 1/2): KL = ln 2 - H(1/4)
    teacher = torch.tensor([0.0, math.log(3.0)]).view(1, 2, 1, 1)
    loss = matching.segmentation(torch.zeros(1, 2, 1, 1), teacher)
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    # the other direction is another number
    swapped = matching.segmentation(teacher, torch.zeros(1, 2, 1, 1))
    assert float(swapped) == pytest.approx(
        0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75), rel=1e-6
    )


def test_temperature_keeps_the_size_of_the_gradient(logits):
    # for large T the loss tends to 1 / (2 C) * mean squared difference of the centred logits
    student, teacher = (z - z.mean(1, keepdim=True) for z in logits)
    limit = ((student - teacher) ** 2).sum(1).mean() / (2 * student.shape[1])
    loss = matching.segmentation(student, teacher, temperature=1e4)
    assert float(loss) == pytest.approx(float(limit), rel=1e-3)


def test_zero_when_equal_and_positive_otherwise(logits):
    student, teacher = logits
    student.requires_grad_()
    loss = matching.segmentation(student, student.detach().clone(), temperature=2.0)
    loss.backward()
    assert loss.item() == 0
    assert float(student.grad.abs().max()) < 1e-12
    assert matching.segmentation(student, teacher).item() > 0
    # softmax does not see a constant added to all classes
    assert float(matching.segmentation(teacher + 7.0, teacher)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_gradient(logits, temperature):
    student, teacher = (z[:, :, :2, :2].clone().requires_grad_() for z in logits)
    valid = torch.tensor([[[1, 0], [1, 1]], [[0, 1], [1, 1]]], dtype=torch.bool)

    def loss(s, t):
        return matching.segmentation(s, t, temperature=temperature, valid_NHW=valid)

    assert torch.autograd.gradcheck(loss, (student, teacher))
    # d L / d z_s = T (p_s - p_t) / |Omega| at valid pixels
    (gradient,) = torch.autograd.grad(loss(student, teacher), student)
    difference = (student / temperature).softmax(1) - (teacher / temperature).softmax(1)
    expected = temperature * difference * valid[:, None] / valid.sum()
    torch.testing.assert_close(gradient, expected.detach())


def test_mean_depends_neither_on_batch_nor_on_resolution(logits):
    student, teacher = logits
    loss = matching.segmentation(student, teacher)
    twice = matching.segmentation(student.repeat(3, 1, 1, 1), teacher.repeat(3, 1, 1, 1))
    larger = matching.segmentation(student.repeat(1, 1, 2, 5), teacher.repeat(1, 1, 2, 5))
    torch.testing.assert_close(twice, loss)
    torch.testing.assert_close(larger, loss)


def test_masked_pixels_do_not_count(logits):
    student, teacher = logits
    valid = torch.ones(2, 3, 4, dtype=torch.bool)
    valid[:, :, 2:] = False
    loss = matching.segmentation(student, teacher, valid_NHW=valid)
    torch.testing.assert_close(loss, matching.segmentation(student[..., :2], teacher[..., :2]))
    student.requires_grad_()
    matching.segmentation(student, teacher, valid_NHW=valid).backward()
    assert not student.grad[..., 2:].any() and student.grad[..., :2].all()


def test_no_valid_pixel_gives_zero_and_finite_gradients(logits):
    student, teacher = logits
    student.requires_grad_()
    valid = torch.zeros(2, 3, 4, dtype=torch.bool)
    loss = matching.segmentation(student, teacher, valid_NHW=valid)
    loss.backward()
    assert loss.item() == 0 and not student.grad.any()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(logits, dtype):
    student, teacher = (z.to(dtype) for z in logits)
    loss = matching.segmentation(student, teacher)
    assert loss.dtype == torch.float32
    expected = matching.segmentation(student.double(), teacher.double())
    assert expected.dtype == torch.float64
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert float(matching.segmentation(student, teacher)) == float(loss)


def test_large_logits_stay_finite():
    student = torch.tensor([500.0, -500.0]).view(1, 2, 1, 1).requires_grad_()
    loss = matching.segmentation(student, -student.detach())
    loss.backward()
    assert loss.item() == pytest.approx(1000) and torch.isfinite(student.grad).all()


def test_memory_format_changes_nothing(logits):
    student, teacher = (z.float() for z in logits)
    last = [z.contiguous(memory_format=torch.channels_last) for z in (student, teacher)]
    torch.testing.assert_close(
        matching.segmentation(*last), matching.segmentation(student, teacher)
    )


def test_sizes_that_do_not_agree_are_named(logits):
    student, teacher = logits
    with pytest.raises(ValueError, match=r"\(2, 5, 3, 4\) and \(2, 5, 3, 3\)"):
        matching.segmentation(student, teacher[..., :3])
    with pytest.raises(ValueError, match=r"one size"):
        matching.segmentation(student, teacher[:, :1])
    with pytest.raises(ValueError, match="valid_NHW"):
        matching.segmentation(student, teacher, valid_NHW=torch.ones(2, 3, 3))
    with pytest.raises(ValueError, match="weight_NHW"):
        matching.segmentation(student, teacher, weight_NHW=torch.ones(2, 1, 3, 4))
    with pytest.raises(ValueError, match="temperature"):
        matching.segmentation(student, teacher, temperature=0.0)
