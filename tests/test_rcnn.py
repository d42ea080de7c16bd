"""Two-stage detectors against torchvision's, counted sizes, hand-made anchors and levels."""

import copy
import math

import pytest
import torch
import torchvision
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import LevelMapper

from kdlib.detection import ANY_CLASS, Targets, iou
from kdlib.losses.imitation import anchor_grid
from kdlib.models import ModelError, rcnn
from kdlib.models.rcnn_backbones import Stage5Head, VggBackbone, resnet_config
from kdlib.models.rcnn_heads import RoiAlign, roi_align_products
from kdlib.models.rcnn_regions import Proposals, RCNNConfig, ReleasedAnchors, cell_anchors

SMALL_ANCHORS = {"scales": (1, 2, 4), "roi_batch": 32}
VGG = {"width": 8, "head_channels": 64, "dropout": 0.0, **SMALL_ANCHORS}
RESNET = {"width": 8, "blocks": (1, 1, 1, 1), "norm": "group", **SMALL_ANCHORS}
C4 = {"rpn_channels": 32, **RESNET}
FPN = {"pyramid_channels": 32, "head_channels": 64, **RESNET, "scales": (4,)}
TINY = {
    "vgg16": (rcnn.vgg16, VGG),
    "vgg11": (rcnn.vgg11, VGG),
    "r50": (rcnn.r50, C4),
    "fpn-r50": (rcnn.fpn_r50, FPN),
}


def tiny(name: str, **options) -> rcnn.TwoStageDetector:
    torch.manual_seed(0)
    build, small = TINY[name]
    return build(3, **{**small, **options})


def batch() -> tuple[torch.Tensor, Targets]:
    """Two images of 64 x 96 pixels whose objects have the colour of their class."""
    generator = torch.Generator().manual_seed(1)
    images_NCHW = torch.rand(2, 3, 64, 96, generator=generator) * 0.3
    targets = Targets(
        torch.tensor(
            [
                [[10.0, 10, 40, 44], [50, 8, 90, 50]],
                [[20, 5, 60, 60], [0, 0, 0, 0]],
            ]
        ),
        torch.tensor([[0, 1], [2, ANY_CLASS]]),
        torch.tensor([[False, False], [False, True]]),
    )
    images_NCHW[0, 0, 10:44, 10:40] = 1
    images_NCHW[0, 1, 8:50, 50:90] = 1
    images_NCHW[1, 2, 5:60, 20:60] = 1
    return images_NCHW, targets


def without_boxes(images: int) -> Targets:
    return Targets(
        torch.zeros(images, 1, 4),
        torch.full((images, 1), ANY_CLASS),
        torch.ones(images, 1, dtype=torch.bool),
    )


def total(output: rcnn.TwoStageOutput) -> torch.Tensor:
    return torch.stack(list(output.losses.values())).sum()


# sizes


def parameters(build, **options) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build(20, **options).parameters())


@pytest.mark.parametrize(("build", "features"), [(rcnn.vgg16, 14_714_688), (rcnn.vgg11, 9_220_480)])
def test_parameters_of_vgg_counted_by_hand(build, features):
    fc = (25_088 + 1) * 4096 + (4096 + 1) * 4096
    proposals = 512 * 512 * 9 + 512 + (9 + 36) * (512 + 1)
    predictor = 21 * (1 + 4) * (4096 + 1)
    assert parameters(build) == features + fc + proposals + predictor


@pytest.mark.parametrize(("build", "depth"), [(rcnn.r101, 101), (rcnn.r50, 50)])
def test_parameters_of_c4_are_torchvisions_resnet_and_heads(build, depth):
    with torch.device("meta"):
        resnet = getattr(torchvision.models, f"resnet{depth}")()
    convolutions = sum(p.numel() for k, p in resnet.named_parameters() if not k.startswith("fc."))
    proposals = 1024 * 512 * 9 + 512 + (9 + 36) * (512 + 1)
    assert parameters(build) == convolutions + proposals + 21 * 5 * (2048 + 1)
    twelve = parameters(build, scales=(4, 8, 16, 32))
    assert twelve - parameters(build) == 3 * 5 * (512 + 1)


def test_state_of_the_pyramid_is_torchvisions():
    with torch.device("meta"):
        theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=21)
        ours = rcnn.fpn_r50(20)
    expected = {name: value.shape for name, value in theirs.state_dict().items()}
    got = {name: value.shape for name, value in ours.state_dict().items()}
    del got["input_norm.scale"], got["input_norm.shift"]
    assert got == expected
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize(("full", "half"), [(rcnn.r101, rcnn.r101h), (rcnn.fpn_r50, rcnn.fpn_r50h)])
def test_h_halves_every_channel(full, half):
    with torch.device("meta"):
        full, half = full(20), half(20)
    outputs = ("cls_logits", "bbox_pred", "cls_score")
    for (name, wide), narrow in zip(full.named_parameters(), half.parameters(), strict=True):
        rows = 1 if name.split(".")[-2] in outputs else 2
        assert wide.shape[0] == rows * narrow.shape[0], name
        if wide.dim() > 1:
            columns = 1 if name == "backbone.body.conv1.weight" else 2
            assert wide.shape[1] == columns * narrow.shape[1], name
        assert wide.shape[2:] == narrow.shape[2:]


# anchors


def test_released_anchors_have_the_sizes_of_the_fact_sheet():
    anchors = cell_anchors(16, (0.5, 1, 2), (8, 16, 32))
    sides = (anchors[:, 2:] - anchors[:, :2]).int().tolist()
    base = [(23, 12), (16, 16), (11, 22)]
    assert sides == [[w * s, h * s] for w, h in base for s in (8, 16, 32)]
    # the released centre is 7.5 among inclusive pixels, 8 where ends lie outside
    assert ((anchors[:, 2:] + anchors[:, :2]) / 2 == 8).all()
    assert anchors[0].tolist() == [-84, -40, 100, 56]


@pytest.mark.parametrize("strides", [(16,), (4, 8, 16, 32, 64)])
@pytest.mark.parametrize("scales", [(8, 16, 32), (4, 8, 16, 32), (8,)])
def test_anchors_of_the_network_are_those_of_the_imitation_region(strides, scales):
    generator = ReleasedAnchors(strides, (0.5, 1, 2), scales)
    sizes = [(math.ceil(70 / stride), math.ceil(101 / stride)) for stride in strides]
    maps = [torch.zeros(2, 1, *size) for size in sizes]
    first, second = generator(ImageList(torch.zeros(2, 3, 70, 101), [(70, 101)] * 2), maps)
    expected = torch.cat(
        [
            anchor_grid(size, stride=stride, base=stride, scales=scales)
            for size, stride in zip(sizes, strides, strict=True)
        ]
    )
    expected[:, 2:] += 1
    assert torch.equal(first, expected) and torch.equal(second, expected)


def test_anchors_stay_exact_on_half_type_maps():
    generator = ReleasedAnchors((16,), (1,), (8,))
    images = ImageList(torch.zeros(1, 3, 640, 1008), [(640, 1008)])
    (anchors,) = generator(images, [torch.zeros(1, 1, 40, 63, dtype=torch.bfloat16)])
    assert anchors.dtype == torch.float32 and anchors[-1].tolist() == [936, 568, 1064, 696]


def test_anchors_kept_from_an_evaluation_serve_training():
    generator = ReleasedAnchors((16,), (1,), (8,))
    images = ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)])
    with torch.inference_mode():
        generator(images, [torch.zeros(1, 1, 4, 6, dtype=torch.float64)])
    (kept,) = generator.cell_anchors
    assert kept.dtype == torch.float64 and not kept.is_inference()


# levels


def square(side: float) -> list[float]:
    return [3.0, 5.0, 3.0 + side, 5.0 + side]


@pytest.mark.parametrize(
    ("side", "level"),
    [(1, 0), (56, 0), (111, 0), (112, 1), (223, 1), (224, 2), (447, 2), (448, 3), (4000, 3)],
)
def test_area_rule(side, level):
    got = rcnn.assign_levels(torch.tensor([square(side)]))
    assert got.tolist() == [[index == level for index in range(4)]]


def test_area_rule_equals_the_formula_and_torchvision():
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(500, 2, generator=generator) * 300
    boxes = torch.cat([low, low + torch.rand(500, 2, generator=generator) * 900], dim=1)
    got = rcnn.assign_levels(boxes).int().argmax(1)
    for box, level in zip(boxes.tolist(), got.tolist(), strict=True):
        size = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
        assert level == min(max(math.floor(math.log2(size / 56)), 0), 3)
    assert torch.equal(got, LevelMapper(2, 5)([boxes]))
    assert len(got.unique()) == 4


def test_levels_follow_the_anchors_scale():
    """Both mappings, that of the imitation region and that of the heads: equal, and 56 at 8."""
    assert RCNNConfig(scales=(8,)).canonical == 56
    assert RCNNConfig(scales=(2,)).canonical == 14
    assert RCNNConfig(scales=(2, 4, 8)).canonical == pytest.approx(28)
    sides = torch.tensor([10.0, 27, 28, 55, 56, 111, 112, 500])
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), sides, sides], 1)
    network = tiny("fpn-r50", scales=(2,))
    expected = [0, 0, 1, 1, 2, 2, 3, 3]
    assert network.roi_heads.box_roi_pool.map_levels([boxes]).tolist() == expected
    got = rcnn.assign_levels(boxes, canonical=network.config.canonical)
    assert got.int().argmax(1).tolist() == expected
    assert tiny("fpn-r50", scales=(8,)).roi_heads.box_roi_pool.map_levels.s0 == 224


def test_every_rule_and_rows_without_boxes():
    _, targets = batch()
    every = rcnn.assign_levels(targets.xyxy, rule="every", levels=5)
    assert every.shape == (2, 2, 5)
    assert every[0].all() and every[1, 0].all() and not every[1, 1].any()
    by_area = rcnn.assign_levels(targets.xyxy)
    assert by_area.sum(-1).tolist() == [[1, 1], [1, 0]]
    assert rcnn.assign_levels(torch.zeros(0, 4)).shape == (0, 4)
    # a box that ends before it starts has no area either
    assert not rcnn.assign_levels(torch.tensor([[9.0, 9, 2, 2]]), rule="every").any()


def test_wrong_levels_are_refused():
    boxes = torch.tensor([square(10)])
    with pytest.raises(ValueError, match="rule must be one of"):
        rcnn.assign_levels(boxes, rule="best")
    with pytest.raises(ValueError, match=r"\(\.\.\., 4\)"):
        rcnn.assign_levels(boxes[:, :3])
    with pytest.raises(ValueError, match="positive"):
        rcnn.assign_levels(boxes, levels=0)


# regions


def regions() -> torch.Tensor:
    """Boxes in cells of a 9 x 12 map: inside, over the borders, smaller than a cell, empty."""
    generator = torch.Generator().manual_seed(3)
    low = torch.rand(40, 2, generator=generator) * 10
    boxes = torch.cat([low, low + torch.rand(40, 2, generator=generator) * 8], dim=1)
    special = [[0, 0, 12, 9], [0, 0, 13, 10], [3, 3, 3, 3], [-3, -2, 2, 2], [11.2, 8.6, 12, 9]]
    return torch.cat([boxes, torch.tensor(special)])


def test_products_equal_torchvisions_roi_align():
    generator = torch.Generator().manual_seed(4)
    map_CHW = torch.rand(5, 9, 12, generator=generator, dtype=torch.float64, requires_grad=True)
    boxes = regions().double()
    got = roi_align_products(map_CHW, boxes, 7)
    expected = roi_align(map_CHW[None], [boxes], 7, sampling_ratio=2)
    torch.testing.assert_close(got, expected)
    weights = torch.rand(got.shape, generator=generator, dtype=torch.float64)
    (grad,) = torch.autograd.grad((got * weights).sum(), map_CHW)
    (expected_grad,) = torch.autograd.grad((expected * weights).sum(), map_CHW)
    torch.testing.assert_close(grad, expected_grad)


def test_products_stay_exact_under_autocast():
    map_CHW = torch.rand(5, 9, 12)
    with torch.autocast("cpu", torch.bfloat16):
        got = roi_align_products(map_CHW, regions(), 7)
    torch.testing.assert_close(got, roi_align(map_CHW[None], [regions()], 7, sampling_ratio=2))


def test_regions_of_a_pyramid_keep_their_order():
    strides = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}
    generator = torch.Generator().manual_seed(5)
    maps = {
        name: torch.rand(2, 3, 512 // stride, 640 // stride, generator=generator)
        for name, stride in strides.items()
    }
    sides = torch.rand(30, 2, generator=generator) * 480 + 8
    low = torch.rand(30, 2, generator=generator) * torch.tensor([100.0, 20.0])
    boxes = torch.cat([low, low + sides], dim=1)
    boxes[20] = torch.tensor([5.0, 9, 600, 500])
    split = [boxes[:19], boxes[19:]]
    pool = RoiAlign(strides, 7)
    got = pool.products(maps, split)
    theirs = MultiScaleRoIAlign(list(strides), 7, 2)
    expected = theirs(maps, split, [(512, 640)] * 2)
    assert len(pool.map_levels(split).unique()) == 4
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(pool(maps, split, [(512, 640)] * 2), expected)
    assert pool.products(maps, [boxes[:0], boxes[:0]]).shape == (0, 3, 7, 7)


# the whole network


def test_pyramid_equals_torchvisions_network():
    """The same weights and torchvision's anchors: the same losses, draws included, and boxes."""
    torch.manual_seed(0)
    sizes = ((16,), (32,), (64,), (128,), (256,))
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
    theirs = fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=4,
        min_size=64,
        max_size=96,
        rpn_anchor_generator=anchors,
        box_batch_size_per_image=64,
    )
    ours = rcnn.fpn_r50(3, proposals=(2000, 1000), roi_batch=64)
    ours.load_state_dict(theirs.state_dict() | ours.input_norm.state_dict(prefix="input_norm."))
    ours.rpn.anchor_generator = anchors
    images_NCHW, targets = batch()
    dicts = [
        {"boxes": targets.xyxy[0], "labels": targets.classes[0] + 1},
        {"boxes": targets.xyxy[1, :1], "labels": targets.classes[1, :1] + 1},
    ]
    theirs.eval(), ours.eval()
    with torch.no_grad():
        expected, output = theirs(list(images_NCHW)), ours(images_NCHW)
        got = ours.detections(output, (64, 96))
    assert output.losses is None and all(len(found.scores) for found in got)
    for found, wanted in zip(got, expected, strict=True):
        torch.testing.assert_close(found.xyxy, wanted["boxes"], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found.scores, wanted["scores"], rtol=1e-4, atol=1e-5)
        assert torch.equal(found.classes, wanted["labels"] - 1)
        assert (found.scores.diff() <= 0).all()

    # batch norms at their stored statistics on both sides; torchvision draws a size in training
    theirs.train(), ours.train()
    theirs.transform.eval()
    for network in (theirs, ours):
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
    with torch.no_grad():
        torch.manual_seed(5)
        expected = theirs(list(images_NCHW), dicts)
        torch.manual_seed(5)
        got = ours(images_NCHW, targets)
    torch.testing.assert_close(got.losses["rpn_objectness"], expected["loss_objectness"])
    torch.testing.assert_close(got.losses["rpn_box"], expected["loss_rpn_box_reg"])
    torch.testing.assert_close(got.losses["roi_class"], expected["loss_classifier"])
    torch.testing.assert_close(got.losses["roi_box"], expected["loss_box_reg"])


@pytest.mark.parametrize("name", list(TINY))
def test_losses_fall_and_boxes_come_out(name):
    network = tiny(name)
    images_NCHW, targets = batch()
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    losses = []
    network.train()
    for _ in range(20):
        output = network(images_NCHW, targets)
        assert set(output.losses) == {"rpn_objectness", "rpn_box", "roi_class", "roi_box"}
        loss = total(output)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 1.9  # log 2 for the objectness, log 4 for the classes
    assert sum(losses[-3:]) / 3 < 0.65 * losses[0]
    network.eval()
    with torch.inference_mode():
        output = network(images_NCHW, targets)
        first, again = (network.detections(one, (64, 96)) for one in (output, network(images_NCHW)))
    assert output.losses is None and len(first) == 2
    assert sum(len(found.scores) for found in first) > 0
    for found, same in zip(first, again, strict=True):
        assert torch.equal(found.xyxy, same.xyxy)
        assert found.classes.dtype == torch.int64 and found.xyxy.shape == (len(found.scores), 4)
        assert ((found.classes >= 0) & (found.classes < 3)).all()
        assert ((found.scores > 0.05) & (found.scores <= 1)).all()
        assert (found.xyxy >= 0).all()
        assert (found.xyxy <= torch.tensor([96.0, 64, 96, 64])).all()


@pytest.mark.parametrize("name", ["vgg11", "fpn-r50"])
def test_the_seed_decides_a_step_also_under_deterministic_algorithms(name):
    images_NCHW, targets = batch()
    results = []
    torch.use_deterministic_algorithms(True)
    try:
        for seed in (3, 3, 4):
            network = tiny(name, roi_batch=16, rpn_batch=16).train()
            torch.manual_seed(seed)
            output = network(images_NCHW, targets)
            total(output).backward()
            grad = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
            results.append((torch.stack(list(output.losses.values())), grad))
    finally:
        torch.use_deterministic_algorithms(False)
    first, second, other = results
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])


@pytest.mark.slow
def test_one_batch_is_learnt_by_heart():
    network = tiny("vgg11")
    images_NCHW, targets = batch()
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    network.train()
    for _ in range(150):
        optimiser.zero_grad()
        total(network(images_NCHW, targets)).backward()
        optimiser.step()
    network.eval()
    with torch.no_grad():
        found = network.detections(network(images_NCHW), (64, 96))
    for image, (xyxy, classes) in enumerate(
        [(targets.xyxy[0], [0, 1]), (targets.xyxy[1, :1], [2])]
    ):
        for box, class_ in zip(xyxy, classes, strict=True):
            overlap = iou(found[image].xyxy, box[None])[:, 0]
            right = (overlap > 0.6) & (found[image].classes == class_)
            assert found[image].scores[right].max() > 0.5


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("vgg16", {"conv5": (64, 4, 6)}),
        ("vgg11", {"conv5": (64, 4, 6)}),
        ("r50", {"c4": (128, 5, 7)}),
        (
            "fpn-r50",
            {
                "p2": (32, 18, 26),
                "p3": (32, 9, 13),
                "p4": (32, 5, 7),
                "p5": (32, 3, 4),
                "p6": (32, 2, 2),
            },
        ),
    ],
)
def test_imitated_maps(name, shapes):
    network = tiny(name).eval()
    images_NCHW = torch.rand(2, 3, 70, 101)
    with torch.no_grad():
        output, maps = network(images_NCHW), network.maps(images_NCHW)
    assert {key: tuple(map_.shape) for key, map_ in output.features.items()} == {
        key: (2, *shape) for key, shape in shapes.items()
    }
    assert list(maps) == list(shapes) == list(network.backbone.strides)
    assert all(torch.equal(maps[key], output.features[key]) for key in shapes)


@pytest.mark.parametrize("name", list(TINY))
def test_an_output_says_where_its_maps_lie(name):
    network = tiny(name)
    images_NCHW, targets = batch()
    output = network.train()(images_NCHW, targets)
    assert output.size_hw == (64, 96) and output.strides == network.backbone.strides
    anchors = network.anchors(output.features)
    (whole, _) = network.rpn.anchor_generator(
        ImageList(images_NCHW, [(64, 96)] * 2), list(output.features.values())
    )
    assert torch.equal(torch.cat(list(anchors.values())), whole)
    for key, map_ in output.features.items():
        cells = map_.shape[-2] * map_.shape[-1]
        assert (
            len(anchors[key])
            == cells
            * network.rpn.anchor_generator.num_anchors_per_location()[list(anchors).index(key)]
        )
    assert network.neck_channels.keys() == set(network.backbone.pooled)
    for key, channels in network.neck_channels.items():
        assert output.features[key].shape[1] == channels


@pytest.mark.parametrize("name", ["vgg11", "r50", "fpn-r50"])
def test_a_teacher_scores_the_regions_of_its_student(name):
    """Another network's answer on the drawn regions; the student's own are those of its loss."""
    network, other = tiny(name).train(), tiny(name).eval()
    images_NCHW, targets = batch()
    output = network(images_NCHW, targets)
    assert len(output.scores) == sum(map(len, output.regions)) and output.scores.shape[1] == 4
    with torch.no_grad():
        again = network.score(output.features, output.regions, output.size_hw)
        theirs = other.score(other(images_NCHW).features, output.regions, output.size_hw)
    torch.testing.assert_close(again, output.scores)
    assert theirs.shape == again.shape and not theirs.requires_grad
    assert all(0 < len(own) <= network.config.roi_batch for own in output.regions)
    for image, (boxes, found) in enumerate(zip(targets.xyxy, output.regions, strict=True)):
        wanted = boxes[~targets.ignored[image]]
        assert (iou(wanted, found) >= 0.5).any()  # what the classes are learnt from


def test_conv5_is_vggs_last_convolution_and_relu():
    network = tiny("vgg16")
    layers = network.backbone.body.features
    assert isinstance(layers[-2], torch.nn.Conv2d) and isinstance(layers[-1], torch.nn.ReLU)
    maps = network.maps(torch.rand(1, 3, 64, 96))["conv5"]
    assert (maps >= 0).all() and (maps > 0).any()


@pytest.mark.parametrize("name", ["vgg11", "fpn-r50"])
def test_images_without_boxes(name):
    images_NCHW, targets = batch()
    network = tiny(name).train()
    none = without_boxes(2)
    mixed = Targets(
        torch.stack([targets.xyxy[0], torch.zeros(2, 4)]),
        torch.stack([targets.classes[0], torch.full((2,), ANY_CLASS)]),
        torch.tensor([[False, False], [True, True]]),
    )
    for labelled in (none, mixed):
        network.zero_grad()
        output = network(images_NCHW, labelled)
        total(output).backward()
        assert all(torch.isfinite(loss) for loss in output.losses.values())
        for parameter in network.parameters():
            if parameter.grad is not None:
                assert torch.isfinite(parameter.grad).all()
        boxes = [float(output.losses[key].detach()) for key in ("rpn_box", "roi_box")]
        assert boxes == [0, 0] if labelled is none else min(boxes) > 0
    # also where a tensor has no rows at all
    rows = Targets(torch.zeros(2, 0, 4), torch.zeros(2, 0).long(), torch.ones(2, 0).bool())
    assert torch.isfinite(total(network(images_NCHW, rows)))


@pytest.mark.parametrize("name", ["vgg11", "r50", "fpn-r50"])
def test_images_without_proposals(name, monkeypatch):
    """All proposals fall out of the image, as they do where a training goes astray."""
    network = tiny(name, norm="batch") if name != "vgg11" else tiny(name)
    images_NCHW, targets = batch()
    real = type(network.rpn).filter_proposals

    def none(*arguments):
        boxes, scores = real(*arguments)
        return [own[:0] for own in boxes], [own[:0] for own in scores]

    monkeypatch.setattr(type(network.rpn), "filter_proposals", none)
    for labelled in (without_boxes(2), targets):
        output = network.train()(images_NCHW, labelled)
        total(output).backward()
        assert all(torch.isfinite(loss) for loss in output.losses.values())
        for own, kept in zip(output.regions, ~labelled.ignored, strict=True):
            assert 1 <= len(own) <= 1 + int(kept.sum())
    with torch.no_grad():
        found = network.eval().detections(network(images_NCHW), (64, 96))
    assert [len(own.scores) for own in found] == [0, 0]


def test_ignored_boxes_are_not_learnt():
    images_NCHW, targets = batch()
    network = tiny("vgg11").train()
    ignored = targets._replace(ignored=torch.ones_like(targets.ignored))
    output = network(images_NCHW, ignored)
    assert output.losses["roi_box"] == 0 and output.losses["rpn_box"] == 0


def test_autocast_keeps_boxes_exact():
    network = tiny("fpn-r50").eval()
    images_NCHW = torch.rand(1, 3, 64, 320)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = network(images_NCHW)
        proposals, _ = network.rpn(ImageList(images_NCHW, [(64, 320)]), output.features)
        inside = network.detections(output, (64, 320))[0]
    assert output.features["p2"].dtype == torch.bfloat16 and proposals[0].dtype == torch.float32
    with torch.no_grad():  # the heads in float32 on maps that autocast made
        outside = network.detections(output, (64, 320))[0]
    boxes = inside.xyxy
    for found in (inside, outside):
        assert found.xyxy.dtype == found.scores.dtype == torch.float32
    assert inside.scores[0] == pytest.approx(float(outside.scores[0]), abs=0.02)
    beyond = boxes[:, 2][(boxes[:, 2] > 256) & (boxes[:, 2] < 320)]
    assert len(beyond) and not torch.equal(beyond, beyond.bfloat16().float())
    network.train()
    images_NCHW, targets = batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss = total(network(images_NCHW, targets))
    loss.backward()
    assert loss.dtype == torch.float32 and torch.isfinite(loss)


# frozen parts


@pytest.mark.parametrize(
    ("depth", "frozen", "convolutions"),
    [(16, "lower", 4), (16, "released", 4), (11, "lower", 2), (11, "released", 3), (11, "none", 0)],
)
def test_frozen_blocks_of_vgg_get_no_gradient(depth, frozen, convolutions):
    network = rcnn.build_vgg(3, depth=depth, **{**VGG, "frozen": frozen}).train()
    images_NCHW, targets = batch()
    total(network(images_NCHW, targets)).backward()
    layers = [m for m in network.backbone.body.features if isinstance(m, torch.nn.Conv2d)]
    assert [layer.weight.grad is None for layer in layers] == [
        index < convolutions for index in range(len(layers))
    ]
    assert all(layer.weight.grad.any() for layer in layers[convolutions:])
    # conv3_1 reads the 128 channels of block 2
    third = layers[convolutions].in_channels if frozen == "lower" else 16
    assert third == 16


@pytest.mark.parametrize("name", ["r50", "fpn-r50"])
def test_frozen_stages_of_a_resnet(name):
    network = tiny(name, norm="batch", frozen="lower").train()
    before = copy.deepcopy(network.state_dict())
    images_NCHW, targets = batch()
    total(network(images_NCHW, targets)).backward()
    lower = ("backbone.body.conv1", "backbone.body.bn1", "backbone.body.layer1")
    for key, parameter in network.named_parameters():
        assert (parameter.grad is None) == key.startswith(lower), key
    moved = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and not any(key.startswith(lower) for key in moved)
    assert any(key.startswith("backbone.body.layer2") for key in moved)


def test_frozen_norms_keep_their_statistics_also_in_a_copy():
    network = copy.deepcopy(tiny("r50", norm="batch", frozen_norm=True))
    before = copy.deepcopy(network.state_dict())
    images_NCHW, targets = batch()
    total(network.eval().train()(images_NCHW, targets)).backward()
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == 1 + 4 * 4 and not any(norm.training for norm in norms)
    assert all(norm.weight.grad is None for norm in norms)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert network.backbone.body.conv1.weight.grad is not None


def test_norms_that_a_process_group_replaces_stay_frozen():
    network = tiny("r50", norm="batch", frozen_norm=True)
    network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network).train()
    norms = [m for m in network.modules() if isinstance(m, torch.nn.SyncBatchNorm)]
    assert len(norms) == 1 + 4 * 4 and not any(norm.training for norm in norms)
    lower = tiny("r50", norm="batch", frozen="lower")
    lower = torch.nn.SyncBatchNorm.convert_sync_batchnorm(lower).train().backbone.body
    assert not lower.bn1.training and lower.layer2[0].bn1.training


# ImageNet weights


@pytest.mark.parametrize("depth", [11, 16])
def test_vgg_has_the_names_and_shapes_of_torchvisions(depth):
    with torch.device("meta"):
        state = getattr(torchvision.models, f"vgg{depth}")().state_dict()
        network = rcnn.build_vgg(20, depth=depth)
    own = network.backbone.body.state_dict() | network.roi_heads.box_head.state_dict()
    del state["classifier.6.weight"], state["classifier.6.bias"]
    assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in state.items()}


def test_weights_of_vgg_go_to_backbone_and_head():
    network = tiny("vgg11")
    source = tiny("vgg11")
    torch.manual_seed(9)
    state = source.backbone.body.state_dict() | source.roi_heads.box_head.state_dict()
    state = {name: torch.rand_like(value) for name, value in state.items()}
    state["classifier.6.weight"] = torch.rand(1000, 64)
    network.load_imagenet(state)
    assert torch.equal(network.backbone.body.features[6].weight, state["features.6.weight"])
    assert torch.equal(network.roi_heads.box_head.classifier[3].bias, state["classifier.3.bias"])


def test_weights_of_a_resnet_give_torchvisions_maps():
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50(weights=None).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.8, 1.2)
    network = rcnn.r50(3).eval()
    network.load_imagenet(theirs.state_dict())
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        stem = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(network.input_norm(x)))))
        c4 = theirs.layer3(theirs.layer2(theirs.layer1(stem)))
        torch.testing.assert_close(network.maps(x)["c4"], c4)
        region = c4[..., :4, :4]
        expected = theirs.avgpool(theirs.layer4(region)).flatten(1)
        torch.testing.assert_close(network.roi_heads.box_head(region), expected)


def test_pretrained_networks_ask_for_the_whole_resnet(monkeypatch):
    asked = []
    with torch.device("meta"):
        state = torchvision.models.resnet50().state_dict()

    def weights(config):
        asked.append(config)
        return {k: v for k, v in state.items() if not k.startswith("fc.")}

    monkeypatch.setattr(rcnn, "imagenet_weights", weights)
    with torch.device("meta"):
        networks = [rcnn.r50(3, pretrained=True), rcnn.fpn_r50(3, pretrained=True)]
    assert [config.stage_blocks for config in asked] == [(3, 4, 6, 3)] * 2
    for network in networks:
        # what is frozen follows from the weights, where nothing else is asked for
        body = network.train().backbone.body
        assert not body.layer3[0].bn1.training
        assert not body.layer1[0].conv1.weight.requires_grad
        assert body.layer2[0].conv1.weight.requires_grad
    assert all(p.requires_grad for p in tiny("r50", norm="batch").parameters())


@pytest.mark.parametrize("change", ["missing", "unknown", "shape", "other depth"])
def test_wrong_weights_are_refused(change):
    network = tiny("r50")
    body, head = network.backbone.body.state_dict(), network.roi_heads.box_head.state_dict()
    state = body | head
    network.load_imagenet(state)
    if change == "missing":
        del state["layer4.0.conv2.weight"]
    elif change == "unknown":
        state["layer5.0.conv2.weight"] = torch.zeros(1)
    elif change == "shape":
        state["conv1.weight"] = torch.zeros(64, 3, 7, 7)
    else:
        state = resnet_state((1, 1, 2, 1))
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ModelError, match="not the weights of this backbone"):
        network.load_imagenet(state)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def resnet_state(blocks: tuple[int, ...]) -> dict[str, torch.Tensor]:
    other = rcnn.r50(3, **{**C4, "blocks": blocks})
    return other.backbone.body.state_dict() | other.roi_heads.box_head.state_dict()


def test_imagenet_weights_of_other_widths_do_not_exist():
    for build, options in ((rcnn.vgg11, VGG), (rcnn.r50, C4), (rcnn.fpn_r50, FPN)):
        with pytest.raises(ModelError, match="exist only for width 64"):
            build(3, pretrained=True, **options)


# proposals


def test_anchors_that_cross_the_border_can_be_left_out():
    """Anchors of 16 and of 32 pixels on 4 x 6 cells; the latter cross the border in the outer ones.

    The best anchors of a box of 32 x 32 pixels in the corner are four that miss it by 8 pixels
    each way (IoU 0.39); one of them lies inside.
    """
    config = RCNNConfig(ratios=(1,), scales=(1, 2), inside_only=True, rpn_channels=4)
    network = Proposals(config, 4, [16])
    maps = torch.zeros(1, 4, 4, 6)
    anchors = network.anchor_generator(ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)]), [maps])
    boxes = torch.tensor([[80.0, 48, 96, 64], [0, 0, 32, 32]])
    target = {"boxes": boxes, "labels": torch.tensor([1, 2]), "image_hw": (64, 96)}
    (labels,), (matched,) = network.assign_targets_to_anchors(anchors, [target])
    small, large = labels.view(4, 6, 2).unbind(-1)
    expected = torch.zeros(4, 6)
    expected[3, 5] = 1
    assert torch.equal(small, expected)
    expected = torch.full((4, 6), -1.0)
    expected[1:3, 1:5] = 0
    expected[1, 1] = 1
    assert torch.equal(large, expected)
    assert torch.equal(matched.view(4, 6, 2, 4)[1, 1, 1], boxes[1])
    assert torch.isfinite(network.box_coder.encode([matched], anchors)[0]).all()

    everything = Proposals(RCNNConfig(ratios=(1,), scales=(1, 2), rpn_channels=4), 4, [16])
    (labels,), _ = everything.assign_targets_to_anchors(anchors, [target])
    large = labels.view(4, 6, 2)[..., 1]
    assert (large[:2, :2] == 1).all() and not (large == 1)[2:].any()


def test_inside_only_trains_and_says_when_no_anchor_is_left():
    images_NCHW, targets = batch()
    network = tiny("vgg11", inside_only=True, scales=(1, 2)).train()
    loss = total(network(images_NCHW, targets))
    loss.backward()
    assert torch.isfinite(loss)
    with pytest.raises(ModelError, match="no anchor lies inside"):
        tiny("vgg11", inside_only=True, scales=(8,)).train()(images_NCHW, targets)


def test_settings_of_the_fact_sheet():
    with torch.device("meta"):
        network = rcnn.vgg16(20)
    rpn, heads = network.rpn, network.roi_heads
    assert rpn.head.conv[0][0].out_channels == 512
    assert rpn.fg_bg_sampler.batch_size_per_image == heads.fg_bg_sampler.batch_size_per_image == 256
    matcher = rpn.proposal_matcher
    assert (matcher.high_threshold, matcher.low_threshold) == (0.7, 0.3)
    network.train()
    assert (rpn.pre_nms_top_n(), rpn.post_nms_top_n()) == (12000, 2000)
    network.eval()
    assert (rpn.pre_nms_top_n(), rpn.post_nms_top_n()) == (6000, 300)
    assert heads.box_roi_pool.output_size == (7, 7) and heads.box_roi_pool.scales == [1 / 16]
    assert rpn.anchor_generator.num_anchors_per_location() == [9]


# errors


def test_bad_targets_are_refused():
    images_NCHW, targets = batch()
    network = tiny("vgg11").train()
    with pytest.raises(ValueError, match="needs targets"):
        network(images_NCHW)
    with pytest.raises(ValueError, match="2 images, but targets of 1"):
        network(images_NCHW, Targets(*(part[:1] for part in targets)))
    flat = targets.xyxy.clone()
    flat[0, 1, 2] = flat[0, 1, 0]
    with pytest.raises(ValueError, match="box 1 of image 0 cannot be learnt"):
        network(images_NCHW, targets._replace(xyxy=flat))
    for class_ in (3, ANY_CLASS):
        classes = targets.classes.clone()
        classes[1, 0] = class_
        with pytest.raises(ValueError, match="box 0 of image 1 cannot be learnt"):
            network(images_NCHW, targets._replace(classes=classes))


def test_boxes_are_found_in_evaluation_mode_only():
    images_NCHW, targets = batch()
    network = tiny("vgg11").train()
    output = network(images_NCHW, targets)
    with pytest.raises(ValueError, match="call eval"):
        network.detections(output, (64, 96))


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="too small"):
        tiny("vgg11").maps(torch.rand(1, 3, 31, 96))
    with pytest.raises(ValueError, match="frozen must be"):
        tiny("vgg11", frozen="all")
    with pytest.raises(ValueError, match="no code of the ResNets"):
        tiny("r50", frozen="released")
    with pytest.raises(ValueError, match="num_classes"):
        rcnn.vgg11(0, **VGG)
    with pytest.raises(ValueError, match="depth must be one of"):
        VggBackbone(13, 8)
    with pytest.raises(ValueError, match="50 or 101"):
        rcnn.build_c4(3, depth=18)
    with pytest.raises(ValueError, match="four stages"):
        rcnn.r50(3, **{**C4, "blocks": (1, 1, 1)})
    with pytest.raises(ValueError, match="training, evaluation"):
        RCNNConfig(proposals=[2000])
    with pytest.raises(ValueError, match="positive"):
        RCNNConfig(scales=())
    with pytest.raises(ValueError, match="rpn_batch must be positive"):
        RCNNConfig(rpn_batch=0)
    with pytest.raises(ValueError, match="nms_threshold must be 0 to 1"):
        RCNNConfig(nms_threshold=30.0)
    with pytest.raises(TypeError):
        tiny("vgg11", widths=8)


def test_the_head_follows_its_config():
    head = Stage5Head(resnet_config(50, 8, "group", (1, 1, 1, 2)))
    assert len(head.layer4) == 2 and head.outputs == 256
    assert head(torch.rand(3, 128, 7, 7)).shape == (3, 256)
