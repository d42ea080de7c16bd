"""Fine-grained feature imitation against its formulas, written as slow loops."""

import math

import pytest
import torch

from benchmarks.imitation import boxes_of, per_box, plain
from kdlib.losses import regions
from kdlib.losses.imitation import (
    anchor_grid,
    box_region,
    full_region,
    imitation_loss,
    imitation_mask,
    imitation_masks,
    vanilla,
)

MAP = (38, 50)  # of a 600 x 800 image


def iou_reference(a, b, plus):
    """Of two boxes, in Python floats."""
    if plus and b[0] == b[2] and b[1] == b[3]:
        return 0.0
    wide = max(min(a[2], b[2]) - max(a[0], b[0]) + plus, 0.0)
    high = max(min(a[3], b[3]) - max(a[1], b[1]) + plus, 0.0)
    areas = sum((c[2] - c[0] + plus) * (c[3] - c[1] + plus) for c in (a, b))
    shared = wide * high
    return shared / (areas - shared) if areas - shared else 0.0


def mask_reference(anchors, boxes, feature_hw, psi, inclusive=True):
    """Fact sheet feature_imitation 1, box by box, cell by cell, anchor by anchor."""
    height, width = feature_hw
    k = len(anchors) // (height * width)
    anchors = anchors.tolist()
    mask = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for n, boxes_of_image in enumerate(boxes):
        for box in boxes_of_image.tolist():
            m = [iou_reference(anchor, box, float(inclusive)) for anchor in anchors]
            for i in range(height):
                for j in range(width):
                    of_cell = m[(i * width + j) * k : (i * width + j + 1) * k]
                    mask[n, i, j] |= any(value > psi * max(m) for value in of_cell)
    return mask


def loss_reference(adapted, teacher, mask):
    total, cells = 0.0, 0
    for n in range(len(mask)):
        for i in range(mask.shape[1]):
            for j in range(mask.shape[2]):
                if mask[n, i, j]:
                    cells += 1
                    for c in range(adapted.shape[1]):
                        total += float(adapted[n, c, i, j] - teacher[n, c, i, j]) ** 2
    return total / (2 * cells) if cells else 0.0


# anchors


def test_anchors_of_the_first_cell():
    first = anchor_grid((1, 1))
    sides = (first[:, 2:] - first[:, :2] + 1).tolist()
    # widths are rounded before heights: 23 x 12, 16 x 16, 11 x 22, times 8, 16, 32
    assert sides == [[w * s, h * s] for w, h in ((23, 12), (16, 16), (11, 22)) for s in (8, 16, 32)]
    centres = (first[:, :2] + first[:, 2:]) / 2
    assert (centres == 7.5).all()
    # as printed beside the released code of Faster R-CNN, up to the origin of its counting
    assert first[0].tolist() == [-84.0, -40.0, 99.0, 55.0]
    assert first[8].tolist() == [-168.0, -344.0, 183.0, 359.0]


def test_anchors_run_over_rows_then_columns_then_shapes():
    anchors = anchor_grid((2, 3), stride=10, base=4, ratios=(1,), scales=(1, 2))
    assert anchors.shape == (12, 4) and anchors.dtype == torch.float32
    centres = ((anchors[:, :2] + anchors[:, 2:]) / 2).tolist()
    expected = [[1.5 + 10 * j, 1.5 + 10 * i] for i in range(2) for j in range(3) for _ in range(2)]
    assert centres == expected
    assert (anchors[::2, 2] - anchors[::2, 0] == 3).all()
    assert (anchors[1::2, 2] - anchors[1::2, 0] == 7).all()


def test_coco_has_twelve_anchors():
    anchors = anchor_grid((2, 2), scales=(4, 8, 16, 32))
    assert len(anchors) == 48
    assert (anchors[0, 2:] - anchors[0, :2] + 1).tolist() == [92, 48]


@pytest.mark.parametrize("bad", [{"ratios": (0.5, 0)}, {"scales": (-1,)}, {"stride": 0}])
def test_anchors_have_positive_sides(bad):
    with pytest.raises(ValueError, match="must be positive"):
        anchor_grid((2, 2), **bad)


# mask


def small_case(seed=0, count=(3, 0, 1)):
    generator = torch.Generator().manual_seed(seed)
    boxes = []
    for g in count:
        low = torch.rand(g, 2, generator=generator) * 100 - 10
        boxes.append(torch.cat([low, low + torch.rand(g, 2, generator=generator) * 60], 1).round())
    return boxes


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("psi", [0.0, 0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_mask_is_the_formula(seed, psi, inclusive):
    boxes = [b.double() for b in small_case(seed)]
    anchors = anchor_grid((6, 7), scales=(1, 2, 4)).double()
    mask = imitation_mask(anchors, boxes, (6, 7), psi=psi, inclusive=inclusive)
    assert mask.dtype == torch.bool and mask.shape == (3, 6, 7)
    assert torch.equal(mask, mask_reference(anchors, boxes, (6, 7), psi, inclusive))
    assert not mask[1].any()
    if psi == 1:
        assert not mask.any()


def test_a_case_by_hand():
    # cells of 10 pixels, one anchor of 10 x 10 each; a box over columns 0 to 14 of the first row:
    # IoU 10 / 15 with the first cell, 5 / 20 with the second, 0 with the third
    anchors = torch.tensor([[0, 0, 9, 9], [10, 0, 19, 9], [20, 0, 29, 9]]).float()
    box = torch.tensor([[0, 0, 14, 9]]).float()

    def lit(psi):
        return imitation_mask(anchors, [box], (1, 3), psi=psi).flatten().tolist()

    assert lit(0.5) == [True, False, False]
    assert lit(0.3) == [True, True, False]
    assert lit(0.0) == [True, True, False]  # the third does not touch the box
    assert lit(1.0) == [False, False, False]
    # each box has its own threshold: a second one whose best IoU is small is not lost
    speck = torch.tensor([[24, 4, 25, 5]]).float()
    mask = imitation_mask(anchors, [torch.cat([box, speck])], (1, 3))
    assert mask.flatten().tolist() == [True, False, True]


def test_the_threshold_is_exceeded_not_met():
    # IoU 10 / 10 and 5 / 10: exactly half of the best
    anchors = torch.tensor([[0, 0, 9, 0], [5, 0, 9, 0]]).float()
    box = torch.tensor([[0, 0, 9, 0]]).float()
    assert imitation_mask(anchors, [box], (1, 2)).flatten().tolist() == [True, False]
    assert imitation_mask(anchors, [box], (1, 2), psi=0.49).all()


def test_sizes_measured_on_the_released_code():
    """Fact sheet feature_imitation 1: what psi = 0 leaves out, and the blob of a small box."""
    anchors = anchor_grid(MAP)

    def cells(box, psi):
        return int(imitation_mask(anchors, [torch.tensor([box])], MAP, psi=psi).sum())

    tiny = (400.0, 300.0, 404.5, 303.0)  # 5.5 x 4 pixels
    assert 90 <= cells(tiny, 0.5) <= 120 and 80 <= cells(tiny, 0.8) <= 105
    assert cells(tiny, 0.8) < cells(tiny, 0.5) < cells(tiny, 0.0) < MAP[0] * MAP[1]


def test_a_dot_has_no_overlap_where_ends_are_inside():
    anchors = anchor_grid((6, 7))
    dot, beside = torch.tensor([[40.0, 40, 40, 40]]), torch.tensor([[40.0, 40, 41, 40]])
    assert not imitation_mask(anchors, [dot], (6, 7)).any()
    assert not imitation_mask(anchors, [dot], (6, 7), inclusive=False).any()  # has no area
    both = imitation_mask(anchors, [torch.cat([dot, beside])], (6, 7))
    assert both.any() and torch.equal(both, imitation_mask(anchors, [beside], (6, 7)))


def test_ends_outside_are_ends_inside_plus_one():
    boxes = small_case(2)
    anchors = anchor_grid((6, 7), scales=(1, 2, 4))
    end = torch.tensor([0, 0, 1, 1])
    inside = imitation_mask(anchors, boxes, (6, 7))
    outside = imitation_mask(anchors + end, [b + end for b in boxes], (6, 7), inclusive=False)
    assert torch.equal(inside, outside) and inside.any()


@pytest.fixture
def spied(monkeypatch):
    """Counts how often the plain form runs."""
    calls = []
    slow = regions._best_of_any
    monkeypatch.setattr(regions, "_best_of_any", lambda *args: (calls.append(1), slow(*args))[1])
    return calls


@pytest.mark.parametrize("psi", [0.0, 0.37, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("inclusive", [True, False])
def test_both_forms_agree_to_the_bit(psi, inclusive, spied, monkeypatch):
    anchors = anchor_grid(MAP)
    # positions of which float32 rounds the sides differently in every cell
    uneven = anchors * 1.0137 + 0.371
    generator = torch.Generator().manual_seed(3)
    boxes = [b + torch.rand(b.shape, generator=generator) for b in boxes_of(4, 5, seed=3)]
    for grid in (anchors, uneven):
        fast = imitation_mask(grid, boxes, MAP, psi=psi, inclusive=inclusive)
        assert not spied and fast.any()
        with monkeypatch.context() as patch:
            patch.setattr(regions._Grid, "of", lambda *args: None)
            slow = imitation_mask(grid, boxes, MAP, psi=psi, inclusive=inclusive)
        assert spied and torch.equal(fast, slow)
        assert torch.equal(fast, plain(grid, boxes, MAP, psi=psi, inclusive=inclusive))
        spied.clear()


def test_overlaps_agree_to_the_bit():
    """Not only the masks: the overlaps that they come from."""
    boxes = torch.cat(boxes_of(2, 5, seed=4)) + 0.3
    for anchors in (anchor_grid((9, 11)), anchor_grid((9, 11)) * 1.0137 + 0.371):
        anchors = anchors.unflatten(0, (9, 11, -1))
        grid = regions._Grid.of(anchors, 1, anchors.device)
        assert torch.equal(grid.best(boxes, 1), regions._best_of_any(anchors, boxes, 1))


@pytest.mark.parametrize("entry", [(5, 0), (700, 3), (-1, 1)])
def test_anchors_that_form_no_grid(entry, spied):
    """One coordinate of one anchor moved: the plain form, and the right answer."""
    anchors = anchor_grid((6, 14), scales=(1, 2, 4)).double()
    anchors[entry] -= 3
    boxes = [b.double() for b in small_case(1)]
    mask = imitation_mask(anchors, boxes, (6, 14))
    assert spied
    assert torch.equal(mask, mask_reference(anchors, boxes, (6, 14), 0.5))


def test_a_moved_anchor_changes_the_mask(spied):
    """Anchors are looked at anew at every call, also where they were changed in place."""
    anchors = torch.tensor([[0, 0, 9, 9], [10, 0, 19, 9], [0, 10, 9, 19], [10, 10, 19, 19]]).float()
    box = torch.tensor([[0, 0, 9, 9]]).float()
    assert imitation_mask(anchors, [box], (2, 2)).flatten().tolist() == [True, False, False, False]
    assert not spied
    anchors.data[3] = torch.tensor([0.0, 0, 9, 9])
    assert imitation_mask(anchors, [box], (2, 2)).flatten().tolist() == [True, False, False, True]
    assert spied


def test_many_boxes_are_taken_in_parts(monkeypatch):
    anchors = anchor_grid((6, 7), scales=(1, 2, 4))
    boxes = small_case(5, count=(9, 0, 4, 1))
    whole = imitation_mask(anchors, boxes, (6, 7))
    for entries in (1, 1000):
        monkeypatch.setattr(regions, "_CPU_ENTRIES", entries)
        assert torch.equal(imitation_mask(anchors, boxes, (6, 7)), whole)
    alone = [imitation_mask(anchors, [each], (6, 7))[0] for each in boxes]
    assert torch.equal(torch.stack(alone), whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.float64])
def test_boxes_of_other_types(dtype):
    anchors = anchor_grid((6, 7), scales=(1, 2, 4))
    boxes = [b.to(dtype) for b in small_case(1)]
    mask = imitation_mask(anchors, boxes, (6, 7))
    expected = imitation_mask(anchors.double(), [b.double() for b in boxes], (6, 7))
    assert torch.equal(mask, expected)


def test_a_batch_without_boxes():
    anchors = anchor_grid((6, 7))
    empty = imitation_mask(anchors, [torch.zeros(0, 4)] * 2, (6, 7))
    assert empty.shape == (2, 6, 7) and not empty.any()
    assert imitation_mask(anchors, [], (6, 7)).shape == (0, 6, 7)


def test_boxes_of_inference_mode_and_boxes_that_want_gradients():
    anchors = anchor_grid((6, 7), scales=(1, 2, 4))
    boxes = small_case(1)
    expected = imitation_mask(anchors, boxes, (6, 7))
    with torch.inference_mode():
        frozen, grid = [b.clone() for b in boxes], anchors.clone()
    assert torch.equal(imitation_mask(grid, frozen, (6, 7)), expected)
    wanting = imitation_mask(anchors, [b.clone().requires_grad_() for b in boxes], (6, 7))
    assert torch.equal(wanting, expected)


# levels of a pyramid


LEVELS = ((6, 7), (3, 4), (2, 2))  # cells at strides 16, 32 and 64


def level_anchors():
    return [
        anchor_grid(hw, stride=stride, base=stride, scales=(1, 2)).double()
        for hw, stride in zip(LEVELS, (16, 32, 64), strict=True)
    ]


def masks_reference(levels, boxes, psi, inclusive):
    """As `mask_reference`, with the largest overlap of all levels."""
    masks = [torch.zeros(len(boxes), *hw, dtype=torch.bool) for hw in LEVELS]
    for n, boxes_of_image in enumerate(boxes):
        for box in boxes_of_image.tolist():
            m = [
                [iou_reference(a, box, float(inclusive)) for a in each.tolist()] for each in levels
            ]
            best = max(max(of_level) for of_level in m)
            for mask, of_level in zip(masks, m, strict=True):
                k = len(of_level) // mask[n].numel()
                for cell in range(mask[n].numel()):
                    hit = any(v > psi * best for v in of_level[cell * k : (cell + 1) * k])
                    mask[n].view(-1)[cell] |= hit
    return masks


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("psi", [0.0, 0.5, 0.8, 1.0])
def test_masks_of_levels_are_the_formula_with_one_maximum(psi, inclusive):
    boxes = [b.double() for b in small_case(1, count=(4, 0, 2))]
    levels = level_anchors()
    masks = imitation_masks(levels, boxes, LEVELS, psi=psi, inclusive=inclusive)
    expected = masks_reference(levels, boxes, psi, inclusive)
    assert all(torch.equal(mask, other) for mask, other in zip(masks, expected, strict=True))
    if psi == 0.8:  # not every box on every level, as level by level
        alone = [
            imitation_mask(each, boxes, hw, psi=psi, inclusive=inclusive)
            for each, hw in zip(levels, LEVELS, strict=True)
        ]
        assert sum(int(mask.sum()) for mask in masks) < sum(int(mask.sum()) for mask in alone)
        assert all((mask <= other).all() for mask, other in zip(masks, alone, strict=True))


def test_masks_of_levels_in_parts_and_without_boxes(monkeypatch):
    boxes = small_case(5, count=(9, 0, 4, 1))
    levels = [each.float() for each in level_anchors()]
    whole = imitation_masks(levels, boxes, LEVELS)
    monkeypatch.setattr(regions, "_CPU_ENTRIES", 1)
    parts = imitation_masks(levels, boxes, LEVELS)
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))
    empty = imitation_masks(levels, [torch.zeros(0, 4)] * 2, LEVELS)
    assert [tuple(mask.shape) for mask in empty] == [(2, *hw) for hw in LEVELS]
    assert not any(mask.any() for mask in empty)
    with pytest.raises(ValueError, match="3 x 5 cells"):
        imitation_masks(levels, boxes, [LEVELS[0], (3, 5), LEVELS[2]])
    with pytest.raises(ValueError, match="argument 2 is"):
        imitation_masks(levels, boxes, LEVELS[:2])


def test_what_the_mask_refuses():
    anchors = anchor_grid((6, 7))
    box = torch.zeros(1, 4)
    with pytest.raises(ValueError, match="psi must lie"):
        imitation_mask(anchors, [box], (6, 7), psi=1.1)
    with pytest.raises(ValueError, match="6 x 8 cells"):
        imitation_mask(anchors, [box], (6, 8))
    with pytest.raises(ValueError, match=r"image 1 has \(4,\)"):
        imitation_mask(anchors, [box, box[0]], (6, 7))


def test_mask_at_full_size_equals_both_plain_forms():
    anchors, boxes = anchor_grid(MAP), boxes_of(8, 10)
    mask = imitation_mask(anchors, boxes, MAP)
    assert torch.equal(mask, per_box(anchors, boxes, MAP))
    assert torch.equal(mask, plain(anchors, boxes, MAP))


# loss


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 5, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2)]


def test_loss_is_the_formula(features):
    mask = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1)) > 0.6
    mask[1, 1:] = False
    loss = imitation_loss(*features, mask)
    assert float(loss) == pytest.approx(loss_reference(*features, mask), rel=1e-12)
    # pooled over the batch: not the mean of the images' own losses
    alone = [imitation_loss(features[0][n : n + 1], features[1][n : n + 1], mask[n : n + 1])
             for n in range(2)]  # fmt: skip
    share = mask[0].sum() / mask.sum()
    assert float(loss) == pytest.approx(float(share * alone[0] + (1 - share) * alone[1]))


def test_loss_by_hand():
    adapted, teacher = torch.zeros(1, 2, 1, 3), torch.tensor([[[[1.0, 2, 9]], [[3.0, 4, 9]]]])
    mask = torch.tensor([[[True, True, False]]])
    # (1 + 9 + 4 + 16) / (2 * 2): channels are summed, cells averaged, and a half
    assert float(imitation_loss(adapted, teacher, mask)) == 7.5
    # the released layer returns counts
    assert float(imitation_loss(adapted, teacher, torch.tensor([[[3, 1, 0]]]))) == 7.5
    assert float(imitation_loss(teacher, teacher, mask)) == 0


def test_loss_has_the_gradient_of_its_formula(features):
    mask = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1)) > 0.5
    adapted = features[0].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda a: imitation_loss(a, features[1], mask), adapted)
    (gradient,) = torch.autograd.grad(imitation_loss(adapted, features[1], mask), adapted)
    expected = mask[:, None] * (features[0] - features[1]) / mask.sum()
    torch.testing.assert_close(gradient, expected)


def test_loss_of_a_part_is_divided_as_told(features):
    mask = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1)) > 0.5
    cells, whole = mask.sum(), imitation_loss(*features, mask)
    torch.testing.assert_close(imitation_loss(*features, mask, cells=cells / 2), 2 * whole)
    assert torch.equal(imitation_loss(*features, mask, cells=cells), whole)
    parts = [
        imitation_loss(*(part[n : n + 1] for part in (*features, mask)), cells=cells)
        for n in range(2)
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_an_empty_region_gives_zero():
    adapted = torch.randn(2, 3, 4, 5, requires_grad=True)
    loss = imitation_loss(adapted, torch.randn(2, 3, 4, 5), torch.zeros(2, 4, 5, dtype=torch.bool))
    loss.backward()
    assert loss.detach() == 0 and (adapted.grad == 0).all()


def test_nothing_outside_the_region_counts():
    mask = torch.zeros(1, 2, 2, dtype=torch.bool)
    mask[0, 0, 0] = True
    adapted, teacher = torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    teacher[..., 1, 1], teacher[..., 0, 1] = torch.inf, torch.nan
    adapted.requires_grad_()
    loss = imitation_loss(adapted, teacher, mask)
    loss.backward()
    assert loss.detach() == 1.5
    assert torch.equal(adapted.grad, mask[:, None].expand(1, 3, 2, 2).float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_loss_of_half_types(dtype):
    # squares of 300 do not fit float16, their sum fits float32
    adapted = torch.full((1, 512, 4, 4), 300.0, dtype=dtype, requires_grad=True)
    teacher = torch.zeros(1, 512, 4, 4, dtype=dtype)
    loss = imitation_loss(adapted, teacher, full_region((4, 4), 1))
    loss.backward()
    assert loss.dtype == torch.float32 and loss.detach() == 512 * 300**2 / 2
    assert adapted.grad.dtype == dtype and torch.isfinite(adapted.grad).all()


def test_loss_takes_a_teacher_of_inference_mode():
    adapted = torch.randn(1, 3, 2, 2, requires_grad=True)
    with torch.inference_mode():
        teacher = torch.randn(1, 3, 2, 2)
    imitation_loss(adapted, teacher, full_region((2, 2), 1)).backward()
    torch.testing.assert_close(adapted.grad, (adapted - teacher).detach() / 4)


def test_what_the_loss_refuses():
    x = torch.zeros(1, 3, 2, 2)
    with pytest.raises(ValueError, match="the adapter"):
        imitation_loss(x, torch.zeros(1, 4, 2, 2), torch.ones(1, 2, 2))
    with pytest.raises(ValueError, match="mask_NHW"):
        imitation_loss(x, x, torch.ones(1, 1, 2, 2))


# regions of the ablation


def test_full_region_is_every_cell():
    region = full_region((3, 4), 2)
    assert region.shape == (2, 3, 4) and region.dtype == torch.bool and region.all()


def released_region(boxes, feature_hw, stride):
    """Fact sheet feature_imitation 3, G, by slices of a list."""
    mask = torch.zeros(len(boxes), *feature_hw, dtype=torch.bool)
    for n, boxes_of_image in enumerate(boxes):
        for x1, y1, x2, y2 in boxes_of_image.tolist():
            w, h = x2 - x1 + 1, y2 - y1 + 1
            x, y = (int((low + side / 2) // stride) for low, side in ((x1, w), (y1, h)))
            w, h = int(w // stride), int(h // stride)
            mask[n, y - h // 2 : y + h // 2, x - w // 2 : x + w // 2] = True
    return mask


def test_box_region_as_released():
    boxes = [b.round().double() for b in boxes_of(6, 8, seed=2)]
    region = box_region(boxes, MAP)
    assert torch.equal(region, released_region(boxes, MAP, 16))
    assert region.any()
    # 31 pixels wide: nothing; 32: columns 4 to 5
    lost, kept = torch.tensor([[64.0, 64, 94, 127]]), torch.tensor([[64.0, 64, 95, 127]])
    assert not box_region([lost], (10, 10)).any()
    assert box_region([kept], (10, 10))[0].nonzero().tolist() == [
        [i, j] for i in range(4, 8) for j in (4, 5)
    ]


def test_box_region_outward_loses_no_box():
    boxes = torch.tensor(
        [[17.0, 33, 17, 33], [64, 64, 95, 79], [158, 0, 159, 0], [168, 168, 170, 172]]
    )
    lit = [box_region([b[None]], (10, 10), rule="outward")[0].nonzero().tolist() for b in boxes]
    assert lit[0] == [[2, 1]]
    assert lit[1] == [[4, 4], [4, 5]]
    assert lit[2] == [[0, 9]]
    assert lit[3] == [[9, 9]]  # in what the map's floor cut off
    together = box_region([boxes, boxes[:0]], (10, 10), rule="outward")
    assert int(together[0].sum()) == 5 and not together[1].any()
    end = torch.tensor([0, 0, 1, 1])
    outside = box_region([boxes + end], (10, 10), rule="outward", inclusive=False)
    assert torch.equal(outside[0], together[0])


@pytest.mark.parametrize("rule", ["released", "outward"])
def test_box_region_of_boxes_without_area(rule):
    """Rows that fill up a batch, and inverted boxes."""
    boxes = torch.tensor([[0.0, 0, 0, 0], [40, 40, 40, 90], [90, 10, 10, 90]])
    assert not box_region([boxes], (10, 10), rule=rule, inclusive=False).any()


def test_what_the_regions_refuse():
    with pytest.raises(ValueError, match="rule must be one of"):
        box_region([torch.zeros(1, 4)], (2, 2), rule="inner")
    with pytest.raises(ValueError, match="stride"):
        box_region([torch.zeros(1, 4)], (2, 2), stride=0)
    with pytest.raises(ValueError, match="image 0"):
        box_region([torch.zeros(4)], (2, 2))
    assert box_region([], (2, 3)).shape == (0, 2, 3)


# class scores


def kl(p, q):
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))


def soft(values, temperature):
    powers = [math.exp(v / temperature) for v in values]
    return [p / sum(powers) for p in powers]


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_vanilla_is_hintons_loss(temperature):
    generator = torch.Generator().manual_seed(0)
    s, t = (torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    weight = torch.tensor([1.0, 0, 2, 0.5], dtype=torch.float64)
    rows = [
        kl(soft(a, temperature), soft(b, temperature))
        for a, b in zip(t.tolist(), s.tolist(), strict=True)
    ]
    value = vanilla(s, t, temperature=temperature)
    assert float(value) == pytest.approx(temperature**2 * sum(rows) / 4)
    weighted = sum(w * r for w, r in zip(weight.tolist(), rows, strict=True)) / 3.5
    value = vanilla(s, t, temperature=temperature, weight=weight)
    assert float(value) == pytest.approx(temperature**2 * weighted)
    turned = vanilla(s.T, t.T, temperature=temperature, classes_dim=0, weight=weight)
    torch.testing.assert_close(turned, value)


def test_vanilla_has_its_gradient_and_its_zeros():
    s = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    t = torch.randn(2, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: vanilla(x, t), s)
    assert float(vanilla(t, t)) == 0
    nothing = vanilla(s, t, weight=torch.zeros(2))
    (gradient,) = torch.autograd.grad(nothing, s)
    assert float(nothing.detach()) == 0 and (gradient == 0).all()
    empty = vanilla(s[:0], t[:0])
    assert float(empty.detach()) == 0
    hard = vanilla(s.half() * 1000, t.half())
    assert hard.dtype == torch.float32 and torch.isfinite(hard)


def test_parts_of_vanilla_add_up_under_one_normaliser():
    generator = torch.Generator().manual_seed(0)
    s, t = torch.randn(2, 6, 3, generator=generator)
    weight = torch.rand(6, generator=generator) * torch.tensor([9.0, 1, 1, 1, 1, 1])
    parts = [
        vanilla(s[part], t[part], weight=weight[part], normaliser=weight.sum())
        for part in (slice(0, 2), slice(2, 6))
    ]
    torch.testing.assert_close(sum(parts), vanilla(s, t, weight=weight))


def test_vanilla_takes_a_teacher_of_inference_mode():
    s = torch.randn(4, 3, requires_grad=True)
    with torch.inference_mode():
        t, weight = torch.randn(4, 3), torch.rand(4)
    vanilla(s, t, weight=weight).backward()
    vanilla(s, t).backward()
    assert torch.isfinite(s.grad).all()


def test_what_vanilla_refuses():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="one shape"):
        vanilla(x, x[:1])
    with pytest.raises(ValueError, match="temperature"):
        vanilla(x, x, temperature=0)
    with pytest.raises(ValueError, match="weight must be"):
        vanilla(x, x, weight=x)
