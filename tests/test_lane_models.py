"""The networks of IntRA-KD against counted sizes, their parts against the formulas."""

import contextlib
import itertools

import pytest
import torch
import torch.nn.functional as F
from lightning_utilities.core.apply_func import apply_to_collection
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdlib.models import ARCHITECTURES, ModelError, SegmentationOutput, build
from kdlib.models.context import ContextModule, ContextResNet
from kdlib.models.enet import Down, Regular, Up, unpool
from kdlib.models.erfnet import GRID, Downsampler, Existence, NonBottleneck1D, Upsampler
from kdlib.models.inputs import IMAGENET_MEAN, IMAGENET_STD

TINY = {
    "erfnet": {"width": 4},
    "enet": {"width": 4},
    "context-resnet": {"blocks": (1, 1, 1, 1), "width": 4, "context_width": 6, "cells": (3, 4)},
}
NAMES = sorted(TINY)
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def tiny(name: str, lanes: int | None = 4, **options) -> nn.Module:
    torch.manual_seed(0)
    return build(name, 5, lanes=lanes, **TINY[name], **options)


def randomise(net: nn.Module) -> nn.Module:
    """In evaluation mode with statistics and slopes that count."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return net.eval()


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


# sizes


@pytest.mark.parametrize(
    ("name", "options", "classes", "count", "millions"),
    [
        ("erfnet", {}, 37, 2_065_361, 2.07),
        ("erfnet", {"lanes": 4}, 5, 2_608_538, 2.61),
        ("enet", {}, 37, 360_582, 0.36),
        ("enet", {}, 5, 355_974, 0.36),
        ("context-resnet", {"depth": 101}, 37, 65_592_933, 65.6),
        ("context-resnet", {"depth": 34}, 5, 34_137_413, 34.1),
        ("context-resnet", {"depth": 18}, 5, 24_029_253, 24.0),
        ("context-resnet", {}, 5, 24_029_253, 24.0),
    ],
)
def test_parameters_are_the_counted_ones(name, options, classes, count, millions):
    with torch.device("meta"):
        net = build(name, classes, **options)
    assert parameters(net) == count
    digits = 1 if "context" in name else 2
    assert round(count / 1e6, digits) == millions


def test_the_classifier_left_out_of_the_encoder_changes_no_published_figure():
    with torch.device("meta"):
        plain, lanes = build("erfnet", 37), build("erfnet", 5, lanes=4)
        unused = nn.Conv2d(128, 37, 1), nn.Conv2d(128, 5, 1)
    assert round((parameters(plain) + parameters(unused[0])) / 1e6, 2) == 2.07
    assert round((parameters(lanes) + parameters(unused[1])) / 1e6, 2) == 2.61


def test_parts_have_the_counted_sizes():
    with torch.device("meta"):
        head = Existence(128, 4)
        teacher = build("context-resnet", 37, depth=101)
    assert head.hidden.in_features == 3965 == 5 * 13 * 61
    assert parameters(head) == 128 * 32 * 9 + 64 + 33 * 5 + 3966 * 128 + 129 * 4
    assert parameters(teacher.backbone) / 1e6 == pytest.approx(42.5, abs=0.05)


@pytest.mark.parametrize(
    ("name", "options", "classes", "size", "billions"),
    [
        ("erfnet", {}, 5, (208, 976), 10.3),
        ("erfnet", {}, 5, (288, 960), 14.0),
        ("erfnet", {}, 37, (496, 1488), 37.7),
        ("enet", {}, 5, (208, 976), 1.5),
        ("context-resnet", {"depth": 18}, 5, (208, 976), 74.7),
        ("context-resnet", {"depth": 101}, 5, (208, 976), 197.2),
    ],
)
def test_multiply_adds_are_the_counted_ones(name, options, classes, size, billions, monkeypatch):
    # there is no autocast on the meta device
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build(name, classes, **options).eval()(torch.rand(1, 3, *size))
    convolutions = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
    assert convolutions / 2e9 == pytest.approx(billions, abs=0.05)


@pytest.mark.parametrize("name", ["erfnet", "enet"])
def test_width_scales_every_channel(name):
    with torch.device("meta"):
        whole, half = build(name, 5, lanes=4), build(name, 5, lanes=4, width=8)
    fixed = (3, 13, 5, 4)  # colours, what they leave of 16 channels, classes or maps, lanes
    norms = zip(whole.modules(), half.modules(), strict=True)
    for one, other in ((a, b) for a, b in norms if isinstance(a, nn.BatchNorm2d)):
        assert one.num_features == 2 * other.num_features
    for one, other in zip(whole.modules(), half.modules(), strict=True):
        if isinstance(one, nn.Conv2d | nn.ConvTranspose2d):
            for a, b in (
                (one.in_channels, other.in_channels),
                (one.out_channels, other.out_channels),
            ):
                # a downsampler's convolution has what its pooling leaves, 2 (o - i) and o - i
                assert a == 2 * b or a in fixed


# common to all


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lanes", [None, 1, 4])
def test_outputs_and_features(name, lanes):
    net = tiny(name, lanes).eval()
    out = net(torch.rand(2, 3, 64, 96))
    stride = net.output_stride
    assert stride == (8 if name == "context-resnet" else 1)
    assert out.logits.shape == (2, 5, 64 // stride, 96 // stride)
    assert out.aux is None and list(out.features) == ["middle", "high"]
    shapes = {key: tuple(value.shape[1:]) for key, value in out.features.items()}
    if name == "context-resnet":
        assert shapes == {"middle": (8, 8, 12), "high": (32, 8, 12)}
    else:
        assert shapes == {"middle": (16, 16, 24), "high": (32, 8, 12)}
    if lanes is None:
        assert out.existence is None
    else:
        assert out.existence.shape == (2, lanes)


def test_levels_of_the_published_networks():
    with torch.device("meta"):
        images = torch.rand(1, 3, 208, 976)
        for name in ("erfnet", "enet"):
            features = build(name, 5).eval()(images).features
            assert features["middle"].shape == (1, 64, 52, 244)
            assert features["high"].shape == (1, 128, 26, 122)
        stages = build("context-resnet", 5, depth=101).backbone(images)
    assert stages[1].shape == (1, 512, 26, 122)
    assert stages[3].shape == (1, 2048, 26, 122)


def test_an_output_without_existence_has_none():
    out = SegmentationOutput(torch.zeros(1, 2, 3, 4), None, {"high": torch.ones(1)})
    assert out.existence is None
    # what mixed precision does to an output
    out = out._replace(existence=torch.zeros(1, 4, dtype=torch.bfloat16))
    moved = apply_to_collection(out, torch.Tensor, lambda x: x.float())
    assert type(moved) is SegmentationOutput and moved.aux is None
    assert moved.existence.dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_the_head_changes_nothing_else(name):
    """The same seed gives the same segmentation with and without it."""
    images = torch.rand(2, 3, 32, 48)
    a, b = tiny(name, None).eval()(images), tiny(name, 4).eval()(images)
    assert torch.equal(a.logits, b.logits)


@pytest.mark.parametrize("name", NAMES)
def test_existence_reads_the_encoder_alone(name):
    net = tiny(name).eval()
    out = net(torch.rand(2, 3, 64, 96))
    torch.testing.assert_close(net.existence(out.features["high"]), out.existence)
    gradients = torch.autograd.grad(
        out.existence.sum(), [out.features["high"], out.logits], allow_unused=True
    )
    assert gradients[0].any() and gradients[1] is None


def test_a_context_resnet_from_imagenet_is_loaded_again_as_it_was(monkeypatch):
    """Trained weights go into a network that is built without ImageNet's."""
    plain = build("context-resnet", 5, **TINY["context-resnet"])
    state = plain.backbone.state_dict()
    theirs = {key: torch.rand(value.shape).to(value) for key, value in state.items()}
    monkeypatch.setattr("kdlib.models.context.imagenet_weights", lambda _: dict(theirs))
    net = build("context-resnet", 5, pretrained=True, **TINY["context-resnet"]).eval()
    again = build("context-resnet", 5, **TINY["context-resnet"]).eval()
    again.load_state_dict(net.state_dict())
    images = torch.rand(2, 3, 32, 64)
    assert torch.equal(net(images).logits, again(images).logits)
    # and ImageNet's network sees R, G, B, normalised as it was trained
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    plain.backbone.load_state_dict(theirs)
    want = plain.eval().backbone((images - mean) / std)[-1]
    torch.testing.assert_close(net(images).features["high"], want)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_normalised_as_released(name):
    rgb = torch.tensor([10.0, 20.0, 30.0]).view(1, 3, 1, 1)
    expected = torch.tensor([30.0, 20.0, 10.0]) - torch.tensor([103.939, 116.779, 123.68])
    own = tiny(name).input_norm(rgb / 255)
    torch.testing.assert_close(own.flatten(), expected, rtol=1e-5, atol=1e-4)
    other = tiny(name, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), bgr=False).input_norm
    torch.testing.assert_close(other(rgb / 255), (rgb / 255 - 0.5) * 4)


@pytest.mark.parametrize("name", NAMES)
def test_networks_learn_and_repeat_to_the_bit(name, deterministic):
    def run():
        net = tiny(name).train().to(memory_format=torch.channels_last)
        torch.manual_seed(1)
        images = torch.rand(3, 3, 64, 96).contiguous(memory_format=torch.channels_last)
        out = net(images)
        labels = torch.randint(5, (3, *out.logits.shape[-2:]))
        loss = F.cross_entropy(out.logits, labels) + out.existence.square().mean()
        loss.backward()
        # biases before a norm are idle
        for key, p in net.named_parameters():
            assert torch.isfinite(p.grad).all(), key
            assert p.grad.any() or (key.endswith("bias") and p.dim() == 1), key
        return [out.logits, out.existence, *(p.grad for p in net.parameters())]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_in_bfloat16_is_finite(name, layout):
    """Dilated convolutions in bfloat16 on a CPU included; every part of the loss that is used."""

    def run(enabled: bool) -> tuple[SegmentationOutput, dict]:
        net = tiny(name).train().to(memory_format=layout)
        for module in net.modules():
            if isinstance(module, nn.Dropout2d):
                module.p = 0.0
        torch.manual_seed(1)
        coarse = torch.rand(3, 3, 4, 6)
        images = F.interpolate(coarse, (72, 104), mode="bilinear").contiguous(memory_format=layout)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = net(images)
        labels = torch.randint(5, (3, *out.logits.shape[-2:]))
        (
            F.cross_entropy(out.logits.float(), labels)
            + out.existence.float().square().mean()
            + sum(feature.float().var() for feature in out.features.values())
        ).backward()
        return out, {key: p.grad for key, p in net.named_parameters()}

    (half, gradients), (full, _) = run(True), run(False)
    assert all(torch.isfinite(g).all() and g.dtype == torch.float32 for g in gradients.values())
    assert half.logits.isfinite().all() and half.existence.isfinite().all()
    # deeper maps of an untrained network differ more: batch norm enlarges what rounding leaves
    mine, exact = half.features["middle"], full.features["middle"]
    assert (mine.float() - exact).norm() < 0.1 * exact.norm()
    for feature in half.features.values():
        assert feature.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_in_bfloat16_is_near(name):
    net = randomise(tiny(name))
    images = F.interpolate(torch.rand(2, 3, 4, 6), (64, 96), mode="bilinear")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = net(images)
    full = net(images)
    for mine, exact in ((half.logits, full.logits), (half.existence, full.existence)):
        # not the norm: rounding can make ENet unpool to a neighbouring pixel
        assert (mine.float() - exact).abs().median() < 0.03 * exact.abs().median()


@pytest.mark.parametrize("name", NAMES)
def test_memory_format_and_inference_mode_change_no_value(name):
    net = randomise(tiny(name)).double()
    images = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    plain = net(images)
    assert plain.logits.dtype == plain.existence.dtype == torch.float64
    last = net.to(memory_format=torch.channels_last)(
        images.contiguous(memory_format=torch.channels_last)
    )
    assert last.logits.is_contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        taught = net(images)
    for out in (last, taught):
        torch.testing.assert_close(out.logits, plain.logits)
        torch.testing.assert_close(out.existence, plain.existence)
    net.train()(images).logits.sum().backward()  # nothing of inference mode stays behind


def test_wrong_options_and_images_are_named():
    assert set(NAMES) <= set(ARCHITECTURES)
    for name in ("erfnet", "enet"):
        with pytest.raises(ModelError, match="width must be at least 4, not 3"):
            build(name, 5, width=3)
        for size in ((36, 64), (64, 100), (0, 64)):
            with pytest.raises(ValueError, match=r"multiples of 8, not \(\d+, \d+\)"):
                tiny(name)(torch.rand(2, 3, *size))
        with pytest.raises(ModelError, match="depth"):
            build(name, 5, depth=18)
    for name in NAMES:
        with pytest.raises(ModelError, match=r"lanes must be positive, or None .* not 0"):
            build(name, 5, lanes=0)
        with pytest.raises(ValueError, match=r"only \(1, 4\): feed larger images"):
            tiny(name).eval()(torch.rand(1, 3, 8, 32))
    with pytest.raises(ModelError, match="at least three stages"):
        build("context-resnet", 5, blocks=(1, 1))
    with pytest.raises(ModelError, match="context_width and cells must be positive: 0"):
        build("context-resnet", 5, context_width=0)
    with pytest.raises(ModelError, match=r"positive: 512, \(10, 0\)"):
        build("context-resnet", 5, cells=(10, 0))
    with pytest.raises(ModelError, match="wdth"):
        build("context-resnet", 5, wdth=3)
    with pytest.raises(ValueError, match="smaller than the output stride 8"):
        tiny("context-resnet")(torch.rand(2, 3, 7, 64))


# ERFNet


def test_downsampler_and_upsampler_by_formula():
    torch.manual_seed(0)
    down, up = randomise(Downsampler(3, 8)), randomise(Upsampler(6, 4))
    x = torch.randn(2, 3, 6, 8)
    pooled = x.unflatten(3, (4, 2)).unflatten(2, (3, 2)).amax((3, 5))
    joined = torch.cat([F.conv2d(x, down.conv.weight, down.conv.bias, 2, 1), pooled], 1)
    assert down.conv.out_channels == 5 and down.norm.eps == 1e-3
    torch.testing.assert_close(down(x), down.norm(joined).clamp(min=0))
    # a transposed convolution is a convolution of the image spread out with zeros between
    y = torch.randn(2, 6, 3, 4)
    spread = torch.zeros(2, 6, 6 + 2, 8 + 2)
    spread[:, :, 1:-2:2, 1:-2:2] = y
    kernel = up.conv.weight.flip(2, 3).transpose(0, 1)
    expected = up.norm(F.conv2d(spread, kernel, up.conv.bias)).clamp(min=0)
    torch.testing.assert_close(up(y), expected, rtol=1e-4, atol=1e-5)
    assert up(y).shape == (2, 4, 6, 8)


@pytest.mark.parametrize("dilation", [1, 2, 16])
def test_residual_block_by_formula(dilation):
    torch.manual_seed(0)
    block = randomise(NonBottleneck1D(4, 0.1, dilation))
    x = torch.randn(2, 4, 9, 20)

    def convolve(x, conv, step, along):
        """Three taps along one axis, `step` positions apart, zeros outside."""
        shift = torch.zeros(2, 4, 9 + 2 * step * (1 - along), 20 + 2 * step * along)
        inside = (
            (slice(step, -step), slice(None)) if along == 0 else (slice(None), slice(step, -step))
        )
        shift[:, :, inside[0], inside[1]] = x
        total = conv.bias.view(1, -1, 1, 1)
        for tap, start in enumerate((0, step, 2 * step)):
            part = shift.narrow(2 + along, start, x.shape[2 + along])
            total = total + torch.einsum("oi,nihw->nohw", conv.weight.flatten(2)[:, :, tap], part)
        return total

    y = convolve(x, block.down1, 1, 0).relu()
    y = block.norm1(convolve(y, block.across1, 1, 1)).relu()
    y = convolve(y, block.down2, dilation, 0).relu()
    y = block.norm2(convolve(y, block.across2, dilation, 1))
    torch.testing.assert_close(block(x), (x + y).relu(), rtol=1e-4, atol=1e-5)
    assert block.norm1.eps == block.norm2.eps == 1e-3


def test_erfnet_has_the_papers_layers():
    with torch.device("meta"):
        net = build("erfnet", 37)
    encoder = [m for m in net.modules() if isinstance(m, NonBottleneck1D)]
    dilations = [block.down2.dilation[0] for block in encoder]
    assert dilations == [1] * 5 + [2, 4, 8, 16] * 2 + [1] * 4
    assert all(block.across2.dilation == (1, block.down2.dilation[0]) for block in encoder)
    assert [block.dropout.p for block in encoder] == [0.1] * 13 + [0.0] * 4
    channels = [block.norm1.num_features for block in encoder]
    assert channels == [64] * 5 + [128] * 8 + [64] * 2 + [16] * 2
    last = net.decoder[-1]
    assert (last.in_channels, last.out_channels, last.kernel_size, last.stride) == (
        (16, 37, (2, 2), (2, 2))
    )


def test_existence_head_by_formula():
    torch.manual_seed(0)
    head = randomise(Existence(6, 2, channels=4, hidden=5))
    x = torch.randn(2, 6, 26, 122)
    maps = head.maps[1](F.conv2d(x, head.maps[0].weight, None, padding=4, dilation=4)).relu()
    maps = F.conv2d(maps, head.maps[4].weight, head.maps[4].bias)
    shares = maps.exp() / maps.exp().sum(1, keepdim=True)
    pooled = shares.unflatten(3, (61, 2)).unflatten(2, (13, 2)).amax((3, 5))
    hidden = (pooled.reshape(2, -1) @ head.hidden.weight.T + head.hidden.bias).relu()
    expected = hidden @ head.lanes.weight.T + head.lanes.bias
    assert pooled.shape[-2:] == GRID and pooled[0].numel() == head.hidden.in_features == 2379
    torch.testing.assert_close(head(x), expected, rtol=1e-4, atol=1e-5)
    assert head.maps[3].p == 0.1


@pytest.mark.parametrize("size", [(2, 2), (8, 20), (36, 120), (62, 187)])
def test_existence_head_takes_other_sizes(size):
    torch.manual_seed(0)
    head = randomise(Existence(6, 4, channels=4, hidden=5))
    x = torch.randn(2, 6, *size, requires_grad=True)
    shares = F.max_pool2d(head.maps(x).softmax(1), 2)
    grid = F.interpolate(shares, GRID, mode="bilinear", align_corners=True)
    expected = head.lanes(head.hidden(grid.flatten(1)).relu())
    torch.testing.assert_close(head(x), expected, rtol=1e-4, atol=1e-5)
    head(x).sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.any()


# ENet


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unpooling_is_that_of_the_framework(layout):
    torch.manual_seed(0)
    y = torch.randn(2, 3, 6, 10).contiguous(memory_format=layout)
    pooled, places = F.max_pool2d(y, 2, return_indices=True)
    out = unpool(pooled, places)
    assert torch.equal(out, F.max_unpool2d(pooled, places, 2))
    assert out.is_contiguous(memory_format=layout)
    # slowly: the window's largest value stays, the others become zero
    for n, c, i, j in itertools.product(range(2), range(3), range(3), range(5)):
        window = y[n, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        expected = torch.where(window == window.max(), window, torch.zeros(()))
        assert torch.equal(out[n, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2], expected)
    half = unpool(pooled.bfloat16(), places)
    assert half.dtype == torch.bfloat16 and torch.equal(half.float(), out.bfloat16().float())


def test_unpooling_by_hand_and_its_gradient():
    x = torch.tensor([[[[1.0, 2.0]]]])
    places = torch.tensor([[[[5, 2]]]])  # row 1, column 1 and row 0, column 2 of 2 x 4 pixels
    expected = torch.tensor([[[[0.0, 0.0, 2.0, 0.0], [0.0, 1.0, 0.0, 0.0]]]])
    assert torch.equal(unpool(x, places), expected)
    x = torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    _, places = F.max_pool2d(torch.randn(1, 2, 4, 6), 2, return_indices=True)
    assert torch.autograd.gradcheck(lambda x: unpool(x, places), x)


def chain(block: nn.Module, x: torch.Tensor, convolutions: list, slope: float) -> torch.Tensor:
    """conv, norm, activation for each of them; `convolutions` give the results of the convs."""
    for convolve, norm in zip(convolutions, block.norms, strict=True):
        x = norm(convolve(x))
        x = torch.where(x > 0, x, slope * x)
    return x


def test_bottlenecks_by_formula():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 6, 10)

    block = randomise(Regular(8, 2))
    nn.init.constant_(block.act.weight, 0.3)
    reduce, main, expand = (conv.weight for conv in block.convs)
    y = chain(
        block,
        x,
        [
            lambda x: F.conv2d(x, reduce),
            lambda x: F.conv2d(x, main, padding=2, dilation=2),
            lambda x: F.conv2d(x, expand),
        ],
        0.3,
    )
    torch.testing.assert_close(block(x), F.leaky_relu(x + y, 0.3))
    assert reduce.shape == (2, 8, 1, 1) and main.shape == (2, 2, 3, 3)
    assert sum(isinstance(m, nn.PReLU) for m in block.modules()) == 1
    assert block.act.weight.numel() == 1

    down = randomise(Down(8, 12, 0.01))
    nn.init.constant_(down.act.weight, 0.3)
    reduce, main, expand = (conv.weight for conv in down.convs)
    y = chain(
        down,
        x,
        [
            lambda x: F.conv2d(x, reduce, stride=2),
            lambda x: F.conv2d(x, main, padding=1),
            lambda x: F.conv2d(x, expand),
        ],
        0.3,
    )
    pooled = x.unflatten(3, (5, 2)).unflatten(2, (3, 2)).amax((3, 5))
    shortcut = torch.cat([pooled, torch.zeros(2, 4, 3, 5)], 1)
    out, places = down(x)
    torch.testing.assert_close(out, F.leaky_relu(shortcut + y, 0.3))
    assert reduce.shape == (2, 8, 2, 2)
    flat = x.flatten(2).gather(2, places.flatten(2)).view(2, 8, 3, 5)
    assert torch.equal(flat, pooled)

    up = randomise(Up(12, 8))
    reduce, double, expand = (conv.weight for conv in up.convs)
    z = torch.randn(2, 12, 3, 5)
    y = chain(
        up,
        z,
        [
            lambda x: F.conv2d(x, reduce),
            lambda x: F.conv_transpose2d(x, double, None, 2, 1, 1),
            lambda x: F.conv2d(x, expand),
        ],
        0.0,
    )
    projected = up.project[1](F.conv2d(z, up.project[0].weight))
    expected = (F.max_unpool2d(projected, places, 2) + y).relu()
    torch.testing.assert_close(up(z, places), expected)


def test_asymmetric_bottleneck_is_a_5x5_of_rank_one():
    torch.manual_seed(0)
    block = randomise(Regular(4, "asymmetric"))
    assert [conv.kernel_size for conv in block.convs] == [(1, 1), (5, 1), (1, 5), (1, 1)]
    x = torch.randn(1, 1, 8, 9)
    down, across = block.convs[1].weight, block.convs[2].weight
    together = F.conv2d(x, down * across, padding=2)
    torch.testing.assert_close(block.convs[2](block.convs[1](x)), together)


def test_enet_has_the_papers_layers():
    with torch.device("meta"):
        net = build("enet", 37)
    for half in (net.stages23[:8], net.stages23[8:]):
        mains = [block.convs[1:-1] for block in half]
        assert [tuple(conv.kernel_size for conv in main) for main in mains] == [
            ((3, 3),), ((3, 3),), ((5, 1), (1, 5)), ((3, 3),),
            ((3, 3),), ((3, 3),), ((5, 1), (1, 5)), ((3, 3),),
        ]  # fmt: skip
        assert [main[0].dilation[0] for main in mains] == [1, 2, 1, 4, 1, 8, 1, 16]
    dropouts = [m.p for m in net.modules() if isinstance(m, nn.Dropout2d)]
    assert dropouts == [0.01] * 5 + [0.1] * 22
    decoder = [net.up4, net.stage4, net.up5, net.stage5]
    assert not any(isinstance(m, nn.PReLU) for part in decoder for m in part.modules())
    slopes = [m for m in net.modules() if isinstance(m, nn.PReLU)]
    assert len(slopes) == 1 + 5 + 17 and all(m.num_parameters == 1 for m in slopes)
    assert not any(m.bias is not None for m in net.modules() if isinstance(m, nn.Conv2d))


# the context module


def padded(x: torch.Tensor, cell: int) -> tuple[torch.Tensor, int, int]:
    """Padded to whole cells, and how much above and left of the map."""
    h, w = x.shape[-2:]
    more_h, more_w = -h % cell, -w % cell
    pads = (more_w // 2, more_w - more_w // 2, more_h // 2, more_h - more_h // 2)
    return F.pad(x, pads), more_h // 2, more_w // 2


def context(module: ContextModule, x: torch.Tensor) -> torch.Tensor:
    """What the released module means, with the framework's own padding and resizing."""
    h, w = x.shape[-2:]
    maps = [x]
    for reduce, cell in zip(module.reduce, module.cells, strict=True):
        whole, top, left = padded(x, cell)
        grid = (whole.shape[2] // cell, whole.shape[3] // cell)
        cells = reduce(F.interpolate(whole, grid, mode="bilinear", align_corners=False))
        spread = F.interpolate(cells, scale_factor=cell, mode="bilinear", align_corners=False)
        maps.append(spread[:, :, top : top + h, left : left + w])
    return module.mix(torch.cat(maps, 1))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(26, 122), (13, 61), (1, 1), (20, 60), (6, 31)])
def test_context_is_padding_shrinking_enlarging_cropping(size, layout):
    torch.manual_seed(0)
    module = randomise(ContextModule(3, 4)).double().to(memory_format=layout)
    x = torch.randn(2, 3, *size, dtype=torch.float64).contiguous(memory_format=layout)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, expected = module(mine), context(module, theirs)
    torch.testing.assert_close(out, expected)
    upstream = torch.randn_like(expected)
    parameters = list(module.parameters())
    for a, b in zip(
        torch.autograd.grad(out, [mine, *parameters], upstream),
        torch.autograd.grad(expected, [theirs, *parameters], upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("cells", [(3,), (1, 5), (2, 7, 100)])
def test_context_takes_any_cells(cells):
    torch.manual_seed(0)
    module = randomise(ContextModule(3, 4, cells)).double()
    x = torch.randn(2, 3, 8, 13, dtype=torch.float64)
    torch.testing.assert_close(module(x), context(module, x))


def test_cells_by_hand():
    """5 positions in cells of 4: 1 zero before, 2 behind; a cell is the mean of its middle two."""
    from kdlib.models.context import _axis

    shrink, enlarge = _axis(5, 4)
    x = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0], dtype=torch.float64)
    # 0 [1 2] 4 | 8 [16 0] 0
    assert (x @ shrink).tolist() == [1.5, 8.0]
    # of 8 positions the second to the sixth; cells' middles lie at 1.5 and 5.5
    cells = torch.tensor([0.0, 8.0], dtype=torch.float64)
    assert (cells @ enlarge).tolist() == [0.0, 1.0, 3.0, 5.0, 7.0]


def test_context_in_half_types_is_that_of_float32():
    torch.manual_seed(0)
    module = randomise(ContextModule(3, 4, (3, 4)))
    x = torch.randn(2, 3, 7, 11)
    for dtype in (torch.bfloat16, torch.float16):
        half = randomise(ContextModule(3, 4, (3, 4))).to(dtype)
        half.load_state_dict(module.state_dict())
        out = half(x.to(dtype))
        assert out.dtype == dtype
        torch.testing.assert_close(out.float(), module(x), rtol=0.1, atol=0.1)


def test_context_resnet_dilates_and_reads_what_it_says():
    with torch.device("meta"):
        net = build("context-resnet", 5, depth=101)
    for i, dilation in enumerate((1, 1, 2, 4), start=1):
        stage = getattr(net.backbone, f"layer{i}")
        kernels = [m for m in stage.modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] == 3]
        assert {m.dilation[0] for m in kernels} == {dilation}
    assert net.context.cells == (10, 20, 30, 60) and net.dropout.p == 0.1
    assert build("context-resnet", 5, **TINY["context-resnet"]).backbone.config.dilate_first

    net = randomise(tiny("context-resnet"))
    assert isinstance(net, ContextResNet)
    images = torch.rand(2, 3, 61, 90)
    out = net(images)
    stages = net.backbone(net.input_norm(images))
    torch.testing.assert_close(out.features["middle"], stages[1])
    torch.testing.assert_close(out.features["high"], stages[3])
    torch.testing.assert_close(out.logits, net.classifier(net.context(stages[3])))
    assert out.logits.shape == (2, 5, 8, 12)  # rounded up
