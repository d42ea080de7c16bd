"""Cost of FCOS's losses and decoding as ratios, for a quiet machine; nothing is asserted.

    python -m benchmarks.fcos [--device cuda] [--threads 2] [--images 4] [--repeats 7]

Outputs of random numbers for images of 720 x 1280 pixels, five levels (19,220 cells), 10 classes.
The matching loss (forward and backward) is timed against the same formula written image by image
and level by level, and against a copy of its inputs; the supervised losses with 30 objects an
image against a plain assignment with a tensor of every cell, object and side; decoding with
suppression against torchvision's own for FCOS. torchvision puts its threshold on the root of class
times centerness and not on the class: both thresholds are 0 here, so that each level gives its 1000
best candidates in both.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models import detection as torchvision_detection
from torchvision.models.detection._utils import BoxLinearCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import generalized_box_iou_loss

from benchmarks.losses import best_ms
from kdlib.detection import DetectionOutput, Targets, centres
from kdlib.losses import fcos, matching
from kdlib.models.decode import detections

SIZE, CLASSES, OBJECTS = (720, 1280), 10, 30
STRIDES = (8, 16, 32, 64, 128)
SIZES = ((90, 160), (45, 80), (23, 40), (12, 20), (6, 10))


def random_output(images: int, device: str, grad: bool = False) -> DetectionOutput:
    """Class logits around -4, distances around two strides."""

    def random(channels: int, scale: float, shift: float, size: tuple[int, int]) -> Tensor:
        return torch.randn(images, channels, *size, device=device) * scale + shift

    levels = (
        [random(CLASSES, 1.5, -4, size) for size in SIZES],
        [2 * s * random(4, 0.5, 0, size).exp() for s, size in zip(STRIDES, SIZES, strict=True)],
        [random(1, 1, 0, size) for size in SIZES],
    )
    return DetectionOutput(
        *(tuple(x.requires_grad_(grad) for x in part) for part in levels), STRIDES, {}
    )


def plain_matching(student: DetectionOutput, teacher: DetectionOutput) -> Tensor:
    """The sum of the three terms, image by image and level by level."""
    z = sum(level.sigmoid().amax(1).sum() for level in teacher.classification).clamp(min=1)
    total = torch.zeros((), device=z.device)
    for n in range(student.classification[0].shape[0]):
        for level, stride in enumerate(STRIDES):
            z_s, z_t = (net.classification[level][n] for net in (student, teacher))
            p_s, p_t = z_s.sigmoid(), z_t.sigmoid()
            w = p_t.amax(0).flatten()
            divergence = p_t * (p_t / p_s).log() + (1 - p_t) * ((1 - p_t) / (1 - p_s)).log()
            centre = centres(SIZES[level], stride, z.device)
            corners = []
            for net in (student, teacher):
                box = net.box[level][n].flatten(1).T
                corners.append(torch.cat([centre - box[:, :2], centre + box[:, 2:]], 1))
            box_loss = generalized_box_iou_loss(*corners)
            q_s, q_t = (net.quality[level][n].flatten().sigmoid() for net in (student, teacher))
            total = total + divergence.sum() + (w * box_loss).sum()
            total = total + (w * F.binary_cross_entropy(q_s, q_t, reduction="none")).sum()
    return total / z


def plain_positives(targets: Targets) -> Tensor:
    """How many cells have an object, from one (cells, objects, 4) tensor per image and level."""
    total = torch.zeros((), device=targets.xyxy.device)
    for boxes in targets.xyxy:
        for (low, high), size, stride in zip(fcos.ranges(STRIDES), SIZES, STRIDES, strict=True):
            centre = centres(size, stride, boxes.device)[:, None]
            sides = torch.cat([centre - boxes[:, :2], boxes[:, 2:] - centre], dim=-1)
            far = sides.amax(-1)
            takes = (sides.amin(-1) > 0) & (far >= low) & (far <= high)
            area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).expand(takes.shape)
            total = total + (area.where(takes, torch.inf).min(-1).values < torch.inf).sum()
    return total


def torchvision_decode(output: DetectionOutput, images: int):
    """torchvision's decoding of the same numbers, as a call without arguments."""
    shell = torchvision_detection.FCOS.__new__(torchvision_detection.FCOS)
    torch.nn.Module.__init__(shell)
    shell.box_coder = BoxLinearCoder(normalize_by_size=True)
    shell.score_thresh, shell.nms_thresh = 0.0, 0.5
    shell.topk_candidates, shell.detections_per_img = 1000, 100
    anchors = AnchorGenerator(tuple((s,) for s in STRIDES), ((1.0,),) * len(STRIDES))
    device = output.box[0].device
    blank = ImageList(torch.zeros(images, 3, *SIZE, device=device), [SIZE] * images)
    per_level = [h * w for h, w in SIZES]
    boxes = [x.split(per_level) for x in anchors(blank, list(output.box))]
    heads = {
        "cls_logits": [x.flatten(2).transpose(1, 2) for x in output.classification],
        "bbox_regression": [
            x.flatten(2).transpose(1, 2) / s for x, s in zip(output.box, STRIDES, strict=True)
        ],
        "bbox_ctrness": [x.flatten(2).transpose(1, 2) for x in output.quality],
    }
    return lambda: shell.postprocess_detections(heads, boxes, [SIZE] * images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device, repeats, images = options.device, options.repeats, options.images

    student, teacher = random_output(images, device, grad=True), random_output(images, device)
    inputs = [x for net in (student, teacher) for part in net[:3] for x in part]
    ours, plain = (
        lambda: sum(matching.fcos(student, teacher).values()),
        lambda: plain_matching(student, teacher),
    )
    value, expected = float(ours().detach()), float(plain().detach())
    if abs(value - expected) > 1e-4 * abs(expected):
        raise SystemExit(f"matching: {value} is not the plain form's {expected}")
    ms, ms_plain = (
        best_ms(lambda run=run: run().backward(), device, repeats) for run in (ours, plain)
    )
    ms_copy = best_ms(lambda: [x.detach().clone() for x in inputs], device, repeats)
    print(f"torch {torch.__version__}, {device}, {options.threads} threads, {images} images")
    print(
        f"matching loss           {ms:9.2f} ms, {ms / ms_plain:.2f} of image by image and level by "
        f"level, {ms / ms_copy:.1f} of a copy"
    )
    for weighting in ("top", "difference"):
        ms_other = best_ms(
            lambda w=weighting: sum(
                matching.fcos(student, teacher, weighting=w).values()
            ).backward(),
            device,
            repeats,
        )
        print(f"  {weighting:<22}{ms_other:9.2f} ms, {ms_other / ms:.2f} of the above")

    low = torch.rand(images, OBJECTS, 2, device=device) * torch.tensor([1100, 600], device=device)
    size = (torch.rand(images, OBJECTS, 2, device=device) * 5 + 2).exp2() * 3
    targets = Targets(
        torch.cat([low, low + size], -1),
        torch.randint(0, CLASSES, (images, OBJECTS), device=device),
        torch.zeros(images, OBJECTS, dtype=torch.bool, device=device),
    )
    found = (fcos.assign(SIZES, STRIDES, targets).classes != fcos.BACKGROUND).sum()
    if found != plain_positives(targets):
        raise SystemExit(f"assignment: {found} cells, the plain form {plain_positives(targets)}")
    ms_assign, ms_plain = (
        best_ms(run, device, repeats)
        for run in (
            lambda: fcos.assign(SIZES, STRIDES, targets),
            lambda: plain_positives(targets),
        )
    )
    ms_losses = best_ms(
        lambda: sum(fcos.fcos(student, targets).values()).backward(), device, repeats
    )
    print(f"assignment              {ms_assign:9.2f} ms, {ms_assign / ms_plain:.2f} of plain")
    print(f"supervised losses       {ms_losses:9.2f} ms, {ms_losses / ms:.2f} of the matching loss")

    runs = (lambda: detections(teacher, SIZE, score=0.0), torchvision_decode(teacher, images))
    ms_ours, ms_theirs = (best_ms(run, device, repeats) for run in runs)
    ms_usual = best_ms(lambda: detections(teacher, SIZE), device, repeats)
    print(f"decoding, NMS           {ms_ours:9.2f} ms, {ms_ours / ms_theirs:.2f} of torchvision's")
    print(f"  at the usual threshold{ms_usual:9.2f} ms")


if __name__ == "__main__":
    main()
