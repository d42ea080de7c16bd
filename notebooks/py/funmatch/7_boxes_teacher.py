# %% [markdown]
# # 7 · The teacher that finds boxes
#
# The paper asks its question twice: for masks, on pages 1 to 5, and for boxes, here and on the next
# two pages. A detector says where the cars, riders and signs are. This page shows the labelled
# boxes, the views, the network (FCOS), which of its cells learns which object, the three losses,
# the training, and what the teacher finds afterwards.
#
# The same page makes the weights that the teacher starts from (`funmatch-det-pretrain`), from
# pictures of *another* simulated world, which stands in for ImageNet as on page 2.

# %% tags=["parameters"]
run = "funmatch-det-teacher"  # a supervised run: funmatch-det-pretrain or this one
scale = "smoke"  # smoke | sample | gpu | paper
seed = 0  # draws the labelled images, the first weights and the views

# %%
import time

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from kdlib import config, detection, experiment, runtime
from kdlib.data import augment, layouts, loader
from kdlib.evaluation.feeding import to_device
from kdlib.losses import fcos
from kdlib.report.provenance import provenance
from kdlib.report.records import write_record
from kdlib.report.sheet import outlined, sheet

# %%
started = time.time()
cfg = config.load_run(run, scale=scale, seed=seed)
plt.rcParams.update({"axes.titlelocation": "left", "axes.titlesize": 11, "figure.dpi": 90})
start = cfg.init or "random weights"
print(f"{cfg.title}: {cfg.model.architecture}, {cfg.method.name}, starts from {start}")
keys = ("steps", "batch", "lr", "optimiser", "weight_decay", "clip_norm", "warmup")
pd.DataFrame({"schedule": {key: getattr(cfg.schedule, key) for key in keys}}, dtype=object).T

# %%
parts = experiment.prepare(cfg)
layout = layouts.get(cfg.data.layout)
fabric, device = parts.fabric, parts.fabric.device
print(f"{len(parts.labelled)} labelled stills to learn from, {len(parts.report)} to report on")
print(f"on {runtime.device_name(device)}")


# %% [markdown]
# ## Pictures and boxes
#
# A label is a list of boxes, each with a class. Some boxes are marked *ignored* (crowds, things
# that are like a class but are not it): to find them is no success, and no error either. Below
# they are painted onto an enlarged picture, in the colour of their class, ignored ones in grey.

# %%
def colours_of(classes, ignored):
    """The colour of each box, light enough for dark pictures; grey where it is ignored."""
    light = 90 + 0.65 * np.array(layout.PALETTE)
    return np.where(np.asarray(ignored)[:, None], 150, light[np.asarray(classes)])


# %%
stills = [parts.source.read(i) for i in range(min(4, len(parts.source)))]
shown = [
    outlined(image, boxes.xyxy, colours_of(boxes.classes, boxes.ignored)) for image, boxes in stills
]
objects = [int((~boxes.ignored).sum()) for _, boxes in stills]
sheet(
    [shown],
    [f"{sample.id}: {count} objects" for sample, count in zip(parts.labelled, objects)],
    f"{len(stills)} of {len(parts.source)} labelled stills, {np.mean(objects):.0f} objects each",
    height=1.7,
)
plt.show()

# %% [markdown]
# These boxes are all that the teacher is told. How many are there of each class, and how large are
# they? Sizes count in pixels of the stored picture, as in the score: COCO calls a box *small* below
# $32\times32$ and *large* from $96\times96$ on.

# %%
labels = [layout.read_boxes(sample) for sample in parts.labelled]
stored = layout.read_image(parts.labelled[0].image).shape[:2]
xyxy = np.concatenate([boxes.xyxy[~boxes.ignored] for boxes in labels])
kinds = np.concatenate([boxes.classes[~boxes.ignored] for boxes in labels])
side = np.sqrt((xyxy[:, 2:] - xyxy[:, :2]).prod(axis=1))
counts = np.bincount(kinds, minlength=len(layout.CLASSES))
bins = {"small": side < 32, "medium": (side >= 32) & (side < 96), "large": side >= 96}
print(f"{len(side)} objects on {len(labels)} stills of {stored[0]} x {stored[1]} pixels")
print(", ".join(f"{name} {100 * share.mean():.0f} %" for name, share in bins.items()))

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 2.8), width_ratios=(1.3, 1))
left.bar(layout.CLASSES, counts, color=np.array(layout.PALETTE) / 255)
left.tick_params(axis="x", rotation=60)
left.set(ylabel="objects")
left.set_title(f"{(counts > 0).sum()} of {len(counts)} classes occur")
right.hist(side, bins=np.geomspace(2, 1.05 * max(side.max(), 100), 24), color="#0072B2")
for end in (32, 96):
    right.axvline(end, color="#222222", lw=1, ls=":")
right.set(xscale="log", xlabel="square root of the box's area, pixels", ylabel="objects")
right.set_title(f"{100 * bins['small'].mean():.0f} % are smaller than 32 x 32 pixels")
figure.tight_layout()
plt.show()

# %% [markdown]
# Most objects of a street are far away, and therefore small: this is what detection on driving data
# is hard for. The network sees the picture at the run's own size, on which they are smaller still,
# or larger:

# %%
height, width = cfg.data.size
factor = width / stored[1]
print(
    f"stored {stored[1]} x {stored[0]}, seen {width} x {height}, so 32 pixels are {32 * factor:.0f}"
)

# %% [markdown]
# ## The views
#
# As on page 2 every step draws a zoom, a position, a flip and a change of colour. Now boxes move
# with their picture: corners are taken through the same map, clipped at the edge, and a box of
# which less than 30 % is left becomes an ignored region.

# %%
image, boxes = stills[0]
images = torch.from_numpy(image).permute(2, 0, 1).repeat(5, 1, 1, 1)
numbers = augment.draw(5, cfg.augment, runtime.generator(seed, "preview"))
targets = detection.collate([boxes] * 5)
views = augment.apply(images, targets, numbers, cfg.augment.crop or cfg.data.size)

# %%
pictures = [view.permute(1, 2, 0).numpy() for view in views.images]
moved = [
    outlined(picture, xyxy, colours_of(classes, ignored))
    for picture, xyxy, classes, ignored in zip(pictures, *views.labels)
]
lost = int((views.labels.ignored & ~targets.ignored).sum())
sheet(
    [moved[:3], moved[3:]],
    [f"zoom {zoom:.2f}" for zoom in numbers.zoom],
    f"Five views of one still; {lost} of {5 * objects[0]} objects left the view",
    height=1.9,
)
plt.show()

# %% [markdown]
# Every outline still sits on its object, grey where too little of it is left. One case can be
# checked by hand: without zoom, a mirrored box has $x_1' = W - x_2$ and $x_2' = W - x_1$.

# %% tags=["nbval-check-output"]
still = config.Augment(zoom=(1.0, 1.0), flip=1.0, colour=0.0)
one = detection.collate([boxes])
mirrored = augment.draw(1, still, runtime.generator(0, "mirror"))
other = augment.apply(images[:1], one, mirrored, cfg.data.size).labels
assert torch.allclose(other.xyxy[..., 0::2], width - one.xyxy[..., [2, 0]], atol=1e-2)
assert torch.allclose(other.xyxy[..., 1::2], one.xyxy[..., 1::2], atol=1e-2)
assert torch.equal(other.ignored, one.ignored)
print("ok: boxes move as their picture does")

# %% [markdown]
# ## The network
#
# FCOS asks every cell of a grid three things: which class is here ($z$), how far is it to the four
# sides of its box ($b$), and how near to its middle am I ($o$). A ResNet gives maps of several
# strides; a *feature pyramid* passes what the coarse ones know down to the fine ones, and one head,
# the same for every level, answers:
#
# $$x \;\to\; \mathrm{ResNet} \;\to\; P_l \;\to\; \mathrm{head}(P_l) = \bigl(z_i,\; b_i,\;
# o_i\bigr)_i ,\qquad z_i\in\mathbb R^{C},\quad b_i=(l,t,r,b)>0,\quad o_i\in\mathbb R .$$

# %%
parts.network.eval()
with torch.inference_mode():
    output = parts.network(views.images.to(device))
rows = {
    f"stride {stride}": (*map(tuple, (z.shape, b.shape, o.shape)), z[0, 0].numel())
    for stride, z, b, o in zip(
        output.strides, output.classification, output.box, output.quality, strict=True
    )
}
print(f"{experiment.parameter_count(parts.network):,} parameters")
pd.DataFrame(rows, ["classes z", "box b", "centerness o", "cells of a picture"]).T

# %% [markdown]
# There are thousands of cells and a few dozen objects. Every class has its own sigmoid, so a cell
# can say "nothing": that is what nearly all of them should say.

# %% tags=["nbval-check-output"]
for stride, z, b in zip(output.strides, output.classification, output.box):
    assert z.shape[1] == len(layout.CLASSES)
    assert z.shape[-2:] == (-(-height // stride), -(-width // stride)) or cfg.augment.crop
    assert (b > 0).all()
print("ok: one cell for every stride x stride pixels, all distances positive")

# %% [markdown]
# ## Which cell learns which object
#
# A cell with the centre $(x, y)$ on level $l$ may learn the box $(x_1, y_1, x_2, y_2)$ if it lies
# inside of it and the box has the level's size:
#
# $$l = x - x_1,\quad t = y - y_1,\quad r = x_2 - x,\quad b = y_2 - y,\qquad
# \min(l,t,r,b) > 0,\qquad m_{l-1} \le \max(l,t,r,b) \le m_l .$$
#
# Of several boxes that fit the smallest wins; without one the cell is background.

# %%
ends = fcos.ranges(output.strides)
pd.DataFrame(
    {"learns distances, pixels": [f"{low:.0f} to {high:.0f}" for low, high in ends]},
    [f"stride {stride}" for stride in output.strides],
)

# %%
sizes = [tuple(z.shape[-2:]) for z in output.classification]
truth = fcos.assign(sizes, output.strides, views.labels)
cells = [rows * columns for rows, columns in sizes]
near = [part.unflatten(1, size) for part, size in zip(truth.centerness.split(cells, 1), sizes)]
taken = [part.unflatten(1, size) for part, size in zip(truth.classes.split(cells, 1), sizes)]
share = 100 * (truth.classes != fcos.BACKGROUND).float().mean()
print(f"{share:.1f} % of the cells have an object, the others are background")


# %%
def lit(picture, found_hw, near_hw):
    """The picture, darkened; cells with an object in yellow, brighter towards its middle."""
    large = [
        cv2.resize(np.float32(part), picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        for part in (found_hw, near_hw)
    ]
    strength = (large[0] * (0.35 + 0.65 * large[1]))[..., None]
    return (1 - strength) * 0.45 * picture + strength * np.array([1.0, 0.85, 0.1])


# %%
chosen = 0
levels = [
    lit(pictures[chosen], grid[chosen] != fcos.BACKGROUND, nearness[chosen])
    for grid, nearness in zip(taken, near)
]
each = [int((grid[chosen] != fcos.BACKGROUND).sum()) for grid in taken]
captions = [f"stride {s}: {count} cells" for s, count in zip(output.strides, each)]
title = "A view with its boxes, and on each level the cells that learn one of them"
tiles, captions = [moved[chosen], *levels], ["the view", *captions]
half = -(-len(tiles) // 2)
sheet([tiles[:half], tiles[half:]], captions[:half], title, height=1.9)
print("; ".join(captions))
plt.show()

# %% [markdown]
# Small objects light up cells of the finest level, large ones those of the coarse levels. An
# object may also light none: a box that fits between the centres of the finest cells, or one whose
# cells all belong to smaller boxes. The next cell asks for each object of up to a hundred labelled
# stills by itself, so that no other one takes its cells.

# %%
scaled = [detection.resized(boxes, stored, cfg.data.size) for boxes in labels[:100]]
wanted = detection.objects(detection.collate(scaled))
alone, kinds = (torch.cat(part)[:, None] for part in zip(*wanted))
single = detection.Targets(alone, kinds, torch.zeros_like(kinds, dtype=torch.bool))
grids = [(-(-height // stride), -(-width // stride)) for stride in output.strides]
of_each = fcos.assign(grids, output.strides, single).classes != fcos.BACKGROUND
hits = [part.sum(1) for part in of_each.split([rows * columns for rows, columns in grids], 1)]
hits = torch.stack(hits, 1).numpy()
small = detection.area(alone[:, 0]).sqrt().numpy()
nobody = 100 * (hits.sum(1) == 0).mean()
print(f"{nobody:.0f} % of the objects are learnt by no cell, even when alone")

# %%
figure, axis = plt.subplots(figsize=(8, 2.8))
edges = np.geomspace(max(1, 0.95 * small.min()), 1.05 * small.max(), 20)
groups = [small[hits.sum(1) == 0], *(small[hits[:, i] > 0] for i in range(len(cells)))]
names = ["no cell", *(f"stride {stride}" for stride in output.strides)]
colours = ["#BBBBBB", *plt.cm.viridis(np.linspace(0.1, 0.9, len(cells)))]
for group, name, colour in zip(groups, names, colours):
    axis.hist(group, edges, label=name, color=colour, histtype="step", lw=1.8)
axis.set(xscale="log", xlabel="square root of the box's area, pixels of the view", ylabel="objects")
axis.legend(fontsize=8, frameon=False)
axis.set_title(f"Each level has its sizes; {nobody:.0f} % of the objects have no cell")
plt.show()

# %% [markdown]
# What has no cell is never learnt. This is why the levels have to fit the pictures: with FCOS's
# own levels (strides 8 to 128) more of the objects of a small picture would be in the grey
# group. Two facts hold by construction:

# %% tags=["nbval-check-output"]
found = truth.classes != fcos.BACKGROUND
reach = truth.box.amax(1)
low, high = (torch.cat([torch.full((n,), part[i]) for n, part in zip(cells, ends)]) for i in (0, 1))
assert (truth.box.amin(1)[found] > 0).all()
assert ((reach >= low) & (reach <= high))[found].all()
print("ok: cells lie inside their boxes, and boxes in their level's range")

# %% [markdown]
# ## The loss
#
# **Classes.** With thousands of background cells an ordinary cross entropy would consist of them.
# The *focal loss* (Lin et al. 2017) plays down what is easy: with $p_t$ the probability of the
# right answer,
#
# $$\mathcal L_{\text{cls}} = -\frac1P\sum_{i,c} \alpha_t\,(1 - p_t)^{\gamma}\log p_t ,\qquad
# \gamma = 2,\quad \alpha = 0.25 \text{ for objects, } 0.75 \text{ for background},$$
#
# where $P$ is the number of cells that have an object.

# %%
sure = torch.linspace(0.02, 0.999, 200)
figure, axis = plt.subplots(figsize=(6, 2.6))
for gamma, colour in ((0.0, "#888888"), (1.0, "#56B4E9"), (2.0, "#0072B2")):
    axis.plot(sure, -((1 - sure) ** gamma) * sure.log(), color=colour, label=f"γ = {gamma:.0f}")
axis.axvline(0.99, color="#222222", lw=1, ls=":")
axis.set(xlabel="probability of the right answer", ylabel="loss, nats", ylim=(0, 4), xlim=(0, 1))
axis.legend(frameon=False, fontsize=8)
axis.set_title("With γ = 2 an easy cell (dotted) costs 10,000 times less")
plt.show()

# %% [markdown]
# The library's loss has to agree with that: with $\gamma = 0$ and $\alpha = 0.5$ it must be half
# the ordinary cross entropy.

# %% tags=["nbval-check-output"]
random = runtime.generator(0, "notebook")
z = torch.randn(2, 10, 50, generator=random)
is_class = torch.randint(-1, 10, (2, 50), generator=random)
onehot = (torch.arange(10)[:, None] == is_class[:, None]).float()
plain = torch.nn.functional.binary_cross_entropy_with_logits(z, onehot, reduction="sum")
assert torch.allclose(fcos.focal(z, is_class, gamma=0.0, alpha=0.5), plain / 2)
assert fcos.focal(z, is_class) < plain / 2
print("ok: the focal loss is a cross entropy that plays down what is easy")

# %% [markdown]
# **Boxes.** A cell that has an object pays for the overlap of its box with the labelled one, and
# cells near the middle pay most, because their word counts most in the end:
#
# $$\mathcal L_{\text{box}} = \frac{\sum_i c_i\,(-\log \mathrm{IoU}(b_i, b^*_i))}{\sum_i c_i},\qquad
# c_i = \sqrt{\frac{\min(l,r)}{\max(l,r)}\cdot\frac{\min(t,b)}{\max(t,b)}} .$$
#
# **Centerness.** $c_i$ itself is learnt by $o_i$ with a binary cross entropy, mean over the same
# cells. When boxes are read out, it multiplies the class's probability and so silences the cells at
# a box's edge. The three losses are added with equal weight.

# %% tags=["nbval-check-output"]
middle, corner = torch.tensor([[[8.0], [8], [8], [8]], [[1.0], [1], [15], [15]]])
nearness = fcos.centerness(torch.stack([middle, corner]))
assert nearness[0] == 1 and nearness[1] < 0.1
same = fcos.paired_iou(middle[None], middle[None])
apart = fcos.paired_iou(middle[None], corner[None])
assert same == 1 and torch.isclose(apart, torch.tensor(81 / (256 + 256 - 81)))
print("ok: centerness is 1 in the middle, IoU is 1 for equal boxes")

# %% [markdown]
# Boxes and centerness are asked of cells *with* an object only. What the network says about them
# elsewhere is trained by nothing. Page 8 needs that.
#
# ## Training

# %%
trained = experiment.fit(parts)
print(f"{cfg.schedule.steps} steps of {cfg.schedule.batch} pictures in {trained.seconds:.0f} s")

# %%
history = pd.DataFrame(trained.history)
epochs = trained.samples / len(parts.source)
figure, axes = plt.subplots(1, 3, figsize=(10, 2.6))
for axis, name in zip(axes, ("classification", "box", "centerness")):
    axis.plot(history["step"], history[name], "o-", ms=3, color="#0072B2")
    axis.set(xlabel="step", xlim=(0, 1.03 * cfg.schedule.steps), title=name)
    axis.set_ylim(0, 1.1 * history[name].max())
axes[0].set_ylabel("loss, nats")
first, last = history["loss"].iloc[[0, -1]]
title = f"The sum goes from {first:.2f} to {last:.2f}; every still was seen {epochs:.0f} times"
figure.suptitle(title, x=0.01, ha="left", fontsize=11)
figure.tight_layout()
plt.show()


# %% [markdown]
# A point is the mean of up to fifty steps. Centerness stays high because its targets are not 0 or
# 1: even the right answer $c$ costs its own entropy.
#
# ## From cells to boxes
#
# The answer is dense: every cell has a box and a score for every class. A cell and a class are a
# candidate when the probability $\sigma(z)$ is above 0.05; its score is $\sigma(z)\,\sigma(o)$. Of
# candidates of one class that overlap by more than 0.5 the best one stays (*non-maximum
# suppression*), and at most 100 boxes remain.

# %%
def answer(network, image):
    """The network's dense answer to one picture at the run's size."""
    with torch.inference_mode(), fabric.autocast():
        return network.eval()(to_device([loader.resize(image, cfg.data.size)], fabric))


picture = layout.read_image(parts.report[0].image)
said = answer(parts.network, picture)
best = [z.float().sigmoid().amax(1)[0].cpu().numpy() for z in said.classification]
top = max(level.max() for level in best)
maps = [plt.cm.magma(level / top) for level in best]
captions = [f"stride {s}: up to {b.max():.2f}" for s, b in zip(said.strides, best)]
sheet([maps], captions, f"Largest class probability of each cell (pale: {top:.2f})", height=1.7)
plt.show()

# %%
seen = loader.resize(picture, cfg.data.size)
everything, tiles, captions = parts.network.detections(said, cfg.data.size)[0], [], []
for least in (0.0, 0.1, 0.3):
    one = [part[everything.scores >= least].cpu().numpy() for part in everything]
    tiles.append(outlined(seen, one[0], colours_of(one[2], np.zeros(len(one[2]), bool))))
    captions.append(f"score {least} and up: {len(one[1])} boxes")
sheet([tiles], captions, "The same answer read out with three thresholds", height=2.1)
plt.show()

# %% [markdown]
# A low threshold finds more and errs more. There is no right one, and the score does not need one:
# average precision goes through all of them. Pictures on these pages show what scores 0.3 and more.
#
# ## What it can find
#
# Detections of a class are sorted by score. Each one is a hit if it overlaps an object that is not
# taken yet by at least $\theta$. Going down the list, precision (hits among the detections) falls
# while recall (objects found) rises. The area below that curve is the average precision, and
#
# $$\mathrm{AP}_c = \frac1{10}\sum_{\theta\in\{0.50,0.55,\dots,0.95\}} \int_0^1
# \mathrm{precision}_{c,\theta}(\rho)\,d\rho ,\qquad
# \mathrm{mAP} = \frac1{|\mathcal C|}\sum_{c\in\mathcal C}\mathrm{AP}_c .$$
#
# Boxes count at the size of the stored picture, with BDD100K's conventions. Nothing was chosen on
# this split.

# %%
scores = experiment.score(parts)
val = scores["val"]
names = [name for name in val if name.startswith(("map", "ar_"))]
shown = {name: "–" if val[name] is None else f"{100 * val[name]:.1f}" for name in names}
pd.DataFrame({"%": shown}).T

# %% [markdown]
# `map` is the mean over ten overlaps, `map_50` is lenient (half an overlap is enough), `map_75`
# strict. `map_small`, `map_medium` and `map_large` split by the sizes of the figure above; `ar_100`
# is the recall with at most 100 boxes.

# %%
ap = pd.Series(val["ap"], dtype=float).mul(100).sort_values(ascending=False)
known = ap.dropna()
figure, axis = plt.subplots(figsize=(8, 2.8))
axis.bar(ap.index, ap.fillna(0), color="#0072B2")
axis.tick_params(axis="x", rotation=60)
axis.axhline(100 * val["map"], color="#222222", lw=1, ls=":")
axis.set(ylabel="AP, %", ylim=(0, 1.15 * max(1, known.max())))
axis.set_title(
    f"mAP {100 * val['map']:.1f} %: best is {known.index[0]} ({known.iloc[0]:.0f} %), "
    f"{int((known < 1).sum())} of {len(known)} classes stay below 1 %"
)
plt.show()

# %% [markdown]
# Compare with the counts and the sizes above: what is large and frequent is found. The figures are
# far lower than mIoU on page 2 and can't be compared with it: a box that overlaps by 0.6 fails at
# seven of the ten overlaps.

# %%
chosen = parts.report[:: max(1, len(parts.report) // 4)][:4]
images = [loader.resize(layout.read_image(sample.image), cfg.data.size) for sample in chosen]
rows = [[], []]
for sample, picture in zip(chosen, images):
    shape = layout.read_image(sample.image).shape[:2]
    true = detection.resized(layout.read_boxes(sample), shape, cfg.data.size)
    one = parts.network.detections(answer(parts.network, picture), cfg.data.size)[0]
    sure = [part[one.scores >= 0.3].cpu().numpy() for part in one]
    rows[0].append(outlined(picture, true.xyxy, colours_of(true.classes, true.ignored)))
    rows[1].append(outlined(picture, sure[0], colours_of(sure[2], np.zeros(len(sure[2]), bool))))
title = f"Above: truth, ignored in grey; below: found with score 0.3 and up (mAP {shown['map']} %)"
sheet(rows, [sample.id for sample in chosen], title, height=1.7)
plt.show()

# %% [markdown]
# Look for the far objects in the upper row that are missing below, and for boxes of a wrong colour.
# The student of the next page is asked to copy the teacher's answer, omissions included.
#
# ## What is kept
#
# The weights go to `runs/`, with the score that they reached on a fixed sample; later the teacher
# refuses to teach when it does not reach it again. The record goes to `results/`, and every table
# is made from records only.

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
# The paper's teacher is FCOS with a ResNet-101 and a feature pyramid; its recipe is not known. Rows
# *Weights the teacher starts from*, *Detectors*, *Loss with labels*, *Later tricks of FCOS*,
# *Levels of the pyramid*, *Size of the pictures*, *Labelled pictures*, *Ignored and crowd regions*
# and *Boxes of an answer* of the [deviation ledger](../../published/function_matching.yaml) say
# what was done here and why; page 9 prints the whole ledger.
#
# ## Exercises
#
# 1. **Levels.** Give the detector the levels `[3, 4, 5, 6]`. Which objects lose their cells, and
#    what happens to `map_small`?
# 2. **Centre sampling.** Call `fcos.assign` with `radius=1.5` in the section on cells. Which cells
#    go dark? In BDD100K's model zoo it costs about a point, together with three other tricks.
# 3. **Pixels.** Halve `data.size` for all runs. Which classes pay for it?
