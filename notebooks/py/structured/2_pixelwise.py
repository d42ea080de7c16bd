# %% [markdown]
# # 2 · The pixel-wise term
#
# The first term is ordinary distillation, at every pixel by itself: the teacher's distribution over
# the classes is the student's target. Paper, journal code and conference code write it down in
# three ways that differ by factors of hundreds. This page computes all three on the answers of real
# networks, finds the factors between them, and looks at a mistake that the published figures may
# contain.

# %% tags=["parameters", "reads-records"]
run = "structured-pi"  # its teacher and its student are asked; any structured row will do
scale = "smoke"  # smoke | sample | gpu | paper
seed = 0  # which student
still = 1  # number of the reported still that is shown

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.patches import Rectangle

from kdlib import config, experiment
from kdlib.data import layouts, loader
from kdlib.losses import structured
from kdlib.methods.structured import WEIGHTS
from kdlib.report import pictures
from kdlib.report.sheet import sheet
from kdlib.resize import bilinear, to_grid

# %%
cfg = config.load_run(run, scale=scale, seed=seed)
plt.rcParams.update({"axes.titlelocation": "left", "axes.titlesize": 11, "figure.dpi": 90})
parts = experiment.prepare(cfg)
student, notes = experiment.load_network(cfg, parts.root, parts.fabric)
layout, device, size = layouts.get(cfg.data.layout), parts.fabric.device, cfg.data.size
print(f"teacher: {parts.teacher.name}; student: {run}, seed {seed}, {cfg.schedule.steps} steps")

# %% [markdown]
# At smoke scale both networks have learnt for six steps: the page shows how the terms work, not how
# good networks look. With `scale = "sample"` and finished runs the same cells show real ones.
#
# Eight reported stills, the one that is shown among them. Both networks answer on a grid coarser
# than the picture; where the grids differ the teacher's is brought to the student's.

# %%
count = min(8, len(parts.report))
stills = [parts.report[(still + i) % len(parts.report)] for i in range(count)]
images = [loader.resize(layout.read_image(sample.image), size) for sample in stills]
truths = [layout.read_label(sample.label) for sample in stills]
batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(device) / 255
with torch.no_grad():
    z_s = student(batch).logits.float()
    z_t = to_grid(parts.teacher(batch).logits.float(), z_s.shape[-2:])
n_images, classes, height, width = z_s.shape
print(f"{n_images} pictures {size[0]} x {size[1]}, logits {height} x {width}, {classes} classes")


# %% [markdown]
# ## Three formulas
#
# With $q=\mathrm{softmax}_c(z)$ for student $s$ and teacher $t$, over $N$ pictures, $C$ classes and
# $H\times W$ positions:
#
# $$\text{paper}\quad \frac{1}{NHW}\sum_{n,i,c} q^t\,(\log q^t-\log q^s) \qquad
# \text{journal}\quad \frac{1}{HW}\sum_{n,i,c} -\,q^t\log q^s \qquad
# \text{conference}\quad \frac{1}{NC\,8H\,8W}\sum_{n,i',c} q^t\,(\log q^t-\log q^s).$$
#
# The first is a mean of divergences. The second is a cross entropy, and it is *not* divided by the
# batch. The third is divided by the classes as well, and $i'$ runs over maps that were enlarged
# eight times. (The formula that is printed in the paper has $s$ and $t$ the other way round; its
# text calls the teacher the soft target, and both codes do as the text says.)

# %%
def divergence(student_NCHW, teacher_NCHW):
    """KL(teacher || student) at each position, (N, H, W), in nats."""
    log_s, log_t = student_NCHW.log_softmax(1), teacher_NCHW.log_softmax(1)
    return (log_t.exp() * (log_t - log_s)).sum(1)


def entropy(logits_NCHW):
    """How undecided the answer is at each position, (N, H, W), in nats."""
    log_q = logits_NCHW.log_softmax(1)
    return -(log_q.exp() * log_q).sum(1)


values = {name: float(structured.pixelwise(z_s, z_t, variant=name)) for name in structured.VARIANTS}
print(", ".join(f"{name} {value:.4f}" for name, value in values.items()))

# %% [markdown]
# The same two answers, and three very different numbers. Two identities explain them.

# %% tags=["nbval-check-output"]
kl, doubt = divergence(z_s, z_t), entropy(z_t)
up_s, up_t = (bilinear(z, (8 * height, 8 * width)) for z in (z_s, z_t))
assert np.isclose(values["paper"], float(kl.mean()), rtol=1e-4)
assert np.isclose(values["journal"], float(n_images * (kl.mean() + doubt.mean())), rtol=1e-4)
assert np.isclose(values["conference"], float(divergence(up_s, up_t).mean()) / classes, rtol=1e-3)
print("ok: paper = mean KL")
print("ok: journal = batch x (mean KL + mean entropy of the teacher)")
print("ok: conference = mean KL of the enlarged maps / classes")

# %% [markdown]
# ## Where the loss is large

# %%
palette, classmap = layout.PALETTE, lambda z: z[0].argmax(0).cpu().numpy()
maps = [m[0].cpu().numpy() for m in (kl, doubt, kl + doubt)]
upper = [images[0], pictures.colourise(truths[0], palette)]
upper += [pictures.colourise(classmap(z), palette) for z in (z_t, z_s)]
far, unsure = float(kl[0].mean()), float(doubt[0].mean())
title = f"On this still the student pays {far:.2f} nats of KL and {unsure:.2f} of the teacher's own"
sheet([upper], ["picture", "truth", "teacher", "student"], title, height=1.5)
words = ["KL, can be learnt away", "entropy, can't be", "their sum: the journal's term"]
words = [f"{word}; pale: {m.max():.2f} nats" for word, m in zip(words, maps)]
sheet([[plt.cm.magma(m / m.max()) for m in maps]], words, "The loss as maps", height=2.0)
plt.show()

# %% [markdown]
# The left map is what training changes. The middle one belongs to the teacher alone: it is zero
# where the teacher is certain, and it stays when the student has become perfect. The right map is
# the number that the journal's code logs. Each map has a scale of its own.
#
# No mask is applied. Pixels that annotators left out are distilled like all others: there is no
# label, but the teacher has an opinion.

# %%
void = 100 * np.mean([(truth == 255).mean() for truth in truths])
print(f"{void:.1f} % of the pixels have no label and count all the same")

# %% [markdown]
# ## Cross entropy or divergence?
#
# The teacher's entropy does not depend on the student, so it has no gradient:
#
# $$\sum_c -q^t_c\log q^s_c \;=\; \mathrm{KL}(q^t\,\|\,q^s) + h(q^t),\qquad
# \frac{\partial}{\partial z^s_c} = q^s_c - q^t_c\quad\text{for both.}$$

# %% tags=["nbval-check-output"]
gradients = {}
for name in ("paper", "journal"):
    asked = z_s.clone().requires_grad_()
    structured.pixelwise(asked, z_t, variant=name).backward()
    gradients[name] = asked.grad * (n_images if name == "paper" else 1)
by_hand = (z_s.softmax(1) - z_t.softmax(1)) / (height * width)
assert torch.allclose(gradients["journal"], gradients["paper"], atol=1e-7)
assert torch.allclose(gradients["journal"], by_hand, atol=1e-7)
assert structured.pixelwise(z_t, z_t, variant="paper").abs() < 1e-5
assert structured.pixelwise(z_t, z_t, variant="journal") > 0
print("ok: same gradient but for the batch; a perfect student still pays the journal's term")

# %% [markdown]
# So the choice between the two changes the curve in the log and nothing in the student. What does
# change the student is the factor in front.
#
# ## What a factor is worth
#
# The next figure computes each variant on the first 1, 2, 4 ... of the stills.

# %%
batches = [n for n in (1, 2, 4, 8) if n <= n_images]
curve = {
    name: [float(structured.pixelwise(z_s[:n], z_t[:n], variant=name)) for n in batches]
    for name in structured.VARIANTS
}
figure, axis = plt.subplots(figsize=(7, 2.8))
for (name, row), colour in zip(curve.items(), ("#0072B2", "#E69F00", "#CC79A7")):
    axis.plot(batches, row, "o-", ms=4, color=colour, label=name)
axis.set(xlabel="pictures in the batch", ylabel="value, nats", yscale="log", xscale="log")
axis.set_xticks(batches, batches)
axis.minorticks_off()
axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
grown = curve["journal"][-1] / curve["journal"][0]
axis.set_title(f"From 1 to {batches[-1]} pictures the journal's term grows {grown:.1f} times")
plt.show()

# %% [markdown]
# Both axes are logarithmic. The journal's term rises with the batch, the other two wander with the
# pictures. A weight is therefore worth what its normalisation makes of it. The table says how often
# one pixel's mean divergence counts in the total, for a batch of eight on one device.

# %%
count_per_pixel = {"paper": 1, "journal": 8, "conference": 1 / classes}
rows = {
    name: {
        "variant": chosen.variant,
        "factor": chosen.pixelwise,
        "factor of the mean KL": chosen.pixelwise * count_per_pixel[chosen.variant],
    }
    for name, chosen in WEIGHTS.items()
}
pd.DataFrame(rows).T.infer_objects().round(3)

# %% tags=["nbval-check-output"]
journal, mixed = WEIGHTS["journal-script"], count_per_pixel["conference"]
assert journal.pixelwise * count_per_pixel[journal.variant] == 80
assert np.isclose(count_per_pixel["journal"] / mixed, 8 * classes)
print("ok: the journal's script counts the mean divergence 80 times at batch 8")
print("ok: its factor with the conference's mean would be 8 x classes too small")


# %% [markdown]
# On $k$ devices the released code sums over $8/k$ pictures each and averages gradients, so there
# the factor is worth $80/k$; here it stays 80. Halving the batch halves it in both: one of the
# reasons why users with small batches could not repeat the published figures. In this library a
# weight set holds factor and variant together, and there is no way to ask for one without the
# other.
#
# ## The wrong axis
#
# Until December 2019 the released code flattened the scores from $(N, C, H, W)$ to rows of length
# $C$ without moving the class axis to the end first. A row then holds one class's scores at $C$
# *neighbouring positions*, and the softmax runs over those.

# %%
def wrong_axis(logits_NCHW):
    """What a softmax over rows of length C is where the class axis was not moved to the end."""
    return logits_NCHW.reshape(-1, logits_NCHW.shape[1]).softmax(1).view_as(logits_NCHW)


def wrong_pixelwise(student_NCHW, teacher_NCHW):
    """The cross entropy with that mistake, over H W as released."""
    q_s, q_t = wrong_axis(student_NCHW), wrong_axis(teacher_NCHW)
    return -(q_t * q_s.log()).sum() / np.prod(student_NCHW.shape[-2:])


used = width // classes * classes or width  # so that each row lies in one line of one map
narrow_s, narrow_t = (z[..., :used].contiguous() for z in (z_s, z_t))
print(f"rows of {classes} positions on maps of {height} x {used}")

# %%
share = np.bincount(z_t[0].argmax(0).flatten().cpu().numpy(), minlength=classes)
shown = int(share.argmax())
right, wrong = narrow_t.softmax(1)[0, shown].cpu(), wrong_axis(narrow_t)[0, shown].cpu()

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 2.6))
words = ("over classes: how much", "over neighbours: where in its row is most")
for axis, part, word in zip(axes, (right, wrong), words):
    mesh = axis.imshow(part, cmap="magma", vmin=0)
    figure.colorbar(mesh, ax=axis, fraction=0.03)
    axis.set_axis_off()
    axis.set_title(f"softmax {word} {layout.CLASSES[shown]}", fontsize=9)
for row in range(0, height, 3):
    axes[1].add_patch(Rectangle((-0.5, row - 0.5), classes, 1, fill=False, ec="w", lw=0.8))
name = layout.CLASSES[shown]
figure.suptitle(f"The same scores of {name} through two softmaxes", x=0.01, ha="left")
figure.tight_layout()
plt.show()

# %% [markdown]
# Left, the probability that each position shows the teacher's most frequent class. Right, what the
# mistake makes of it: every white frame (each third line is marked) is a distribution of its own
# and sums to one. It says where along a short line the class is stronger, and no longer whether the
# class is there.
#
# Does it matter? Add 5 to *all* scores of one class. The student now sees that class nearly
# everywhere; no row has changed relative to itself.

# %% tags=["nbval-check-output"]
toy_s, toy_t = torch.randn(2, 2, 5, 4, 10, generator=torch.Generator().manual_seed(0))
spoilt = toy_s.clone()
spoilt[:, 0] += 5
assert (spoilt.argmax(1) == 0).float().mean() > 0.9
assert torch.allclose(wrong_axis(toy_t).sum(-1), torch.tensor(2.0))  # two rows in a line of ten
assert not torch.allclose(wrong_axis(toy_t).sum(1), torch.tensor(1.0), atol=0.1)
assert torch.isclose(wrong_pixelwise(spoilt, toy_t), wrong_pixelwise(toy_s, toy_t), rtol=1e-5)
assert structured.pixelwise(spoilt, toy_t) > 1.5 * structured.pixelwise(toy_s, toy_t)
print("ok: the wrong term does not notice a class that was raised everywhere, the right one does")

# %%
terms = {"as it should be": structured.pixelwise, "wrong axis": wrong_pixelwise}
spoilt = narrow_s.clone()
spoilt[:, shown] += 5
named = [100 * float((z.argmax(1) == shown).float().mean()) for z in (narrow_s, spoilt)]
print(f"{layout.CLASSES[shown]}: {named[0]:.0f} % of the positions before, {named[1]:.0f} % after")
columns = {"before": narrow_s, "after": spoilt, "perfect student": narrow_t}
made = {
    name: {word: float(term(z, narrow_t)) / n_images for word, z in columns.items()}
    for name, term in terms.items()
}
pd.DataFrame(made).T.round(2)

# %% [markdown]
# The wrong term does have its least value at the teacher's scores, so it is not useless: it teaches
# contrasts along lines, per class. The README's figures of 2019 were published before the fix, and
# a year later its author still recommended the old commit to users whose runs ended in NaN. The
# published 74 to 75 % may therefore come from this term.
#
# ## Where this differs from the paper
#
# `journal` is used for the rows of this workbook, with the released script's factor of 10. Nothing
# is masked, as released. Teacher and student need the same grid; the released code stops where they
# differ, here the teacher's map is resized. Page 6 prints the whole deviation ledger.
#
# ## Exercises
#
# 1. **The printed order.** Write KL$(q^s\,\|\,q^t)$ and its gradient. Where on the still does it
#    differ most from the order that the code uses?
# 2. **Temperature.** `pixelwise(..., temperature=4)` has no factor $T^2$. By how much does the
#    gradient shrink, and which factor would bring it back?
# 3. **Void.** Leave the unlabelled pixels out of the map above. Is the mean larger or smaller, and
#    what does that say about the pixels that annotators avoid?
