"""Learning rates over a run."""

import math

from kdlib.config import Schedule


def learning_rate(plan: Schedule, step: int) -> float:
    """Learning rate of a step: linear warm-up, then cosine or poly decay to 0 over all steps.

    "step" leaves the rate alone but for a tenth of it after each of `plan.drops`.
    """
    warm = min(1.0, (step + 1) / plan.warmup) if plan.warmup else 1.0
    if plan.decay == "poly":
        return warm * poly_lr(plan.lr, step, plan.steps)
    if plan.decay == "step":
        return warm * plan.lr * 0.1 ** sum(step >= share * plan.steps for share in plan.drops)
    return warm * plan.lr * 0.5 * (1 + math.cos(math.pi * step / plan.steps))


def poly_lr(base: float, step: int, max_steps: int, power: float = 0.9) -> float:
    """Poly schedule base * (1 - step / max_steps)^power, 0 from max_steps on."""
    return base * max(0.0, 1 - step / max_steps) ** power
