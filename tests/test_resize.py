"""Resizing and pooling as matrix products, against PyTorch's own operations."""

import pytest
import torch
import torch.nn.functional as F

from kdlib.resize import bilinear, pyramid_pool, spread, to_grid


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (9, 13), (3, 5), (1, 20), (2, 2)])
@pytest.mark.parametrize("source", [(3, 5), (1, 1), (1, 4), (8, 8)])
def test_resize_equals_interpolate(source, size):
    x = torch.randn(2, 3, *source, dtype=torch.float64, requires_grad=True)
    ours = bilinear(x, size)
    torch.testing.assert_close(ours, F.interpolate(x, size, mode="bilinear", align_corners=True))
    upstream = torch.randn_like(ours)
    (gradient,) = torch.autograd.grad(ours, x, upstream)
    (expected,) = torch.autograd.grad(
        F.interpolate(x, size, mode="bilinear", align_corners=True), x, upstream
    )
    torch.testing.assert_close(gradient, expected)


def test_resize_rounds_half_types_once():
    x = torch.randn(1, 2, 4, 4).bfloat16()
    resized = bilinear(x, (9, 9))
    assert resized.dtype == torch.bfloat16
    assert torch.equal(resized, bilinear(x.float(), (9, 9)).bfloat16())


def test_resize_matrices_made_in_inference_mode_serve_training():
    with torch.inference_mode():
        bilinear(torch.randn(1, 1, 6, 7), (11, 17))
    x = torch.randn(1, 1, 6, 7, requires_grad=True)
    bilinear(x, (11, 17)).sum().backward()
    assert float(x.grad.sum()) == pytest.approx(11 * 17, rel=1e-5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(6, 6), (13, 21), (4, 9), (1, 1), (60, 7)])
def test_pyramid_equals_adaptive_pooling(size, memory_format):
    bins = (1, 2, 3, 6)
    x = torch.randn(2, 3, *size, dtype=torch.float64).contiguous(memory_format=memory_format)
    x.requires_grad_()
    last = memory_format == torch.channels_last
    for b, cells in zip(bins, pyramid_pool(x, bins), strict=True):
        expected = F.adaptive_avg_pool2d(x, b)
        torch.testing.assert_close(cells, expected)
        back = spread(expected, size, channels_last=last)
        torch.testing.assert_close(
            back, F.interpolate(expected, size, mode="bilinear", align_corners=True)
        )
        upstream = torch.randn_like(cells)
        (gradient,) = torch.autograd.grad(cells, x, upstream, retain_graph=True)
        (reference,) = torch.autograd.grad(expected, x, upstream)
        torch.testing.assert_close(gradient, reference)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_pyramid_keeps_half_types_accurate(dtype):
    # sums of this map overflow float16, its means do not
    x = (torch.rand(1, 4, 90, 160) * 100).to(dtype)
    for b, cells in zip((1, 6), pyramid_pool(x, (1, 6)), strict=True):
        assert cells.dtype == dtype
        expected = F.adaptive_avg_pool2d(x.float(), b)
        torch.testing.assert_close(cells.float(), expected, rtol=1e-2, atol=0)


def test_targets_come_to_the_students_grid():
    x = torch.randn(1, 3, 16, 24)
    torch.testing.assert_close(to_grid(x, (8, 12)), F.avg_pool2d(x, 2))
    torch.testing.assert_close(to_grid(x, (31, 47)), bilinear(x, (31, 47)))
    assert to_grid(x, (16, 24)) is x
