"""Cross entropy against labels, plain and of hard pixels, against slow loops and PyTorch's own."""

import math

import pytest
import torch
import torch.nn.functional as F

from kdlib.losses.supervised import ohem_ce, segmentation_ce


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


def ohem_reference(logits, labels, threshold, min_kept, factor):
    """Fact sheet structured_kd 1.4, sample by sample; returns the loss and the kept pixels."""
    height, width = labels.shape[1:]
    p = F.interpolate(logits, (height, width), mode="bilinear", align_corners=True).softmax(1)
    samples = []
    grid = round(height / factor), round(width / factor)
    for n in range(len(labels)):
        for i in range(grid[0]):
            for j in range(grid[1]):
                y = i * (height - 1) / (grid[0] - 1) if grid[0] > 1 else 0.0
                x = j * (width - 1) / (grid[1] - 1) if grid[1] > 1 else 0.0
                label = int(labels[n, math.floor(y + 0.5), math.floor(x + 0.5)])
                if label == 255:
                    continue
                top, left, value = int(y), int(x), 0.0
                for dy, wy in ((0, 1 - (y - top)), (1, y - top)):
                    for dx, wx in ((0, 1 - (x - left)), (1, x - left)):
                        row, column = min(top + dy, height - 1), min(left + dx, width - 1)
                        value += wy * wx * float(p[n, label, row, column])
                samples.append(value)
    k = min_kept // factor**2
    limit = max(threshold, sorted(samples)[k - 1]) if 0 < k <= len(samples) else threshold
    if k >= len(samples):
        limit = 1.0
    costs, kept = [], torch.zeros_like(labels, dtype=torch.bool)
    for n in range(len(labels)):
        for i in range(height):
            for j in range(width):
                label = int(labels[n, i, j])
                if label != 255 and p[n, label, i, j] <= limit:
                    costs.append(-math.log(float(p[n, label, i, j])))
                    kept[n, i, j] = True
    return (sum(costs) / len(costs) if costs else 0.0), kept


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("threshold", "min_kept"), [(0.7, 0), (0.1, 0), (0.1, 16), (0.2, 60), (0.3, 120), (0.7, 10**6)]
)
def test_ohem_equals_the_rule(batch, threshold, min_kept, factor):
    logits, labels = batch
    logits.requires_grad_()
    expected, kept = ohem_reference(logits.detach(), labels, threshold, min_kept, factor)
    loss = ohem_ce(logits, labels, threshold=threshold, min_kept=min_kept, factor=factor)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    # the gradient is that of the plain loss on the kept pixels
    plain = segmentation_ce(logits, labels.where(kept, 255))
    torch.testing.assert_close(
        torch.autograd.grad(loss, logits)[0], torch.autograd.grad(plain, logits)[0]
    )


def picture(probabilities):
    """Logits of two classes that give the first these probabilities, and labels of the first."""
    p = torch.tensor(probabilities, dtype=torch.float64)
    return torch.stack([p.log(), (1 - p).log()])[None], torch.zeros(1, *p.shape, dtype=torch.long)


@pytest.mark.parametrize(
    ("min_kept", "kept"),
    [
        (0, [0.2, 0.5]),  # no k-th sample: the threshold alone
        (1, [0.2, 0.5]),  # the threshold is larger than the smallest, 0.2
        (3, [0.2, 0.5, 0.6]),  # the third smallest, itself kept
        (4, [0.2, 0.5, 0.6, 0.8]),
        (5, [0.2, 0.5, 0.6, 0.8, 0.9]),  # as many as there are: all
        (99, [0.2, 0.5, 0.6, 0.8, 0.9]),
    ],
)
def test_ohem_by_hand(min_kept, kept):
    logits, labels = picture([[0.9, 0.2, 0.6, 0.5, 0.8]])
    loss = ohem_ce(logits, labels, threshold=0.55, min_kept=min_kept, factor=1)
    assert float(loss) == pytest.approx(-sum(math.log(p) for p in kept) / len(kept))


def test_ohem_samples_between_pixels():
    # 6 columns at factor 2 are 3 samples, at columns 0, 2.5 and 5
    logits, labels = picture([[0.8, 0.99, 0.1, 0.5, 0.99, 0.9]] * 2)
    # probabilities 0.8, (0.1 + 0.5) / 2 and 0.9; k = 4 // 4 = 1 takes 0.3, k = 2 takes 0.8
    for min_kept, kept in ((4, [0.1]), (8, [0.8, 0.1, 0.5])):
        loss = ohem_ce(logits, labels, threshold=0.05, min_kept=min_kept, factor=2)
        assert float(loss) == pytest.approx(-sum(math.log(p) for p in kept) / len(kept))
    # the label half way is that of column 3: ignored there, two samples are left, at 0.8 and 0.9
    labels[:, :, 3] = 255
    loss = ohem_ce(logits, labels, threshold=0.05, min_kept=4, factor=2)
    assert float(loss) == pytest.approx(-(math.log(0.8) + math.log(0.1)) / 2)
    # of the other class there, the sample is 1 - 0.3 = 0.7 and the smallest
    labels[:, :, 3] = 1
    loss = ohem_ce(logits, labels, threshold=0.05, min_kept=4, factor=2)
    assert float(loss) == pytest.approx(-(math.log(0.1) + math.log(0.5)) / 2)


def test_ohem_defaults_keep_all_of_a_small_batch(batch):
    logits, labels = batch
    torch.testing.assert_close(ohem_ce(logits, labels), segmentation_ce(logits, labels))


@pytest.mark.parametrize("min_kept", [0, 100_000])
def test_ohem_that_keeps_nothing_gives_zero(batch, min_kept):
    logits, labels = batch
    logits.requires_grad_()
    loss = ohem_ce(logits, torch.full_like(labels, 255), min_kept=min_kept)
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()
    # labelled, but nothing is hard
    loss = ohem_ce(logits, labels, threshold=0.0, min_kept=0, factor=2)
    loss.backward()
    assert loss.item() == 0 and torch.isfinite(logits.grad).all() and not logits.grad.any()


def test_ohem_of_a_picture_smaller_than_the_grid_keeps_all(batch):
    # round(3 / 8) = 0 samples: k >= 0 holds
    logits, labels = batch
    labels = labels[:, 3:6]
    torch.testing.assert_close(
        ohem_ce(logits, labels, threshold=0.1, min_kept=0), segmentation_ce(logits, labels)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_ohem_raises_half_types(batch, dtype):
    logits, labels = batch
    logits = logits.to(dtype)
    arguments = {"threshold": 0.3, "min_kept": 60, "factor": 2}
    loss = ohem_ce(logits, labels.to(torch.uint8), **arguments)
    assert loss.dtype == torch.float32
    exact = ohem_ce(logits.double(), labels, **arguments)
    assert float(loss) == pytest.approx(float(exact), rel=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert float(ohem_ce(logits, labels, **arguments)) == float(loss)


def test_ohem_takes_another_ignored_value(batch):
    logits, labels = batch
    arguments = {"threshold": 0.3, "min_kept": 60, "factor": 2}
    other = labels.where(labels != 255, -1)
    torch.testing.assert_close(
        ohem_ce(logits, other, ignore_index=-1, **arguments), ohem_ce(logits, labels, **arguments)
    )


def test_ohem_refuses_what_does_not_fit(batch):
    logits, labels = batch
    with pytest.raises(ValueError, match="labels must be"):
        ohem_ce(logits, labels[:1])
    with pytest.raises(ValueError, match="factor must be"):
        ohem_ce(logits, labels, factor=0)
    with pytest.raises(ValueError, match="min_kept"):
        ohem_ce(logits, labels, min_kept=-1)
