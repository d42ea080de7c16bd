"""ESPNet against counted sizes, and the released checkpoints against their published scores."""

import re
from pathlib import Path

import cv2
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kdlib.checkpoint import CheckpointError
from kdlib.metrics.segmentation import confusion_matrix, mean_iou, pixel_accuracy
from kdlib.models import build
from kdlib.models.espnet import ESP, ESPNet, ESPNetC, load_released

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.mark.parametrize(
    ("name", "num_classes", "count"),
    [
        ("espnet-c", 19, 349_193),
        ("espnet-c", 11, 347_145),
        ("espnet", 19, 363_462),
        ("espnet", 11, 353_437),
    ],
)
def test_parameter_counts(name, num_classes, count):
    assert sum(p.numel() for p in build(name, num_classes).parameters()) == count


@pytest.mark.parametrize(("network", "billions"), [(ESPNetC, 3.468), (ESPNet, 4.67)])
def test_multiply_adds(network, billions):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network(19).eval()(torch.rand(1, 3, 512, 1024))
    assert counter.get_total_flops() / 2e9 == pytest.approx(billions, abs=0.005)


def test_block_is_what_it_says():
    block = ESP(8, 11, residual=False).eval()
    x = torch.randn(1, 8, 20, 20)
    reduced = block.reduce(x)
    d1, d2, d4, d8, d16 = (branch(reduced) for branch in block.branches)
    assert [d1.shape[1], d2.shape[1]] == [3, 2]
    sums = [d1, d2, d2 + d4, d2 + d4 + d8, d2 + d4 + d8 + d16]
    torch.testing.assert_close(block(x), block.act(block.norm(torch.cat(sums, 1))))
    square = ESP(10, 10, residual=True).eval()
    plain = ESP(10, 10, residual=False).eval()
    plain.load_state_dict(square.state_dict())
    plain.norm, plain.act = torch.nn.Identity(), torch.nn.Identity()
    y = torch.randn(1, 10, 20, 20)
    torch.testing.assert_close(square(y), square.act(square.norm(plain(y) + y)))


def test_sizes_and_features():
    images = torch.rand(2, 3, 48, 64)
    out = ESPNet(11)(images)
    assert out.logits.shape == (2, 11, 48, 64) and out.aux is None
    shapes = {name: tuple(feature.shape[1:]) for name, feature in out.features.items()}
    assert shapes == {
        "level1": (19, 24, 32),
        "level2": (131, 12, 16),
        "level3": (256, 6, 8),
        "scores": (11, 6, 8),
    }
    # the encoder rounds up, as its convolutions do; the decoder cannot
    assert ESPNetC(11)(torch.rand(2, 3, 45, 61)).logits.shape == (2, 11, 6, 8)
    with pytest.raises(ValueError, match="multiples of 8"):
        ESPNet(11)(torch.rand(2, 3, 45, 64))


@pytest.mark.parametrize("network", [ESPNet, ESPNetC])
def test_every_parameter_learns(network):
    net = network(5).train()
    net(torch.rand(2, 3, 64, 64)).logits.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in net.parameters())


def test_input_is_normalised_as_released():
    # B, G, R in 0 ... 255, less the mean, over the deviation
    rgb = torch.tensor([10.0, 20.0, 30.0]).view(1, 3, 1, 1)
    mean = torch.tensor([73.18188461, 82.93553322, 72.41519599])
    std = torch.tensor([45.3199, 46.1528, 44.9148])
    expected = (torch.tensor([30.0, 20.0, 10.0]) - mean) / std
    torch.testing.assert_close(ESPNetC(2).input_norm(rgb / 255).flatten(), expected)


def released_state(net: ESPNetC) -> dict:
    """The state of a network under the names of the released files."""
    beginnings = {
        "down2": "level2_0",
        "down3": "level3_0",
        "join1": "b1",
        "join2": "b2",
        "join3": "b3",
        "norm3": "br",
        "scores": "classifier_1.conv" if isinstance(net, ESPNet) else "classifier.conv",
        "up1": "classifier",
        "project2": "level3_C.conv",
        "up3": "up_l3.0",
        "join_up3": "combine_l2_l3.0",
        "fuse2": "combine_l2_l3.1",
        "up2": "up_l2.0",
        "join_up2": "up_l2.1",
        "fuse1": "conv",
    }
    released = {}
    for own, value in net.state_dict().items():
        first, _, rest = own.partition(".")
        if first == "input_norm":
            continue
        name = f"{beginnings.get(first, first)}.{rest}"
        if re.match(r"level\d\.\d|combine_l2_l3\.1", name):
            name = name.replace(".act.", ".bn.act.").replace(".norm.", ".bn.norm.")
        name = name.replace(".norm.", ".bn.").replace(".reduce.", ".c1.conv.")
        name = re.sub(
            r"\.branches\.(\d)\.", lambda m: f".d{(1, 2, 4, 8, 16)[int(m[1])]}.conv.", name
        )
        released[name] = value
    return released


@pytest.mark.parametrize("network", [ESPNet, ESPNetC])
@pytest.mark.parametrize("num_classes", [11, 19])
@pytest.mark.parametrize("wrap", ["plain", "module", "state_dict"])
def test_released_files_are_recognised(tmp_path, network, num_classes, wrap):
    net = network(num_classes).eval()
    state = released_state(net)
    if wrap == "module":
        state = {f"module.{name}": value for name, value in state.items()}
        # older files have no counters; some have entries of other networks
        state = {name: value for name, value in state.items() if "num_batches" not in name}
        state["module.critic.weight"] = torch.zeros(3)
    if wrap == "state_dict":
        state = {"epoch": 3, "state_dict": state}
    torch.save(state, tmp_path / "net.pth")
    loaded = load_released(tmp_path / "net.pth")
    assert type(loaded) is network and not loaded.training
    images = torch.rand(1, 3, 32, 40)
    assert torch.equal(loaded(images).logits, net(images).logits)


def test_files_that_do_not_load_are_named(tmp_path):
    path = tmp_path / "net.pth"
    with pytest.raises(CheckpointError, match=r"net\.pth: no such file"):
        load_released(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"net\.pth"):
        load_released(path)
    torch.save({"network": ESPNetC(2)}, path)  # an object: loading it would run code
    with pytest.raises(CheckpointError, match=r"net\.pth"):
        load_released(path)
    torch.save({"conv1.weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="is no ESPNet"):
        load_released(path)
    state = released_state(ESPNetC(2))
    del state["b2.act.weight"]
    torch.save(state, path)
    with pytest.raises(
        CheckpointError, match=r"lacks 1 parameters, the first is join2\.act\.weight"
    ):
        load_released(path)
    torch.save({**state, "b2.act.weight": torch.zeros(7)}, path)
    with pytest.raises(CheckpointError, match="does not fit ESPNetC"):
        load_released(path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data (CamVid, checkpoints)")
@pytest.mark.parametrize(
    ("name", "miou", "accuracy"),
    [("espnet_ours_61.4", 61.38, 89.67), ("espnetc_ours_unlabelled_64.1", 64.13, 90.35)],
)
def test_published_score_on_camvid(name, miou, accuracy):
    """All 233 test images at 360 x 480, scores at that size, void skipped; some 20 s on a core."""
    net = load_released(SHARED / "checkpoints" / "skd_camvid" / f"{name}.pth")
    paths = sorted((SHARED / "camvid" / "test").glob("*.png"))
    assert len(paths) == 233
    confusion = torch.zeros(11, 11, dtype=torch.int64)
    for path in paths:
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        label = cv2.imread(str(SHARED / "camvid" / "testannot" / path.name), cv2.IMREAD_UNCHANGED)
        images_NCHW = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            logits = net(images_NCHW).logits
            if logits.shape[-2:] != (360, 480):
                logits = torch.nn.functional.interpolate(
                    logits, (360, 480), mode="bilinear", align_corners=True
                )
        labels_NHW = torch.from_numpy(label)[None]
        confusion += confusion_matrix(logits.argmax(1), labels_NHW, 11, ignore_index=11)
    assert 100 * float(mean_iou(confusion)) == pytest.approx(miou, abs=0.02)
    assert 100 * float(pixel_accuracy(confusion)) == pytest.approx(accuracy, abs=0.02)
