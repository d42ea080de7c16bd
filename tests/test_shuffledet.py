"""The small detector against counted sizes and hand-made boxes, its losses against slow loops."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kdlib.detection import Boxes, Targets, collate
from kdlib.losses import squeezedet
from kdlib.losses.imitation import imitation_mask
from kdlib.models.shuffle_unit import Unit
from kdlib.models.shuffledet import ANCHOR_SHAPES, AnchorOutput, ShuffleDet, anchors, detections

SHAPES = ((10, 10), (20, 8))  # of the small cases


# sizes


@pytest.mark.parametrize(
    ("width", "parameters", "with_head", "without"),
    [(1, 1_602_312, 6.17, 5.24), (0.5, 535_656, 2.05, 1.59), (0.25, 202_776, 0.90, 0.67)],
)
def test_parameters_and_multiply_adds_are_the_counted_ones(width, parameters, with_head, without):
    with torch.device("meta"):
        net = ShuffleDet(3, width=width).eval()
    assert sum(p.numel() for p in net.parameters()) == parameters
    with FlopCounterMode(display=False) as counter:
        output = net(torch.rand(1, 3, 384, 1248, device="meta"))
    total = counter.get_total_flops() / 2e9
    head = net.head.weight.numel() * 24 * 78 / 1e9
    assert total == pytest.approx(with_head, abs=0.005)
    assert total - head == pytest.approx(without, abs=0.005)
    assert output.classes.shape == (1, 9, 3, 24, 78)
    assert output.confidence.shape == (1, 9, 24, 78)
    assert output.deltas.shape == (1, 9, 4, 24, 78)
    assert output.features["neck"].shape == (1, 768 * width, 24, 78)
    assert output.anchors.shape == (16848, 4)


def test_what_cannot_be_built():
    with pytest.raises(ValueError, match="no multiple of 3 groups"):
        ShuffleDet(3, width=0.3)
    with pytest.raises(ValueError, match="no multiple of 3 groups"):
        ShuffleDet(3, width=0.5, stem=20)
    with pytest.raises(ValueError, match="two positive sides"):
        ShuffleDet(3, anchor_shapes=((0, 4),))
    with pytest.raises(ValueError, match="width must be positive"):
        ShuffleDet(3, width=0)


# network


def shuffled(y):
    """The first channel of each of the three groups, then the second of each, and so on."""
    each = y.shape[1] // 3
    return torch.stack([y[:, g * each + i] for i in range(each) for g in range(3)], 1)


@pytest.mark.parametrize("size", [(32, 48), (45, 61), (33, 64)])
def test_halving_pads_as_the_original(size):
    """Zeros only behind where sides are even, and a ceiling of half the size."""
    unit = Unit(24, 60, "halving", (1, 3)).eval()
    padded = []
    unit.depthwise.register_forward_pre_hook(lambda _, given: padded.append(given[0]))
    x = torch.randn(1, 24, *size)
    out = unit(x)
    assert out.shape == (1, 60, math.ceil(size[0] / 2), math.ceil(size[1] / 2))
    # averages over what is inside, window by window
    for i, j in ((0, 0), (1, 2), (out.shape[2] - 1, out.shape[3] - 1)):
        top, left = 2 * i - size[0] % 2, 2 * j - size[1] % 2
        window = x[:, :, max(top, 0) : top + 3, max(left, 0) : left + 3]
        torch.testing.assert_close(out[:, :24, i, j], window.mean((2, 3)))
    # what the depthwise convolution gets: the map, and zeros around it
    y = shuffled(unit.norm1(unit.reduce(x)).relu())
    first = size[0] % 2, size[1] % 2
    expected = torch.zeros(1, 15, first[0] + size[0] + 1, first[1] + size[1] + 1)
    expected[:, :, first[0] : -1, first[1] : -1] = y
    torch.testing.assert_close(padded[0], expected)


def test_units_are_what_they_say():
    x = torch.randn(2, 24, 5, 6)
    plain = Unit(24, 24, "plain", (3, 3)).eval()
    residual = Unit(24, 24, "residual", (3, 3)).eval()
    residual.load_state_dict(plain.state_dict())
    y = shuffled(plain.norm1(plain.reduce(x)).relu())
    y = plain.norm3(plain.expand(plain.norm2(plain.depthwise(y))))
    torch.testing.assert_close(plain(x), y.relu())
    torch.testing.assert_close(residual(x), (x + y).relu())


def test_input_is_blue_first_less_the_mean():
    rgb = torch.tensor([10.0, 20.0, 30.0]).view(1, 3, 1, 1)
    expected = torch.tensor([30 - 103.939, 20 - 116.779, 10 - 123.68])
    got = ShuffleDet(1, width=0.25).input_norm(rgb / 255).flatten()
    torch.testing.assert_close(got, expected)


def test_the_head_starts_near_nothing():
    head = ShuffleDet(3, width=0.25).head
    assert (head.bias == 0).all() and head.weight.abs().max() <= 2e-4
    assert float(head.weight.detach().std()) == pytest.approx(0.88e-4, rel=0.02)
    # what batch normalisation of a fresh network sees has about the deviation of its input
    weight = ShuffleDet(3).stages[1][1].expand.weight.detach()
    assert float(weight.std()) == pytest.approx(math.sqrt(2 / weight[0].numel()), rel=0.02)


def test_every_parameter_learns_and_only_training_drops():
    net = ShuffleDet(2, width=0.25).train()
    with torch.no_grad():
        net.head.weight.normal_()
    images = torch.rand(2, 3, 64, 96)
    output = net(images)
    terms = squeezedet.detection(output, some_targets())
    (sum(terms.values()) + output.features["neck"].square().mean()).backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in net.parameters())
    assert not torch.equal(net(images).classes, net(images).classes)
    net.eval()
    assert torch.equal(net(images).classes, net(images).classes)


def test_channels_of_the_head():
    """All class scores, then all confidences, then all deltas."""
    net = ShuffleDet(2, width=0.25, anchor_shapes=SHAPES).eval()
    with torch.no_grad():
        net.head.weight.zero_()
        net.head.bias.copy_(torch.arange(14.0))
    output = net(torch.rand(1, 3, 32, 32))
    assert output.classes[0, :, :, 0, 0].tolist() == [[0, 1], [2, 3]]
    assert output.confidence[0, :, 0, 0].tolist() == [4, 5]
    assert output.deltas[0, :, :, 0, 0].tolist() == [[6, 7, 8, 9], [10, 11, 12, 13]]


# anchors, boxes, detections


def test_anchors_divide_the_image():
    grid = anchors((24, 78), (384, 1248), ANCHOR_SHAPES).view(24, 78, 9, 4)
    centres = (grid[..., :2] + grid[..., 2:]) / 2
    j, i = torch.arange(1, 79), torch.arange(1, 25)
    torch.testing.assert_close(centres[3, :, 4, 0], j * 1248 / 79)
    torch.testing.assert_close(centres[:, 5, 0, 1], i * 384 / 25)
    torch.testing.assert_close(
        grid[7, 9, :, 2:] - grid[7, 9, :, :2], torch.tensor(ANCHOR_SHAPES).float()
    )
    half = ShuffleDet(1, width=0.25, anchor_scale=0.5).eval()(torch.rand(1, 3, 48, 64)).anchors
    assert (half[0, 2:] - half[0, :2]).tolist() == [18.0, 18.5]


def test_imitation_takes_the_anchors_in_their_order():
    grid = anchors((4, 6), (64, 96), SHAPES)
    box = grid[(2 * 6 + 3) * 2][None]  # an anchor of row 2, column 3
    mask = imitation_mask(grid, [box], (4, 6), psi=0.9, inclusive=False)
    assert mask[0].nonzero().tolist() == [[2, 3]]


def output_of(deltas, *, size_hw=(64, 96), hw=(4, 6), classes=2, seed=0, dtype=torch.float64):
    """An output with random scores."""
    generator = torch.Generator().manual_seed(seed)
    n, k = deltas.shape[:2]
    return AnchorOutput(
        torch.randn(n, k, classes, *hw, generator=generator, dtype=dtype),
        torch.randn(n, k, *hw, generator=generator, dtype=dtype),
        deltas,
        anchors(hw, size_hw, SHAPES),
        size_hw,
        {},
    )


def test_boxes_by_hand():
    deltas = torch.zeros(1, 2, 4, 4, 6, dtype=torch.float64)
    deltas[0, 0, :, 2, 3] = torch.tensor([0.5, -1.0, math.log(2), 0.0])
    deltas[0, 1, :, 0, 0] = torch.tensor([0.0, 0.0, 2.0, 1.0])  # beyond 1 the growth is linear
    output = output_of(deltas)
    boxes = output.boxes()
    torch.testing.assert_close(boxes[0, 2].float(), output.anchors[2])
    x, y = 4 * 96 / 7, 3 * 64 / 5
    expected = torch.tensor([x + 5 - 10, y - 10 - 5, x + 5 + 10, y - 10 + 5])
    torch.testing.assert_close(boxes[0, 30].float(), expected)
    x, y, wide, high = 96 / 7, 64 / 5, 20 * 2 * math.e, 8 * math.e
    expected = torch.tensor([0, y - high / 2, x + wide / 2, y + high / 2])
    torch.testing.assert_close(boxes[0, 1].float(), expected)
    huge = output._replace(deltas=torch.full_like(deltas, 1e3)).boxes()
    assert torch.isfinite(huge).all()
    assert (huge.amin((0, 1)) >= 0).all()
    assert (huge.amax((0, 1)) <= torch.tensor([96, 64, 96, 64])).all()


def test_boxes_undo_the_labels_deltas():
    grid = anchors((4, 6), (64, 96), SHAPES).double()
    boxes = torch.rand(48, 4, dtype=torch.float64) * 30
    boxes[:, 2:] += boxes[:, :2] + 1
    deltas = squeezedet._encoded(boxes, grid).view(1, 4, 6, 2, 4).permute(0, 3, 4, 1, 2)
    inside = boxes.clamp(max=torch.tensor([96.0, 64, 96, 64]))
    usual = (deltas[0].permute(2, 3, 0, 1).reshape(48, 4)[:, 2:] <= 1).all(1)
    assert usual.sum() > 30
    torch.testing.assert_close(output_of(deltas).boxes()[0][usual], inside[usual])


def detections_reference(output, top, overlap):
    """Anchor by anchor, in Python floats."""
    found = []
    boxes = output.boxes()
    n, k, _, h, w = output.classes.shape
    for image in range(n):
        rows = []
        for i in range(h):
            for j in range(w):
                for a in range(k):
                    p = output.classes[image, a, :, i, j].softmax(0).tolist()
                    s = float(output.confidence[image, a, i, j].sigmoid())
                    box = boxes[image, (i * w + j) * k + a].tolist()
                    rows.append((max(p) * s, p.index(max(p)), box))
        rows = sorted(rows, reverse=True)[:top]
        kept = []
        for row in rows:
            if all(row[1] != o[1] or iou_of(row[2], o[2]) <= overlap for o in kept):
                kept.append(row)
        found.append(kept)
    return found


def iou_of(a, b):
    wide = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    high = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    total = sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - wide * high
    return wide * high / total if total else 0.0


def test_detections_are_the_best_of_those_that_overlap():
    generator = torch.Generator().manual_seed(5)
    deltas = 0.5 * torch.randn(2, 2, 4, 4, 6, generator=generator, dtype=torch.float64)
    deltas[:, :, 2:] += 1
    output = output_of(deltas)
    expected = detections_reference(output, 20, 0.4)
    for got, rows in zip(detections(output, top=20), expected, strict=True):
        assert 5 < len(rows) < 20 and len(got.scores) == len(rows)
        torch.testing.assert_close(got.scores, torch.tensor([r[0] for r in rows]))
        assert got.classes.tolist() == [r[1] for r in rows]
        torch.testing.assert_close(got.xyxy, torch.tensor([r[2] for r in rows]))
        assert (got.scores[:-1] >= got.scores[1:]).all() and got.xyxy.dtype == torch.float32
    some = detections(output, top=20, min_score=0.5)[0]
    assert 0 < len(some.scores) < len(expected[0]) and some.scores.min() >= 0.5
    assert len(detections(output, top=20, min_score=2.0)[0].classes) == 0


# losses


def some_targets():
    """Two objects and an ignored region; one object; padded with empty ignored rows."""
    return collate([
        Boxes(
            xyxy=torch.tensor([[2, 3, 14, 15], [20, 20, 41, 29], [50, 50, 90, 64]]).float().numpy(),
            classes=torch.tensor([1, 0, -1]).numpy(),
            ignored=torch.tensor([False, False, True]).numpy(),
            difficulty=torch.zeros(3).long().numpy(),
        ),
        Boxes(
            xyxy=torch.tensor([[60, 10, 75, 17]]).float().numpy(),
            classes=torch.tensor([0]).numpy(),
            ignored=torch.tensor([False]).numpy(),
            difficulty=torch.zeros(1).long().numpy(),
        ),
    ])  # fmt: skip


def assign_reference(grid, targets):
    """Fact sheet feature_imitation 4, object by object."""
    found = []
    for xyxy, ignored in zip(targets.xyxy.tolist(), targets.ignored.tolist(), strict=True):
        taken, row = set(), []
        for box, skip in zip(xyxy, ignored, strict=True):
            best = None
            for a, anchor in enumerate(grid.tolist()):
                if skip or a in taken:
                    continue
                apart = sum((p - q) ** 2 for p, q in zip(middle(box), middle(anchor), strict=True))
                overlap = iou_of(box, anchor)
                rank = (overlap, 0) if overlap > 0 else (0, -apart)
                if best is None or rank > best[0]:
                    best = rank, a
            row.append(None if best is None else best[1])
            taken.add(row[-1])
        found.append(row)
    return found


def middle(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]


def loss_reference(output, targets):
    """The formulas in the docstring of `squeezedet.detection`, in Python floats."""
    n, k, _, h, w = output.classes.shape
    grid, boxes = output.anchors.tolist(), output.boxes().tolist()
    owners = assign_reference(output.anchors, targets)
    objects = sum(a is not None for row in owners for a in row)
    terms = {"classification": 0.0, "confidence": 0.0, "box": 0.0}
    for image in range(n):
        owned = {a: g for g, a in enumerate(owners[image]) if a is not None}
        for i in range(h):
            for j in range(w):
                for a in range(k):
                    index = (i * w + j) * k + a
                    s = float(output.confidence[image, a, i, j].sigmoid())
                    if index not in owned:
                        terms["confidence"] += 100 * s**2 / (n * (h * w * k - objects))
                        continue
                    g = owned[index]
                    label = targets.xyxy[image, g].tolist()
                    u = iou_of(boxes[image][index], label)
                    terms["confidence"] += 75 * (u - s) ** 2 / (n * objects)
                    p = output.classes[image, a, :, i, j].softmax(0).tolist()
                    for number, value in enumerate(p):
                        q = number == int(targets.classes[image, g])
                        terms["classification"] -= math.log(value if q else 1 - value) / objects
                    (x, y, wide, high), (ax, ay, aw, ah) = middle(label), middle(grid[index])
                    wanted = (
                        (x - ax) / aw,
                        (y - ay) / ah,
                        math.log(wide / aw),
                        math.log(high / ah),
                    )
                    d = output.deltas[image, a, :, i, j].tolist()
                    squares = sum((p - q) ** 2 for p, q in zip(d, wanted, strict=True))
                    terms["box"] += 5 * squares / objects
    return terms


@pytest.mark.parametrize("classes", [2, 3])
def test_losses_are_their_formulas(classes):
    generator = torch.Generator().manual_seed(1)
    deltas = 0.3 * torch.randn(2, 2, 4, 4, 6, generator=generator, dtype=torch.float64)
    output, targets = output_of(deltas, classes=classes), some_targets()
    got, expected = squeezedet.detection(output, targets), loss_reference(output, targets)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert value > 0 and float(got[name]) == pytest.approx(value, rel=1e-5)
    doubled = squeezedet.detection(
        output, targets, class_weight=2, positive_weight=150, negative_weight=200, box_weight=10
    )
    for name in got:
        torch.testing.assert_close(doubled[name], 2 * got[name])


def rows_of(output, targets, own):
    """Some images of an output and of its targets."""
    some = {name: getattr(output, name)[own] for name in ("classes", "confidence", "deltas")}
    return output._replace(**some), Targets(*(part[own] for part in targets))


def many_images(images):
    """An output and targets whose images differ in their objects."""
    generator = torch.Generator().manual_seed(2)
    deltas = 0.3 * torch.randn(images, 2, 4, 4, 6, generator=generator, dtype=torch.float64)
    few = some_targets()
    which = torch.randint(0, 2, (images,), generator=generator)
    xyxy = few.xyxy[which] + 5 * torch.rand(images, 3, 2, generator=generator).repeat(1, 1, 2)
    return output_of(deltas), Targets(xyxy, few.classes[which], few.ignored[which])


def test_large_batches_are_shares_of_a_released_clones_size():
    assert squeezedet.CLONE == 8  # 32 images in four clones
    output, targets = many_images(32)
    whole = squeezedet.detection(output, targets)
    for processes in (1, 2, 4):
        # images go to processes in turn, which take the mean of their losses
        dealt = [
            rows_of(output, targets, slice(rank, None, processes)) for rank in range(processes)
        ]
        losses = [squeezedet.detection(*part) for part in dealt]
        for name, value in whole.items():
            mean = sum(loss[name] for loss in losses) / processes
            torch.testing.assert_close(mean, value, rtol=1e-12, atol=0)
    # each of the four shares is one batch by the formulas
    shares = [loss_reference(*rows_of(output, targets, slice(k, None, 4))) for k in range(4)]
    for name, value in whole.items():
        expected = sum(share[name] for share in shares) / 4
        assert float(value) == pytest.approx(expected, rel=1e-5)
    # under one divisor the confidence of the objects would weigh about a quarter
    positive = squeezedet.detection(output, targets, negative_weight=0)["confidence"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(squeezedet, "CLONE", 32)
        alone = squeezedet.detection(output, targets, negative_weight=0)["confidence"]
    assert 3 < float(positive / alone) < 5


@pytest.mark.parametrize(("images", "shares"), [(7, 1), (8, 1), (9, 2), (20, 3)])
def test_a_batch_has_as_few_shares_as_it_needs(images, shares):
    output, targets = many_images(images)
    got = squeezedet.detection(output, targets)
    parts = [
        loss_reference(*rows_of(output, targets, slice(k, None, shares))) for k in range(shares)
    ]
    for name, value in got.items():
        expected = sum(part[name] for part in parts) / shares
        assert float(value) == pytest.approx(expected, rel=1e-5)


def test_assignment_by_hand():
    grid = anchors((4, 6), (64, 96), SHAPES)
    wanted = [20, 20, 21, 0]  # the same box three times, one far outside
    xyxy = torch.stack([grid[20], grid[20], grid[20] + 0.5, torch.tensor([-50.0, -50, -40, -40])])
    targets = Targets(xyxy[None], torch.zeros(1, 4).long(), torch.zeros(1, 4).bool())
    got = squeezedet.assign(grid, targets)
    assert got.found.all() and len(set(got.anchor[0].tolist())) == 4
    assert got.anchor[0, 0] == wanted[0] and got.anchor[0, 3] == wanted[3]
    assert got.anchor[0].tolist() == assign_reference(grid, targets)[0]
    # what is ignored takes nothing: the second one now gets the best
    ignored = torch.tensor([[True, False, True, False]])
    got = squeezedet.assign(grid, targets._replace(ignored=ignored))
    assert got.anchor[0, 1] == 20 and torch.equal(got.found, ~ignored)


def test_more_objects_than_anchors():
    grid = anchors((1, 1), (32, 32), SHAPES)
    targets = Targets(grid[[0, 0, 0]][None], torch.zeros(1, 3).long(), torch.zeros(1, 3).bool())
    got = squeezedet.assign(grid, targets)
    assert got.found.tolist() == [[True, True, False]] and got.anchor.tolist() == [[0, 1, 0]]
    output = output_of(torch.zeros(1, 2, 4, 1, 1), size_hw=(32, 32), hw=(1, 1))
    assert all(torch.isfinite(v) for v in squeezedet.detection(output, targets).values())


@pytest.mark.parametrize("rows", [0, 3])
def test_a_batch_without_objects_teaches_confidence_only(rows):
    targets = Targets(
        torch.zeros(2, rows, 4), torch.full((2, rows), -1), torch.ones(2, rows, dtype=torch.bool)
    )
    deltas = torch.zeros(2, 2, 4, 4, 6, requires_grad=True)
    output = output_of(deltas, dtype=torch.float32)
    output = output._replace(
        classes=output.classes.requires_grad_(), confidence=output.confidence.requires_grad_()
    )
    terms = squeezedet.detection(output, targets)
    sum(terms.values()).backward()
    assert terms["classification"].detach() == 0 and terms["box"].detach() == 0
    expected = 100 * output.confidence.detach().sigmoid().square().sum((1, 2, 3)).mean() / 48
    torch.testing.assert_close(terms["confidence"].detach(), expected)
    assert (deltas.grad == 0).all() and (output.classes.grad == 0).all()
    assert torch.isfinite(output.confidence.grad).all()


def test_losses_have_the_gradients_of_their_formulas():
    generator = torch.Generator().manual_seed(1)
    deltas = 0.3 * torch.randn(2, 2, 4, 4, 6, generator=generator, dtype=torch.float64)
    output, targets = output_of(deltas), some_targets()

    def terms(classes, confidence, deltas):
        changed = output._replace(classes=classes, confidence=confidence)
        # the overlap that the confidence is to be is a constant
        changed = Frozen(changed._replace(deltas=deltas), output.boxes())
        return tuple(squeezedet.detection(changed, targets).values())

    inputs = [t.clone().requires_grad_() for t in (output.classes, output.confidence, deltas)]
    assert torch.autograd.gradcheck(terms, inputs, fast_mode=True)
    # nothing of the confidence reaches the boxes
    free = output._replace(deltas=inputs[2])
    assert not squeezedet.detection(free, targets)["confidence"].requires_grad


class Frozen:
    """An output whose boxes do not move."""

    def __init__(self, output, boxes):
        self.classes, self.confidence, self.deltas = output[:3]
        self.anchors = output.anchors
        self.boxes = lambda: boxes


def test_sure_scores_stay_finite():
    logits = torch.tensor([[[100.0, -100.0], [-100.0, 100.0]]], requires_grad=True)
    term = squeezedet._class_term(logits, torch.tensor([[0, 0]]))
    term.sum().backward()
    assert term[0].tolist() == [0.0, 400.0] and torch.isfinite(logits.grad).all()
    # one class is always right
    assert squeezedet._class_term(logits[..., :1], torch.tensor([[0, 0]])).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_of_half_types(dtype):
    output, targets = output_of(torch.zeros(2, 2, 4, 4, 6), dtype=torch.float32), some_targets()
    half = output._replace(**{name: getattr(output, name).to(dtype) for name in output._fields[:3]})
    exact = output._replace(**{n: getattr(half, n).float() for n in output._fields[:3]})
    got, expected = squeezedet.detection(half, targets), squeezedet.detection(exact, targets)
    for name in got:
        assert got[name].dtype == torch.float32
        torch.testing.assert_close(got[name], expected[name])


def test_batches_that_do_not_agree():
    with pytest.raises(ValueError, match="the output has 1 images, the targets 2"):
        squeezedet.detection(output_of(torch.zeros(1, 2, 4, 4, 6)), some_targets())


def test_the_network_learns_a_picture():
    """Bright boxes on black: after some steps they are the best detections."""
    torch.manual_seed(0)
    net = ShuffleDet(2, width=0.25, anchor_shapes=((24, 24), (40, 16)), dropout=0).train()
    images = torch.zeros(2, 3, 48, 64)
    images[0, :, 16:40, 30:54] = 1
    images[1, 0, 20:36, 10:50] = 1
    targets = Targets(
        torch.tensor([[[30.0, 16, 54, 40]], [[10.0, 20, 50, 36]]]),
        torch.tensor([[0], [1]]),
        torch.zeros(2, 1, dtype=torch.bool),
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(40):
        optimizer.zero_grad()
        loss = sum(squeezedet.detection(net(images), targets).values())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    for found, box, number in zip(detections(net(images)), targets.xyxy, (0, 1), strict=True):
        assert found.classes[0] == number
        assert iou_of(found.xyxy[0].tolist(), box[0].tolist()) > 0.6
