# %% [markdown]
# # 3 · The student
#
# Page 2 chose the cells. Here a student of a quarter of the width learns from the labels and, in
# these cells, from the teacher's features. The name of the run decides what it learns from, so this
# one page makes all of these:
#
# | run | beside the labels |
# |---|---|
# | `imitation-kitti-baseline` | nothing: the student alone |
# | `imitation-kitti-i` | **I**, features in the region by anchors, ψ = 0.5 |
# | `imitation-kitti-i-psi02`, `-i-psi08` | the same with ψ = 0.2 and 0.8 |
# | `imitation-kitti-f` | **F**, features in every cell |
# | `imitation-kitti-g` | **G**, features in the labelled boxes |
# | `imitation-kitti-d` | **D**, the class scores of the head |
# | `imitation-kitti-id` | **I** and **D** |
# | `imitation-kitti-i-weight05`, `-f-weight05` | **I** and **F** with the released λ = 0.5 |
# | `imitation-large-baseline`, `-i`, `-g` | the student alone, **I** and **G**, on more labels |
# | `imitation-half-baseline`, `-i` | the student of half the width, alone and with **I** |
#
# All rows of a seed and a data set have the same first weights, the same views and the same number
# of steps. The page is for the paper's small one-stage detector; `kdlib run` trains the Faster
# R-CNNs.

# %% tags=["parameters"]
run = "imitation-kitti-i"  # or any other row of the table above
scale = "smoke"  # smoke | sample | gpu | paper
seed = 0  # draws the first weights, the views and the adapter

# %%
import dataclasses
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

# %%
from kdlib import config, detection, evaluation, experiment
from kdlib.data import augment, layouts, loader
from kdlib.evaluation.feeding import to_device
from kdlib.losses import imitation
from kdlib.methods.imitation import Imitation
from kdlib.report.provenance import provenance
from kdlib.report.records import write_record
from kdlib.report.sheet import outlined, sheet
from kdlib.runtime import generator

# %%
started = time.time()
cfg = config.load_run(run, scale=scale, seed=seed)
if cfg.model.architecture != "shuffledet":
    raise ValueError(f"{run}: this page shows shuffledet, use `kdlib run {run} --scale {scale}`")
plt.rcParams.update({"axes.titlelocation": "left", "axes.titlesize": 11, "figure.dpi": 90})
settings = cfg.method.imitation
letters = ", ".join(settings.letters) or "none"
print(f"{cfg.title}: letters {letters}; psi {settings.psi:g}, weight {settings.weight:g}")
parts = experiment.prepare(cfg)

# %%
layout, fabric, device = layouts.get(cfg.data.layout), parts.fabric, parts.fabric.device
method, teacher = parts.method, parts.teacher
if teacher is None:  # the student alone: the teacher is only looked at
    teacher, _ = experiment.load_teacher(cfg, parts.root, fabric)
size = sum(p.numel() for p in teacher.parameters())
own = experiment.parameter_count(parts.network)
print(f"{len(parts.labelled)} labelled stills, {len(parts.report)} to report on")
print(f"student: {own:,} parameters, starts from {cfg.init or 'random weights'}")
print(f"teacher: {size:,} parameters ({size / own:.1f} times as many), ", end="")
print(f"mAP {100 * (teacher.score or 0):.1f} % on its sample")

# %% [markdown]
# ## Two features of one view
#
# Both networks see the identical view. What is compared is the *neck*, the last map before the
# head: 768 channels of the teacher $t$, 192 of the student $s$.

# %%
pixels, labels = loader.Batches(parts.source, cfg.schedule.batch, seed)[0]
numbers = augment.draw(len(pixels), cfg.augment, generator(seed, "preview"))
crop = cfg.augment.crop or cfg.data.size
labels = detection.Targets(*(part.to(device) for part in labels))
views = augment.apply(pixels.to(device), labels, numbers, crop)
network = parts.network.train()
with torch.no_grad():
    told = teacher(views.images)
said = network(views.images)
s, t = said.features["neck"], told.features["neck"]
rows, columns = t.shape[-2:]
print(f"{rows} x {columns} cells: {s.shape[1]} channels of the student, {t.shape[1]} to imitate")

# %% [markdown]
# ## The adapter
#
# Vectors of 192 and of 768 numbers cannot be subtracted. A 3 × 3 convolution with ReLU brings the
# student's to the teacher's length,
#
# $$f(s) = \mathrm{ReLU}(w * s + b),\qquad w\sim\mathcal N\bigl(0,(10^{-4})^2\bigr),\quad b = 0,$$
#
# with $w$ cut off at two deviations. It learns with the student, by the same optimiser, and is dropped afterwards: a finished student
# does not hold it. Its weights start at about $10^{-4}$, so $f(s)$ starts near zero, and the
# student is hardly pulled before the adapter has learnt.

# %%
# a row without features borrows the adapter of I for this section
shown = method
if not {*settings.letters} & {*"IFG"}:
    shown = Imitation(dataclasses.replace(settings, letters=("I",)))
shown.begin(fabric, seed, cfg.schedule.steps, parts.network, teacher)
adapter = shown.joint
f = adapter(s)
count = sum(p.numel() for p in adapter.parameters())
print(f"adapter: {count:,} numbers beside the student's {own:,}")
length = {"teacher": t, "student": s, "student behind the adapter": f}
length = {name: float(part.detach().square().mean().sqrt()) for name, part in length.items()}
pd.DataFrame({"root mean square of the features": length}).T.map("{:.4g}".format)


# %% [markdown]
# The adapter holds several times as many numbers as the student. It learns to say, from what the
# student sees, what the teacher sees, and a strong adapter can do part of the work that was meant
# for the student.
#
# ## The loss as a map
#
# $$\mathcal L_{\text{imit}} = \frac1{2N_p}\sum_{n,i,j} I_{nij}\sum_c
# \bigl(f(s)_{nijc} - t_{nijc}\bigr)^2,\qquad N_p = \sum_{n,i,j} I_{nij} .$$
#
# The mean is over the imitating cells of the *whole batch*: pictures with more of them weigh more.
# Channels are summed, not averaged, so the value grows with their number.

# %%
def cost(adapted_NCHW, teacher_NCHW):
    """(N, h, w) half the squared distance in each cell, summed over channels."""
    return (adapted_NCHW.float() - teacher_NCHW.float()).square().sum(1) / 2


def region(letter, output, targets, psi=settings.psi):
    """(N, h, w) the cells that imitate, for one of the paper's letters."""
    cells, boxes = output.features["neck"].shape[-2:], [xyxy for xyxy, _ in targets]
    if letter == "F":
        return imitation.full_region(cells, len(boxes), device=device)
    if letter == "G":
        side = parts.network.output_stride
        return imitation.box_region(boxes, cells, stride=side, rule="outward", inclusive=False)
    anchors = output.anchors.cpu()
    return imitation.imitation_mask(anchors, boxes, cells, psi=psi, inclusive=False)


# %% tags=["nbval-check-output"]
random = generator(0, "notebook")
one, other = torch.randn(2, 2, 5, 3, 4, generator=random)
where = torch.rand(2, 3, 4, generator=random) < 0.4
loss = imitation.imitation_loss(one, other, where)
assert torch.isclose(loss, cost(one, other)[where].mean())
from_zero = imitation.imitation_loss(torch.zeros_like(other), other, where)
assert torch.isclose(from_zero, other.square().sum(1)[where].mean() / 2)
nothing = torch.zeros_like(where)
free = one.clone().requires_grad_()
imitation.imitation_loss(free, other, nothing).backward()
assert imitation.imitation_loss(one, other, nothing) == 0 and (free.grad == 0).all()
print("ok: the mean of the map over the region; half of |t|^2 from a zero; 0 where none imitates")

# %%
targets = detection.objects(views.labels)
letter = next((name for name in settings.letters if name in "IFG"), "I")
mask = region(letter, said, targets)
before = cost(f.detach(), t)
value = float(before[mask].mean()) if mask.any() else 0.0
term = imitation.imitation_loss(f, t, mask)
assert torch.isclose(term.detach(), torch.as_tensor(value, device=device), rtol=1e-3)
print(f"{letter}: {int(mask.sum())} of {mask.numel()} cells imitate, loss {value:,.1f}")


# %% [markdown]
# The next cells paint cells over pictures: a cell covers 16 × 16 pixels.

# %%
def large(cells_HW, height, width, stride=16):
    """A map of cells at the size of the picture."""
    return cells_HW.repeat(stride, 0).repeat(stride, 1)[:height, :width]


def painted(picture, values, top):
    """Numbers of cells over the grey picture; pale: `top`."""
    strength = large(values / max(top, 1e-9), *picture.shape[:2]).clip(0, 1)
    return 0.35 * picture.mean(2, keepdims=True) + 0.65 * plt.cm.magma(strength)[..., :3]


def lit(picture, where):
    """The picture, dark but for the cells of a mask."""
    inside = large(where, *picture.shape[:2])[..., None]
    return picture * np.where(inside, 1.0, 0.35)


# %%
COLOURS = np.array([(255, 214, 0), (64, 196, 255), (255, 110, 190)])  # yellow, blue, pink

# %%
few = range(min(3, len(views.images)))
pictures = [views.images[i].permute(1, 2, 0).float().cpu().numpy() for i in few]
boxed = [
    outlined(
        pictures[i], targets[i][0].cpu().numpy(), COLOURS[targets[i][1].cpu().numpy()], thick=3
    )
    for i in few
]
masks, costs = mask.cpu().numpy(), before.cpu().numpy()
top = float(np.quantile(costs, 0.98))
rows_ = [boxed, [lit(pictures[i], masks[i]) for i in few]]
rows_ += [[painted(pictures[i], costs[i], top) for i in few]]
title = f"From above: objects, region {letter}, cost of each cell (pale: {top:,.0f} and more)"
sheet(rows_, [], title, height=1.15)
plt.show()

# %% [markdown]
# Before training the adapted feature is near zero and the cost is half of $|t|^2$: the lowest row
# shows how *strong* the teacher's feature is in each cell. Much of it may lie outside the region,
# where the teacher sees houses and sky.

# %%
everywhere = {name: region(name, said, targets).cpu().numpy() for name in "IGF"}
share = {
    name: {
        "cells, %": 100 * where.mean(),
        "cost of a cell": costs[where].mean() if where.any() else 0,
        "of the whole map's cost, %": 100 * costs[where].sum() / costs.sum(),
    }
    for name, where in everywhere.items()
}
pd.DataFrame(share).T.round(1)

# %% [markdown]
# F has to fit every cell, and the third column says how much of that lies near no object. In the
# paper F costs the student more than any other letter gains; the noise of the background is named
# as the reason.
#
# ## Both losses, and λ
#
# $$\mathcal L = \mathcal L_{\text{cls}} + \mathcal L_{\text{conf}} + \mathcal L_{\text{box}} +
# \lambda\,\mathcal L_{\text{imit}} \;\bigl[\,+\;\lambda_D\,\mathcal L_{D}\,\bigr].$$
#
# The author advises to bring both losses to a similar level first. $\mathcal L_D$ is the divergence
# of the class scores of all anchors, each weighted by the teacher's confidence in it.

# %%
terms = method.terms(views, said, told)
factors = {name: method.weights[name] for name in terms}
table = pd.DataFrame({"term": {name: float(term.detach()) for name, term in terms.items()}})
table["factor"] = factors
table["times factor"] = table["term"] * table["factor"]
table.round(4)


# %% [markdown]
# A value says little about what a loss does. What moves the student is the gradient, here at its
# neck, in the same batch:

# %%
def pull(terms, names):
    """Length of the gradient of some terms, times their factors, at the student's neck."""
    total = sum(factors[name] * terms[name] for name in names)
    (gradient,) = torch.autograd.grad(total, s, retain_graph=True)
    return float(gradient.norm())


from_labels = [name for name in ("classification", "confidence", "box") if name in terms]
pulls = {"labels": pull(terms, from_labels)}
pulls |= {name: pull(terms, [name]) for name in terms if name not in from_labels}
pd.DataFrame({"gradient at the neck": pulls}).T.map("{:.3g}".format)

# %% [markdown]
# The imitation's pull is short at the start: it has to pass the adapter's weights of about
# $10^{-4}$, while the head has learnt already, in the common start. First the adapter learns, then
# the student. The imitation's value is large from the first step on, but most of it is the
# adapter's to remove.
#
# ## Training
#
# The same loop as on all pages; the adapter joins the student's optimiser.

# %%
trained = experiment.fit(parts)
print(f"{cfg.schedule.steps} steps of {cfg.schedule.batch} pictures in {trained.seconds:.0f} s")

# %%
history = pd.DataFrame(trained.history)
history["labels"] = history[from_labels].sum(axis=1)
extra = [name for name in ("imitation", "scores") if name in history]
weighted = {"labels": history["labels"]} | {name: history[f"{name}_weighted"] for name in extra}
panels = {"labels, term by term": {name: history[name] for name in from_labels}}
panels |= {f"{name}, before its factor": {name: history[name]} for name in extra}
panels |= {"after the factors": weighted}

# %%
figure, axes = plt.subplots(1, len(panels), figsize=(10, 2.7))
for axis, (word, curves) in zip(axes, panels.items()):
    for name, values in curves.items():
        axis.plot(history["step"], values, "o-", ms=3, label=name)
    axis.set(xlabel="step", xlim=(0, 1.05 * cfg.schedule.steps))
    axis.set_ylim(0, 1.1 * max(values.max() for values in curves.values()))
    axis.set_title(word, fontsize=9)
    axis.legend(frameon=False, fontsize=8)
first, last = history["loss"].iloc[[0, -1]]
words = f"from {first:.2f} to {last:.2f}" if len(history) > 1 else f"{last:.2f} on average"
figure.suptitle(f"The student's sum: {words}", x=0.01, ha="left", fontsize=11)
figure.tight_layout()
plt.show()

# %% [markdown]
# A point is the mean of up to fifty steps, so a smoke run has one. The last panel is what counts:
# where the imitation's curve lies far above the labels', the student mostly imitates; far below,
# the row can hardly differ from the student alone.
#
# ## What has been imitated
#
# The same views once more, now with the trained student and its trained adapter. (Rows without a
# letter for features have no adapter, and nothing to show here.)

# %%
after = None
if method.joint is not None:
    with torch.no_grad():
        seen = parts.network.eval()(views.images).features["neck"]
        after = cost(method.joint.eval()(seen), t).cpu().numpy()
    inside = [float(part[masks].mean()) if masks.any() else 0.0 for part in (costs, after)]
    beyond = [float(part[~masks].mean()) if (~masks).any() else 0.0 for part in (costs, after)]
    rows_ = [[lit(pictures[i], masks[i]) for i in few]]
    rows_ += [[painted(pictures[i], part[i], top) for i in few] for part in (costs, after)]
    title = f"Region; cost before and after: {inside[0]:,.0f} to {inside[1]:,.0f} in its cells, "
    sheet(rows_, [], title + f"{beyond[0]:,.0f} to {beyond[1]:,.0f} in the others", height=1.15)
    plt.show()

# %% [markdown]
# What is dark now is seen as the teacher sees it; after the six steps of a smoke run little is.
# Where nothing imitates, nobody asked: if the cost falls there too, the adapter has learnt
# something general, such as the mean feature.
#
# ## What came of it

# %%
scores = experiment.score(parts)
val = scores["val"]
taught = evaluation.evaluate(
    teacher.network, cfg.data.layout, parts.report, cfg.data.size, fabric=fabric, title="teacher"
)
percent = lambda value: "–" if value is None or np.isnan(value) else f"{100 * value:.1f}"  # noqa: E731
table = {
    "mAP, %": (taught["map"], val["map"]),
    "agreement with the teacher: mAP, %": (None, val["agreement"]["map"]),
    "agreement: mAP at IoU 0.5, %": (None, val["agreement"]["map_50"]),
}
pd.DataFrame(table, ["teacher", "student"], dtype=float).T.map(percent)

# %%
ap = {
    who: pd.DataFrame(found["ap"], dtype=float).T.stack(future_stack=True).mul(100)
    for who, found in (("teacher", taught), ("student", val))
}
ap = pd.DataFrame(ap)
ap.index = [f"{kind}\n{level}" for kind, level in ap.index]
figure, axis = plt.subplots(figsize=(9, 2.9))
ap.plot.bar(ax=axis, color=["#B5B5B5", "#0072B2"], width=0.8, rot=0)
axis.tick_params(axis="x", labelsize=8)
axis.set(ylabel="AP, %", ylim=(0, 1.15 * max(1, ap.max().max())))
axis.legend(frameon=False)
gap = (ap["teacher"] - ap["student"]).fillna(0)
lead = percent(taught["map"]), percent(val["map"])
axis.set_title(f"mAP: teacher {lead[0]} %, student {lead[1]} %; widest gap {gap.max():.0f} points")
plt.show()


# %% [markdown]
# Agreement takes the teacher's boxes of score 0.3 and up for the truth. A student can hardly gain
# more than the grey bars are ahead; a missing pair has no such object in the reported split. One
# row by itself says nothing about imitation: page 4 compares them, seed by seed.

# %%
def found(network, image):
    """A picture with what a network finds with score 0.3 and up."""
    seen = loader.resize(image, cfg.data.size)
    with torch.inference_mode(), fabric.autocast():
        output = network.eval()(to_device([seen], fabric))
        one = network.detections(output, cfg.data.size)[0]
    sure = [part[one.scores >= 0.3].cpu().numpy() for part in one]
    return outlined(seen, sure[0], COLOURS[sure[2]], thick=3)


def labelled(sample, image):
    """A picture with its labels, ignored ones in grey."""
    true = detection.resized(layout.read_boxes(sample), image.shape[:2], cfg.data.size)
    tint = np.where(true.ignored[:, None], 150, COLOURS[true.classes])
    return outlined(loader.resize(image, cfg.data.size), true.xyxy, tint, thick=3)


# %%
chosen = parts.report[:: max(1, len(parts.report) // 3)][:3]
images = [layout.read_image(sample.image) for sample in chosen]
rows_ = [[labelled(sample, image) for sample, image in zip(chosen, images)]]
rows_ += [[found(one, image) for image in images] for one in (teacher.network, parts.network)]
title = "From above: truth, ignored in grey; teacher; student (score 0.3 and up)"
sheet(rows_, [sample.id for sample in chosen], title, height=1.15)
plt.show()

# %% [markdown]
# ## What is kept
#
# Weights and history go to `runs/`, the record goes to `results/`. The adapter is not kept.

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
# The student is the paper's 0.25x. It starts where the common start ends, which learnt from labels
# and began at random, instead of at ImageNet's weights. The divisor is twice the number of cells;
# the released code for this very student divides by four times that number and has λ = 1. F and G
# have the weight and the adapter of I, and D is filled in by us: the paper gives no temperature,
# factor or head. Rows *Adapter*, *Adapter: first weights*, *Loss: divisor*, *Loss: factor*, *Loss:
# warm-up*, *Layer that imitates*, *Letter F: whole map*, *Letter G: boxes*, *Letter D: vanilla
# distillation* and *Letters I and D together* of the [deviation
# ledger](../../published/feature_imitation.yaml) say why; page 4 prints the whole ledger.
#
# ## Exercises
#
# 1. **Another λ.** Multiply `method.imitation.weight` by 10 and by 0.1. Which of the curves after
#    the factors changes first, and which λ brings the two losses to one level?
# 2. **Without a ReLU.** The neck ends in a ReLU, so $t\ge 0$. What would the adapter lose without
#    its own, and what happens to a channel of it whose output is 0 in all cells?
# 3. **Who does the work?** Freeze the student after training and train a new adapter alone. How
#    much of the fall of the imitation loss needs no better student?
