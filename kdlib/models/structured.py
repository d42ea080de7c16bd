"""The PSPNets of structured distillation, each of the size that the paper prints.

Liu et al., "Structured knowledge distillation for semantic segmentation", CVPR 2019, and "... for
dense prediction", TPAMI 2020 (fact sheet structured_kd 3.1, 3.2 and 3.5). All are `PSPNet` with
other options; every option can be given anew, e.g. `resnet18(19, aux=True)`. The other two students
are `kdlib.models.espnet` and `kdlib.models.mobilenet`.

Sizes for 19 classes; the paper's "FLOPs" are multiply-adds of the convolutions at 512 x 1024.

| function | millions of parameters | multiply-adds / 10^9 |
|---|---|---|
| `pspnet_r101` | 70.4373 (with the auxiliary head) | 574.93 (with it) |
| `resnet18_journal` | 13.0683 (with it) | 125.8 (with it) |
| `resnet18` | 15.2472 | 128.16 |
| `resnet18_half` | 3.8345 | 33.349 |

Pair-wise distillation reads the feature "pyramid": the pyramid's output behind activation and
dropout, at an eighth of the image (fact sheet 1.2).

Deviations:

- In-place activated batch norm is replaced by ordinary batch norm and a leaky ReLU of slope 0.01.
  The released layer scales by |γ| + 10^-5 instead of γ: its checkpoints need that put in (2.1).
- The released weights start from the ImageNet weights of another project, for the stem of three
  convolutions; here those networks start at random. `pretrained=True` works for `resnet18` only.
- The published `resnet18` and `resnet18_half` are none of the released files; stem, widths and head
  are those that give the printed sizes. The leaky ReLU in their heads is the journal's:
  `head_activation="none"` gives the conference's heads.
"""

from kdlib.models.pspnet import PSPNet, build_pspnet

# Journal (fact sheet 2.1): B, G, R in 0 ... 255 less a mean, not divided.
_JOURNAL_INPUT = {
    "mean": tuple(value / 255 for value in (122.67891434, 116.66876762, 104.00698793)),
    "std": (1 / 255, 1 / 255, 1 / 255),
    "bgr": True,
}
# Conference, ResNets and MobileNet (fact sheet 2.2): B, G, R less a mean, all over 255.
CONFERENCE_INPUT = {
    "mean": tuple(value / 255 for value in (72.41519599, 82.93553322, 73.18188461)),
    "std": (1.0, 1.0, 1.0),
    "bgr": True,
}
_COMMON = {
    "ceil_pool": True,
    "dilate_first": True,
    "head_activation": "leaky_relu",
    "dropout": 0.1,
    "aux_bias": True,
}
_JOURNAL = {**_COMMON, **_JOURNAL_INPUT, "stem": "deep"}
_CONFERENCE = {**_COMMON, **CONFERENCE_INPUT, "aux": False}


def pspnet_r101(num_classes: int, **options) -> PSPNet:
    """The teacher: ResNet-101 with a stem of three convolutions (fact sheet 3.1).

    Pyramid and auxiliary head have 512 channels, the auxiliary convolution a bias.
    """
    own = {"depth": 101, "pyramid_channels": 512, "aux_channels": 512}
    return build_pspnet(num_classes, **{**_JOURNAL, **own, **options})


def resnet18_journal(num_classes: int, **options) -> PSPNet:
    """The journal's student: ResNet-18 with a stem of three convolutions, heads of 128 channels."""
    own = {"depth": 18, "pyramid_channels": 128, "aux_channels": 128}
    return build_pspnet(num_classes, **{**_JOURNAL, **own, **options})


def resnet18(num_classes: int, **options) -> PSPNet:
    """The published "ResNet18 (1.0)": 7x7 stem, pyramid of 256 channels, no auxiliary head."""
    own = {"depth": 18, "pyramid_channels": 256}
    return build_pspnet(num_classes, **{**_CONFERENCE, **own, **options})


def resnet18_half(num_classes: int, **options) -> PSPNet:
    """The published "ResNet18 (0.5)": stages half as wide, the stem not, pyramid of 128."""
    own = {"depth": 18, "width": 32, "stem_width": 64, "pyramid_channels": 128}
    return build_pspnet(num_classes, **{**_CONFERENCE, **own, **options})
