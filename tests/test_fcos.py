"""FCOS: the network against torchvision's, its losses and its decoding against slow loops."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import detection as torchvision_detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from kdlib import detection
from kdlib.detection import DetectionOutput, Targets
from kdlib.losses import fcos
from kdlib.models import ModelError, build
from kdlib.models.decode import detections
from kdlib.models.fcos import FCOS

SMALL = {"blocks": (1, 1, 1), "width": 8, "stem": "small", "channels": 16, "head_convs": 1}
IMAGE = (720, 1280)
CELLS = 90 * 160 + 45 * 80 + 23 * 40 + 12 * 20 + 6 * 10


def torchvision_twin(depth: int) -> nn.Module:
    backbone = resnet_fpn_backbone(
        backbone_name=f"resnet{depth}", weights=None, norm_layer=nn.BatchNorm2d,
        returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256), trainable_layers=5,
    )  # fmt: skip
    return torchvision_detection.FCOS(backbone, num_classes=10)


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# ResNet without its classifier; the last stages' channels
BACKBONES = {
    18: (11_176_512, (128, 256, 512)),
    50: (23_508_032, (512, 1024, 2048)),
    101: (42_500_160, (512, 1024, 2048)),
}


@pytest.mark.parametrize("depth", BACKBONES)
def test_parameters_and_operations(depth):
    with torch.device("meta"):
        network, twin = FCOS(10, depth=depth), torchvision_twin(depth)
        images = torch.zeros(1, 3, *IMAGE)

    own, inputs = BACKBONES[depth]
    conv = 256 * 256 * 9
    pyramid = sum(c * 256 + 256 for c in inputs) + 5 * (conv + 256)
    head = 8 * (conv + 2 * 256) + (10 + 4 + 1) * (256 * 9 + 1) + 5
    assert count(network) == own + pyramid + head
    # torchvision: a bias before every group norm, no scale per level
    assert count(twin) == count(network) + 8 * 256 - 5

    def operations(call: Callable[[], object]) -> int:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            call()
        return counter.get_flop_counts()["Global"][torch.ops.aten.convolution]

    stages = []
    before_head = operations(lambda: stages.extend(network.backbone(images)))
    before_head += operations(lambda: network.pyramid(stages[1:]))
    of_head = 2 * CELLS * (8 * conv + 15 * 256 * 9)
    assert operations(lambda: network(images)) == before_head + of_head
    levels = []
    theirs = operations(lambda: levels.extend(twin.backbone(images).values()))
    assert theirs == before_head
    assert operations(lambda: twin.head(levels)) == of_head


def test_same_function_as_torchvisions():
    """Copied weights give torchvision's classes; the distances differ by exp and stride only."""
    torch.manual_seed(0)
    network, twin = FCOS(10).eval(), torchvision_twin(18).eval()
    for tower in (network.head.class_tower, network.head.box_tower):
        for conv in tower[::3]:
            nn.init.normal_(conv.weight, std=0.03)
    twin.backbone.body.load_state_dict(network.backbone.state_dict())
    twin.backbone.fpn.load_state_dict(
        {
            **network.pyramid.top_down.state_dict(),
            **{
                f"extra_blocks.p{6 + i}.{name}": getattr(conv, name)
                for i, conv in enumerate(network.pyramid.extra)
                for name in ("weight", "bias")
            },
        }
    )
    classes, boxes = twin.head.classification_head, twin.head.regression_head
    for theirs, ours in ((classes, network.head.class_tower), (boxes, network.head.box_tower)):
        theirs.conv.load_state_dict(ours.state_dict(), strict=False)
        for conv in theirs.conv[::3]:
            nn.init.zeros_(conv.bias)
    classes.cls_logits.load_state_dict(network.head.classes.state_dict())
    boxes.bbox_reg.load_state_dict(network.head.box.state_dict())
    # theirs reads the box tower, and ends in a ReLU: a high bias keeps the ReLU idle
    nn.init.constant_(network.head.box.bias, 3.0)
    nn.init.constant_(boxes.bbox_reg.bias, 3.0)

    images = torch.rand(1, 3, 100, 130)
    with torch.no_grad():
        output = network(images)
        theirs = twin.head(list(twin.backbone(network.input_norm(images)).values()))
    ours = torch.cat([x.flatten(2) for x in output.classification], 2).transpose(1, 2)
    torch.testing.assert_close(ours, theirs["cls_logits"], rtol=1e-4, atol=1e-4)
    distances = torch.cat([x.flatten(2) for x in output.box], 2).transpose(1, 2)
    torch.testing.assert_close(distances.log(), theirs["bbox_regression"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "strides"),
    [
        ({**SMALL, "levels": (2, 3, 4)}, (4, 8, 16)),
        ({**SMALL, "levels": (2, 3, 4, 5)}, (4, 8, 16, 32)),
        ({**SMALL, "blocks": (1,) * 4, "levels": (3, 4, 5, 6)}, (8, 16, 32, 64)),
        ({**SMALL, "stem": "deep", "levels": (3, 4, 5)}, (8, 16, 32)),
        ({**SMALL, "norm": "group", "levels": (1, 2, 3, 4, 5)}, (2, 4, 8, 16, 32)),
    ],
)
def test_levels_lie_where_their_strides_say(options, strides):
    network = build("fcos", 4, **options)
    images = torch.rand(2, 3, 70, 90)
    output = network(images)
    assert isinstance(output, DetectionOutput)
    assert output.strides == strides == network.strides
    for level, stride in enumerate(strides):
        size = (math.ceil(70 / stride), math.ceil(90 / stride))
        assert output.classification[level].shape == (2, 4, *size)
        assert output.box[level].shape == (2, 4, *size)
        assert output.quality[level].shape == (2, 1, *size)
        assert output.features[f"p{options['levels'][level]}"].shape == (2, 16, *size)
    assert output.features["stage1"].shape[1] == 8
    sum(x.sum() for levels in output[:3] for x in levels).backward()
    assert all(p.grad is not None for p in network.parameters())


def test_the_start():
    """Every class has probability 0.01 and every distance is one unit."""
    torch.manual_seed(0)
    images = torch.rand(1, 3, 64, 64)
    torch.manual_seed(1)
    pixel = FCOS(10, **SMALL, levels=(2, 3, 4)).eval()
    torch.manual_seed(1)
    stride = FCOS(10, **SMALL, levels=(2, 3, 4), box_unit="stride").eval()
    with torch.no_grad():
        first, second = pixel(images), stride(images)
    for level, unit in enumerate(first.strides):
        assert float(first.classification[level].sigmoid().mean()) == pytest.approx(0.01, rel=0.3)
        assert float(first.box[level].log().mean().abs()) < 0.3
        torch.testing.assert_close(second.box[level], first.box[level] * unit)


def test_autocast_keeps_distances_in_float32():
    torch.manual_seed(0)
    network = FCOS(3, **SMALL, levels=(2, 3, 4)).eval()
    nn.init.constant_(network.head.box.bias, 1e6)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(torch.rand(1, 3, 32, 32))
    assert output.classification[0].dtype == torch.bfloat16
    for box in output.box:
        assert box.dtype == torch.float32
        assert box.isfinite().all()


def test_what_is_frozen_stays():
    network = FCOS(3, **SMALL, levels=(2, 3, 4), frozen="lower", frozen_norm=True).train()
    assert not any(p.requires_grad for p in network.backbone.conv1.parameters())
    assert not any(p.requires_grad for p in network.backbone.layer1.parameters())
    for name, parameter in network.backbone.layer2.named_parameters():
        assert parameter.requires_grad == ("conv" in name or name.endswith("downsample.0.weight"))
    before = {name: x.clone() for name, x in network.backbone.named_buffers()}
    network(torch.rand(2, 3, 32, 32))
    assert all(torch.equal(x, before[name]) for name, x in network.backbone.named_buffers())
    lower = FCOS(3, **SMALL, levels=(2, 3, 4), frozen="lower").train().backbone
    assert not lower.bn1.training and not lower.layer1[0].bn1.training
    assert lower.layer2[0].bn1.training and lower.layer2[0].bn1.weight.requires_grad
    plain = FCOS(3, **SMALL, levels=(2, 3, 4)).train()
    before = plain.backbone.bn1.running_mean.clone()
    plain(torch.rand(2, 3, 32, 32))
    assert not torch.equal(plain.backbone.bn1.running_mean, before)
    assert all(p.requires_grad for p in plain.parameters())


def test_norms_that_a_process_group_replaces_stay_frozen():
    network = FCOS(3, **SMALL, levels=(2, 3, 4), frozen_norm=True)
    network = nn.SyncBatchNorm.convert_sync_batchnorm(network).train()
    norms = [part for part in network.modules() if isinstance(part, nn.SyncBatchNorm)]
    assert len(norms) == 1 + 3 * 2 + 2 and not any(norm.training for norm in norms)


def test_a_frozen_network_is_the_same_function_when_it_is_built_again():
    """Weights are loaded into a network that was never frozen or pretrained: see load_network."""
    torch.manual_seed(0)
    frozen = FCOS(3, **SMALL, levels=(2, 3, 4), frozen="lower", frozen_norm=True)
    for part in frozen.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.1, 0.1)
            nn.init.uniform_(part.weight, 0.5, 1.5)
    optimizer = torch.optim.SGD([p for p in frozen.parameters() if p.requires_grad], 0.01)
    images = torch.rand(2, 3, 32, 32)
    sum(level.square().sum() for level in frozen.train()(images).classification).backward()
    optimizer.step()
    again = FCOS(3, **SMALL, levels=(2, 3, 4)).eval()
    again.load_state_dict(frozen.state_dict())
    with torch.no_grad():
        told, repeated = frozen.eval()(images), again(images)
    for one, other in zip(told.classification + told.box, repeated[0] + repeated[1], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": (3, 4)}, "three to five"),
        ({"levels": (3, 5, 6)}, "successive"),
        ({"levels": (2, 3, 4)}, "reach 5"),
        ({"levels": (1, 2, 3, 4, 5)}, "start among them"),
        ({"levels": (6, 7, 8)}, "reach 5"),
        ({"stem": "tiny"}, "stem"),
        ({"box_unit": "metre"}, "box_unit"),
        ({"frozen": "released"}, "frozen must be"),
        ({"head_convs": -1}, "head_convs"),
        ({"wheels": 4}, "wheels"),
        ({"width": 8, "pretrained": True}, "ImageNet weights"),
    ],
)
def test_errors_of_the_network(options, message):
    with pytest.raises(ModelError, match=message):
        build("fcos", 3, **options)


# --- the losses -------------------------------------------------------------------------------

SIZES, STRIDES = ((8, 12), (4, 6), (2, 3)), (8, 16, 32)


def boxes_of(seed: int, images: int = 3, most: int = 6) -> Targets:
    """Whole-numbered boxes, so that centres meet edges and ranges meet their ends."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 80, (images, most, 2, 2), generator=generator).float()
    low, high = corners.amin(2), corners.amax(2) + 4
    classes = torch.randint(0, 3, (images, most), generator=generator)
    ignored = torch.rand(images, most, generator=generator) < 0.3
    return Targets(torch.cat([low, high], dim=-1), classes, ignored)


def slow_assign(targets: Targets, radius: float | None = None):
    """FCOS sections 3.1 and 3.2, cell by cell and box by box."""
    limits = [(0, 64), (64, 128), (128, math.inf)]
    rows = []
    for n in range(targets.xyxy.shape[0]):
        row = []
        for (h, w), stride, (low, high) in zip(SIZES, STRIDES, limits, strict=True):
            for i in range(h):
                for j in range(w):
                    x, y = (j + 0.5) * stride, (i + 0.5) * stride
                    best = (math.inf, -1, [1, 1, 1, 1], 0.0)
                    for g, (x1, y1, x2, y2) in enumerate(targets.xyxy[n].tolist()):
                        d = [x - x1, y - y1, x2 - x, y2 - y]
                        if targets.ignored[n, g] or min(d) <= 0 or not low <= max(d) <= high:
                            continue
                        off = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2))
                        if radius is not None and off >= radius * stride:
                            continue
                        size = (x2 - x1) * (y2 - y1)
                        if size < best[0]:
                            c = (
                                min(d[0], d[2])
                                / max(d[0], d[2])
                                * min(d[1], d[3])
                                / max(d[1], d[3])
                            )
                            best = (size, int(targets.classes[n, g]), d, math.sqrt(c))
                    row.append(best[1:])
        rows.append(row)
    return rows


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("radius", [None, 1.5])
def test_assignment_equals_the_rules(seed, radius):
    targets = boxes_of(seed)
    truth = fcos.assign(SIZES, STRIDES, targets, radius=radius)
    expected = slow_assign(targets, radius)
    assert truth.classes.tolist() == [[cell[0] for cell in row] for row in expected]
    for n, row in enumerate(expected):
        for cell, (_, box, centre) in enumerate(row):
            assert truth.box[n, :, cell].tolist() == pytest.approx(box)
            assert float(truth.centerness[n, cell]) == pytest.approx(centre, abs=1e-6)
    assert len({cell[0] for row in expected for cell in row}) == 4


def test_assignment_by_hand():
    # a box of 16 x 16 holds four centres of stride 8 and one of stride 16, too small for that level
    targets = Targets(
        torch.tensor([[[0.0, 0, 16, 16], [0, 0, 8, 8], [0, 0, 96, 64]]]),
        torch.tensor([[1, 2, 0]]),
        torch.tensor([[False, False, False]]),
    )
    truth = fcos.assign(SIZES, STRIDES, targets)
    first = truth.classes[0, : 8 * 12].view(8, 12)
    assert first[:2, :2].tolist() == [[2, 1], [1, 1]]
    # the cell at (4, 12) of the middle box: 4, 12, 12, 4
    assert truth.box[0, :, 12].tolist() == [4, 12, 12, 4]
    assert float(truth.centerness[0, 12]) == pytest.approx(1 / 3)
    assert float(truth.centerness[0, 0]) == 1
    # the large box is 64 to 128 pixels away from the sides for most cells of the second level
    second = truth.classes[0, 96 : 96 + 24].view(4, 6)
    assert second[0, 0] == 0
    assert (truth.classes[0, 120:] == fcos.BACKGROUND).all()


def test_the_ends_of_a_range_belong_to_both_levels():
    # stride 8: centre at x = 4; stride 16: centre at x = 8; the far side 64 pixels away
    for width, found in ((68.0, (True, False)), (72.0, (False, True)), (70.0, (False, False))):
        targets = Targets(
            torch.tensor([[[0.0, 0, width, 16]]]), torch.tensor([[0]]), torch.tensor([[False]])
        )
        truth = fcos.assign(SIZES, STRIDES, targets)
        assert (bool(truth.classes[0, 0] == 0), bool(truth.classes[0, 96] == 0)) == found


def random_output(seed: int, images: int = 3, dtype=torch.float64) -> DetectionOutput:
    generator = torch.Generator().manual_seed(seed)

    def random(channels, scale=1.0):
        return tuple(
            scale * torch.randn(images, channels, *size, generator=generator, dtype=torch.float64)
            for size in SIZES
        )

    levels = random(3, 2.0), tuple((3 + x).exp() for x in random(4)), random(1)
    return DetectionOutput(*(tuple(x.to(dtype) for x in part) for part in levels), STRIDES, {})


def slow_losses(output: DetectionOutput, targets: Targets, box: str):
    """Focal, IoU and centerness losses in Python floats."""
    positives = weight = classes = boxes = centre = 0.0
    for n, row in enumerate(slow_assign(targets)):
        cells = [
            (level, i, j) for level, (h, w) in enumerate(SIZES) for i in range(h) for j in range(w)
        ]
        for (level, i, j), (true, d, c) in zip(cells, row, strict=True):
            for k, z in enumerate(output.classification[level][n, :, i, j].tolist()):
                p = 1 / (1 + math.exp(-z))
                if k == true:
                    classes += -0.25 * (1 - p) ** 2 * math.log(p)
                else:
                    classes += -0.75 * p**2 * math.log(1 - p)
            if true < 0:
                continue
            positives += 1
            weight += c
            b = output.box[level][n, :, i, j].tolist()
            pairs = list(zip(b, d, strict=True))
            low, high = [min(pair) for pair in pairs], [max(pair) for pair in pairs]
            shared = (low[0] + low[2]) * (low[1] + low[3])
            hull = (high[0] + high[2]) * (high[1] + high[3])
            union = sum((x[0] + x[2]) * (x[1] + x[3]) for x in (b, d)) - shared
            iou = shared / union
            boxes += c * (-math.log(iou) if box == "iou" else 1 - iou + (hull - union) / hull)
            q = 1 / (1 + math.exp(-float(output.quality[level][n, 0, i, j])))
            centre += -c * math.log(q) - (1 - c) * math.log(1 - q)
    return {
        "classification": classes / max(positives, 1),
        "box": boxes / weight,
        "centerness": centre / positives,
    }


@pytest.mark.parametrize("box", ["iou", "giou"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_losses_equal_the_formulas(box, dtype):
    output, targets = random_output(0, dtype=dtype), boxes_of(1)
    losses = fcos.fcos(output, targets, box=box)
    expected = slow_losses(output, targets, box)
    assert tuple(losses) == ("classification", "box", "centerness")
    for name, loss in losses.items():
        assert loss.shape == ()
        assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert float(loss) == pytest.approx(expected[name], rel=1e-5), name


def requiring_grad(output: DetectionOutput) -> list[torch.Tensor]:
    return [x.requires_grad_() for levels in output[:3] for x in levels]


def test_gradients_of_the_losses():
    targets = boxes_of(2, images=1, most=3)
    tensors = requiring_grad(random_output(1, images=1))

    def total(*tensors):
        output = DetectionOutput(tensors[:3], tensors[3:6], tensors[6:], STRIDES, {})
        return sum(fcos.fcos(output, targets).values())

    assert torch.autograd.gradcheck(total, tuple(tensors), fast_mode=True)


@pytest.mark.parametrize("most", [0, 2])
def test_no_object_gives_zero_with_zero_gradients(most):
    output = random_output(0)
    tensors = requiring_grad(output)
    targets = detection.collate([detection.no_boxes()] * 3)
    if most:
        # boxes there are, all of them ignored
        targets = boxes_of(0, most=most)
        targets = targets._replace(ignored=torch.ones_like(targets.ignored))
    losses = fcos.fcos(output, targets)
    assert losses["box"].item() == losses["centerness"].item() == 0
    assert losses["classification"].item() > 0
    sum(losses.values()).backward()
    for x in tensors[:3]:
        assert x.grad.isfinite().all() and x.grad.any()
    for x in tensors[3:]:
        assert not x.grad.any()


def test_a_row_without_a_class_is_no_object():
    output, targets = random_output(0), boxes_of(1)
    classless = targets._replace(classes=targets.classes.where(~targets.ignored, -1))
    unmarked = classless._replace(ignored=torch.zeros_like(targets.ignored))
    assert fcos.fcos(output, unmarked) == fcos.fcos(output, targets)


def test_padding_of_the_targets_changes_nothing():
    output, targets = random_output(0), boxes_of(1)
    padded = Targets(
        torch.cat([targets.xyxy, torch.zeros(3, 2, 4)], 1),
        torch.cat([targets.classes, torch.full((3, 2), detection.ANY_CLASS)], 1),
        torch.cat([targets.ignored, torch.ones(3, 2, dtype=torch.bool)], 1),
    )
    assert fcos.fcos(output, targets) == fcos.fcos(output, padded)


def test_boxes_that_cross_are_almost_as_far_apart_as_can_be():
    wide, tall = (torch.tensor(d).view(1, 4, 1) for d in ((10, 0.1, 10, 0.1), (0.1, 10, 0.1, 10)))
    assert -1 < fcos.paired_iou(wide, tall, generalised=True).item() < -0.97


def test_extreme_outputs_stay_finite():
    output = random_output(0, dtype=torch.float32)
    for x in (*output.classification, *output.quality):
        x.mul_(100)
    for x in output.box:
        x.copy_(torch.where(x > 20, 8e6, 1e-7))
    tensors = requiring_grad(output)
    for box in ("iou", "giou"):
        losses = fcos.fcos(output, boxes_of(1), box=box)
        for grad in torch.autograd.grad(sum(losses.values()), tensors):
            assert grad.isfinite().all()
        assert all(loss.isfinite() for loss in losses.values())


def test_errors_of_the_losses():
    with pytest.raises(ValueError, match="'iou' or 'giou'"):
        fcos.fcos(random_output(0), boxes_of(0), box="l1")
    with pytest.raises(ValueError, match="2 images"):
        fcos.fcos(random_output(0), boxes_of(0, images=2))


def test_a_short_training_finds_the_object():
    """Network, losses and decoding speak of the same pixels."""
    torch.manual_seed(0)
    network = FCOS(
        2, **{**SMALL, "channels": 32}, norm="group", levels=(2, 3, 4), box_unit="stride"
    )
    images = torch.zeros(2, 3, 64, 96)
    images[0, 0, 16:48, 20:60] = 1
    images[1, 1, 8:28, 50:80] = 1
    targets = Targets(
        torch.tensor([[[20.0, 16, 60, 48]], [[50, 8, 80, 28]]]),
        torch.tensor([[0], [1]]), torch.tensor([[False], [False]]),
    )  # fmt: skip
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(80):
        optimiser.zero_grad()
        sum(fcos.fcos(network(images), targets).values()).backward()
        optimiser.step()
    for n, found in enumerate(detections(network.eval()(images), (64, 96))):
        assert int(found.classes[0]) == n
        assert float(detection.iou(found.xyxy[:1], targets.xyxy[n])) > 0.8


# --- decoding ---------------------------------------------------------------------------------


def slow_detections(output, size_hw, score, candidates, nms, keep, n):
    """One image, in Python: threshold, best of each level, clip, greedy suppression."""
    pool = []
    for level, stride in enumerate(output.strides):
        found = []
        classes, h, w = output.classification[level].shape[1:]
        for c in range(classes):
            for i in range(h):
                for j in range(w):
                    p = 1 / (1 + math.exp(-float(output.classification[level][n, c, i, j])))
                    q = 1 / (1 + math.exp(-float(output.quality[level][n, 0, i, j])))
                    x, y = (j + 0.5) * stride, (i + 0.5) * stride
                    left, top, right, bottom = output.box[level][n, :, i, j].tolist()
                    box = [
                        min(max(x - left, 0), size_hw[1]), min(max(y - top, 0), size_hw[0]),
                        min(max(x + right, 0), size_hw[1]), min(max(y + bottom, 0), size_hw[0]),
                    ]  # fmt: skip
                    if p > score:
                        found.append((p * q, c, box))
        pool += sorted(found, key=lambda one: -one[0])[:candidates]
    kept = []
    for p, c, box in sorted(pool, key=lambda one: -one[0]):
        if box[2] <= box[0] or box[3] <= box[1]:
            continue
        rivals = [other for _, k, other in kept if k == c]
        ious = detection.iou(torch.tensor([box]), torch.tensor(rivals).view(-1, 4))
        if not (ious > nms).any():
            kept.append((p, c, box))
    return kept[:keep]


@pytest.mark.parametrize(
    ("score", "candidates", "keep"), [(0.05, 1000, 100), (0.5, 20, 100), (0.3, 30, 7)]
)
def test_detections_equal_the_rules(score, candidates, keep):
    output = random_output(5, dtype=torch.float32)
    # the last cells lie outside an image of this size
    size_hw = (52, 84)
    options = {"score": score, "candidates": candidates, "nms": 0.4, "keep": keep}
    found = detections(output, size_hw, **options)
    assert len(found) == 3
    for n, got in enumerate(found):
        expected = slow_detections(output, size_hw, score, candidates, 0.4, keep, n)
        assert len(got.scores) == len(expected) > 3
        assert got.classes.tolist() == [c for _, c, _ in expected]
        assert got.scores.tolist() == pytest.approx([p for p, _, _ in expected], rel=1e-5)
        torch.testing.assert_close(got.xyxy, torch.tensor([box for _, _, box in expected]))


def test_nothing_found():
    output = random_output(0, dtype=torch.bfloat16)
    quiet = output._replace(classification=tuple(x - 50 for x in output.classification))
    for found in detections(quiet, (64, 96)):
        assert found.xyxy.shape == (0, 4) and found.xyxy.dtype == torch.float32
        assert found.scores.shape == found.classes.shape == (0,)
        assert found.classes.dtype == torch.int64


def test_two_classes_do_not_suppress_one_another():
    box = torch.tensor([3.0, 3, 3, 3]).view(1, 4, 1, 1)
    output = DetectionOutput(
        (torch.zeros(1, 2, 1, 1),), (box,), (torch.zeros(1, 1, 1, 1),), (8,), {}
    )
    (found,) = detections(output, (8, 8))
    assert sorted(found.classes.tolist()) == [0, 1]
    assert found.xyxy.tolist() == [[1, 1, 7, 7]] * 2
    assert found.scores.tolist() == [0.25, 0.25]
