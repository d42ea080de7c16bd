"""Views of an image: every way of scoring against answers worked out by hand or by loops."""

import math

import pytest
import torch
from torch.nn import functional

from kdlib import views
from kdlib.resize import bilinear
from kdlib.views import Views

WEIGHT = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0], [2.0, 0.25, -1.0], [-1.0, 1.0, 1.0]])


def images(height: int, width: int, number: int = 2, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.rand(number, 3, height, width, generator=generator, dtype=dtype)


def pixelwise(images_NCHW):
    """Linear in each pixel: knows nothing of place, neighbours or image size."""
    return torch.einsum("kc,nchw->nkhw", WEIGHT.to(images_NCHW.dtype), images_NCHW) + 0.5


def coarse(images_NCHW):
    """Logits of 1/4 of the resolution that depend on neighbours."""
    return functional.avg_pool2d(pixelwise(images_NCHW), 4, ceil_mode=True)


def leftward(images_NCHW):
    """Answers at each pixel what stands on its left: not the same for a mirror image."""
    return functional.pad(pixelwise(images_NCHW), (1, 0))[..., :-1]


SLIDING = Views("sliding", tile=(12, 16), stride=(8, 5))
EVERY = {
    "whole": Views(),
    "sliding": SLIDING,
    "released stride": Views("sliding", tile=(12, 12)),
    "large tile": Views("sliding", tile=(40, 64), stride=(40, 64)),
    "flip": Views(flip=True),
    "sliding and flip": Views("sliding", tile=(12, 16), stride=(8, 5), flip=True),
}


# The defaults


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_defaults_are_the_evaluation_of_today_bit_for_bit(dtype):
    x = images(21, 37, dtype=torch.float32)

    def network(images_NCHW):
        return coarse(images_NCHW).to(dtype)

    want = bilinear(network(x).float(), (50, 70))
    for got in (views.scores(network, x, (50, 70)), views.whole(network, x, (50, 70))):
        assert got.dtype == torch.float32
        assert torch.equal(got, want)
    assert Views() == Views("whole", flip=False, scales=(1.0,), average="scores")


def test_float64_stays_float64():
    x = images(20, 30)
    for view in EVERY.values():
        assert views.scores(pixelwise, x, (20, 30), view).dtype == torch.float64


# What no way of looking may change


@pytest.mark.parametrize("view", EVERY.values(), ids=EVERY)
def test_a_pixelwise_network_scores_alike_in_every_view(view):
    x = images(29, 41)
    got = views.scores(pixelwise, x, (29, 41), view)
    torch.testing.assert_close(got, pixelwise(x), rtol=0, atol=1e-12)
    got = views.scores(pixelwise, x, (58, 50), view)
    torch.testing.assert_close(got, bilinear(pixelwise(x), (58, 50)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["whole", "sliding"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("average", ["scores", "probabilities"])
def test_a_constant_network_stays_constant(mode, flip, average):
    level_K = torch.tensor([0.3, -1.0, 2.0])

    def constant(images_NCHW):
        height, width = images_NCHW.shape[-2:]
        return level_K.view(1, -1, 1, 1).repeat(len(images_NCHW), 1, height // 8, width // 8)

    view = Views(mode, (16, 24), (9, 24), flip, scales=(0.75, 1.0, 1.3), average=average)
    got = views.scores(constant, images(33, 52, dtype=torch.float32), (33, 52), view)
    want_K = level_K if average == "scores" else level_K.softmax(0)
    assert got.shape == (2, 3, 33, 52)
    torch.testing.assert_close(got, want_K.view(1, 3, 1, 1).expand_as(got))


# Tiles


def sliding_by_loops(network, x, tile, stride):
    """The released rule, tile by tile, with its own count map."""
    height, width = x.shape[-2:]
    total, count = None, torch.zeros(height, width)
    for row in range(max(0, math.ceil((height - tile[0]) / stride[0])) + 1):
        for column in range(max(0, math.ceil((width - tile[1]) / stride[1])) + 1):
            bottom = min(row * stride[0] + tile[0], height)
            right = min(column * stride[1] + tile[1], width)
            top, left = max(bottom - tile[0], 0), max(right - tile[1], 0)
            part = x[:, :, top:bottom, left:right]
            rows, columns = part.shape[-2:]
            seen = torch.zeros(*x.shape[:2], *tile, dtype=x.dtype)
            seen[:, :, :rows, :columns] = part
            logits = functional.interpolate(
                network(seen), size=tile, mode="bilinear", align_corners=True
            )
            if total is None:
                total = torch.zeros(*logits.shape[:2], height, width, dtype=x.dtype)
            total[:, :, top:bottom, left:right] += logits[:, :, :rows, :columns]
            count[top:bottom, left:right] += 1
    assert count.min() >= 1
    return total / count


@pytest.mark.parametrize("size", [(29, 41), (12, 16), (20, 21), (8, 40), (30, 9), (5, 7)])
@pytest.mark.parametrize("network", [coarse, leftward])
def test_tiles_follow_the_released_rule(size, network):
    x = images(*size)
    for tile, stride in (((12, 16), (8, 5)), ((12, 12), None), ((16, 12), (16, 12))):
        got = views.sliding(network, x, tile=tile, stride=stride)
        step = stride or views.released_stride(tile)
        torch.testing.assert_close(got, sliding_by_loops(network, x, tile, step))


@pytest.mark.parametrize(("tile", "stride"), [(12, 8), (12, 12), (7, 1), (16, 11), (50, 34)])
def test_tiles_cover_every_row_and_stay_inside(tile, stride):
    for size in range(1, 60):
        starts = views._starts(size, tile, stride)
        count = views._cover(starts, size, tile)
        assert count.min() >= 1
        assert starts[0] == 0
        assert starts == sorted(set(starts))
        assert starts[-1] == max(size - tile, 0)
        assert int(count.sum()) == len(starts) * min(tile, size)


def test_tiles_where_they_lie():
    """1024x2048 in tiles of 512: rows 0, 342, 512 and columns 0, 342, ..., 1368, 1536."""
    assert views.released_stride((512, 512)) == (342, 342)
    assert views.released_stride((513, 769)) == (342, 342)  # from the height, for both axes
    assert views.released_stride((769, 513)) == (513, 513)
    assert views._starts(1024, 512, 342) == [0, 342, 512]
    assert views._starts(2048, 512, 342) == [0, 342, 684, 1026, 1368, 1536]


def test_an_overlap_is_the_mean_of_raw_scores():
    """Tiles of 1x4 on 1x6 with a stride of 2; each tile answers its own column number."""
    columns = torch.tensor([0.0, 1.0, 2.0, 3.0])
    got = views.sliding(
        lambda x: columns.expand(1, 1, 1, 4), images(1, 6, 1), tile=(1, 4), stride=(1, 2)
    )
    assert got.flatten().tolist() == [0.0, 1.0, (2 + 0) / 2, (3 + 1) / 2, 2.0, 3.0]


def test_padding_shows_its_fill_and_is_cut_off():
    seen = []

    def network(images_NCHW):
        seen.append(images_NCHW.clone())
        return images_NCHW

    x = images(2, 3, 1)
    got = views.sliding(network, x, tile=(3, 4), stride=(3, 4), fill=(0.1, 0.2, 0.3))
    assert torch.equal(got, x)
    (tile,) = seen
    assert torch.equal(tile[..., :2, :3], x)
    for channel, level in enumerate((0.1, 0.2, 0.3)):
        assert (tile[0, channel, 2] == level).all()
        assert (tile[0, channel, :, 3] == level).all()
    views.sliding(network, x, tile=(3, 4), stride=(3, 4))
    assert seen[1][..., 2, :].abs().sum() == 0
    assert seen[1][..., :, 3].abs().sum() == 0
    with pytest.raises(ValueError, match="one of each of 3 channels"):
        views.sliding(network, x, tile=(3, 4), stride=(3, 4), fill=(0.1, 0.2))


# Mirror images and scales


def test_a_mirror_image_by_hand():
    """One row a b c: the image answers 0 a b, its mirror image b c 0 once mirrored back."""
    x = torch.zeros(1, 3, 1, 3)
    x[0, 0, 0] = torch.tensor([5.0, 7.0, 11.0])

    def left(images_NCHW):
        return functional.pad(images_NCHW[:, :1], (1, 0))[..., :-1]

    assert left(x).flatten().tolist() == [0.0, 5.0, 7.0]
    want = [(0 + 7) / 2, (5 + 11) / 2, (7 + 0) / 2]
    assert views.flipped(left, x).flatten().tolist() == want
    assert views.scores(left, x, (1, 3), Views(flip=True)).flatten().tolist() == want


@pytest.mark.parametrize("view", [Views(flip=True), Views("sliding", (12, 16), (8, 5), flip=True)])
def test_mirroring_the_image_mirrors_the_scores(view):
    x = images(24, 31)
    once = views.scores(leftward, x, (24, 31), view)
    again = views.scores(leftward, x.flip(-1), (24, 31), view).flip(-1)
    torch.testing.assert_close(once, again)
    plain = views.scores(leftward, x, (24, 31))
    assert (plain - views.scores(leftward, x.flip(-1), (24, 31)).flip(-1)).abs().max() > 0.1


def test_scales_by_loops():
    x, size = images(20, 30), (26, 33)
    got = views.scores(coarse, x, size, Views(flip=True, scales=(0.5, 1.0, 1.75)))
    want = torch.zeros_like(got)
    for height, width in ((10, 15), (20, 30), (35, 52)):  # 52.5 rounds to even
        seen = functional.interpolate(x, (height, width), mode="bilinear", align_corners=True)
        for mirror in (False, True):
            logits = coarse(seen.flip(-1) if mirror else seen)
            full = functional.interpolate(logits, size, mode="bilinear", align_corners=True)
            want += (full.flip(-1) if mirror else full) / 6
    torch.testing.assert_close(got, want)


def test_the_network_sees_the_sizes_that_are_asked_for():
    seen = []

    def network(images_NCHW):
        seen.append(tuple(images_NCHW.shape[-2:]))
        return images_NCHW

    views.scores(network, images(20, 30), (20, 30), Views(flip=True, scales=(0.5, 2.0)))
    assert seen == [(10, 15), (10, 15), (40, 60), (40, 60)]
    seen.clear()
    views.scores(network, images(20, 30), (20, 30), Views("sliding", (16, 16), scales=(0.5, 1.0)))
    assert seen == [(16, 16)] * (1 + 2 * 3)


def test_probabilities_average_otherwise_than_scores():
    """Two classes, scores (0, 4) of the image and (0, 0) of its mirror image."""

    def network(images_NCHW):
        plain = images_NCHW[:, :1, :, :1] > 0
        return torch.cat([0 * plain, 4 * plain], dim=1).double().expand(-1, -1, 1, 2)

    x = torch.tensor([1.0, 0.0]).expand(1, 3, 1, 2)
    scores = views.scores(network, x, (1, 2), Views(flip=True))
    assert scores[0, :, 0, 0].tolist() == [0.0, 2.0]
    found = views.scores(network, x, (1, 2), Views(flip=True, average="probabilities"))
    high = 1 / (1 + math.exp(-4))
    torch.testing.assert_close(
        found[0, :, 0, 0], torch.tensor([1 - high + 0.5, high + 0.5], dtype=torch.float64) / 2
    )
    single = views.scores(coarse, images(9, 9), (9, 9), Views(average="probabilities"))
    torch.testing.assert_close(single, views.whole(coarse, images(9, 9), (9, 9)).softmax(1))


# Tensors of every kind


@pytest.mark.parametrize("view", EVERY.values(), ids=EVERY)
def test_images_are_left_as_they_were(view):
    """A network that hands out its input must not see it summed up in place."""
    x = images(20, 20)
    before = x.clone()
    views.scores(lambda images_NCHW: images_NCHW, x, (20, 20), view)
    views.multi_scale(lambda images_NCHW: images_NCHW, x, (1.0, 1.0))
    assert torch.equal(x, before)


@pytest.mark.parametrize("view", EVERY.values(), ids=EVERY)
def test_inference_tensors_inside_and_outside_of_inference_mode(view):
    with torch.inference_mode():
        x = images(20, 20)
        inside = views.scores(coarse, x, (20, 20), view)
    with torch.no_grad():
        outside = views.scores(coarse, x, (20, 20), view)
    assert torch.equal(inside, outside)


def test_gradients_pass():
    x = images(3, 4, 1).requires_grad_()
    view = Views("sliding", tile=(2, 3), stride=(1, 2), flip=True, scales=(1.0, 1.5))
    assert torch.autograd.gradcheck(lambda x: views.scores(leftward, x, (3, 4), view), (x,))


# Errors


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"mode": "tiles"}, "mode must be 'whole' or 'sliding', not 'tiles'"),
        ({"mode": "sliding", "tile": (0, 8)}, "each at least 1"),
        ({"mode": "sliding", "tile": (8, 8), "stride": (9, 4)}, r"stride \(9, 4\) must be from 1"),
        ({"mode": "sliding", "tile": (8, 8), "stride": (4, 0)}, r"stride \(4, 0\) must be from 1"),
        ({"mode": "sliding", "tile": (64, 32)}, r"\(43, 43\) .from the tile's height, as released"),
        ({"scales": ()}, "one or more positive factors"),
        ({"scales": (1.0, 0.0)}, "one or more positive factors"),
        ({"average": "logits"}, "'scores' or 'probabilities', not 'logits'"),
    ],
)
def test_settings_that_cannot_work(settings, text):
    with pytest.raises(ValueError, match=text):
        Views(**settings)


def test_functions_check_what_they_are_given():
    x = images(8, 8)
    with pytest.raises(ValueError, match="pixels between tiles get no score"):
        views.sliding(pixelwise, x, tile=(4, 4), stride=(5, 4))
    with pytest.raises(ValueError, match="positive factors"):
        views.multi_scale(pixelwise, x, ())
