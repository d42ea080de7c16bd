"""Inter-region affinity distillation: how the regions of a scene relate to each other.

Hou, Ma, Liu, Hui, Loy, "Inter-region affinity distillation for road marking segmentation", CVPR
2020 (arXiv 2004.05304); fact sheet inter_region_affinity, section 1. The authors released none of
this (section 0): the paper's formulas are the reference, and what they leave open is said at each
function.

Each class's part of the image, slightly widened, is a node; its vectors are the mean, variance and
skewness of every channel there; the cosines between nodes make one matrix per order; the student's
matrices shall be the teacher's. Only n x n matrices meet, so the two networks need neither the same
channels nor the same size. The areas are in `kdlib.losses.areas`; what the paper trains beside the
affinity, or compares it with, in `kdlib.losses.lane_baselines`; all are names of this module too.

No function stops the teacher's gradient: run the teacher without gradients, which also is quicker.

Shape suffixes: N images, C channels, H rows, W columns, R regions.
"""

from typing import Literal

import torch
from torch import Tensor

from kdlib.losses.areas import areas_of_interest
from kdlib.losses.lane_baselines import attention_transfer, existence_bce, soft_targets
from kdlib.losses.moments import central_moments
from kdlib.losses.options import known

__all__ = [
    "affinity_loss",
    "areas_of_interest",
    "attention_transfer",
    "existence_bce",
    "moment_pooling",
    "region_affinity",
    "soft_targets",
]

SKEWNESS = ("variance", "std")
NODES = ("all", "present", "foreground")
EPS = 1e-10


def moment_pooling(
    features_NCHW: Tensor, areas_NRHW: Tensor, *, skewness: str = "variance", eps: float = EPS
) -> Tensor:
    """Mean, variance and skewness of each channel inside each area.

    Fact sheet inter_region_affinity, section 1.2, with the sums inside the area (read literally,
    the printed ones run over the whole map). With x of the n pixels of an area:

        mean = sum x / n,  variance = sum (x - mean)^2 / n,  skewness = sum ((x - mean) / d)^3 / n

    where d = variance + eps as printed ("variance"), or d = sqrt(variance + eps), the textbook's
    ("std"). As printed, the quieter a channel the larger its skewness: a nearly constant one
    outweighs all others, and its gradient is large.

    Centred before powers are taken (`kdlib.losses.moments`): a constant channel has variance and
    skewness 0 exactly, so has an area of one pixel, and one of two pixels has no skewness.

    Args:
        features_NCHW: half types are computed in float32, float64 stays.
        areas_NRHW: bool, or numbers of which 0 means no; of the same N, H and W.
        skewness: "variance" or "std".
        eps: above 0.

    Returns:
        (N, 3, R, C). 0 throughout, and without a gradient, where an area is empty. Differentiable
        once.

    Raises:
        ValueError: shapes that do not agree, an unknown skewness, an eps that is not positive.
    """
    return _moments(features_NCHW, areas_NRHW, skewness, eps).to(_real(features_NCHW))


def _real(tensor: Tensor) -> torch.dtype:
    """The type of the results: float32 for half types and float32, else float64."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _moments(features_NCHW: Tensor, areas_NRHW: Tensor, skewness: str, eps: float) -> Tensor:
    """`moment_pooling` in float64.

    Only the passes over the maps are in the maps' type. The printed skewness of a quiet channel is
    many orders above the others', and what the gradient of a cosine leaves of it is a difference of
    nearly equal numbers, of which float32 holds no digit.
    """
    known("skewness", skewness, SKEWNESS)
    if not eps > 0:
        raise ValueError(f"eps must be positive, not {eps}")
    if (
        features_NCHW.dim() != 4
        or areas_NRHW.dim() != 4
        or features_NCHW.shape[0] != areas_NRHW.shape[0]
        or features_NCHW.shape[2:] != areas_NRHW.shape[2:]
    ):
        raise ValueError(
            f"features (N, C, H, W) and areas (N, R, H, W) must agree in N, H and W, not "
            f"{tuple(features_NCHW.shape)} and {tuple(areas_NRHW.shape)}; give areas_of_interest "
            "the size of the features"
        )
    with torch.autocast(features_NCHW.device.type, enabled=False):
        areas_NRHW = areas_NRHW if areas_NRHW.dtype == torch.bool else areas_NRHW != 0
        moments_NRC = central_moments(features_NCHW.to(_real(features_NCHW)), areas_NRHW)
        mean_NRC, variance_NRC, third_NRC = (m_NRC.double() for m_NRC in moments_NRC)
        divisor_NRC = variance_NRC + eps
        if skewness == "std":
            divisor_NRC = divisor_NRC.sqrt()
        # one by one: the cube of a small eps leaves float64 as well
        skewness_NRC = third_NRC / divisor_NRC / divisor_NRC / divisor_NRC
        return torch.stack([mean_NRC, variance_NRC, skewness_NRC], 1)


def region_affinity(moments: Tensor) -> Tensor:
    """The affinity graph: cosines between the regions' vectors, for each order.

    Fact sheet inter_region_affinity, section 1.3.

    Args:
        moments: (N, 3, R, C) of `moment_pooling`. Half types are computed in float32.

    Returns:
        (N, 3, R, R), symmetric; 1 on the diagonal. A zero vector, such as an absent region's, has
        0 with all and with itself, and takes no gradient.

    Raises:
        ValueError: another number of dimensions.
    """
    if moments.dim() != 4:
        raise ValueError(f"moments must be (N, 3, R, C), not {tuple(moments.shape)}")
    return _cosines(moments.double()).to(_real(moments))


def _cosines(moments_N3RC: Tensor) -> Tensor:
    with torch.autocast(moments_N3RC.device.type, enabled=False):
        units_N3RC = _units(moments_N3RC)
        return units_N3RC @ units_N3RC.transpose(2, 3)


def _units(vectors: Tensor) -> Tensor:
    """Vectors of the last dimension over their norms; zero stays zero."""
    largest = vectors.detach().abs().amax(-1, keepdim=True)
    some = largest != 0  # NaN is something: it must reach the loss, and stop the training
    # a cosine does not depend on scale, but squares of 1e20 or 1e-25 would leave float32
    vectors = (vectors / largest.where(some, 1)).where(some, 0)
    norm = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / norm.where(some, 1)


def affinity_loss(
    student_NCHW: Tensor,
    teacher_NCHW: Tensor,
    areas_student: Tensor,
    areas_teacher: Tensor | None = None,
    *,
    skewness: str = "variance",
    nodes: Literal["all", "present", "foreground"] = "all",
) -> Tensor:
    """Squared difference of the two networks' affinity graphs.

    Fact sheet inter_region_affinity, section 1.4: 1 / (3 n^2) times the sum over the three orders
    and all n x n pairs. The mean over images is our reading, and so is what becomes of classes that
    an image does not show, of which the paper says nothing:

    - "all": n = R; an absent class has affinity 0, in each network whose map does not show it, and
      counts in n;
    - "present": nodes are the classes whose area is not empty in either network, n their number in
      each image. An image without any adds 0;
    - "foreground": class 0 is left out of nodes and n. Absent classes still count.

    Args:
        student_NCHW: features; half types are computed in float32, float64 stays.
        teacher_NCHW: features of the same N; channels and size may differ. It costs less where it
            needs no gradient.
        areas_student: (N, R, H, W) of `areas_of_interest` at the student's size.
        areas_teacher: the same at the teacher's size. None: the student's.
        skewness: as in `moment_pooling`.
        nodes: one of the above.

    Returns:
        Scalar; 0 for an empty batch. A region of one pixel or none gives exact, finite gradients.
        Differentiable once.

    Raises:
        ValueError: shapes that do not agree, no region, whatever the nodes, an unknown skewness or
        unknown nodes, "foreground" where there is no other class.
    """
    known("nodes", nodes, NODES)
    areas_teacher = areas_student if areas_teacher is None else areas_teacher
    if areas_student.shape[:2] != areas_teacher.shape[:2]:
        raise ValueError(
            f"the areas of student and teacher must agree in N and R, not "
            f"{tuple(areas_student.shape)} and {tuple(areas_teacher.shape)}"
        )
    if 0 in areas_student.shape[1:2]:
        raise ValueError(f"there must be at least one region, not {tuple(areas_student.shape)}")
    if nodes == "foreground":
        areas_student, areas_teacher = areas_student[:, 1:], areas_teacher[:, 1:]
        if not areas_student.shape[1]:
            raise ValueError("nodes='foreground' needs a class beside class 0; there is one region")
    with torch.autocast(student_NCHW.device.type, enabled=False):
        affinity_s, affinity_t = (
            _cosines(_moments(features, areas, skewness, EPS))
            for features, areas in ((student_NCHW, areas_student), (teacher_NCHW, areas_teacher))
        )
        difference_N3RR = (affinity_s - affinity_t).square()
        n_images, n_regions = areas_student.shape[:2]
        if nodes == "present":
            shown_NR = [areas.flatten(2).any(2) for areas in (areas_student, areas_teacher)]
            present_NR = shown_NR[0] & shown_NR[1]
            pairs_N1RR = (present_NR[:, None] & present_NR[:, :, None])[:, None]
            n_N = present_NR.sum(1).clamp(min=1)
            per_image_N = difference_N3RR.where(pairs_N1RR, 0).sum((1, 2, 3)) / (3 * n_N.square())
        else:
            per_image_N = difference_N3RR.sum((1, 2, 3)) / (3 * n_regions**2)
        return (per_image_N.sum() / max(n_images, 1)).to(_real(student_NCHW))
