"""Two-stage detectors: a backbone, torchvision's proposal network and its RoI heads.

Fact sheet feature_imitation sections 1 and 4; `kdlib.models.rcnn` builds the paper's.

Training mode runs everything and gives losses. Evaluation mode computes the maps, which is all that
a teacher of features is asked for; `detections` goes on from there.

Shape suffixes: N images, C channels, H x W pixels, h x w cells, K regions.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.image_list import ImageList

from kdlib.detection import Detections, Targets, Untouched, objects
from kdlib.models.inputs import IMAGENET_MEAN, IMAGENET_STD, InputNorm
from kdlib.models.outputs import ModelError
from kdlib.models.rcnn_backbones import C4Backbone, FpnBackbone, VggBackbone
from kdlib.models.rcnn_heads import RegionHeads, RoiAlign
from kdlib.models.rcnn_regions import Proposals, RCNNConfig, full_precision


class TwoStageOutput(NamedTuple):
    """Output of a two-stage detector.

    Attributes:
        features: maps (N, C, h, w) by name: "conv5" (VGG), "c4" (ResNet), "p2" to "p6" (pyramid).
        strides: pixels that a cell spans, by the same names.
        size_hw: height and width of the images, pixels.
        losses: "rpn_objectness", "rpn_box", "roi_class", "roi_box", scalars, in training mode; None
            in evaluation mode. Classes and objectness are means over the sampled boxes of the
            batch, box terms are sums over the positives divided by that same number.
        regions: per image the boxes that were drawn to train the heads, in training mode; or None.
        scores: (K of all images, classes + 1) the class logits of these regions, background first.
    """

    features: dict[str, Tensor]
    strides: dict[str, int]
    size_hw: tuple[int, int]
    losses: dict[str, Tensor] | None = None
    regions: list[Tensor] | None = None
    scores: Tensor | None = None


class TwoStageDetector(nn.Module):
    """A backbone, torchvision's proposal network and its RoI heads.

    `forward(images_NCHW, targets)` takes RGB in [0, 1], already of the wanted size, and returns a
    `TwoStageOutput`. Training mode needs targets (as `Untouched` where Fabric wraps the network)
    and draws the sampled boxes from torch's global generator. Evaluation mode takes none into
    account and computes the maps alone; `detections(output, size_hw)` gives the boxes, `score` the
    class logits of given regions.

    Args:
        num_classes: classes C without background, named 0 to C - 1.
        backbone: gives maps by name, with `channels`, `strides`, `pooled` and `lower`.
        box_head: regions to vectors.
        head_channels: length of those vectors.
        config: settings of both stages.
        frozen: "lower": VGG's blocks 1 and 2 or a ResNet's stem and first stage are not trained;
            "released": as the released code does, where VGG11's conv3_1 goes with them; "none".
            The builders choose "lower" with ImageNet weights and "none" without: random layers are
            not worth keeping.
        frozen_norm: keep all batch norms of backbone and head at their stored statistics, not
            trained. What is frozen keeps them in any case.
        mean, std, bgr: input statistics of R, G, B as fractions; hand on B, G, R.
    """

    wants_targets = True  # the training loop hands it the labels beside the images

    def __init__(
        self,
        num_classes: int,
        backbone: VggBackbone | C4Backbone | FpnBackbone,
        box_head: nn.Module,
        head_channels: int,
        config: RCNNConfig | None = None,
        *,
        frozen: Literal["lower", "released", "none"] = "none",
        frozen_norm: bool = False,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        bgr: bool = False,
    ):
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be positive, not {num_classes}")
        if frozen not in ("lower", "released", "none"):
            raise ValueError(f"frozen must be 'lower', 'released' or 'none', not {frozen!r}")
        self.num_classes = num_classes
        config = config or RCNNConfig()
        self.config = config
        self.input_norm = InputNorm(mean, std, bgr=bgr)
        self.backbone = backbone
        self.rpn = Proposals(config, backbone.channels, list(backbone.strides.values()))
        pooled = {name: backbone.strides[name] for name in backbone.pooled}
        roi_align = RoiAlign(pooled, config.roi_size, config.canonical)
        self.roi_heads = RegionHeads(roi_align, box_head, head_channels, num_classes + 1, config)
        lower = [] if frozen == "none" else backbone.lower(frozen == "released")
        for module in lower:
            module.requires_grad_(False)
        for part in [backbone.body, box_head] if frozen_norm else []:
            for norm in _batch_norms(part):
                norm.requires_grad_(False)

    @property
    def neck_channels(self) -> dict[str, int]:
        """Channels of each map that is imitated: what the heads read, p6 of a pyramid left out.

        p6 is every second cell of p5, so it has nothing of its own to imitate.
        """
        return {name: self.backbone.channels for name in self.backbone.pooled}

    def train(self, mode: bool = True) -> "TwoStageDetector":
        """Training or evaluation mode; batch norms that are not trained keep their statistics."""
        super().train(mode)
        # looked for anew: in a process group others take the place of those that were built
        for norm in _batch_norms(self):
            if not norm.weight.requires_grad:
                norm.eval()
        return self

    def maps(self, images_NCHW: Tensor) -> dict[str, Tensor]:
        """The features (N, C, h, w) by name, finest first."""
        if min(images_NCHW.shape[-2:]) < 32:
            raise ValueError(
                f"images of {tuple(images_NCHW.shape[-2:])} pixels are too small, at least 32"
            )
        return self.backbone(self.input_norm(images_NCHW))

    def anchors(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """(h * w * anchors, 4) anchors of each map by name, pixels, ends outside.

        Rows, then columns, then anchors, as in `kdlib.losses.regions.anchor_grid`.
        """
        levels = self.rpn.anchor_generator.levels(list(features.values()))
        return dict(zip(features, levels, strict=True))

    def forward(
        self, images_NCHW: Tensor, targets: Targets | Untouched | None = None
    ) -> TwoStageOutput:
        if isinstance(targets, Untouched):
            targets = targets.targets
        if self.training and targets is None:
            raise ValueError("training mode needs targets; call eval() to get maps and detections")
        features = self.maps(images_NCHW)
        size_hw = tuple(images_NCHW.shape[-2:])
        output = TwoStageOutput(features, dict(self.backbone.strides), size_hw)
        if not self.training:
            return output
        sizes = [size_hw] * len(images_NCHW)
        wanted = shifted_targets(targets, self.num_classes, size_hw)
        if len(wanted) != len(images_NCHW):
            raise ValueError(f"{len(images_NCHW)} images, but targets of {len(wanted)}")
        proposals, first = self.rpn(ImageList(images_NCHW, sizes), features, wanted)
        regions, scores, second = self.roi_heads.learn(features, proposals, sizes, wanted)
        losses = {"rpn_objectness": first["loss_objectness"], "rpn_box": first["loss_rpn_box_reg"]}
        return output._replace(losses=losses | second, regions=regions, scores=scores)

    def detections(self, output: TwoStageOutput, size_hw: tuple[int, int]) -> list[Detections]:
        """The boxes of each image, best first, from an output in evaluation mode.

        Raises:
            ValueError: the network is in training mode, whose settings are not for finding.
        """
        if self.training:
            raise ValueError("boxes are found in evaluation mode: call eval()")
        # outside autocast the heads meet maps that were computed inside
        features = {name: full_precision(map_) for name, map_ in output.features.items()}
        first = next(iter(features.values()))
        sizes = [tuple(size_hw)] * len(first)
        images = first.new_zeros(()).expand(len(first), 3, *size_hw)  # only their size is read
        proposals, _ = self.rpn(ImageList(images, sizes), features)
        return self.roi_heads.find(features, proposals, sizes)

    def score(
        self, features: dict[str, Tensor], regions: list[Tensor], size_hw: tuple[int, int]
    ) -> Tensor:
        """(K of all images, C + 1) class logits of given regions, background first.

        Args:
            features: maps of this network.
            regions: per image (K, 4) boxes in pixels, such as those another network was trained on.
            size_hw: height and width of the images.
        """
        logits, _ = self.roi_heads.score(features, regions, [tuple(size_hw)] * len(regions))
        return logits

    def load_imagenet(self, state: dict[str, Tensor]) -> None:
        """Load the weights of torchvision's classification network, its last layer left out.

        Fills the backbone and, of VGG and C4, the head: fc6 and fc7, or the last stage.

        Raises:
            ModelError: a tensor is missing, has another shape or belongs nowhere.
        """
        last = ("fc.", "classifier.6.")
        state = {name: value for name, value in state.items() if not name.startswith(last)}
        head = self.roi_heads.box_head
        parts = [self.backbone.body] + [head] * (not isinstance(head, TwoMLPHead))
        own = {name: value for part in parts for name, value in part.state_dict().items()}
        # the counter is absent from old files, and nothing depends on it
        counters = {name for name in own if name.endswith("num_batches_tracked")}
        wrong = sorted(own.keys() - counters - state.keys()) + sorted(state.keys() - own.keys())
        wrong += [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
        if wrong:
            raise ModelError(
                f"these are not the weights of this backbone: {wrong[0]} is missing, unknown or of "
                f"another shape ({len(wrong)} such tensors); take those of the same depth at width "
                "64 or train from scratch"
            )
        with torch.no_grad():
            for name in state:
                own[name].copy_(state[name])


def _batch_norms(module: nn.Module) -> list[_BatchNorm]:
    return [child for child in module.modules() if isinstance(child, _BatchNorm)]


def shifted_targets(
    targets: Targets, num_classes: int, size_hw: tuple[int, int]
) -> list[dict[str, Tensor]]:
    """The objects of each image as torchvision wants them: class 0 is the background.

    Raises:
        ValueError: an object has no area or a class outside 0 to `num_classes` - 1.
    """
    wanted = ~targets.ignored
    empty = wanted & ~(targets.xyxy[..., 2:] > targets.xyxy[..., :2]).all(-1)
    unknown = wanted & ((targets.classes < 0) | (targets.classes >= num_classes))
    if (empty | unknown).any():
        image, row = (empty | unknown).nonzero()[0].tolist()
        raise ValueError(
            f"box {row} of image {image} cannot be learnt: {targets.xyxy[image, row].tolist()} of "
            f"class {int(targets.classes[image, row])}, with classes 0 to {num_classes - 1}; drop "
            "it or mark it as ignored"
        )
    return [
        {"boxes": xyxy, "labels": classes + 1, "image_hw": size_hw}
        for xyxy, classes in objects(targets)
    ]
