"""Backbone against torchvision, heads against counted sizes."""

import urllib.error

import pytest
import torch
import torchvision
from lightning.fabric import Fabric

from kdlib.models import ModelError, build
from kdlib.models.inputs import InputNorm
from kdlib.models.pspnet import PSPNet
from kdlib.models.rcnn_backbones import vgg_weights
from kdlib.models.resnet import ResNet, ResNetConfig, imagenet_weights

TINY = ResNetConfig(blocks=(1, 1, 1), width=8, output_stride=8, stem="small")


def torchvision_state(depth: int) -> tuple[torch.nn.Module, dict]:
    torch.manual_seed(0)
    network = getattr(torchvision.models, f"resnet{depth}")(weights=None).eval()
    # running statistics other than 0 and 1, so that their order matters
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.8, 1.2)
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("fc.")}
    return network, state


@pytest.mark.parametrize("depth", [18, 50])
def test_backbone_equals_torchvision(depth):
    theirs, state = torchvision_state(depth)
    ours = ResNet(ResNetConfig(depth=depth, output_stride=32)).eval()
    ours.load_state_dict(state)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        for i, stage in enumerate(ours(x)):
            expected = getattr(theirs, f"layer{i + 1}")(expected)
            torch.testing.assert_close(stage, expected)


@pytest.mark.parametrize("depth", [34, 101])
def test_parameter_names_are_torchvisions(depth):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"resnet{depth}")().state_dict()
        ours = ResNet(ResNetConfig(depth=depth)).state_dict()
    assert list(ours) == [name for name in theirs if not name.startswith("fc.")]
    assert all(ours[name].shape == theirs[name].shape for name in ours)


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("stride", [8, 16])
def test_dilation_keeps_the_values_on_a_finer_grid(depth, stride):
    _, state = torchvision_state(depth)
    strided = ResNet(ResNetConfig(depth=depth, output_stride=32)).eval()
    dilated = ResNet(ResNetConfig(depth=depth, output_stride=stride)).eval()
    strided.load_state_dict(state)
    dilated.load_state_dict(state)
    x = torch.randn(1, 3, 64, 96)
    step = 32 // stride
    with torch.no_grad():
        expected, got = strided(x)[-1], dilated(x)[-1]
    assert got.shape[-2:] == (64 // stride, 96 // stride)
    torch.testing.assert_close(got[..., ::step, ::step], expected, rtol=1e-4, atol=1e-4)


def test_dilations_at_stride_8():
    backbone = ResNet(ResNetConfig(depth=50, output_stride=8))
    stages = [backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4]
    assert [stage[-1].conv2.dilation[0] for stage in stages] == [1, 1, 2, 4]
    assert [stage[0].conv2.stride[0] for stage in stages] == [1, 2, 1, 1]


@pytest.mark.parametrize(
    ("stem", "stride"),
    [
        ("imagenet", 8),
        ("imagenet", 16),
        ("imagenet", 32),
        ("deep", 4),
        ("deep", 8),
        ("small", 4),
        ("small", 8),
        ("small", 16),
    ],
)
def test_output_sizes(stem, stride):
    net = PSPNet(5, ResNetConfig(width=4, output_stride=stride, stem=stem)).train()
    out = net(torch.rand(2, 3, 64, 96))
    assert out.logits.shape == (2, 5, 64 // stride, 96 // stride)
    # the stage before is at least as fine
    assert out.aux.shape[-1] >= out.logits.shape[-1]
    # sizes that the stride does not divide are rounded up
    assert net.eval()(torch.rand(1, 3, 61, 33)).logits.shape[-2:] == (
        -(-61 // stride),
        -(-33 // stride),
    )


@pytest.mark.parametrize(("depth", "pyramid", "aux"), [(18, 128, 64), (101, 512, 256)])
def test_channels_and_parameter_counts(depth, pyramid, aux):
    with torch.device("meta"):
        net = PSPNet(19, ResNetConfig(depth=depth))
        backbone = getattr(torchvision.models, f"resnet{depth}")()
    last, before = 4 * pyramid, 4 * aux
    assert net.classifier.in_channels == pyramid and net.aux_head[-1].in_channels == aux
    expected = sum(p.numel() for n, p in backbone.named_parameters() if not n.startswith("fc."))
    expected += 4 * (last * pyramid + 2 * pyramid)  # four 1x1 reductions with their norms
    expected += 9 * (last + 4 * pyramid) * pyramid + 2 * pyramid  # 3x3 bottleneck
    expected += 9 * before * aux + 2 * aux  # auxiliary 3x3
    expected += 19 * (pyramid + 1) + 19 * (aux + 1)  # two classifiers
    assert sum(p.numel() for p in net.parameters()) == expected


def test_output_is_typed_and_aux_belongs_to_training():
    net = PSPNet(5, TINY)
    images = torch.rand(2, 3, 48, 64)
    out = net.train()(images)
    assert set(out.features) == {"stage1", "stage2", "stage3", "pyramid"}
    assert out.features["stage3"].shape == (2, 32, 6, 8)
    assert out.features["pyramid"].shape == (2, 8, 6, 8)
    assert out.aux.shape == (2, 5, 12, 16)
    assert net.eval()(images).aux is None
    assert PSPNet(5, TINY, aux=False).train()(images).aux is None


def test_output_passes_through_fabric():
    net = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed").setup(PSPNet(5, TINY))
    out = net(torch.rand(2, 3, 32, 32))
    assert out.logits.dtype == torch.float32 and out.features["pyramid"].dtype == torch.float32


def test_every_parameter_learns():
    net = PSPNet(5, TINY, dropout=0.0).train()
    out = net(torch.rand(2, 3, 48, 64))
    (out.logits.square().sum() + out.aux.square().sum()).backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in net.parameters())


def test_group_norm_has_no_state_between_images():
    net = build("pspnet", 5, blocks=(1, 1), width=32, stem="small", output_stride=4, norm="group")
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())
    # a single image trains, and its answer does not depend on its company
    images = torch.rand(2, 3, 24, 24)
    net.eval()
    torch.testing.assert_close(net(images).logits[:1], net(images[:1]).logits)
    net.train()(images[:1]).logits.sum().backward()


def test_forward_and_backward_repeat_to_the_bit():
    def run():
        torch.manual_seed(0)
        net = PSPNet(5, TINY).train()
        out = net(torch.rand(2, 3, 48, 64))
        (out.logits.square().sum() + out.aux.square().sum()).backward()
        return [out.logits, *(p.grad for p in net.parameters())]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_memory_format_is_kept_and_changes_little():
    net = PSPNet(5, TINY).eval()
    images = torch.rand(2, 3, 48, 64)
    expected = net(images).logits
    net = net.to(memory_format=torch.channels_last)
    out = net(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(out.logits, expected, rtol=1e-4, atol=1e-5)
    for feature in out.features.values():
        assert feature.is_contiguous(memory_format=torch.channels_last)


def test_input_normalisation_is_the_networks_own():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)
    image = torch.rand(1, 3, 2, 2)
    expected = (image - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(InputNorm(mean, std)(image), expected)
    torch.testing.assert_close(InputNorm(mean, std, bgr=True)(image), expected[:, [2, 1, 0]])
    with pytest.raises(TypeError, match="divide by 255"):
        InputNorm()(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\)"):
        InputNorm()(image[0])
    with pytest.raises(ValueError, match="std > 0"):
        InputNorm(mean, (1.0, 0.0, 1.0))


def test_errors_name_what_is_allowed():
    with pytest.raises(ModelError, match=r"unknown architecture 'pspnett', known: \["):
        build("pspnett", 5)
    with pytest.raises(ModelError, match="depth must be one of"):
        build("pspnet", 5, depth=20)
    with pytest.raises(ModelError, match=r"output_stride must be one of \[4, 8, 16, 32\]"):
        build("pspnet", 5, output_stride=64)
    with pytest.raises(ModelError, match=r"one of \[2, 4, 8\] for 3 stages"):
        build("pspnet", 5, blocks=(1, 1, 1), stem="small", output_stride=16)
    with pytest.raises(ModelError, match="wdth"):
        build("pspnet", 5, wdth=3)
    with pytest.raises(ModelError, match="at least two stages"):
        build("pspnet", 5, blocks=(1,), output_stride=4)
    with pytest.raises(ModelError, match="norm must be"):
        build("pspnet", 5, norm="layer")
    with pytest.raises(ValueError, match="smaller than the output stride 8"):
        PSPNet(5, TINY)(torch.rand(2, 3, 7, 64))


class FakeWeights:
    """Stands in for torchvision's weights entry; no test loads from the network."""

    url = "https://example.org/resnet18-00000000.pth"

    def __init__(self, state):
        self.state = state

    def get_state_dict(self, **_):
        if isinstance(self.state, Exception):
            raise self.state
        return self.state


def test_imagenet_weights_are_loaded(monkeypatch):
    theirs, _ = torchvision_state(18)
    monkeypatch.setattr(
        torchvision.models, "get_weight", lambda name: FakeWeights(theirs.state_dict())
    )
    net = build("pspnet", 5, depth=18, pretrained=True)
    assert torch.equal(net.backbone.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)


def test_imagenet_weights_that_cannot_be_had(monkeypatch):
    with pytest.raises(ModelError, match="width 64"):
        imagenet_weights(ResNetConfig(width=32))
    with pytest.raises(ModelError, match="train from scratch"):
        imagenet_weights(ResNetConfig(blocks=(1, 1, 1)))
    error = urllib.error.URLError("no route")
    monkeypatch.setattr(torchvision.models, "get_weight", lambda name: FakeWeights(error))
    with pytest.raises(ModelError, match=r"no route.*place it as .*checkpoints/resnet18-.*scratch"):
        build("pspnet", 5, depth=18, pretrained=True)
    with pytest.raises(ModelError, match=r"of VGG11 could not be had \(.*no route"):
        vgg_weights(11, 64)
