"""Structured knowledge distillation: what a segmentation student takes from its teacher.

Liu et al., "Structured knowledge distillation for semantic segmentation", CVPR 2019, and "... for
dense prediction", TPAMI 2020 (both arXiv 1903.04197): pixel-wise, pair-wise and holistic terms.
Paper, conference code and journal code disagree on each of them (fact sheet structured_kd, sections
1.1 to 1.3). The forms are offered side by side; a weight belongs to the normalisation it was
published with and to no other.

No function stops the teacher's gradient: run the teacher without gradients.
Not supported: void masks (as released, unlabelled pixels are distilled too), the paper's
alpha nearest nodes (no code has them).

Shape suffixes: N images, C channels or classes, H rows, W columns, M nodes.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib.losses.cosine import affinity, mean_squared_difference, unit_nodes
from kdlib.resize import bilinear

__all__ = [
    "adversarial_critic",
    "adversarial_student",
    "affinity",
    "gradient_penalty",
    "pairwise",
    "pixelwise",
]

VARIANTS = ("journal", "conference", "paper")
CRITICS = ("wgan-gp", "hinge")

CONFERENCE_SCALE = 8  # the conference code distils at the resolution of the labels


def pixelwise(
    student_NCHW: Tensor,
    teacher_NCHW: Tensor,
    *,
    variant: str = "journal",
    temperature: float = 1.0,
) -> Tensor:
    """The teacher's class distribution as the student's target, at every pixel.

    Fact sheet structured_kd, section 1.1. With q = softmax over C of logits / T:

    - ``"journal"``, as released: -sum q_t log q_s over N, C and pixels, divided by H W. A cross
      entropy, so not 0 for equal logits, and **not** divided by N: proportional to the batch.
    - ``"conference"``: both maps resized to 8 H x 8 W (bilinear, corners aligned), a student that
      has that size already is left as it is; mean over all N C 8H 8W entries of
      q_t (log q_t - log q_s).
    - ``"paper"``: KL(q_t || q_s), mean over N and pixels. The text calls the teacher the soft
      target; the printed formula has the arguments the other way round.

    The gradient of "journal" is N times that of "paper", that of "conference" about 1 / C of it.

    Args:
        student_NCHW: logits. Half types are computed in float32, float64 stays.
        teacher_NCHW: logits of the same shape ("conference": the student may have 8 times H and W).
        variant: one of the above.
        temperature: T > 0, divides both logits. There is no factor T^2. As released: 1.

    Returns:
        Scalar in nats, reduced as stated. 0 for an empty batch.

    Raises:
        ValueError: unknown variant, tensors whose sizes do not agree, temperature not positive.
    """
    _known("variant", variant, VARIANTS)
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    size = tuple(teacher_NCHW.shape[-2:])
    enlarged = tuple(CONFERENCE_SCALE * side for side in size)
    allowed = (size, enlarged) if variant == "conference" else (size,)
    if (
        student_NCHW.dim() != 4
        or teacher_NCHW.dim() != 4
        or student_NCHW.shape[:2] != teacher_NCHW.shape[:2]
        or tuple(student_NCHW.shape[-2:]) not in allowed
    ):
        raise ValueError(
            f"student and teacher logits must both be (N, C, H, W) of one size"
            f"{' (or the student at 8 times H and W)' if variant == 'conference' else ''}, not "
            f"{tuple(student_NCHW.shape)} and {tuple(teacher_NCHW.shape)}; resize one of them"
        )

    dtype = _dtype(student_NCHW, teacher_NCHW)
    student_NCHW, teacher_NCHW = student_NCHW.to(dtype), teacher_NCHW.to(dtype)
    if variant == "conference":
        student_NCHW, teacher_NCHW = (bilinear(z, enlarged) for z in (student_NCHW, teacher_NCHW))
    if temperature != 1:
        student_NCHW, teacher_NCHW = student_NCHW / temperature, teacher_NCHW / temperature
    log_s_NCHW = student_NCHW.log_softmax(1)

    n_images, n_classes, height, width = student_NCHW.shape
    if variant == "journal":
        # L = -1 / (H W) * sum_n sum_i sum_c q^t_nic log q^s_nic
        return -(teacher_NCHW.softmax(1) * log_s_NCHW).sum() / max(height * width, 1)
    # sum of q^t (log q^t - log q^s)
    log_t_NCHW = teacher_NCHW.log_softmax(1)
    total = F.kl_div(log_s_NCHW, log_t_NCHW, reduction="sum", log_target=True)
    entries = n_images * height * width * (n_classes if variant == "conference" else 1)
    return total / max(entries, 1)


def pairwise(
    student_NCHW: Tensor,
    teacher_NCHW: Tensor,
    *,
    pool: str = "max",
    ratio: float = 0.5,
    window: int | None = None,
    detach_norm: bool = True,
    eps: float = 1e-8,
) -> Tensor:
    """Mean squared difference between the two networks' `affinity` matrices.

    Fact sheet structured_kd, section 1.2. The defaults are the journal's code; `window=1,
    detach_norm=False, eps=0` is the conference form; `pool="avg", window=2` is what the paper's
    "beta = 2 x 2" and its author's answers mean. On a 65 x 65 map the released ratio 0.5 leaves
    3 x 3 nodes, window 2 leaves 33 x 33.

    Every position of a map gives thousands of nodes, so no whole M x M matrix is made then: the
    matrices are compared in blocks, and the gradient with respect to the unit vectors is taken from
    the same blocks on the way (second derivatives are therefore not available). The shorter way
    over the C x C products, |F_s F_s'|^2 - 2 |F_s F_t'|^2 + |F_t F_t'|^2, subtracts numbers of
    order M^2 and keeps few digits of a small difference in float32; it is not used.

    Args:
        student_NCHW: features; half types are computed in float32, float64 stays.
        teacher_NCHW: features of the same N, H and W; the channels may differ.
        pool, ratio, window, detach_norm, eps: as in `affinity`, the same for both networks.

    Returns:
        Scalar: mean over N and all M x M pairs, the diagonal among them. 0 for an empty batch.

    Raises:
        ValueError: maps whose N, H or W do not agree, or arguments that `affinity` refuses.
    """
    if (
        student_NCHW.dim() != 4
        or teacher_NCHW.dim() != 4
        or student_NCHW.shape[0] != teacher_NCHW.shape[0]
        or student_NCHW.shape[2:] != teacher_NCHW.shape[2:]
    ):
        raise ValueError(
            f"student and teacher features must be (N, C, H, W) with the same N, H and W, not "
            f"{tuple(student_NCHW.shape)} and {tuple(teacher_NCHW.shape)}; resize one of them"
        )
    dtype = _dtype(student_NCHW, teacher_NCHW)
    with torch.autocast(student_NCHW.device.type, enabled=False):
        units_s_NCM, units_t_NCM = (
            unit_nodes(features.to(dtype), pool, ratio, window, detach_norm, eps)
            for features in (student_NCHW, teacher_NCHW)
        )
        return mean_squared_difference(units_s_NCM, units_t_NCM)


def adversarial_student(scores: Tensor) -> Tensor:
    """The student's holistic term: minus the critic's mean score of the student's maps.

    Fact sheet structured_kd, section 1.3; the same for both kinds of critic.

    Args:
        scores: the critic's output for the student, any shape; higher means "like the teacher".
            Half types are computed in float32, float64 stays.

    Returns:
        Scalar: -mean of all scores.
    """
    return -scores.to(_dtype(scores)).mean()


def adversarial_critic(scores_student: Tensor, scores_teacher: Tensor, *, kind: str) -> Tensor:
    """The critic's own term, with the teacher's maps as the real ones.

    Fact sheet structured_kd, section 1.3. `gradient_penalty` is added to "wgan-gp" by the caller.

    Args:
        scores_student: the critic's output for the student's detached maps, any shape.
        scores_teacher: the same for the teacher's. Half types are computed in float32.
        kind: "wgan-gp": mean(D_s) - mean(D_t); "hinge": mean(max(0, 1 - D_t)) + mean(max(0,
            1 + D_s)).

    Returns:
        Scalar, means over all scores.

    Raises:
        ValueError: unknown kind.
    """
    _known("kind", kind, CRITICS)
    dtype = _dtype(scores_student, scores_teacher)
    scores_student, scores_teacher = scores_student.to(dtype), scores_teacher.to(dtype)
    if kind == "wgan-gp":
        return scores_student.mean() - scores_teacher.mean()
    return (1 - scores_teacher).relu().mean() + (1 + scores_student).relu().mean()


def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    student: Tensor,
    teacher: Tensor,
    *,
    alpha: Tensor | None = None,
    weight: float = 10.0,
) -> Tensor:
    """Penalty on a critic whose gradient between the student's and the teacher's maps is not 1.

    Fact sheet structured_kd, section 1.3; Gulrajani et al., "Improved training of Wasserstein
    GANs", NIPS 2017, equation 3. A critic that does not depend on its input is penalised with
    `weight` and gets finite gradients, where the released code gives NaN.

    Args:
        critic: maps (N, C, H, W) to scores of any shape.
        student: (N, C, H, W), detached here. Half types are mixed in float32, float64 stays.
        teacher: the same shape, detached here.
        alpha: (N, 1, 1, 1), the teacher's share of each mixture. None: drawn uniformly from [0, 1)
            with torch's global generator.
        weight: factor of the mean.

    Returns:
        Scalar: weight * mean over N of (|gradient of the sum of scores|_2 - 1)^2, the norm over C,
        H and W. Differentiable with respect to the critic's parameters.

    Raises:
        ValueError: maps of different sizes, or an alpha that is not (N, 1, 1, 1).
    """
    if student.dim() != 4 or student.shape != teacher.shape:
        raise ValueError(
            f"student and teacher must both be (N, C, H, W) of one size, not "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}; resize one of them"
        )
    dtype = _dtype(student, teacher)
    shape = (len(student), 1, 1, 1)
    if alpha is None:
        alpha = torch.rand(shape, dtype=dtype, device=student.device)
    elif tuple(alpha.shape) != shape:
        raise ValueError(f"alpha must be {shape}, one share per image, not {tuple(alpha.shape)}")
    alpha = alpha.to(student.device, dtype)
    wanted = torch.is_grad_enabled()
    with torch.enable_grad():
        # z = alpha z_t + (1 - alpha) z_s
        mixed = alpha * teacher.detach().to(dtype) + (1 - alpha) * student.detach().to(dtype)
        mixed = mixed.detach().requires_grad_()
        scores = critic(mixed)
        if scores.requires_grad:
            total = scores.to(_dtype(scores)).sum()
            (gradient,) = torch.autograd.grad(
                total, mixed, create_graph=wanted, materialize_grads=True
            )
        else:  # a constant
            gradient = torch.zeros_like(mixed)
    # torch takes 0 for the gradient of the norm at 0
    norm_N = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return weight * (norm_N - 1).square().mean()


def _known(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")


def _dtype(*tensors: Tensor) -> torch.dtype:
    """The widest of the tensors' types, float32 at least."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
