"""Structured distillation for segmentation: pixel-wise, pair-wise and holistic terms.

Liu et al., "Structured knowledge distillation for semantic segmentation", CVPR 2019, and "... for
dense prediction", TPAMI 2020; fact sheet structured_kd, sections 1.1 to 1.5. A factor means nothing
without the normalisation of its term, so both come together, as a named set of weights.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from lightning.fabric import Fabric
from torch import nn

from kdlib import config
from kdlib.data.augment import Views
from kdlib.data.layouts import IGNORE
from kdlib.losses import structured
from kdlib.methods.base import Alone
from kdlib.methods.supervised import LABEL_WEIGHTS, Supervised
from kdlib.models.critic import Critic
from kdlib.models.outputs import SegmentationOutput
from kdlib.resize import to_grid
from kdlib.runtime import seed_for
from kdlib.schedule import poly_lr

# What the classifiers of PSPNet and of ESPNet read, and the last encoding of a lane network.
FEATURES = ("pyramid", "level3", "high")
CRITIC_LR, CRITIC_MOMENTUM, CRITIC_DECAY = 4e-4, 0.9, 5e-4  # released, with the poly schedule
ENLARGED = 8  # the conference code compares at 8 times the logits' resolution


@dataclass(frozen=True)
class Pairs:
    """Options of the pair-wise term, see `losses.structured.pairwise`."""

    pool: Literal["max", "avg"] = "max"
    ratio: float = 0.5
    window: int | None = None
    detach_norm: bool = True
    eps: float = 1e-8


@dataclass(frozen=True)
class WeightSet:
    """Factors of the terms, with the normalisations and the critic that they belong to."""

    pixelwise: float
    variant: Literal["paper", "journal", "conference"]
    pairwise: float
    pairs: Pairs
    holistic: float  # of the student's term
    critic: float  # of the critic's whole loss, its penalty included
    kind: Literal["wgan-gp", "hinge"]
    conditional: bool  # the critic sees the image as well


_JOURNAL = {
    "pixelwise": 10.0, "variant": "journal", "pairs": Pairs(),
    "holistic": 0.1, "critic": 0.1, "kind": "wgan-gp", "conditional": False,
}  # fmt: skip
WEIGHTS = {
    # lambda_1 = 10 and lambda_2 = 0.1 of the text, nodes of 2 x 2 pixels; fact sheet 1.2 and 1.5
    "paper": WeightSet(
        pixelwise=10.0,
        variant="paper",
        pairwise=10.0,
        pairs=Pairs(pool="avg", window=2, detach_norm=False),
        holistic=0.1,
        critic=0.1,
        kind="wgan-gp",
        conditional=True,
    ),
    "journal-default": WeightSet(**_JOURNAL, pairwise=1.0),
    "journal-script": WeightSet(**_JOURNAL, pairwise=0.5),
    # all factors 1: the defaults of its options; what its runs used is lost
    "conference": WeightSet(
        pixelwise=1.0,
        variant="conference",
        pairwise=1.0,
        pairs=Pairs(window=1, detach_norm=False, eps=0.0),
        holistic=1.0,
        critic=1.0,
        kind="hinge",
        conditional=True,
    ),
}


class Structured(Alone):
    """Cross entropy with the labels, and any of the three terms.

    A teacher on another grid is brought to the student's, logits and features alike. Ignored pixels
    and padding are distilled too, as in the released code. With `settings.unlabelled`, images
    without labels join: only the cross entropy leaves them out.

    The critic takes one step after each of the student's, on the same outputs (fact sheet 1.3).

    In a process group the terms and the critic's steps are those of the whole batch, with one
    exception: the input of the unconditional critic is normalised by each process's own images,
    because torch's batch normalisation over processes has no second derivative for the penalty.
    Deviation: on k devices the released pixel-wise sum weighs a k-th (fact sheet 1.1); not here.
    """

    needs_labels = True
    needs_teacher = True

    def __init__(
        self,
        settings: config.Structured,
        classes: int,
        class_weights: torch.Tensor | None = None,
    ):
        self.settings, self.classes = settings, classes
        self.labels = Supervised(class_weights)
        self.set = WEIGHTS[settings.weights]
        if settings.pixelwise_weight is not None:
            self.set = replace(self.set, pixelwise=settings.pixelwise_weight)
        self.kind = settings.critic or self.set.kind
        self.needs_pool = settings.unlabelled
        pairs = vars(self.set.pairs)
        self.pairs = pairs if settings.window is None else pairs | {"window": settings.window}
        self.critic: Critic | None = None
        self.processes = 1
        self.cure = ""
        if "holistic" in settings.terms and self.kind == "wgan-gp":
            self.cure = (
                "The critic with gradient penalty is known to blow up: set "
                "method.structured.critic: hinge, or take `holistic` out of its terms. "
            )

    @property
    def weights(self) -> dict[str, float]:
        chosen = dict(LABEL_WEIGHTS)
        chosen |= {name: getattr(self.set, name) for name in self.settings.terms}
        if "holistic" in self.settings.terms:
            chosen |= {"critic": self.set.critic, "penalty": self.set.critic}
        return chosen

    def begin(
        self,
        fabric: Fabric,
        seed: int,
        steps: int,
        student: nn.Module | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        """A new critic with weights drawn by the run's seed, and its optimiser."""
        self.processes = fabric.world_size
        if "holistic" not in self.settings.terms:
            return
        torch.manual_seed(seed_for(seed, "critic"))
        critic = Critic(
            self.classes,
            conditional=self.set.conditional,
            blocks=self.settings.critic_blocks,
        )
        self.critic = critic.to(fabric.device).train()
        self.optimizer = torch.optim.SGD(
            self.critic.parameters(), CRITIC_LR, CRITIC_MOMENTUM, weight_decay=CRITIC_DECAY
        )
        self.fabric, self.steps = fabric, steps

    def terms(
        self, views: Views, student: SegmentationOutput, teacher: SegmentationOutput
    ) -> dict[str, torch.Tensor]:
        if views.labels is None:  # a batch of unlabelled images
            views = replace(views, labels=torch.full_like(views.valid, IGNORE, dtype=torch.int64))
        terms = self.labels.terms(views, student)
        if "pixelwise" in self.settings.terms:
            terms["pixelwise"] = structured.pixelwise(
                student.logits, self._on_grid(student, teacher), variant=self.set.variant
            )
            if self.set.variant == "journal":  # a sum over images, which the loop then averages
                terms["pixelwise"] = self.processes * terms["pixelwise"]
        if "pairwise" in self.settings.terms:
            own, other = feature(student), feature(teacher)
            other = to_grid(other, own.shape[-2:])
            terms["pairwise"] = structured.pairwise(own, other, **self.pairs)
        if "holistic" in self.settings.terms:
            self.critic.requires_grad_(False)  # the student's step moves the student alone
            terms["holistic"] = structured.adversarial_student(self._judge(student.logits, views))
        return terms

    def follow(
        self, views: Views, student: SegmentationOutput, teacher: SegmentationOutput, step: int
    ) -> dict[str, torch.Tensor]:
        """One step of the critic: the teacher's logits are the real ones, the student's the false.

        Both were made before the student moved, as in the released code.
        """
        if "holistic" not in self.settings.terms:
            return {}
        self.critic.requires_grad_(True)
        false = student.logits.detach().float()
        real = to_grid(teacher.logits.clone(), false.shape[-2:]).float()  # leaves inference mode
        terms = {
            "critic": structured.adversarial_critic(
                self._judge(false, views), self._judge(real, views), kind=self.kind
            )
        }
        if self.kind == "wgan-gp":
            terms["penalty"] = structured.gradient_penalty(
                lambda logits: self._judge(logits, views), false, real, alpha=self._mixture(false)
            )
        for group in self.optimizer.param_groups:
            group["lr"] = poly_lr(CRITIC_LR, step, self.steps)
        self.optimizer.zero_grad(set_to_none=True)
        (self.set.critic * sum(terms.values())).backward()
        if self.processes > 1:
            for parameter in self.critic.parameters():
                parameter.grad = self.fabric.all_reduce(parameter.grad, reduce_op="mean")
        self.optimizer.step()
        return {name: term.detach() for name, term in terms.items()}

    def state(self) -> dict[str, torch.Tensor]:
        """The critic and its optimiser's momenta."""
        if self.critic is None:
            return {}
        tensors = {f"critic.{name}": value for name, value in self.critic.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors[f"momentum.{number}"] = state["momentum_buffer"]
        return tensors

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        if self.critic is None:
            return
        parts: dict[str, dict[str, torch.Tensor]] = {"critic": {}, "momentum": {}}
        for key, value in state.items():
            which, name = key.split(".", 1)
            parts[which][name] = value
        self.critic.load_state_dict(parts["critic"])
        momenta = {int(n): {"momentum_buffer": value} for n, value in parts["momentum"].items()}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": momenta, "param_groups": groups})

    def _judge(self, logits_NCHW: torch.Tensor, views: Views) -> torch.Tensor:
        return self.critic(logits_NCHW.float(), views.images if self.set.conditional else None)

    def _mixture(self, logits_NCHW: torch.Tensor) -> torch.Tensor | None:
        """This process's share of the whole batch's draws; None, the loss's own draw, if alone."""
        if self.processes == 1:
            return None
        count = self.processes * len(logits_NCHW)
        drawn = torch.rand((count, 1, 1, 1), device=logits_NCHW.device)
        first = self.fabric.all_gather(drawn)[0]  # what one process alone would have drawn
        return first[self.fabric.global_rank :: self.processes]  # as the loader deals out images

    def _on_grid(self, student: SegmentationOutput, teacher: SegmentationOutput) -> torch.Tensor:
        """The teacher's logits where the pixel-wise term can compare them with the student's."""
        size, other = student.logits.shape[-2:], teacher.logits.shape[-2:]
        upsampled = tuple(ENLARGED * side for side in other)
        if self.set.variant == "conference" and tuple(size) == upsampled:
            return teacher.logits  # that variant enlarges the teacher itself
        return to_grid(teacher.logits, size)


def feature(output: SegmentationOutput) -> torch.Tensor:
    """The map that the pair-wise term compares: what the classifier reads, (N, channels, h, w)."""
    for name in FEATURES:
        if name in output.features:
            return output.features[name]
    raise ValueError(
        f"pair-wise distillation reads one of the features {FEATURES}; this network has "
        f"{sorted(output.features)}"
    )
