"""Structured distillation: networks against counted sizes, the critic against its formulas."""

import contextlib
import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdlib.models import ARCHITECTURES, ModelError, build, structured
from kdlib.models.critic import Critic, SelfAttention, SpectralConv2d
from kdlib.models.mobilenet import MobileNetV2Plus, SpatialPyramid, SqueezeExcite
from kdlib.models.resnet import ResNet, ResNetConfig

PSPNETS = ["skd-pspnet-r101", "skd-resnet18-journal", "skd-resnet18", "skd-resnet18-half"]
TINY = {"depth": 18, "blocks": (1, 1, 1), "width": 4, "stem_width": 4, "pyramid_channels": 4}


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


# sizes


@pytest.mark.parametrize(
    ("name", "millions", "billions", "rounding"),
    [
        ("skd-pspnet-r101", 70.4373, 574.93, 0.005),
        ("skd-resnet18-journal", 13.0683, 125.8, 0.05),
        ("skd-resnet18", 15.2472, 128.16, 0.005),
        ("skd-resnet18-half", 3.8345, 33.349, 0.0005),
        ("mobilenetv2plus", 8.3011, 86.134, 0.0005),
    ],
)
def test_parameters_and_multiply_adds_are_the_counted_ones(
    name, millions, billions, rounding, monkeypatch
):
    # there is no autocast on the meta device
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        net = build(name, 19).train()  # the auxiliary head is counted, and runs in training only
        net(torch.rand(2, 3, 512, 1024))
    assert parameters(net) / 1e6 == pytest.approx(millions, abs=6e-5)
    convolutions = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
    # two operations each, two images
    assert convolutions / 4e9 == pytest.approx(billions, abs=rounding)


def test_parts_of_the_teacher_have_the_counted_sizes():
    with torch.device("meta"):
        net = build("skd-pspnet-r101", 19)
    assert parameters(net.aux_head) == 4_729_875  # 4.7299 M
    assert parameters(net.pyramid) / 1e6 == pytest.approx(23.0738, abs=6e-5)


@pytest.mark.parametrize(("conditional", "count"), [(False, 3_191_721), (True, 3_194_755)])
def test_critics_have_the_counted_sizes(conditional, count):
    assert parameters(Critic(19, conditional=conditional)) == count


# PSPNets


@pytest.mark.parametrize("name", PSPNETS)
def test_maps_of_512_pixels_have_65_positions(name, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())
    with torch.device("meta"):
        out = build(name, 19).eval()(torch.rand(1, 3, 512, 512))
    assert out.logits.shape == (1, 19, 65, 65)
    assert out.features["pyramid"].shape[-2:] == (65, 65)
    assert out.features["stage1"].shape[-2:] == (129, 129)


@pytest.mark.parametrize("name", PSPNETS)
def test_every_3x3_of_a_dilated_stage_is_dilated(name):
    with torch.device("meta"):
        backbone = build(name, 19).backbone
    for i, dilation in enumerate((1, 1, 2, 4), start=1):
        stage = getattr(backbone, f"layer{i}")
        kernels = [m for m in stage.modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] == 3]
        assert {m.dilation[0] for m in kernels} == {dilation}


def test_deep_stem_is_three_convolutions():
    torch.manual_seed(0)
    net = ResNet(ResNetConfig(blocks=(1,), width=4, stem="deep", output_stride=4, ceil_pool=True))
    net.eval()
    x = torch.randn(1, 3, 16, 24)
    expected = x
    for conv, norm, stride in zip(
        (net.conv1, net.conv2, net.conv3), (net.bn1, net.bn2, net.bn3), (2, 1, 1), strict=True
    ):
        expected = F.relu(norm(F.conv2d(expected, conv.weight, None, stride, 1)))
    assert [c.out_channels for c in (net.conv1, net.conv2, net.conv3)] == [4, 4, 8]
    # the window that starts at the last row of 8 has one row and the padding
    expected = F.max_pool2d(F.pad(expected, (1, 2, 1, 2), value=-math.inf), 3, 2)
    torch.testing.assert_close(net(x)[0], net.layer1(expected))
    assert expected.shape[-2:] == (5, 7)


@pytest.mark.parametrize("name", PSPNETS)
def test_heads_are_leaky(name):
    with torch.device("meta"):
        net = build(name, 19)
    for head in filter(None, (net.pyramid, net.aux_head)):
        assert not any(isinstance(m, nn.ReLU) for m in head.modules())
        slopes = {m.negative_slope for m in head.modules() if isinstance(m, nn.LeakyReLU)}
        assert slopes == {0.01}
    assert net.dropout.p == 0.1
    assert (net.aux_head is not None) == ("r101" in name or "journal" in name)
    if net.aux_head is not None:
        assert net.aux_head[0][0].bias is not None


def test_pyramid_is_what_the_classifier_reads():
    torch.manual_seed(0)
    net = structured.resnet18(5, **TINY).eval()
    out = net(torch.rand(2, 3, 40, 48))
    pyramid = out.features["pyramid"]
    torch.testing.assert_close(net.classifier(pyramid), out.logits)
    assert (pyramid < 0).any()  # leaky, so not cut off
    net.train()
    dropped = net(torch.rand(64, 3, 40, 48)).features["pyramid"].flatten(2)
    assert (dropped == 0).all(-1).any()  # whole channels


def test_heads_can_be_without_activation():
    net = structured.resnet18(5, head_activation="none", aux=True, **TINY)
    head = [*net.pyramid.modules(), *net.aux_head.modules()]
    assert not any(isinstance(m, nn.ReLU | nn.LeakyReLU) for m in head)


def test_inputs_are_normalised_as_released():
    rgb = torch.tensor([10.0, 20.0, 30.0]).view(1, 3, 1, 1)
    bgr = torch.tensor([30.0, 20.0, 10.0])
    journal = bgr - torch.tensor([104.00698793, 116.66876762, 122.67891434])
    conference = (bgr - torch.tensor([73.18188461, 82.93553322, 72.41519599])) / 255
    for make, expected in (
        (structured.pspnet_r101, journal),
        (structured.resnet18_journal, journal),
        (structured.resnet18, conference),
        (structured.resnet18_half, conference),
    ):
        norm = make(5, **TINY).input_norm
        torch.testing.assert_close(norm(rgb / 255).flatten(), expected, rtol=1e-5, atol=1e-4)
    norm = MobileNetV2Plus(5).input_norm
    torch.testing.assert_close(norm(rgb / 255).flatten(), conference, rtol=1e-5, atol=1e-5)


def test_new_options_are_checked():
    with pytest.raises(ModelError, match=r"head_activation must be one of .* not 'tanh'"):
        build("skd-resnet18", 5, head_activation="tanh")
    with pytest.raises(ModelError, match="stem_width must be positive"):
        build("skd-resnet18", 5, stem_width=0)
    with pytest.raises(ModelError, match="has no pooling"):
        build("skd-resnet18", 5, stem="small")
    with pytest.raises(ModelError, match="wdth"):
        build("skd-resnet18-half", 5, wdth=3)
    with pytest.raises(ModelError, match="dropot"):
        build("mobilenetv2plus", 5, dropot=0.1)
    assert {*PSPNETS, "mobilenetv2plus"} <= set(ARCHITECTURES)


def test_published_student_takes_imagenet_weights(monkeypatch):
    theirs = torchvision.models.resnet18(weights=None)

    class Weights:
        url = "https://example.org/resnet18.pth"

        def get_state_dict(self, **_):
            return theirs.state_dict()

    monkeypatch.setattr(torchvision.models, "get_weight", lambda name: Weights())
    net = build("skd-resnet18", 5, pretrained=True)
    assert torch.equal(net.backbone.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)
    for name in ("skd-resnet18-journal", "skd-resnet18-half"):
        with pytest.raises(ModelError, match="train from scratch"):
            build(name, 5, pretrained=True)


@pytest.mark.parametrize("stem", ["imagenet", "deep"])
def test_pspnets_repeat_to_the_bit(stem, deterministic):
    def run():
        torch.manual_seed(0)
        net = structured.resnet18_journal(5, **{**TINY, "stem": stem, "aux_channels": 4}).train()
        out = net(torch.rand(2, 3, 40, 48))
        (out.logits.square().sum() + out.aux.square().sum()).backward()
        grads = {name: p.grad for name, p in net.named_parameters()}
        assert all(g.any() for name, g in grads.items() if name != "aux_head.0.0.bias")
        return [out.logits, *grads.values()]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


# MobileNetV2Plus


def test_mobilenet_maps_and_features():
    net = MobileNetV2Plus(5).eval()
    out = net(torch.rand(2, 3, 40, 64))
    assert out.logits.shape == (2, 5, 10, 16) and out.aux is None
    assert net.output_stride == 4
    shapes = {name: tuple(feature.shape[1:]) for name, feature in out.features.items()}
    assert shapes == {
        "stage1": (16, 20, 32),
        "stage2": (24, 10, 16),
        "stage3": (32, 5, 8),
        "stage4": (64, 5, 8),
        "stage5": (96, 5, 8),
        "stage6": (160, 5, 8),
        "stage7": (320, 5, 8),
        "stages": (712, 5, 8),
        "pyramid": (256, 5, 8),
        "decoder": (296, 10, 16),
    }
    torch.testing.assert_close(net.classifier(out.features["decoder"]), out.logits)
    with pytest.raises(ValueError, match=r"multiples of 8, not \(36, 64\)"):
        net(torch.rand(1, 3, 36, 64))


def test_mobilenet_dilates_where_it_does_not_stride():
    with torch.device("meta"):
        net = MobileNetV2Plus(5)
    depthwise = [[block.conv[3] for block in stage] for stage in net.stages]
    assert [len(stage) for stage in depthwise] == [1, 2, 3, 4, 3, 3, 1]
    assert [stage[0].stride[0] for stage in depthwise] == [1, 2, 2, 1, 1, 1, 1]
    assert [stage[-1].dilation[0] for stage in depthwise] == [1, 1, 1, 2, 4, 8, 16]
    assert all(conv.groups == conv.in_channels for stage in depthwise for conv in stage)
    assert [block.residual for block in net.stages[3]] == [False, True, True, True]


def test_squeeze_and_excitation_by_hand():
    torch.manual_seed(0)
    gate = SqueezeExcite(8, reduction=4)
    x = torch.randn(2, 8, 3, 5)
    expected = torch.empty_like(x)
    for n in range(2):
        mean = x[n].sum((1, 2)) / 15
        hidden = (gate.squeeze.weight @ mean + gate.squeeze.bias).clamp(min=0)
        channel = torch.sigmoid(gate.excite.weight @ hidden + gate.excite.bias)
        for c, i, j in itertools.product(range(8), range(3), range(5)):
            pixel = torch.sigmoid((gate.spatial.weight.flatten() * x[n, :, i, j]).sum())
            expected[n, c, i, j] = x[n, c, i, j] * (channel[c] + pixel)
    torch.testing.assert_close(gate(x), expected)


def test_spatial_pyramid_has_a_ring_of_zeros():
    torch.manual_seed(0)
    pyramid = SpatialPyramid(8, dropout=0.0).eval()
    out = pyramid(torch.randn(1, 8, 5, 6))
    assert out.shape == (1, 256, 7, 8)
    ring = out.clone()
    ring[..., 1:-1, 1:-1] = 0
    assert not ring.any() and out[..., 1:-1, 1:-1].abs().amin() > 0


def test_mobilenet_learns_and_repeats_to_the_bit(deterministic):
    def run():
        torch.manual_seed(0)
        net = MobileNetV2Plus(3).train()
        out = net(torch.rand(2, 3, 32, 48))
        out.logits.square().sum().backward()
        assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in net.parameters())
        return [out.logits, *(p.grad for p in net.parameters())]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


# the critic


@pytest.fixture
def critic():
    torch.manual_seed(0)
    return Critic(4, blocks=2, width=8)


def awake(critic: Critic) -> Critic:
    """With attention that counts."""
    for attention in critic.attention.values():
        nn.init.constant_(attention.gamma, 0.7)
    return critic


@pytest.mark.parametrize(
    ("size", "scores"), [((65, 65), (1, 1)), ((64, 64), (1, 1)), ((64, 128), (1, 5))]
)
def test_scores_of_the_papers_critic(size, scores):
    assert Critic(19, width=8)(torch.randn(2, 19, *size)).shape == (2, 1, *scores)


def test_layers_are_the_papers():
    net = Critic(19)
    shapes = [tuple(block.weight.shape) for block in net.blocks]
    assert shapes == [(64, 19, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4), (512, 256, 4, 4)]
    assert all(isinstance(block, SpectralConv2d) and block.bias is not None for block in net.blocks)
    assert all((b.stride, b.padding) == ((2, 2), (1, 1)) for b in net.blocks)
    assert type(net.last) is nn.Conv2d and net.last.weight.shape == (1, 512, 4, 4)
    assert list(net.attention) == ["2", "3"]
    for attention in net.attention.values():
        convs = [attention.query, attention.key, attention.value]
        assert not any(isinstance(c, SpectralConv2d) for c in convs)
        assert attention.query.out_channels == attention.value.out_channels // 8
    plain = Critic(19, width=8, attention=False, spectral_norm=False)
    assert not plain.attention and not any(isinstance(m, SpectralConv2d) for m in plain.modules())
    plain(torch.randn(1, 19, 64, 64))


@pytest.mark.parametrize("blocks", [1, 2, 3, 4])
def test_smallest_map(blocks):
    net = Critic(3, blocks=blocks, width=4)
    side = 4 * 2**blocks
    assert net.smallest == side
    assert len(net.attention) == min(2, blocks)
    assert net(torch.randn(1, 3, side, side)).shape == (1, 1, 1, 1)
    with pytest.raises(ModelError, match=rf"{side - 1} x {side} positions .* needs {side} a side"):
        net(torch.randn(1, 3, side - 1, side))


def test_a_map_that_is_too_small_names_the_cures():
    cures = r"45 x 60 positions .* 4 blocks, which needs 64 a side: upsample .* fewer blocks"
    with pytest.raises(ModelError, match=cures + r" \(at most 3\)"):
        Critic(3, width=4)(torch.randn(1, 3, 45, 60))
    with pytest.raises(ModelError, match=r"none has fewer than 8"):
        Critic(3, blocks=1)(torch.randn(1, 3, 7, 60))
    assert Critic(3, blocks=2)(torch.randn(2, 3, 18, 32)).shape == (2, 1, 1, 5)


def test_forward_is_the_formula(critic):
    """Norm, then [conv / sigma, leaky ReLU 0.1, attention] twice, then the last convolution."""
    awake(critic)
    logits = torch.randn(2, 4, 18, 16) * 2 + 1
    x = (logits - logits.mean((0, 2, 3), keepdim=True)) / torch.sqrt(
        logits.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5
    )
    for block, attention in zip(critic.blocks, critic.attention.values(), strict=True):
        weight = block.weight.flatten(1)
        v = weight.T @ block.u
        v = v / v.norm()
        u = weight @ v
        u = u / u.norm()
        x = F.conv2d(x, block.weight / (u @ weight @ v), block.bias, 2, 1)
        x = torch.where(x > 0, x, 0.1 * x)
        n, c, h, w = x.shape
        q, k = attention.query(x).view(n, -1, h * w), attention.key(x).view(n, -1, h * w)
        value = attention.value(x).view(n, c, h * w)
        y = torch.zeros_like(value)
        for m, i in itertools.product(range(n), range(h * w)):
            weights = torch.stack([(q[m, :, i] * k[m, :, j]).sum() for j in range(h * w)]).exp()
            weights = weights / weights.sum()
            y[m, :, i] = sum(weights[j] * value[m, :, j] for j in range(h * w))
        x = 0.7 * y.view_as(x) + x
    expected = F.conv2d(x, critic.last.weight, critic.last.bias)
    torch.testing.assert_close(critic(logits), expected, rtol=1e-4, atol=1e-5)


def test_conditional_input_is_image_then_probabilities():
    torch.manual_seed(0)
    net = Critic(4, conditional=True, blocks=2, width=8)
    logits, images = torch.randn(2, 4, 17, 33), torch.rand(2, 3, 40, 60)
    seen = []
    net.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    net(logits, images)
    assert seen[0].shape == (2, 7, 17, 33) and net.input_norm is None
    resized = F.interpolate(images, (17, 33), mode="bilinear", align_corners=True)
    torch.testing.assert_close(seen[0][:, :3], resized)
    torch.testing.assert_close(seen[0][:, 3:], logits.softmax(1))
    # images that have the size already are taken as they are
    small = torch.rand(2, 3, 17, 33)
    net(logits, small)
    assert torch.equal(seen[1][:, :3], small)


def test_inputs_that_do_not_fit_are_named(critic):
    logits, images = torch.randn(2, 4, 16, 16), torch.rand(2, 3, 32, 32)
    conditional = Critic(4, conditional=True, blocks=2, width=8)
    with pytest.raises(ValueError, match="give both"):
        conditional(logits)
    with pytest.raises(ValueError, match="sees no images"):
        critic(logits, images)
    with pytest.raises(ValueError, match=r"images must be \(2, 3, H, W\)"):
        conditional(logits, images[:1])
    with pytest.raises(ValueError, match=r"logits must be \(N, 4, H, W\), not \(2, 3, 16, 16\)"):
        critic(logits[:, :3])
    with pytest.raises(ValueError, match="must be positive"):
        Critic(4, blocks=0)


def test_attention_is_the_identity_at_first(critic):
    for attention in critic.attention.values():
        x = torch.randn(2, attention.value.in_channels, 3, 4)
        y, weights = attention(x)
        assert torch.equal(y, x)
        assert weights.shape == (2, 12, 12)
    logits = torch.randn(2, 4, 16, 16)
    plain = Critic(4, blocks=2, width=8, attention=False)
    plain.load_state_dict(critic.state_dict(), strict=False)
    assert torch.equal(plain(logits), critic(logits))
    critic(logits).sum().backward()
    assert all(a.gamma.grad.abs() > 0 for a in critic.attention.values())  # and it can wake


def test_attention_gradients():
    torch.manual_seed(0)
    attention = SelfAttention(8).double()
    nn.init.constant_(attention.gamma, 0.3)
    x = torch.randn(1, 8, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: attention(x)[0], x)
    assert torch.autograd.gradgradcheck(lambda x: attention(x)[0], x)


def test_spectral_norm_comes_to_one():
    torch.manual_seed(0)
    conv = SpectralConv2d(5, 12, 4, 2, 1)
    with torch.no_grad():
        conv.weight *= 30
    x = torch.randn(1, 5, 8, 8)
    assert torch.linalg.matrix_norm(conv.weight.flatten(1), 2) > 10
    for mode in (True, False):  # evaluation mode iterates as well
        conv.train(mode)
        torch.nn.init.normal_(conv.u)
        for _ in range(60):
            conv(x)
        norm = torch.linalg.matrix_norm(conv.normalised_weight().detach().flatten(1), 2)
        assert float(norm) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_one_power_step_in_each_pass(training):
    torch.manual_seed(0)
    conv = SpectralConv2d(3, 6, 4, 2, 1).train(training)
    u, weight = conv.u.clone(), conv.weight.flatten(1)
    assert float(u.norm()) == pytest.approx(1)
    for _ in range(2):
        conv(torch.randn(1, 3, 8, 8))
        v = weight.T @ u / (weight.T @ u).norm()  # v first
        u = weight @ v / (weight @ v).norm()
        torch.testing.assert_close(conv.u, u.detach())


def test_weight_gradient_is_the_formula():
    """For vectors held constant, d(W / sigma) = (dW - W / sigma * u^T dW v) / sigma."""
    torch.manual_seed(0)
    conv = SpectralConv2d(2, 3, 2).double()
    upstream = torch.randn(3, 8, dtype=torch.float64)
    normalised = conv.normalised_weight()
    (normalised.flatten(1) * upstream).sum().backward()
    weight, u = conv.weight.detach().flatten(1), conv.u
    # the step's v belongs to the u before it; recover it from u = W v / |W v|
    v = torch.linalg.lstsq(weight, u[:, None]).solution[:, 0]
    v = v / v.norm()
    sigma = u @ weight @ v
    torch.testing.assert_close(normalised.flatten(1), weight / sigma)
    share = (upstream * weight).sum() / sigma
    expected = (upstream - share * torch.outer(u, v)) / sigma
    torch.testing.assert_close(conv.weight.grad.flatten(1), expected)


def test_several_passes_before_one_backward_keep_their_own_vectors():
    """Teacher, student and blend pass one after the other; each has its own sigma."""
    torch.manual_seed(0)
    net = awake(Critic(3, blocks=2, width=8)).eval()
    passes = [torch.randn(2, 3, 16, 16) for _ in range(3)]
    together, alone = copy.deepcopy(net), net
    sum(together(x).sum() for x in passes).backward()
    for x in passes:
        alone(x).sum().backward()
    for (name, a), b in zip(together.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("conditional", [False, True])
def test_gradient_penalty_reaches_every_weight(conditional, deterministic):
    torch.manual_seed(0)
    net = awake(Critic(4, conditional=conditional, blocks=2, width=8))
    images = (torch.rand(3, 3, 20, 24),) if conditional else ()
    logits = torch.randn(3, 4, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(logits, *images).sum(), logits, create_graph=True)
    ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean().backward()
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):  # biases move no gradient, except through softmax and kinks
            continue
        assert torch.isfinite(parameter.grad).all() and parameter.grad.any(), name


def test_double_gradient_in_numbers():
    """The gradient penalty's gradient against finite differences, at fixed power vectors."""
    torch.manual_seed(0)
    net = awake(Critic(2, blocks=1, width=3)).double().eval()
    logits = torch.randn(1, 2, 8, 8, dtype=torch.float64)
    start = net.blocks[0].u.clone()

    def penalty() -> torch.Tensor:
        net.blocks[0].u.copy_(start)
        x = logits.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        return (gradient.norm() - 1) ** 2

    # the last convolution and gamma: power vectors do not depend on them
    for parameter in (net.last.weight, net.attention["0"].gamma, net.attention["0"].value.weight):
        net.zero_grad()
        penalty().backward()
        analytic = float(parameter.grad.flatten()[0])
        step = torch.zeros_like(parameter)
        step.view(-1)[0] = 1e-6
        with torch.no_grad():
            parameter += step
        above = float(penalty().detach())
        with torch.no_grad():
            parameter -= 2 * step
        below = float(penalty().detach())
        with torch.no_grad():
            parameter += step
        assert analytic == pytest.approx((above - below) / 2e-6, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("conditional", [False, True])
def test_state_resumes_to_the_bit(conditional):
    torch.manual_seed(0)
    net = awake(Critic(4, conditional=conditional, blocks=2, width=8))
    batch = [torch.randn(2, 4, 16, 16)] + [torch.rand(2, 3, 20, 24)] * conditional
    for _ in range(3):
        net(*batch)
    state = copy.deepcopy(net.state_dict())
    assert sum(name.endswith(".u") for name in state) == 2
    torch.manual_seed(1)
    other = Critic(4, conditional=conditional, blocks=2, width=8)
    other.load_state_dict(state)
    for _ in range(3):
        assert torch.equal(net(*batch), other(*batch))


def test_critic_repeats_to_the_bit(deterministic):
    def run():
        torch.manual_seed(0)
        net = awake(Critic(4, blocks=2, width=8))
        scores = net(torch.randn(2, 4, 18, 32))
        scores.mean().backward()
        return [scores, *(p.grad for p in net.parameters())]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_attention_maps_change_nothing(critic):
    awake(critic)
    logits = torch.randn(2, 4, 24, 32)
    before = copy.deepcopy(critic.state_dict())
    maps = critic.attention_maps(logits)
    after = critic.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {name: tuple(m.shape) for name, m in maps.items()} == {
        "block1": (2, 12, 16, 12, 16),
        "block2": (2, 6, 8, 6, 8),
    }
    for each in maps.values():
        torch.testing.assert_close(each.sum((-1, -2)), torch.ones(each.shape[:3]))
        assert not each.requires_grad
    four = Critic(2, width=2).attention_maps(torch.randn(1, 2, 64, 64))
    assert list(four) == ["block3", "block4"]
    # they are those of the forward pass
    seen = []
    critic.attention["1"].register_forward_hook(lambda *args: seen.append(args[2][1]))
    critic(logits)
    torch.testing.assert_close(maps["block2"].flatten(3).flatten(1, 2), seen[0])


def test_critic_works_in_other_types(critic):
    logits = torch.randn(2, 4, 16, 16)
    assert copy.deepcopy(critic).double()(logits.double()).dtype == torch.float64
    half = copy.deepcopy(critic).bfloat16()
    assert half(logits.bfloat16()).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        critic(logits).float().sum().backward()
    assert all(b.weight.grad.dtype == torch.float32 for b in critic.blocks)
    # inference tensors pass, and training goes on
    conditional = Critic(4, conditional=True, blocks=2, width=8)
    with torch.inference_mode():
        teacher, images = torch.randn(2, 4, 16, 16), torch.rand(2, 3, 20, 24)
        critic(teacher)
        conditional(teacher, images)
    critic(teacher).sum().backward()
    conditional(teacher, images).sum().backward()
