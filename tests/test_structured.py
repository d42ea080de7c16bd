"""The terms of structured distillation against their formulas, written as slow loops."""

import math

import pytest
import torch
import torch.nn.functional as F

from kdlib.losses import cosine as affinity_parts
from kdlib.losses import matching
from kdlib.losses.structured import (
    adversarial_critic,
    adversarial_student,
    affinity,
    gradient_penalty,
    pairwise,
    pixelwise,
)

CONFERENCE = {"window": 1, "detach_norm": False, "eps": 0.0}


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def enlarged(x, factor=8):
    """Bilinear, corners aligned, entry by entry."""
    n_images, n_channels, height, width = x.shape
    out = x.new_zeros(n_images, n_channels, factor * height, factor * width)
    for i in range(factor * height):
        for j in range(factor * width):
            y = i * (height - 1) / (factor * height - 1)
            z = j * (width - 1) / (factor * width - 1)
            for dy, wy in ((0, 1 - (y - int(y))), (1, y - int(y))):
                for dz, wz in ((0, 1 - (z - int(z))), (1, z - int(z))):
                    row, column = min(int(y) + dy, height - 1), min(int(z) + dz, width - 1)
                    out[:, :, i, j] += wy * wz * x[:, :, row, column]
    return out


def pixelwise_reference(student, teacher, variant, temperature) -> float:
    """Fact sheet structured_kd 1.1, pixel by pixel, in Python floats."""
    if variant == "conference":
        student, teacher = enlarged(student), enlarged(teacher)
    n_images, n_classes, height, width = student.shape
    cross = divergence = 0.0
    for n in range(n_images):
        for i in range(height):
            for j in range(width):
                q_s, q_t = (
                    softmax([float(z) / temperature for z in logits[n, :, i, j]])
                    for logits in (student, teacher)
                )
                for s, t in zip(q_s, q_t, strict=True):
                    cross -= t * math.log(s)
                    divergence += t * (math.log(t) - math.log(s))
    return {
        "journal": cross / (height * width),
        "conference": divergence / (n_images * n_classes * height * width),
        "paper": divergence / (n_images * height * width),
    }[variant]


def nodes(features, pool, kernel) -> list[list[list[float]]]:
    """Per image the pooled vectors, row by row; a window at the edge has what is left."""
    n_images, n_channels, height, width = features.shape
    reduce = max if pool == "max" else lambda values: sum(values) / len(values)
    found = []
    for n in range(n_images):
        vectors = []
        for top in range(0, height, kernel[0]):
            for left in range(0, width, kernel[1]):
                vectors.append(
                    [
                        reduce(
                            [
                                float(features[n, c, i, j])
                                for i in range(top, min(top + kernel[0], height))
                                for j in range(left, min(left + kernel[1], width))
                            ]
                        )
                        for c in range(n_channels)
                    ]
                )
        found.append(vectors)
    return found


def affinity_reference(features, pool, kernel, eps) -> list[list[list[float]]]:
    """Fact sheet structured_kd 1.2, pair by pair."""
    matrices = []
    for vectors in nodes(features, pool, kernel):
        norms = [math.sqrt(sum(v * v for v in vector)) + eps for vector in vectors]
        units = [[v / n for v in f] for f, n in zip(vectors, norms, strict=True)]
        matrices.append(
            [[sum(a * b for a, b in zip(f, g, strict=True)) for g in units] for f in units]
        )
    return matrices


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return [2 * torch.randn(2, 4, 2, 3, generator=generator, dtype=torch.float64) for _ in range(2)]


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(2, channels, 5, 7, generator=generator, dtype=torch.float64)
        for channels in (3, 6)
    ]


# Pixel-wise


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("variant", ["journal", "conference", "paper"])
def test_pixelwise_equals_the_formula(logits, variant, temperature):
    loss = pixelwise(*logits, variant=variant, temperature=temperature)
    assert loss.shape == () and loss.dtype == torch.float64
    expected = pixelwise_reference(*logits, variant, temperature)
    assert float(loss) == pytest.approx(expected, rel=1e-9)


def test_one_pixel_by_hand():
    # teacher (1/4, 3/4), student (1/2, 1/2): cross entropy ln 2, KL = ln 2 - H(1/4)
    teacher = torch.tensor([0.0, math.log(3.0)]).view(1, 2, 1, 1)
    student = torch.zeros(1, 2, 1, 1)
    kl = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert float(pixelwise(student, teacher)) == pytest.approx(math.log(2), rel=1e-6)
    assert float(pixelwise(student, teacher, variant="paper")) == pytest.approx(kl, rel=1e-6)
    # a single position fills the enlarged map; the conference divides by the classes as well
    assert float(pixelwise(student, teacher, variant="conference")) == pytest.approx(
        kl / 2, rel=1e-6
    )


def test_journal_is_the_default_and_grows_with_the_batch_but_not_with_the_map(logits):
    student, teacher = logits
    loss = pixelwise(student, teacher)
    assert float(loss) == float(pixelwise(student, teacher, variant="journal", temperature=1.0))
    thrice = pixelwise(student.repeat(3, 1, 1, 1), teacher.repeat(3, 1, 1, 1))
    torch.testing.assert_close(thrice, 3 * loss)
    wider = pixelwise(student.repeat(1, 1, 1, 5), teacher.repeat(1, 1, 1, 5))
    torch.testing.assert_close(wider, loss)
    for variant in ("conference", "paper"):
        torch.testing.assert_close(
            pixelwise(student.repeat(3, 1, 1, 1), teacher.repeat(3, 1, 1, 1), variant=variant),
            pixelwise(student, teacher, variant=variant),
        )


def test_journal_gradient_is_that_of_the_divergence_times_the_normalisation(logits):
    student, teacher = logits
    student.requires_grad_()
    (journal,) = torch.autograd.grad(pixelwise(student, teacher), student)
    # the paper's mean over N H W against the sum over N divided by H W
    (paper,) = torch.autograd.grad(pixelwise(student, teacher, variant="paper"), student)
    torch.testing.assert_close(journal, len(student) * paper)
    (kl,) = torch.autograd.grad(matching.segmentation(student, teacher), student)
    torch.testing.assert_close(journal, len(student) * kl)
    # by hand: (q_s - q_t) / (H W)
    by_hand = (student.softmax(1) - teacher.softmax(1)) / (2 * 3)
    torch.testing.assert_close(journal, by_hand.detach())


def test_equal_logits_cost_the_teachers_entropy_or_nothing(logits):
    _, teacher = logits
    student = teacher.clone().requires_grad_()
    entropy = -(teacher.softmax(1) * teacher.log_softmax(1)).sum() / (2 * 3)
    torch.testing.assert_close(pixelwise(student, teacher).detach(), entropy)
    for variant in ("conference", "paper"):
        loss = pixelwise(student, teacher, variant=variant)
        assert loss.item() == 0
        (gradient,) = torch.autograd.grad(loss, student)
        assert float(gradient.abs().max()) < 1e-12


def test_conference_leaves_an_enlarged_student_as_it_is(logits):
    student, teacher = logits
    large = F.interpolate(student, scale_factor=8, mode="bilinear", align_corners=True)
    torch.testing.assert_close(
        pixelwise(large, teacher, variant="conference"),
        pixelwise(student, teacher, variant="conference"),
    )
    # any map of that size is taken pixel by pixel
    other = torch.randn(2, 4, 16, 24, dtype=torch.float64)
    large_t = F.interpolate(teacher, scale_factor=8, mode="bilinear", align_corners=True)
    expected = F.kl_div(other.log_softmax(1), large_t.softmax(1), reduction="none").mean()
    torch.testing.assert_close(pixelwise(other, teacher, variant="conference"), expected)


@pytest.mark.parametrize("variant", ["journal", "conference", "paper"])
def test_pixelwise_gradient(logits, variant):
    student, teacher = (z[:1, :3].clone().requires_grad_() for z in logits)
    assert torch.autograd.gradcheck(
        lambda s, t: pixelwise(s, t, variant=variant, temperature=2.0), (student, teacher)
    )


@pytest.mark.parametrize("variant", ["journal", "conference", "paper"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_pixelwise_raises_half_types(logits, variant, dtype):
    student, teacher = (z.to(dtype) for z in logits)
    student.requires_grad_()
    loss = pixelwise(student, teacher, variant=variant)
    assert loss.dtype == torch.float32
    exact = pixelwise(student.double(), teacher.double(), variant=variant)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pixelwise(student, teacher, variant=variant).item() == loss.item()
    loss.backward()
    assert student.grad.dtype == dtype


@pytest.mark.parametrize("variant", ["journal", "conference", "paper"])
def test_extreme_logits_stay_finite(variant):
    student = torch.tensor([1e4, -1e4]).view(1, 2, 1, 1).requires_grad_()
    loss = pixelwise(student, -student.detach(), variant=variant)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all()
    # all of the teacher's mass costs 2e4, shared by the classes in the conference form
    assert float(loss.detach()) == pytest.approx(1e4 if variant == "conference" else 2e4)


def test_pixelwise_refuses_what_does_not_fit(logits):
    student, teacher = logits
    with pytest.raises(ValueError, match="one of journal, conference, paper, not 'kl'"):
        pixelwise(student, teacher, variant="kl")
    with pytest.raises(ValueError, match="temperature"):
        pixelwise(student, teacher, temperature=0.0)
    for variant in ("journal", "conference", "paper"):
        with pytest.raises(ValueError, match="of one size"):
            pixelwise(student[:, :3], teacher, variant=variant)
        with pytest.raises(ValueError, match="of one size"):
            pixelwise(student[..., :2], teacher, variant=variant)
        with pytest.raises(ValueError, match="of one size"):
            pixelwise(student[0], teacher[0], variant=variant)
    with pytest.raises(ValueError, match="of one size"):
        pixelwise(torch.zeros(2, 4, 16, 24), teacher)


# Pair-wise


@pytest.mark.parametrize("pool", ["max", "avg"])
@pytest.mark.parametrize(
    ("arguments", "kernel"),
    [
        ({}, (2, 3)),
        ({"ratio": 0.4}, (2, 2)),
        ({"ratio": 1.0}, (5, 7)),
        ({"window": 3}, (3, 3)),
        ({"window": 3, "ratio": 0.2}, (3, 3)),
        ({"window": 99}, (99, 99)),
        (CONFERENCE, (1, 1)),
        ({"window": 2, "eps": 0.5}, (2, 2)),
    ],
)
def test_pairwise_equals_the_formula(features, pool, arguments, kernel):
    eps = arguments.get("eps", 1e-8)
    matrices = [affinity_reference(f, pool, kernel, eps) for f in features]
    for f, expected in zip(features, matrices, strict=True):
        torch.testing.assert_close(
            affinity(f, pool=pool, **arguments), torch.tensor(expected, dtype=torch.float64)
        )
    s, t = (torch.tensor(m, dtype=torch.float64) for m in matrices)
    total = 0.0
    for n in range(s.shape[0]):
        for i in range(s.shape[1]):
            for j in range(s.shape[2]):
                total += (float(s[n, i, j]) - float(t[n, i, j])) ** 2
    loss = pairwise(*features, pool=pool, **arguments)
    assert loss.shape == () and loss.dtype == torch.float64
    assert float(loss) == pytest.approx(total / s.numel(), rel=1e-9)


def test_two_nodes_by_hand():
    # student: both nodes along one axis, cosine 1; teacher: at a right angle, cosine 0
    student = torch.tensor([[1.0, 2.0], [0.0, 0.0]]).view(1, 2, 1, 2)
    teacher = torch.tensor([[3.0, 0.0], [0.0, 5.0]]).view(1, 2, 1, 2)
    torch.testing.assert_close(affinity(student, window=1), torch.ones(1, 2, 2))
    torch.testing.assert_close(affinity(teacher, window=1), torch.eye(2)[None])
    # 2 of 4 pairs differ by 1
    assert float(pairwise(student, teacher, window=1)) == pytest.approx(0.5)


def test_half_of_65_leaves_nine_nodes_and_two_pixels_33_by_33():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 65, 65, generator=generator)
    assert affinity(x).shape == (1, 9, 9)
    assert affinity(x, window=2).shape == (1, 33 * 33, 33 * 33)
    # windows of 32, 32 and 1 rows and columns
    corner = x[..., 64:, 64:].flatten()
    first = x[..., :32, :32].amax((2, 3)).flatten()
    expected = torch.cosine_similarity(corner, first, dim=0)
    torch.testing.assert_close(affinity(x)[0, 8, 0], expected)
    first = x[..., :32, :32].mean((2, 3)).flatten()
    expected = torch.cosine_similarity(corner, first, dim=0)
    torch.testing.assert_close(affinity(x, pool="avg")[0, 8, 0], expected)


@pytest.mark.parametrize("entries", [1, 60, 2**24])
def test_blocks_do_not_change_the_loss(features, monkeypatch, entries):
    """The block sizes that large maps need, on a small one: 35 nodes, whole and in pieces."""
    monkeypatch.setattr(affinity_parts, "_BLOCK_ENTRIES", entries)
    monkeypatch.setattr(affinity_parts, "_BLOCK_ROWS", 8)
    student, teacher = (f.clone().requires_grad_() for f in features)
    loss = pairwise(student, teacher, **CONFERENCE)
    plain = (affinity(student, **CONFERENCE) - affinity(teacher, **CONFERENCE)).square().mean()
    torch.testing.assert_close(loss, plain)
    expected = torch.autograd.grad(plain, (student, teacher))
    torch.testing.assert_close(
        torch.autograd.grad(3 * loss, (student, teacher))[0], 3 * expected[0]
    )
    only_t = pairwise(student.detach(), teacher, **CONFERENCE)
    torch.testing.assert_close(torch.autograd.grad(only_t, teacher)[0], expected[1])


def test_channel_order_and_scale_do_not_matter(features):
    student, teacher = features
    loss = pairwise(student, teacher, window=2)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    torch.testing.assert_close(pairwise(student, teacher[:, order], window=2), loss)
    scale = torch.tensor([0.1, 30.0], dtype=torch.float64).view(2, 1, 1, 1)
    torch.testing.assert_close(pairwise(student * scale, teacher / scale, window=2), loss)
    twice = pairwise(student.repeat(2, 1, 1, 1), teacher.repeat(2, 1, 1, 1), window=2)
    torch.testing.assert_close(twice, loss)


def test_pairwise_is_zero_when_equal(features):
    student = features[0].clone().requires_grad_()
    loss = pairwise(student, features[0], window=1)
    loss.backward()
    assert loss.item() == 0 and not student.grad.any()


@pytest.mark.parametrize("pool", ["max", "avg"])
@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_pairwise_gradient(features, pool, eps):
    student, teacher = (f[:, :, :3, :3].clone().requires_grad_() for f in features)
    for window in (1, 2):
        assert torch.autograd.gradcheck(
            lambda s, t, window=window: pairwise(
                s, t, pool=pool, window=window, detach_norm=False, eps=eps
            ),
            (student, teacher),
        )


def test_detached_norm_ignores_the_normaliser(features):
    """With the norms as constants the gradient has a part along the feature; without, none."""
    student, teacher = features
    student.requires_grad_()
    norms = student.detach().norm(dim=1, keepdim=True) + 1e-8
    units = student / norms
    a_s = torch.einsum("nchw,ncij->nhwij", units, units).flatten(3).flatten(1, 2)
    plain = (a_s - affinity(teacher, window=1)).square().mean()
    (expected,) = torch.autograd.grad(plain, student)
    (detached,) = torch.autograd.grad(pairwise(student, teacher, window=1), student)
    torch.testing.assert_close(detached, expected)
    (full,) = torch.autograd.grad(pairwise(student, teacher, **CONFERENCE), student)
    along = (detached * student).sum(1).abs()
    assert float(along.detach().max()) > 1e-3
    assert float((full * student).sum(1).detach().abs().max()) < 1e-12


@pytest.mark.parametrize("detach_norm", [False, True])
@pytest.mark.parametrize("eps", [0.0, 1e-8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_zero_vectors_stay_finite(features, detach_norm, eps, dtype):
    student, teacher = (f.to(dtype) for f in features)
    student[:, :, 0], teacher[:, :, 1] = 0, 0
    student.requires_grad_()
    arguments = {"window": 1, "detach_norm": detach_norm, "eps": eps}
    loss = pairwise(student, teacher, **arguments)
    assert torch.isfinite(loss)
    matrix = affinity(student, **arguments)
    assert torch.isfinite(matrix).all() and not matrix[:, :7].any()
    (gradient,) = torch.autograd.grad(loss, student)
    assert torch.isfinite(gradient).all()
    # of the same order as everywhere else, although 1 / eps is 1e8 or infinite
    assert float(gradient[:, :, 0].abs().max()) < 100 * float(gradient[:, :, 1:].abs().max())
    everywhere = torch.zeros_like(student, requires_grad=True)
    pairwise(everywhere, teacher, **arguments).backward()
    assert torch.isfinite(everywhere.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_pairwise_raises_half_types(features, dtype):
    student, teacher = (f.to(dtype) for f in features)
    loss = pairwise(student, teacher, window=2)
    assert loss.dtype == torch.float32
    exact = pairwise(student.double(), teacher.double(), window=2)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert float(pairwise(student, teacher, window=2)) == float(loss)
        assert affinity(student).dtype == torch.float32
    assert pairwise(student, teacher.double()).dtype == torch.float64


def test_teachers_of_inference_mode_serve(features, logits):
    student, student_logits = features[0].requires_grad_(), logits[0].requires_grad_()
    with torch.inference_mode():
        teacher, teacher_logits = features[1].clone(), logits[1].clone()
    for arguments in ({}, {"pool": "avg"}, CONFERENCE):
        loss = pairwise(student, teacher, **arguments)
        loss.backward()
        assert loss.item() == pairwise(student, features[1], **arguments).item()
    for variant in ("journal", "conference", "paper"):
        loss = pixelwise(student_logits, teacher_logits, variant=variant)
        loss.backward()
        assert loss.item() == pixelwise(student_logits, logits[1], variant=variant).item()


def test_pooling_for_repeatable_gradients_is_the_same_pooling(features):
    """CUDA takes this way under deterministic algorithms; ties included, as after a ReLU."""
    x = features[1].relu().requires_grad_()
    for pool in ("max", "avg"):
        for kernel in ((2, 3), (4, 2), (5, 7)):
            ours = affinity_parts._pooled_repeatably(x, pool, kernel)
            plain = affinity_parts._pooled(x, pool, kernel)
            torch.testing.assert_close(ours, plain)
            weight = torch.randn_like(plain)
            torch.testing.assert_close(
                torch.autograd.grad((ours * weight).sum(), x),
                torch.autograd.grad((plain * weight).sum(), x),
            )


def test_pairwise_refuses_what_does_not_fit(features):
    student, teacher = features
    for other in (teacher[..., :6], teacher[:, :, :4], teacher[:1], teacher[0]):
        with pytest.raises(ValueError, match="the same N, H and W"):
            pairwise(student, other)
    with pytest.raises(ValueError, match="one of max, avg, not 'mean'"):
        pairwise(student, teacher, pool="mean", window=1)
    with pytest.raises(ValueError, match="kernel of 0 x 1"):
        pairwise(student, teacher, ratio=0.15)
    for ratio in (0.0, -0.5, 1.5):
        with pytest.raises(ValueError, match="ratio must lie"):
            pairwise(student, teacher, ratio=ratio)
    for window in (0, -1, 2.0):
        with pytest.raises(ValueError, match="window must be"):
            pairwise(student, teacher, window=window)
    with pytest.raises(ValueError, match="eps"):
        pairwise(student, teacher, eps=-1e-8)
    with pytest.raises(ValueError, match=r"must be \(N, C, H, W\)"):
        affinity(student[0])


# Holistic


def test_adversarial_terms_by_hand():
    student, teacher = torch.tensor([0.5, -3.0]), torch.tensor([0.25, 2.0])
    assert float(adversarial_student(student)) == 1.25
    assert float(adversarial_critic(student, teacher, kind="wgan-gp")) == -1.25 - 1.125
    # teacher is real: (0.75 + 0) / 2 + (1.5 + 0) / 2
    assert float(adversarial_critic(student, teacher, kind="hinge")) == 0.375 + 0.75
    with pytest.raises(ValueError, match="one of wgan-gp, hinge, not 'gan'"):
        adversarial_critic(student, teacher, kind="gan")


def test_adversarial_gradients():
    student, teacher = (torch.randn(3, 1, 2, 2, dtype=torch.float64) for _ in range(2))
    student.requires_grad_(), teacher.requires_grad_()
    (gradient,) = torch.autograd.grad(adversarial_student(student), student)
    torch.testing.assert_close(gradient, torch.full_like(student, -1 / 12))
    for kind in ("wgan-gp", "hinge"):
        assert torch.autograd.gradcheck(
            lambda s, t, kind=kind: adversarial_critic(s, t, kind=kind), (student, teacher)
        )


def test_adversarial_terms_raise_half_types():
    # 4097 ones: a float16 sum would stop at 2048
    scores = torch.ones(4097, 1, dtype=torch.float16)
    assert adversarial_student(scores).dtype == torch.float32
    assert float(adversarial_student(scores)) == -1
    for kind, expected in (("wgan-gp", 0.0), ("hinge", 2.0)):
        loss = adversarial_critic(scores, scores, kind=kind)
        assert loss.dtype == torch.float32 and float(loss) == expected
        assert adversarial_critic(scores, scores.double(), kind=kind).dtype == torch.float64


@pytest.mark.parametrize("weight", [10.0, 0.5])
def test_penalty_of_a_linear_critic_is_known(weight):
    maps = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64)
    direction = torch.randn(2, 4, 4, dtype=torch.float64, requires_grad=True)
    loss = gradient_penalty(
        lambda z: (z * direction).sum((1, 2, 3)), maps[0], maps[1], weight=weight
    )
    # the gradient is the direction itself, for every mixture
    expected = weight * (direction.norm() - 1) ** 2
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, direction), torch.autograd.grad(expected, direction)
    )


def test_penalty_takes_alpha_of_the_teacher_and_the_gradient_of_the_sum():
    student, teacher = torch.full((2, 1, 1, 1), 2.0), torch.full((2, 1, 1, 1), 6.0)
    alpha = torch.tensor([0.25, 1.0]).view(2, 1, 1, 1)
    seen = []

    def critic(z):
        seen.append(z.detach().clone())
        # two scores per image: z^2 / 2 and z, so the sum has the gradient z + 1
        return torch.cat([z.square() / 2, z], 1)

    loss = gradient_penalty(critic, student, teacher, alpha=alpha, weight=1.0)
    # mixtures 3 and 6, gradients 4 and 7
    torch.testing.assert_close(seen[0].flatten(), torch.tensor([3.0, 6.0]))
    assert loss.item() == pytest.approx((3**2 + 6**2) / 2)


def test_penalty_draws_one_alpha_per_image():
    seen = []

    def critic(z):
        seen.append(z.detach().clone())
        return z.sum()

    shape = (4, 2, 3, 3)
    for _ in range(2):
        torch.manual_seed(3)
        gradient_penalty(critic, torch.zeros(shape), torch.ones(shape))
    assert torch.equal(*seen)
    shares = seen[0].flatten(1)
    assert (shares == shares[:, :1]).all()
    assert len(shares[:, 0].unique()) == 4 and shares.min() >= 0 and shares.max() < 1


def test_penalty_reaches_the_critic_only():
    torch.manual_seed(0)
    critic = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.Tanh(), torch.nn.Conv2d(4, 1, 2)
    ).double()
    student, teacher = (
        torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    alpha = torch.tensor([0.3, 0.8], dtype=torch.float64).view(2, 1, 1, 1)
    gradient_penalty(critic, student, teacher, alpha=alpha).backward()
    assert student.grad is None and teacher.grad is None
    weight = critic[0].weight
    # against finite differences of the penalty
    step, index = 1e-6, (1, 2, 0, 1)
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[index] += sign * step
            values.append(float(gradient_penalty(critic, student, teacher, alpha=alpha)))
            weight[index] -= sign * step
    expected = (values[0] - values[1]) / (2 * step)
    assert abs(expected) > 1e-3
    assert float(weight.grad[index]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["zero weight", "dead unit", "constant", "unused"])
def test_a_critic_without_gradient_is_penalised_and_stays_finite(kind):
    parameter = torch.zeros(1, requires_grad=True)
    critics = {
        "zero weight": lambda z: (parameter * z).sum((1, 2, 3)),
        "dead unit": lambda z: (z - 1e3 + parameter).relu().sum((1, 2, 3)),
        "constant": lambda z: torch.ones(len(z)),
        "unused": lambda z: parameter.expand(len(z)),
    }
    maps = torch.randn(2, 2, 3, 4, 4)
    loss = gradient_penalty(critics[kind], maps[0], maps[1])
    assert float(loss.detach()) == 10
    if loss.requires_grad:
        (gradient,) = torch.autograd.grad(loss, parameter, materialize_grads=True)
        assert torch.isfinite(gradient).all()


def test_penalty_raises_half_types_and_works_without_gradients():
    maps = torch.randn(2, 2, 3, 4, 4).half()
    with torch.no_grad():
        loss = gradient_penalty(lambda z: (z * 0.5).sum((1, 2, 3)), maps[0], maps[1])
    assert loss.dtype == torch.float32 and not loss.requires_grad
    assert float(loss) == pytest.approx(10 * (0.5 * math.sqrt(48) - 1) ** 2, rel=1e-5)


def test_penalty_refuses_what_does_not_fit():
    maps = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match="of one size"):
        gradient_penalty(torch.sum, maps, maps[:, :2])
    with pytest.raises(ValueError, match=r"alpha must be \(2, 1, 1, 1\)"):
        gradient_penalty(torch.sum, maps, maps, alpha=torch.zeros(2))
