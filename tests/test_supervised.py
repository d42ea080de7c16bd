"""Cross entropy against labels, against slow loops and PyTorch's own."""

import math

import pytest
import torch
import torch.nn.functional as F

from kdlib.losses.supervised import segmentation_ce


def reference(logits, labels, weights=None) -> float:
    """Corners-aligned bilinear resize, log-softmax and weighted mean, pixel by pixel."""
    n_images, n_classes, height, width = logits.shape
    height_out, width_out = labels.shape[1:]
    total, norm = 0.0, 0.0
    for n in range(n_images):
        for i in range(height_out):
            for j in range(width_out):
                label = int(labels[n, i, j])
                if label == 255:
                    continue
                y = i * (height - 1) / (height_out - 1) if height_out > 1 else 0.0
                x = j * (width - 1) / (width_out - 1) if width_out > 1 else 0.0
                top, left = int(y), int(x)
                z = [0.0] * n_classes
                for dy, wy in ((0, 1 - (y - top)), (1, y - top)):
                    for dx, wx in ((0, 1 - (x - left)), (1, x - left)):
                        row, column = min(top + dy, height - 1), min(left + dx, width - 1)
                        for c in range(n_classes):
                            z[c] += wy * wx * float(logits[n, c, row, column])
                weight = 1.0 if weights is None else float(weights[label])
                total += weight * (math.log(sum(math.exp(v) for v in z)) - z[label])
                norm += weight
    return total / norm


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 3, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (2, 9, 13), generator=generator)
    labels[:, :3, ::2] = 255
    return logits, labels


@pytest.mark.parametrize("weighted", [False, True])
def test_equals_the_formula(batch, weighted):
    logits, labels = batch
    weights = torch.tensor([0.5, 1.0, 2.0, 0.25]) if weighted else None
    loss = segmentation_ce(logits, labels, class_weights=weights)
    assert loss.dtype == torch.float64
    assert float(loss) == pytest.approx(reference(logits, labels, weights), rel=1e-9)


def test_equals_pytorch_at_equal_size(batch):
    _, labels = batch
    logits = torch.randn(2, 4, 9, 13)
    weights = torch.tensor([0.5, 1.0, 2.0, 0.25])
    for weight in (None, weights):
        torch.testing.assert_close(
            segmentation_ce(logits, labels, class_weights=weight),
            F.cross_entropy(logits, labels, weight=weight, ignore_index=255),
        )


def test_one_pixel_by_hand():
    logits = torch.tensor([0.0, math.log(3.0)]).view(1, 2, 1, 1)
    # one position fills the whole picture; the true class has probability 3/4
    labels = torch.ones(1, 4, 6, dtype=torch.uint8)
    assert float(segmentation_ce(logits, labels)) == pytest.approx(math.log(4 / 3))


def test_auxiliary_head_is_weighted(batch):
    logits, labels = batch
    aux = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    main, other = segmentation_ce(logits, labels), segmentation_ce(aux, labels)
    torch.testing.assert_close(segmentation_ce(logits, labels, aux_logits=aux), main + 0.4 * other)
    torch.testing.assert_close(
        segmentation_ce(logits, labels, aux_logits=aux, aux_weight=1.0), main + other
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_wholly_ignored_batch_gives_zero(batch, weighted):
    logits, labels = batch
    logits.requires_grad_()
    aux = torch.randn(2, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    weights = torch.ones(4) if weighted else None
    loss = segmentation_ce(
        logits, torch.full_like(labels, 255), aux_logits=aux, class_weights=weights
    )
    loss.backward()
    assert loss.item() == 0
    for gradient in (logits.grad, aux.grad):
        assert torch.isfinite(gradient).all() and not gradient.any()


def test_gradient(batch):
    logits, labels = batch
    logits.requires_grad_()
    weights = torch.tensor([0.5, 1.0, 2.0, 0.25], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda z: segmentation_ce(z, labels, class_weights=weights), (logits,)
    )


def test_batch_size_and_other_ignored_value(batch):
    logits, labels = batch
    loss = segmentation_ce(logits, labels)
    torch.testing.assert_close(
        segmentation_ce(logits.repeat(3, 1, 1, 1), labels.repeat(3, 1, 1)), loss
    )
    other = labels.where(labels != 255, -1)
    torch.testing.assert_close(segmentation_ce(logits, other, ignore_index=-1), loss)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(batch, dtype):
    logits, labels = batch
    logits = logits.to(dtype)
    loss = segmentation_ce(logits, labels)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(segmentation_ce(logits.double(), labels)), rel=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert float(segmentation_ce(logits, labels)) == float(loss)


def test_wrong_sizes_are_named(batch):
    logits, labels = batch
    with pytest.raises(ValueError, match="labels must be"):
        segmentation_ce(logits, labels[:1])
    with pytest.raises(ValueError, match="labels must be"):
        segmentation_ce(logits, labels[:, None])
    with pytest.raises(ValueError, match="class_weights must hold 4"):
        segmentation_ce(logits, labels, class_weights=torch.ones(3))
