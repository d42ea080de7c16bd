# %% [markdown]
# # 3 · The student, three ways
#
# The student is a small PSPNet. It starts from weights that were learnt with the labels, and then
# goes on in one of three ways, always for the same number of steps:
#
# | way | pictures | told by |
# |---|---|---|
# | (1) supervised | the labelled stills | their labels |
# | (2) distil | the labelled stills | the teacher |
# | (3) function matching | the labelled stills **and** the unlabelled frames | the teacher |
#
# Way 1 asks what more training alone would give. Way 2 adds the teacher, way 3 adds the pictures.
# This one page runs all of them, and the common start too: the name of the run decides.

# %% tags=["parameters"]
run = "funmatch-seg-matching"  # or -start, -supervised, -distil, -matching-x4, ...
scale = "smoke"  # smoke | sample | gpu | paper
seed = 0  # draws the labelled images, the first weights and the views

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from kdlib import config, evaluation, experiment, runtime
from kdlib.data import augment, layouts
from kdlib.data.loader import Batches
from kdlib.losses import matching
from kdlib.report.provenance import provenance
from kdlib.report.records import write_record
from kdlib.report.sheet import sheet
from kdlib.resize import to_grid

# %%
started = time.time()
cfg = config.load_run(run, scale=scale, seed=seed)
plt.rcParams.update({"axes.titlelocation": "left", "axes.titlesize": 11, "figure.dpi": 90})
print(f"{cfg.title}: method {cfg.method.name}, starts from {cfg.init or 'random weights'}")
parts = experiment.prepare(cfg)

# %% [markdown]
# A teacher that is loaded has to pass an examination: on a fixed sample it must reach the score
# that was recorded with its weights. Else its input size, its normalisation or its weights are not
# what they were.

# %%
layout, device = layouts.get(cfg.data.layout), parts.fabric.device
method, teacher = parts.method, parts.teacher
print(f"{len(parts.source):,} pictures, {len(parts.labelled)} of them with labels at hand")
print(f"student: {experiment.parameter_count(parts.network):,} parameters")
if teacher is not None:
    size = sum(p.numel() for p in teacher.parameters())
    print(f"teacher: {size:,} parameters, mIoU {100 * teacher.score:.1f} % on its sample")


# %% [markdown]
# ## The loss
#
# Two networks look at one picture. At pixel $u$ the teacher gives class $c$ the probability
# $p^t_{u,c}$ and the student $p^s_{u,c}$. Function matching makes the second distribution equal to
# the first:
#
# $$\mathcal L = \frac{T^2}{|\Omega|}\sum_{u\in\Omega}\,\sum_{c} p^t_{u,c}
# \left(\log p^t_{u,c} - \log p^s_{u,c}\right),\qquad p_u = \mathrm{softmax}(z_u/T).$$
#
# There is no label in it. $\Omega$ is every pixel of the picture, those that annotators ignored
# included; only padding is left out. The inner sum is the Kullback-Leibler divergence
# $\mathrm{KL}(t\,\|\,s)$ at one pixel, which is what the next cell computes.

# %%
def divergence(student_NCHW, teacher_NCHW):
    """KL(teacher || student) at each pixel, in nats."""
    log_s = student_NCHW.float().log_softmax(dim=1)
    log_t = teacher_NCHW.float().log_softmax(dim=1)
    return (log_t.exp() * (log_t - log_s)).sum(dim=1)


# %% [markdown]
# Three properties can be checked without any data: the library's loss is the mean of this map;
# equal answers cost nothing; and unequal ones always cost something.

# %% tags=["nbval-check-output"]
random = runtime.generator(0, "notebook")
one, other = torch.randn(2, 3, 19, 9, 16, generator=random)
assert torch.allclose(matching.segmentation(one, other), divergence(one, other).mean(), rtol=1e-4)
assert matching.segmentation(other, other) == 0
assert matching.segmentation(other + 5, other) < 1e-6  # softmax ignores a common shift
assert (divergence(one, other) > 0).all()
print("ok: mean over pixels, zero when equal, positive when not")


# %% [markdown]
# Why $T^2$? A temperature $T$ makes both distributions flatter, and the gradient shrinks like
# $1/T^2$. The factor takes that back, so that changing $T$ does not silently change the learning
# rate.

# %% tags=["nbval-check-output"]
def gradient(temperature):
    """Size of the loss's gradient with respect to the student's scores."""
    student = one.clone().requires_grad_()
    matching.segmentation(student, other, temperature=temperature).backward()
    return float(student.grad.norm())


hot = {T: gradient(T) for T in (10.0, 20.0, 40.0)}
assert abs(hot[20.0] / hot[10.0] - 1) < 0.1 and abs(hot[40.0] / hot[20.0] - 1) < 0.1
print("ok: at high temperatures the gradient no longer depends on T")

# %% [markdown]
# This page uses $T=1$, as Beyer et al. do on ImageNet: the student shall copy the very function
# that the teacher computes.
#
# ## The pictures
#
# Step $t$ takes a batch from the shuffled source. Which pictures those are depends on the seed and
# on $t$.

# %%
pixels, labels = Batches(parts.source, 10, seed)[0]

# %%
shown = [picture.permute(1, 2, 0).numpy() for picture in pixels]
extra = len(parts.source) - len(parts.labelled)
times = len(parts.source) / len(parts.labelled)
title = f"Ten of {len(parts.source):,} pictures: {times:.0f} times as many as there are labels"
sheet([shown[:5], shown[5:]], [], title if extra else "Ten draws from the labelled stills")
plt.show()

# %% [markdown]
# With function matching most of these were never labelled by anyone. With the other two ways the
# same few stills come back again and again.
#
# ## One view for both
#
# A picture is zoomed, shifted, flipped and recoloured once, and the *result* goes to both networks.
# In the loop this is one variable, `views.images`, used twice. The teacher is not asked about the
# picture in general but about these pixels.

# %%
numbers = augment.draw(len(pixels), cfg.augment, runtime.generator(seed, "preview"))
views = augment.apply(pixels.to(device), None, numbers, cfg.augment.crop or cfg.data.size)
views = method.prepare(views, runtime.generator(seed, "blend"))
judge = (teacher if teacher is not None else parts.network).eval()
with torch.inference_mode(), parts.fabric.autocast():
    told = judge(views.images).logits
    said = parts.network.eval()(views.images).logits
told = to_grid(told, said.shape[-2:])
distance = divergence(said, told)

# %%
blank = [(0, 0, 0)] * (256 - len(layout.PALETTE))
palette = np.array([*layout.PALETTE, *blank], np.uint8)
picture = [view.permute(1, 2, 0).float().cpu().numpy() for view in views.images[:5]]
answer = [palette[scores.argmax(0).cpu().numpy()] for scores in told[:5]]
before = [palette[scores.argmax(0).cpu().numpy()] for scores in said[:5]]
top = float(distance[:5].max())
where = [plt.cm.magma(d.cpu().numpy() / max(top, 1e-9)) for d in distance[:5]]
sheet(
    [picture, answer, before, where],
    [f"KL {d.mean():.2f} nats" for d in distance[:5]],
    f"From above: view, teacher, student before training, distance (pale: {top:.1f} nats)",
)
plt.show()

# %% [markdown]
# The lowest row is the loss as a map, black where it is zero. It is bright where the student does
# not yet know what the teacher sees there; that is all that training will change. A teacher that is
# asked twice about the same view answers twice the same, so there is an answer to be learnt.

# %% tags=["nbval-check-output"]
with torch.inference_mode():
    twice = [judge(views.images).logits for _ in range(2)]
assert divergence(*twice).abs().max() < 1e-6
print("ok: the same view gets the same answer")

# %% [markdown]
# What if teacher and student got views of their own? The next cell asks *one* network about *one*
# picture in two colourings. Geometry is the same, so every pixel shows the same thing twice.

# %%
recolour = config.Augment(zoom=(1.0, 1.0), flip=0.0, colour=max(cfg.augment.colour, 0.1))
answers = []
for name in ("student's view", "teacher's view"):
    drawn = augment.draw(len(pixels), recolour, runtime.generator(seed, name))
    with torch.inference_mode():
        answers.append(
            judge(augment.apply(pixels.to(device), None, drawn, cfg.data.size).images).logits
        )
noise = divergence(*answers)
flips = 100 * (answers[0].argmax(1) != answers[1].argmax(1)).float().mean()
print(f"two colourings: KL {noise.mean():.3f} nats, {flips:.1f} % of the pixels change class")

# %% [markdown]
# That is the noise which inconsistent teaching would put on every target, and no student can learn
# it away. Beyer et al. found consistency to be the most important of their three ingredients.
#
# ## Training
#
# The same loop as on the page before. The method turns a batch into named terms, the loop adds them
# up.

# %%
trained = experiment.fit(parts)
print(f"{cfg.schedule.steps} steps of {cfg.schedule.batch} pictures in {trained.seconds:.0f} s")

# %%
history = pd.DataFrame(trained.history)
(term,) = [name for name in ("matching", "cross_entropy") if name in history][:1]
first, last = history[term].iloc[[0, -1]]
label = {"matching": "KL(teacher || student), nats", "cross_entropy": "cross entropy, nats"}[term]
passes = trained.samples / len(parts.source)

figure, axis = plt.subplots(figsize=(7, 2.8))
axis.plot(history["step"], history[term], "o-", ms=3, color="#0072B2")
axis.set(xlabel="step", ylabel=label, xlim=(0, 1.03 * cfg.schedule.steps))
axis.set_ylim(0, 1.1 * history[term].max())
axis.set_title(f"From {first:.2f} to {last:.2f} nats; each picture was seen {passes:.3g} times")
plt.show()

# %% [markdown]
# Read the title's last number. A way that sees each picture hundreds of times can learn the
# pictures instead of the function; a way that sees each picture once cannot. A low training loss is
# therefore no success by itself, and the next section uses pictures that were not trained on.
#
# ## What came of it
#
# The student is judged twice: against the truth, and against its teacher. Agreement is the share of
# pixels where both name the same class, and the mean KL by the very function that was the loss.

# %%
scores = experiment.score(parts)
rows = {"mIoU with the truth, %": {"val": 100 * scores["val"]["miou"]}}
for split, found in scores.items():
    for key, unit in (("pixel", "%"), ("miou", "%"), ("kl", "nats")):
        if "agreement" in found:
            value = found["agreement"][key] * (100 if unit == "%" else 1)
            rows.setdefault(f"agreement: {key}, {unit}", {})[split] = value
pd.DataFrame(rows).T.map(lambda number: "–" if np.isnan(number) else f"{number:.3g}")

# %% [markdown]
# `heldout` are unlabelled frames of clips that no run learns from. For them there is no truth, so
# only agreement can be measured: it is the honest measure of how well the *function* was copied.

# %%
chosen = parts.report[:: max(1, len(parts.report) // 4)][:4]
pictures = [layout.read_image(sample.image) for sample in chosen]
truths = [layout.read_label(sample.label) for sample in chosen]
networks = [n for n in (teacher, parts.network) if n is not None]
answers = [
    [evaluation.predict(n, p, cfg.data.size, parts.fabric) for p in pictures] for n in networks
]

# %%
target, own = answers[0], answers[-1]
apart = [
    np.where((a != b)[..., None], (255, 0, 110), p // 3 + 150).astype(np.uint8)
    for a, b, p in zip(target if len(answers) > 1 else truths, own, pictures)
]
share = 100 * np.mean([(p == (255, 0, 110)).all(-1).mean() for p in apart])
other = "teacher" if len(answers) > 1 else "truth"
rows = [pictures, [palette[t] for t in truths]]
rows += [[palette[a] for a in group] for group in answers]
words = ["picture", "truth", *["teacher"] * (len(answers) - 1), "student", "difference"]
title = f"From above: {', '.join(words)}; {share:.0f} % of the pixels differ from the {other}"
sheet([*rows, apart], [s.id for s in chosen], title, height=1.5)
plt.show()

# %% [markdown]
# Look for places where teacher and student are wrong together. For function matching that is
# success: the student was asked for the teacher's answer, not for the right one.
#
# ## What is kept
#
# Weights and history go to `runs/`, the record goes to `results/`.

# %%
experiment.finish(parts, trained, scores)
facts = experiment.facts(parts, trained, scores)
origin = provenance(parts.root, data_hash=parts.data_hash, started=started)
record = write_record(parts.root / cfg.record, origin | facts)
experiment.forget(parts)
print(f"weights: {cfg.folder}\nrecord:  {record.relative_to(parts.root)}")

# %% [markdown]
# ## Where this differs from the paper
#
# The paper's loss, temperature, schedule and start are not known. Rows *Loss*, *Temperature*,
# *Labels in the student's loss*, *Ignored pixels*, *Weight of a pixel*, *Where the distributions
# are compared*, *Mixup* and *Start of the student* of the [deviation
# ledger](../../published/function_matching.yaml) say what was done here and why; page 5 prints the
# whole ledger.
#
# ## Exercises
#
# 1. **Temperature.** Set `method.temperature` to 2.0 and 4.0. Agreement in KL gets worse by
#    construction; does mIoU?
# 2. **Mixup.** Set `method.mixup: true` for `funmatch-seg-matching`. Beyer et al. found that
#    blending pictures hurts short runs and helps long ones. Where does this run lie?
# 3. **No shared start.** Set `init: null` for all three ways. Which of them suffers most, and how
#    many steps does it need to catch up?
