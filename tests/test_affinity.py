"""Inter-region affinity against its formulas, written as slow loops and worked out by hand."""

import inspect
import math
import sys

import pytest
import torch

from kdlib.losses import affinity, moment_kernels, moment_sums, moments
from kdlib.losses.affinity import (
    affinity_loss,
    areas_of_interest,
    attention_transfer,
    existence_bce,
    moment_pooling,
    region_affinity,
    soft_targets,
)
from kdlib.resize import bilinear

EPS = 1e-10


def areas_reference(labels, classes, kernel, size, ignore=255):
    """Pixel by pixel: is any pixel of the square of this class?"""
    n_images, height, width = labels.shape
    out_height, out_width = size or (height, width)
    areas = torch.zeros(n_images, classes, out_height, out_width, dtype=torch.bool)
    reach = kernel // 2
    for n in range(n_images):
        for i in range(out_height):
            for j in range(out_width):
                row, column = i * height // out_height, j * width // out_width
                for y in range(max(0, row - reach), min(height, row + reach + 1)):
                    for x in range(max(0, column - reach), min(width, column + reach + 1)):
                        label = int(labels[n, y, x])
                        if label != ignore and 0 <= label < classes:
                            areas[n, label, i, j] = True
    return areas


def moments_reference(features, areas, skewness="variance"):
    """Section 1.2 with the sums inside the area, in Python floats."""
    n_images, channels = features.shape[:2]
    found = torch.zeros(n_images, 3, areas.shape[1], channels, dtype=torch.float64)
    for n in range(n_images):
        for r in range(areas.shape[1]):
            for c in range(channels):
                values = [float(v) for v in features[n, c][areas[n, r]]]
                if not values:
                    continue
                mean = sum(values) / len(values)
                variance = sum((v - mean) ** 2 for v in values) / len(values)
                divisor = variance + EPS if skewness == "variance" else math.sqrt(variance + EPS)
                third = sum(((v - mean) / divisor) ** 3 for v in values) / len(values)
                found[n, :, r, c] = torch.tensor([mean, variance, third], dtype=found.dtype)
    return found


def affinity_reference(vectors):
    """Section 1.3; 0 where a vector is zero."""
    n_images, orders, regions, _ = vectors.shape
    found = torch.zeros(n_images, orders, regions, regions, dtype=torch.float64)
    for n in range(n_images):
        for m in range(orders):
            for i in range(regions):
                for j in range(regions):
                    a, b = vectors[n, m, i].tolist(), vectors[n, m, j].tolist()
                    norms = math.hypot(*a) * math.hypot(*b)
                    if norms:
                        dot = sum(x * y for x, y in zip(a, b, strict=True))
                        found[n, m, i, j] = dot / norms
    return found


def loss_reference(student, teacher, areas_s, areas_t, skewness="variance", nodes="all"):
    """Section 1.4 per image, then the mean."""
    graphs = [
        affinity_reference(moments_reference(features, areas, skewness))
        for features, areas in ((student, areas_s), (teacher, areas_t))
    ]
    total = 0.0
    for n in range(len(student)):
        chosen = list(range(areas_s.shape[1]))
        if nodes == "present":
            chosen = [r for r in chosen if areas_s[n, r].any() and areas_t[n, r].any()]
        elif nodes == "foreground":
            chosen = chosen[1:]
        for m in range(3):
            for i in chosen:
                for j in chosen:
                    difference = float(graphs[0][n, m, i, j] - graphs[1][n, m, i, j])
                    total += difference**2 / (3 * len(chosen) ** 2)
    return total / len(student)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def scene(*, regions=6, size=(9, 11), kernel=1):
    """Areas of four images with large, small, overlapping, one-pixel and absent regions."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 4, (4, *size), generator=generator)
    labels[0, : size[0] - 2] = 1  # more than half of the pixels
    labels[1, 0, 3] = 4  # one pixel
    labels[1, -1, 2:4] = 5  # two
    labels[2] = 0  # one class only
    labels[3] = 255  # none
    return areas_of_interest(labels, regions, kernel=kernel)


@pytest.fixture(params=["compiled", "threads", "torch", "asked"])
def way(request, monkeypatch):
    """The ways in which moments are found: on the CPU, there in threads, and on a device."""
    if request.param == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
        monkeypatch.setattr(moment_kernels, "_ENTRIES", 0)
    elif request.param in ("torch", "asked"):
        monkeypatch.setattr(moments, "_passes", lambda device: moment_sums)
        if request.param == "asked":
            monkeypatch.setattr(moment_sums, "_FEW", 0)


# Areas


@pytest.mark.parametrize("kernel", [1, 5, 11])
@pytest.mark.parametrize("size", [None, (4, 5), (5, 3), (16, 26), (1, 1)])
def test_areas_are_what_the_square_reaches(kernel, size):
    labels = torch.randint(0, 5, (2, 8, 13), generator=torch.Generator().manual_seed(0))
    labels[0, :4] = 1  # so that not everything is near everything
    labels[1, :, 5:] = 255
    labels[1, 2, 2] = 7  # a class that is not there
    areas = areas_of_interest(labels, 5, kernel=kernel, size=size)
    assert areas.dtype == torch.bool
    assert torch.equal(areas, areas_reference(labels, 5, kernel, size))


def test_areas_by_hand():
    labels = torch.tensor([[[0, 0, 0, 1], [255, 0, 0, 0]]])
    areas = areas_of_interest(labels, 3, kernel=3)
    assert areas[0, 0].tolist() == [[True] * 4, [True] * 4]  # covers the ignored pixel
    assert areas[0, 1].tolist() == [[False, False, True, True]] * 2
    assert not areas[0, 2].any()


def test_areas_sample_by_whole_numbers():
    """A class that falls between the samples vanishes; it is widened before that, not after."""
    labels = torch.zeros(1, 1, 9, dtype=torch.uint8)
    labels[0, 0, 4] = 1
    assert areas_of_interest(labels, 2, kernel=1, size=(1, 3))[0, 1].tolist() == [[False] * 3]
    assert areas_of_interest(labels, 2, kernel=3, size=(1, 3))[0, 1, 0].tolist() == [0, 1, 0]


@pytest.mark.parametrize("label", [2**32, 2**32 + 1, -(2**32), -1, 3, 2**40 + 2])
def test_labels_beyond_the_classes_belong_to_none(label):
    areas = areas_of_interest(torch.tensor([[[label, 0]]]), 3, kernel=1)
    assert areas[0, :, 0, 0].tolist() == [False] * 3 and areas[0, :, 0, 1].tolist() == [1, 0, 0]


def test_areas_of_an_ignored_class_and_of_many():
    labels = torch.tensor([[[0, 1], [2, 299]]])
    areas = areas_of_interest(labels, 300, kernel=1, ignore_index=1)
    assert areas.flatten(1).sum() == 3
    assert areas[0, 299, 1, 1] and not areas[0, 1].any()
    narrow = areas_of_interest(labels.clamp(max=255).to(torch.uint8), 300, kernel=1)
    assert narrow.flatten(1).sum() == 3


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        (torch.zeros(1, 2, 2), {}, "integers"),
        (torch.zeros(2, 2, dtype=torch.long), {}, "N, H, W"),
        (torch.zeros(1, 2, 2, dtype=torch.long), {"kernel": 4}, "odd"),
        (torch.zeros(1, 2, 2, dtype=torch.long), {"kernel": -1}, "odd"),
        (torch.zeros(1, 2, 2, dtype=torch.long), {"size": (0, 2)}, "at least one pixel"),
        (torch.zeros(1, 2, 2, dtype=torch.long), {"num_classes": 0}, "num_classes"),
        (torch.zeros(1, 0, 2, dtype=torch.long), {"size": (2, 2)}, "at least one pixel"),
        (torch.zeros(1, 2, 0, dtype=torch.uint8), {"size": (2, 2)}, "at least one pixel"),
        (torch.zeros(1, 0, 0, dtype=torch.long), {}, "at least one pixel"),
    ],
)
def test_areas_refuse(labels, arguments, message):
    with pytest.raises(ValueError, match=message):
        areas_of_interest(labels, **{"num_classes": 3} | arguments)


# Moments


@pytest.mark.parametrize("skewness", ["variance", "std"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_moments_follow_the_formula(way, skewness, kernel):
    features, areas = random(4, 5, 9, 11), scene(kernel=kernel)
    expected = moments_reference(features, areas, skewness)
    found = moment_pooling(features, areas, skewness=skewness)
    assert found.shape == (4, 3, 6, 5)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    with torch.enable_grad():
        same = moment_pooling(features.requires_grad_(), areas, skewness=skewness)
    assert torch.equal(same, found)


def test_moments_by_hand():
    """1, 2, 6: mean 3, variance (4 + 1 + 9) / 3, third moment (-8 - 1 + 27) / 3."""
    features = torch.tensor([[[[1.0, 2.0, 6.0, 50.0]]]])
    areas = torch.tensor([[[[1, 1, 1, 0]]]])
    found = moment_pooling(features, areas).flatten().tolist()
    assert found == pytest.approx([3, 14 / 3, 6 / (14 / 3) ** 3], rel=1e-6)
    found = moment_pooling(features, areas, skewness="std").flatten().tolist()
    assert found[2] == pytest.approx(6 / (14 / 3) ** 1.5, rel=1e-6)


def test_eps_is_added_to_the_variance():
    features, areas = torch.tensor([[[[1.0, 2.0, 6.0]]]]), torch.ones(1, 1, 1, 3)
    for skewness, divisor in (("variance", 14 / 3 + 2), ("std", math.sqrt(14 / 3 + 2))):
        found = moment_pooling(features, areas, skewness=skewness, eps=2.0)
        assert float(found[0, 2]) == pytest.approx(6 / divisor**3, rel=1e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quiet_regions_are_exact(way, dtype, layout):
    """Constant channels, one pixel and two: 0 is 0, in the moments and in the gradient."""
    features = random(1, 3, 40, 50, dtype=dtype).contiguous(memory_format=layout)
    features[0, 0] = 0.1  # a sum of many is not many times 0.1
    features[0, 1, :30] = 1234.567
    areas = torch.zeros(1, 5, 40, 50, dtype=torch.bool)
    areas[0, 0] = True
    areas[0, 1, :30] = True  # constant in channels 0 and 1
    areas[0, 2, 33, 7] = True
    areas[0, 3, 20, 3] = areas[0, 3, 35, 9] = True
    features.requires_grad_()
    found = moment_pooling(features, areas)
    pixel = features.detach()[0, :, 33, 7]
    assert torch.equal(found[0, 0, 2], pixel)
    assert torch.equal(found[0, 0, 1, :2], features.detach()[0, :2, 0, 0])
    assert not found[0, 1:, :, 0].any() and not found[0, 1:, 1, 1].any()
    assert not found[0, 1:, 2].any() and not found[0, 2, 3].any()
    assert not found[0, :, 4].any()
    assert found[0, 1, 0, 1:].all() and found[0, 1, 3, 1:].all()

    found[0, 1:, 1:].sum().backward()
    gradient = features.grad[0]
    assert gradient.isfinite().all()
    assert not gradient[0].any() and not gradient[1, :30, 10:].any()
    assert not gradient[:, 33, 7].any()
    features.grad = None
    moment_pooling(features, areas)[0, 2, 2:4].sum().backward()
    assert not features.grad.any()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_float32_loses_nothing_to_an_offset(layout):
    """Raw powers of values near 1000 would have no digit left of a variance near 1."""
    generator = torch.Generator().manual_seed(0)
    features = 1000 + torch.randn(2, 16, 40, 60, generator=generator).exp()
    areas = (
        torch.rand(2, 4, 40, 60, generator=generator)
        < torch.tensor([0.9, 0.3, 0.01, 1.0])[:, None, None]
    )
    weights = torch.randn(2, 3, 4, 16, generator=generator)
    found, gradients = [], []
    for dtype in (torch.float32, torch.float64):
        x = features.to(dtype, copy=True, memory_format=layout).requires_grad_()
        found.append(moment_pooling(x, areas, skewness="std"))
        (found[-1] * weights).sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(found[0].double(), found[1], rtol=2e-5, atol=1e-6)
    largest = float(gradients[1].abs().max())
    torch.testing.assert_close(gradients[0].double(), gradients[1], rtol=0, atol=2e-6 * largest)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(64, 53), (32, 106), (18, 60), (208, 13)])
def test_float32_loses_nothing_to_a_border(way, layout, size):
    """Padding gives the outermost column values of its own; they must not stand for the mean."""
    features = torch.randn(1, 8, *size, generator=torch.Generator().manual_seed(0)).relu()
    features[..., 0] += 5
    areas = torch.ones(1, 1, *size, dtype=torch.bool)
    found = [
        moments.central_moments(features.to(dtype, memory_format=layout), areas)
        for dtype in (torch.float32, torch.float64)
    ]
    scale = found[1][1].sqrt()
    for power, (single, double) in enumerate(zip(*found, strict=True), start=1):
        error = (single.double() - double).abs() / scale**power
        assert float(error.max()) < 3e-6


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_moments_gradient(way, layout):
    features = random(4, 2, 5, 6).contiguous(memory_format=layout).requires_grad_()
    areas = scene(size=(5, 6))
    areas[0, 2] = areas[0, 1]  # regions that overlap
    assert torch.autograd.gradcheck(lambda x: moment_pooling(x, areas, skewness="std"), features)
    moment_pooling(features, areas).sum().backward()
    assert features.grad.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_number_of_threads_changes_nothing(layout, monkeypatch):
    areas, found = scene(size=(40, 50)), []
    monkeypatch.setattr(moment_kernels, "_ENTRIES", 0)
    features = random(4, 7, 40, 50, dtype=torch.float32).contiguous(memory_format=layout)
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        x = features.clone().requires_grad_()
        moments_ = moment_pooling(x, areas)
        moments_.sum().backward()
        found.append((moments_.detach(), x.grad))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_both_modules_have_what_the_moments_ask_for():
    for name, asked in vars(moments.Passes).items():
        if inspect.isfunction(asked) and not name.startswith("_"):
            expected = list(inspect.signature(asked).parameters)[1:]
            for module in (moment_kernels, moment_sums):
                assert list(inspect.signature(getattr(module, name)).parameters) == expected
    areas = torch.zeros(2, 3, 4, 5, dtype=torch.bool)
    areas[1, 2, 1:3, 2] = True
    for module in (moment_kernels, moment_sums):
        assert module.places(areas).counts.tolist() == [[[0]] * 3, [[0], [0], [2]]]


def test_without_numba_torch_serves(monkeypatch):
    assert moments._passes("cpu") is moment_kernels and moments._passes("cuda") is moment_sums
    monkeypatch.delattr("kdlib.losses.moment_kernels")
    monkeypatch.delitem(sys.modules, "kdlib.losses.moment_kernels")
    monkeypatch.setitem(sys.modules, "numba", None)
    assert moments._passes.__wrapped__("cpu") is moment_sums


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pixels", [100, 300])  # of 400: looked up one by one, or all passed over
def test_of_equal_values_the_value_near_the_mean_is_theirs(layout, dtype, pixels):
    values = torch.arange(1, 4001, dtype=dtype) / 1000
    features = values[None, :, None, None].expand(1, -1, 20, 20).contiguous(memory_format=layout)
    areas = torch.arange(400).view(1, 1, 20, 20) < pixels
    near, sums = moment_kernels.power_sums(features, moment_kernels.places(areas))
    assert torch.equal(near[0, 0], values) and not sums.any()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("value", [0.7, 1.234, 3.422])
def test_gradients_of_a_channel_that_is_constant_in_a_region(layout, value, monkeypatch):
    """As printed, a divisor of eps^3 makes a number of 1e30 of what should cancel."""
    student, teacher = random(1, 16, 20, 30, dtype=torch.float32), random(1, 6, 20, 30, seed=1)
    student[:, 0, :10] = value
    areas = torch.zeros(1, 2, 20, 30, dtype=torch.bool)
    areas[:, 0, :10] = areas[:, 1, 10:] = True
    gradients = []
    for passes in (moment_kernels, moment_sums):
        monkeypatch.setattr(moments, "_passes", lambda device, one=passes: one)
        x = student.clone(memory_format=layout).requires_grad_()
        affinity_loss(x, teacher.float(), areas).backward()
        gradients.append(x.grad)
    assert gradients[1][0, 0, :10].any()
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_sums_over_many_pixels_lose_nothing(layout):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 4, 256, 512, generator=generator).relu()
    areas = torch.ones(1, 1, 256, 512, dtype=torch.bool)
    expected = moments.central_moments(features.double(), areas)
    found = moments.central_moments(features.contiguous(memory_format=layout), areas)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=5e-6, atol=0)


@pytest.mark.parametrize(
    "areas",
    [
        torch.ones(1, 1, 40, 40, dtype=torch.bool),
        torch.ones(2, 1, 2, 2, dtype=torch.bool),
        torch.ones(1, 1, 2, 2, dtype=torch.long),
    ],
)
def test_compiled_loops_get_no_areas_that_do_not_fit(areas):
    with pytest.raises(ValueError, match="must be bool and have the features' N, H and W"):
        moments.central_moments(torch.randn(1, 1, 2, 2), areas)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.contiguous(memory_format=torch.channels_last)[:, 1:4],
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: x[:, ::2],
        lambda x: x[:, :1].expand(-1, 3, -1, -1),
        lambda x: x[:1].expand(4, -1, -1, -1),
        lambda x: x.flip(3),
    ],
)
def test_moments_of_strange_strides(way, view):
    areas, features = scene(), random(4, 5, 9, 11)
    gradients, found = [], []
    for dense in (False, True):
        x = features.clone().requires_grad_()
        seen = view(x).contiguous() if dense else view(x)
        found.append(moment_pooling(seen, areas, skewness="std"))
        found[-1].sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*found)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_outside_areas_play_no_part(layout):
    areas = scene()
    features = random(4, 3, 9, 11).contiguous(memory_format=layout)
    hidden = features.where(areas.any(1)[:, None], torch.nan)
    hidden[0, :, 0, 0] = torch.nan
    areas[0, :, 0, 0] = False
    assert torch.equal(moment_pooling(hidden, areas), moment_pooling(features, areas))
    hidden.requires_grad_()
    moment_pooling(hidden, areas, skewness="std").sum().backward()
    assert hidden.grad.isfinite().all()
    assert not hidden.grad[3].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(dtype):
    features, areas = random(4, 5, 9, 11, dtype=dtype).requires_grad_(), scene()
    other = random(4, 7, 9, 11, seed=1, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = moment_pooling(features, areas)
        graph = region_affinity(pooled)
        value = affinity_loss(features, other, areas)
    wide = features.detach().float().requires_grad_()
    assert pooled.dtype == graph.dtype == value.dtype == torch.float32
    assert torch.equal(pooled, moment_pooling(wide, areas))
    assert torch.equal(graph, region_affinity(moment_pooling(wide, areas)))
    expected = affinity_loss(wide, other.float(), areas)
    assert torch.equal(value, expected)
    value.backward()
    expected.backward()
    assert features.grad.dtype == dtype
    assert torch.equal(features.grad, wide.grad.to(dtype))
    assert moment_pooling(random(4, 5, 9, 11), areas).dtype == torch.float64


def test_areas_of_numbers():
    features, areas = random(4, 5, 9, 11), scene()
    assert torch.equal(moment_pooling(features, 2 * areas.int()), moment_pooling(features, areas))


def test_nothing_to_pool():
    assert moment_pooling(torch.zeros(0, 3, 4, 4), torch.zeros(0, 2, 4, 4)).shape == (0, 3, 2, 3)
    assert not moment_pooling(torch.ones(1, 3, 4, 4), torch.zeros(1, 2, 4, 4)).any()


@pytest.mark.parametrize(
    ("areas", "arguments", "message"),
    [
        (torch.ones(1, 2, 4, 5), {}, "agree in N, H and W"),
        (torch.ones(2, 2, 4, 4), {}, "agree in N, H and W"),
        (torch.ones(2, 4, 4), {}, "agree in N, H and W"),
        (torch.ones(1, 2, 4, 4), {"skewness": "root"}, "variance, std"),
        (torch.ones(1, 2, 4, 4), {"eps": 0.0}, "eps"),
    ],
)
def test_moments_refuse(areas, arguments, message):
    with pytest.raises(ValueError, match=message):
        moment_pooling(torch.ones(1, 3, 4, 4), areas, **arguments)


# The graph and the loss


def test_graph_by_hand():
    vectors = torch.tensor([[[[3.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, -2.0]]]]).expand(1, 3, 4, 2)
    root = math.sqrt(0.5)
    expected = [[1, root, 0, 0], [root, 1, 0, -root], [0, 0, 0, 0], [0, -root, 0, 1]]
    torch.testing.assert_close(region_affinity(vectors)[0, 1], torch.tensor(expected))


def test_graph_follows_the_formula_and_its_gradient():
    vectors = random(2, 3, 4, 5)
    torch.testing.assert_close(region_affinity(vectors), affinity_reference(vectors))
    assert torch.autograd.gradcheck(region_affinity, vectors.requires_grad_())


def test_graph_does_not_depend_on_scale():
    vectors = random(1, 3, 4, 5, dtype=torch.float32)
    for factor in (1e30, 1e-30):
        torch.testing.assert_close(region_affinity(factor * vectors), region_affinity(vectors))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("spoilt", [0, 1])
def test_what_is_not_finite_reaches_the_loss(value, spoilt):
    features = [random(4, 3, 9, 11), random(4, 2, 9, 11)]
    features[spoilt][0, :, 4, 4] = value
    areas = torch.ones(4, 1, 9, 11, dtype=torch.bool)
    assert not affinity_loss(*features, areas).isfinite()


def test_a_zero_vector_takes_no_gradient():
    vectors = random(1, 3, 4, 5)
    vectors[0, 1, 2] = 0
    vectors.requires_grad_()
    region_affinity(vectors).square().sum().backward()
    assert vectors.grad.isfinite().all() and not vectors.grad[0, 1, 2].any()
    with pytest.raises(ValueError, match="N, 3, R, C"):
        region_affinity(vectors[0])


@pytest.mark.parametrize("skewness", ["variance", "std"])
@pytest.mark.parametrize("nodes", ["all", "present", "foreground"])
def test_loss_follows_the_formula(way, nodes, skewness):
    student, teacher = random(4, 5, 9, 11), random(4, 8, 5, 6, seed=1)
    areas, areas_t = scene(), scene(size=(5, 6))
    areas_t[0, 3] = False  # absent in one network only
    found = affinity_loss(student, teacher, areas, areas_t, skewness=skewness, nodes=nodes)
    expected = loss_reference(student, teacher, areas, areas_t, skewness, nodes)
    assert expected > 0.01
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_loss_by_hand():
    """Two regions of one pixel: only the means' cosines differ, 1 and 0, twice of 3 x 4 entries."""
    areas = torch.tensor([[[[True, False]], [[False, True]]]])
    student = torch.tensor([[[[1.0, 1.0]], [[2.0, 2.0]]]])
    teacher = torch.tensor([[[[3.0, 0.0]], [[0.0, 3.0]], [[0.0, 0.0]]]])
    assert float(affinity_loss(student, teacher, areas)) == pytest.approx(2 / 12)
    assert float(affinity_loss(student, teacher, areas, nodes="foreground")) < 1e-12
    # a third class that is nowhere counts as a node, unless told otherwise
    more = torch.cat([areas, torch.zeros_like(areas[:, :1])], 1)
    assert float(affinity_loss(student, teacher, more)) == pytest.approx(2 / 27)
    assert float(affinity_loss(student, teacher, more, nodes="present")) == pytest.approx(2 / 12)
    assert float(affinity_loss(student, teacher, more, nodes="foreground")) < 1e-12


def test_equal_networks_have_no_loss():
    student, areas = random(4, 5, 9, 11).requires_grad_(), scene()
    value = affinity_loss(student, student.detach(), areas)
    value.backward()
    assert float(value.detach()) == 0 and not student.grad.any()


@pytest.mark.parametrize("nodes", ["all", "present", "foreground"])
def test_loss_gradient(nodes):
    student, teacher = random(2, 3, 5, 6), random(2, 4, 4, 5, seed=1)
    areas, areas_t = scene(size=(5, 6))[:2], scene(size=(4, 5))[:2]
    areas[0, 4, 2, 2] = areas_t[0, 4, 1, 1] = True  # one pixel

    def loss(s, t):
        return affinity_loss(s, t, areas, areas_t, skewness="std", nodes=nodes)

    assert torch.autograd.gradcheck(loss, (student.requires_grad_(), teacher))
    assert torch.autograd.gradcheck(loss, (student.detach(), teacher.requires_grad_()))


def test_printed_skewness_gradient():
    student, teacher, areas = random(1, 4, 5, 6), random(1, 6, 5, 6, seed=1), scene(size=(5, 6))
    assert torch.autograd.gradcheck(
        lambda s: affinity_loss(s, teacher, areas[:1]), student.requires_grad_()
    )


@pytest.mark.parametrize("skewness", ["variance", "std"])
@pytest.mark.parametrize("nodes", ["all", "present", "foreground"])
def test_loss_is_as_good_in_float32(skewness, nodes):
    """Small and absent regions, dead channels: value and gradient stay those of float64."""
    student, teacher = (random(4, c, 9, 11, seed=c, dtype=torch.float32).relu() for c in (6, 9))
    student[:, 0] = 0
    student[1, 1] = 0.1
    areas, values, gradients = scene(), [], []
    for dtype in (torch.float32, torch.float64):
        s = student.to(dtype, copy=True).requires_grad_()
        value = affinity_loss(s, teacher.to(dtype), areas, skewness=skewness, nodes=nodes)
        value.backward()
        values.append(float(value.detach()))
        gradients.append(s.grad.double())
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    largest = float(gradients[1].abs().max())
    assert largest > 0 and gradients[0].isfinite().all()
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5 * largest)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("deviation", [1e-1, 3e-2, 1e-2])
def test_a_quiet_channel_keeps_its_gradient_in_float32(way, layout, deviation):
    """Its printed skewness is up to a million times the others', so the vectors of all regions
    nearly agree, and its gradient is what their last digits differ by."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, c, 40, 60, generator=generator).relu() for c in (64, 9)]
    maps[0][:, 2] *= deviation
    shares = torch.tensor([0.9, 0.3, 0.05, 0.05, 0.02])[:, None, None]
    areas, gradients = torch.rand(2, 5, 40, 60, generator=generator) < shares, []
    for dtype in (torch.float32, torch.float64):
        student, teacher = (x.to(dtype, copy=True, memory_format=layout) for x in maps)
        affinity_loss(student.requires_grad_(), teacher, areas).backward()
        gradients.append(student.grad.double())
    error, largest = (x.abs().amax((0, 2, 3)) for x in (gradients[0] - gradients[1], gradients[1]))
    assert (error < 1e-4 * largest).all()


def test_a_nearly_infinite_gradient_keeps_a_dead_channel_finite():
    """The printed divisor of a dead channel is eps; where all other skewness is tiny, its inverse
    cube leaves float32."""
    student = 1e4 * random(1, 3, 9, 11, dtype=torch.float32)
    student[:, 0] = 0
    teacher = random(1, 3, 9, 11, seed=1, dtype=torch.float32)
    student.requires_grad_()
    affinity_loss(student, teacher, scene()[:1]).backward()
    assert student.grad.isfinite().all() and not student.grad[:, 0].any()
    assert student.grad[:, 1:].any()


def test_teachers_of_inference_mode():
    student, areas = random(4, 4, 9, 11).requires_grad_(), scene()
    with torch.inference_mode():
        teacher = random(4, 6, 9, 11, seed=1)
        frozen_areas = areas.clone()
        logits = random(4, 4, 9, 11, seed=2)
        exists = torch.ones(4, 2)
    for loss, expected in (
        (
            affinity_loss(student, teacher, frozen_areas, nodes="present"),
            affinity_loss(student, teacher.clone(), areas, nodes="present"),
        ),
        (attention_transfer(student, teacher), attention_transfer(student, teacher.clone())),
        (
            soft_targets(student, logits, temperature=2.0),
            soft_targets(student, logits.clone(), temperature=2.0),
        ),
    ):
        student.grad = None
        loss.backward()
        assert student.grad.any()
        assert torch.equal(loss, expected)
    existence_bce(student[:, :2, 0, 0], exists).backward()


def test_a_device_is_asked_once_which_of_many_regions_there_are(monkeypatch):
    asked, present = [], moment_sums._present
    monkeypatch.setattr(moments, "_passes", lambda device: moment_sums)
    monkeypatch.setattr(moment_sums, "_present", lambda counts: asked.append(1) or present(counts))
    features = torch.rand(2, 3, 4, 5, requires_grad=True)
    areas = torch.rand(2, 9, 4, 5) < 0.5
    sum(order.sum() for order in moments.central_moments(features, areas)).backward()
    assert len(asked) == 1 and features.grad.abs().sum() > 0


def test_a_teacher_without_gradient_keeps_nothing(monkeypatch):
    monkeypatch.setattr(moments._CentralMoments, "apply", None)  # would fail if called
    areas = scene()
    assert affinity_loss(random(4, 4, 9, 11), random(4, 4, 9, 11, seed=1), areas) > 0
    with torch.no_grad():
        moment_pooling(random(4, 4, 9, 11).requires_grad_(), areas)


def test_an_empty_batch_has_no_loss():
    features, areas = torch.zeros(0, 3, 4, 4, requires_grad=True), torch.zeros(0, 2, 4, 4)
    for nodes in ("all", "present", "foreground"):
        assert affinity_loss(features, features, areas, nodes=nodes) == 0
    attention_transfer(features, features).backward()
    assert existence_bce(torch.zeros(0, 4), torch.zeros(0, 4)) == 0


def test_loss_refuses():
    features, areas = torch.ones(1, 3, 4, 4), torch.ones(1, 2, 4, 4)
    with pytest.raises(ValueError, match="size of the features"):
        affinity_loss(features, torch.ones(1, 3, 5, 5), areas)
    with pytest.raises(ValueError, match="agree in N and R"):
        affinity_loss(features, features, areas, areas[:, :1])
    with pytest.raises(ValueError, match="beside class 0"):
        affinity_loss(features, features, areas[:, :1], nodes="foreground")
    for nodes in affinity.NODES:
        with pytest.raises(ValueError, match=r"at least one region, not \(1, 0, 4, 4\)"):
            affinity_loss(features, features, areas[:, :0], nodes=nodes)
    with pytest.raises(ValueError, match="all, present, foreground"):
        affinity_loss(features, features, areas, nodes="some")
    with pytest.raises(ValueError, match="variance, std"):
        affinity_loss(features, features, areas, skewness="root")


# The other terms


def attention_reference(student, teacher, normalise, reduction):
    total = 0.0
    for n in range(len(student)):
        maps = []
        for features in (student, teacher):
            flat = features[n].flatten(1)
            values = [sum(float(v) ** 2 for v in flat[:, p]) for p in range(flat.shape[1])]
            if normalise == "l2":
                norm = math.hypot(*values)
                values = [v / norm for v in values]
            elif normalise == "softmax":
                powers = [math.exp(v - max(values)) for v in values]
                values = [power / sum(powers) for power in powers]
            maps.append(values)
        squares = [(a - b) ** 2 for a, b in zip(*maps, strict=True)]
        total += sum(squares) / (len(squares) if reduction == "mean" else 1)
    return total / len(student)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("normalise", ["l2", "none", "softmax"])
def test_attention_follows_the_formula(normalise, reduction):
    student, teacher = random(2, 40, 3, 4) / 5, random(2, 7, 3, 4, seed=1)
    arguments = {"normalise": normalise, "reduction": reduction}
    found = float(attention_transfer(student, teacher, **arguments))
    expected = attention_reference(student, teacher, **arguments)
    assert found == pytest.approx(expected, rel=1e-9)
    half = attention_transfer(student.half(), teacher.half(), **arguments)
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(expected, rel=0.02)


def test_attention_by_hand():
    student = torch.tensor([[[[3.0, 0.0]], [[0.0, 2.0]]]])  # map 9, 4
    teacher = torch.tensor([[[[0.0, 1.0]]]])
    assert float(attention_transfer(student, teacher, normalise="none")) == 81 + 9
    found = attention_transfer(student, teacher, normalise="none", reduction="mean")
    assert float(found) == 45
    norm = math.sqrt(97)
    expected = (9 / norm) ** 2 + (4 / norm - 1) ** 2
    assert float(attention_transfer(student, teacher)) == pytest.approx(expected)


def test_attention_of_another_size():
    """The teacher's map, not its feature, comes to the student's size, and then is normalised."""
    student, teacher = random(2, 3, 8, 6), random(2, 5, 4, 3, seed=1)
    attention = bilinear(teacher.square().sum(1, keepdim=True), (8, 6))
    expected = attention_transfer(student, attention.sqrt())
    torch.testing.assert_close(attention_transfer(student, teacher), expected)
    coarser = teacher.square().sum(1).unflatten(2, (1, 3)).unflatten(1, (2, 2)).mean((2, 4))
    found = attention_transfer(student[:, :, :2, :1], teacher)
    torch.testing.assert_close(
        found, attention_transfer(student[:, :, :2, :1], coarser[:, None].sqrt())
    )


@pytest.mark.parametrize("normalise", ["l2", "none", "softmax"])
def test_attention_gradient(normalise):
    student, teacher = random(2, 35, 2, 3), random(2, 3, 2, 3, seed=1)
    student /= 5
    assert torch.autograd.gradcheck(
        lambda s: attention_transfer(s, teacher, normalise=normalise), student.requires_grad_()
    )


def test_attention_of_zeros_is_finite():
    student = torch.zeros(1, 3, 2, 2, requires_grad=True)
    value = attention_transfer(student, torch.ones(1, 3, 2, 2))
    value.backward()
    assert float(value.detach()) == pytest.approx(1) and not student.grad.any()


def test_attention_refuses():
    features = torch.ones(2, 3, 4, 4)
    with pytest.raises(ValueError, match="same N"):
        attention_transfer(features, features[:1])
    with pytest.raises(ValueError, match="l2, none, softmax"):
        attention_transfer(features, features, normalise="l1")
    with pytest.raises(ValueError, match="sum, mean"):
        attention_transfer(features, features, reduction="none")


def test_soft_targets_by_hand():
    """Two classes, T = 2: 4 KL of the softened distributions, mean over the two pixels."""
    student = torch.tensor([[[[0.0, 1.0]], [[0.0, 1.0]]]])
    teacher = torch.tensor([[[[2.0, 0.0]], [[0.0, 0.0]]]])
    p = 1 / (1 + math.exp(-1))
    expected = 4 * (p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))) / 2
    assert float(soft_targets(student, teacher, temperature=2.0)) == pytest.approx(expected)
    with pytest.raises(ValueError, match="temperature"):
        soft_targets(student, teacher, temperature=0.0)


def test_existence_by_hand():
    logits = torch.tensor([[0.0, 2.0], [-1.0, 3.0]])
    exists = torch.tensor([[True, True], [False, False]])

    def nats(z):
        return math.log(1 + math.exp(-z))

    expected = (nats(0) + nats(2) + nats(1) + nats(-3)) / 4
    assert float(existence_bce(logits, exists)) == pytest.approx(expected)
    assert float(existence_bce(logits, exists.long())) == pytest.approx(expected)
    half = existence_bce(logits.half(), exists)
    assert half.dtype == torch.float32 and float(half) == pytest.approx(expected, rel=1e-3)
    p = [1 / (1 + math.exp(-z)) for z in (0, 2, -1, 3)]
    expected = (nats(p[0]) + nats(p[1]) + nats(-p[2]) + nats(-p[3])) / 4
    found = existence_bce(logits, exists, released=True)
    assert float(found) == pytest.approx(expected)
    certain = existence_bce(torch.full((1, 4), 100.0), torch.ones(1, 4), released=True)
    assert float(certain) == pytest.approx(nats(1))  # the released form never ends at 0
    with pytest.raises(ValueError, match="N, lanes"):
        existence_bce(logits, exists[:1])


def test_the_public_names():
    assert set(affinity.__all__) == {
        "affinity_loss", "areas_of_interest", "attention_transfer", "existence_bce",
        "moment_pooling", "region_affinity", "soft_targets",
    }  # fmt: skip
