# %% [markdown]
# # 1 · The teacher
#
# Fine-grained feature imitation (Wang et al., CVPR 2019) trains a small detector with the help of a
# large one. It does not copy what the large one answers but what it *sees*: the features in front
# of its head, and only near objects. This page makes the large detector. It shows KITTI's labels,
# the network and its anchors, the three losses, the training, and the score by KITTI's own rules.
#
# [Function matching, page 7](../funmatch/7_boxes_teacher.ipynb) does the same for a detector
# without anchors. Here the anchors matter: page 2 chooses the imitating cells by them. The page is
# for the paper's small one-stage detector; `kdlib run` trains the Faster R-CNNs.

# %% tags=["parameters"]
run = "imitation-kitti-teacher"
scale = "smoke"  # smoke | sample | gpu | paper
seed = 0  # draws the first weights and the views

# %%
import math
import time

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

# %%
from kdlib import config, detection, experiment, models, runtime
from kdlib.data import augment, layouts, loader
from kdlib.evaluation.feeding import to_device
from kdlib.losses import squeezedet
from kdlib.metrics.detection import kitti_ap
from kdlib.models.shuffledet import AnchorOutput
from kdlib.report.provenance import provenance
from kdlib.report.records import write_record
from kdlib.report.sheet import outlined, sheet

# %%
started = time.time()
cfg = config.load_run(run, scale=scale, seed=seed)
if cfg.model.architecture != "shuffledet":
    raise ValueError(f"{run}: this page shows shuffledet, use `kdlib run {run} --scale {scale}`")
plt.rcParams.update({"axes.titlelocation": "left", "axes.titlesize": 11, "figure.dpi": 90})
print(f"{cfg.title}: {cfg.model.architecture}, starts from {cfg.init or 'random weights'}")
keys = ("steps", "batch", "lr", "optimiser", "weight_decay", "clip_norm", "warmup")
pd.DataFrame({"schedule": {key: getattr(cfg.schedule, key) for key in keys}}, dtype=object).T

# %%
parts = experiment.prepare(cfg)
layout = layouts.get(cfg.data.layout)
fabric, device = parts.fabric, parts.fabric.device
print(f"{len(parts.labelled)} labelled stills to learn from, {len(parts.report)} to report on")
print(f"on {runtime.device_name(device)}")

# %% [markdown]
# ## KITTI's labels
#
# KITTI wants three classes. Its label files name more, and say what to do with each of them:
#
# | label | here |
# |---|---|
# | Car, Pedestrian, Cyclist | objects that have to be found |
# | Van, Person_sitting | ignored: to find them as a car or a pedestrian counts nowhere |
# | DontCare | a region in which nothing is judged, mostly far away |
# | Truck, Tram, Misc | not there: a car that is found on a truck is an error |
#
# `outlined` paints boxes onto an enlarged picture: objects in the colour of their class, what is
# ignored in grey.

# %%
COLOURS = np.array([(255, 214, 0), (64, 196, 255), (255, 110, 190)])  # yellow, blue, pink


def colours_of(classes, ignored):
    """The colour of each box; grey where it is ignored."""
    return np.where(np.asarray(ignored)[:, None], 150, COLOURS[np.asarray(classes)])


# %%
stills = [parts.source.read(i) for i in range(min(4, len(parts.source)))]
shown = [
    outlined(image, boxes.xyxy, colours_of(boxes.classes, boxes.ignored), thick=3)
    for image, boxes in stills
]
objects = [int((~boxes.ignored).sum()) for _, boxes in stills]
captions = [
    f"{sample.id}: {count} objects, {len(boxes.classes) - count} ignored"
    for sample, count, (_, boxes) in zip(parts.labelled, objects, stills)
]
title = f"{len(stills)} of {len(parts.source)} labelled stills: yellow car, blue pedestrian, "
sheet([shown[:2], shown[2:]], captions[:2], title + "pink cyclist, grey ignored", height=1.7)
print("; ".join(captions))
plt.show()

# %% [markdown]
# ## Difficulty
#
# Every object has a level: the first of the three lines whose limits it keeps.

# %%
limits = pd.DataFrame(layout.LIMITS, ["easy", "moderate", "hard"])
limits.columns = ["height at least, pixels", "occlusion at most", "truncation at most"]
limits

# %% [markdown]
# Occlusion is 0 for fully visible, 1 for partly, 2 for largely hidden; truncation is the share
# beyond the picture's edge. A score at *moderate* asks for the easy and the moderate objects, at
# *hard* for all of the three lines. What keeps none of them is never asked for.

# %% tags=["nbval-check-output"]
assert layout.difficulty(height=40, occlusion=0, truncation=0.15) == 0
assert layout.difficulty(height=39, occlusion=0, truncation=0.0) == 1
assert layout.difficulty(height=200, occlusion=2, truncation=0.0) == 2
assert layout.difficulty(height=24, occlusion=0, truncation=0.0) == 3
print("ok: low, hidden or cut objects are harder; below 25 pixels nothing is asked")

# %%
groups = {"learnt from": parts.labelled, "reported": parts.report}
labels = {name: [layout.read_boxes(sample) for sample in group] for name, group in groups.items()}
levels = ("easy", "moderate", "hard", "beyond")
counts = {}
for name, group in labels.items():
    every = [np.concatenate(part) for part in zip(*group)]
    xyxy, kinds, ignored, level = every
    for k, kind in enumerate(layout.CLASSES):
        mine = level[(kinds == k) & ~ignored]
        counts[name, kind] = dict(zip(levels, np.bincount(mine, minlength=4)))
    counts[name, "ignored"] = dict.fromkeys(levels, "") | {"beyond": int(ignored.sum())}
pd.DataFrame(counts).T

# %% [markdown]
# The lines of *reported* are what the score has to work with. Where a number is small, a single
# object moves the average precision by points, and where it is 0 there is none.

# %%
boxes = [detection.objects(detection.collate([one]))[0][0] for one in labels["learnt from"]]
height = torch.cat([xyxy[:, 3] - xyxy[:, 1] for xyxy in boxes]).numpy()
stored = layout.read_image(parts.labelled[0].image).shape[:2]
below = 100 * (height < 25).mean()
figure, axis = plt.subplots(figsize=(7, 2.6))
edges = np.geomspace(min(5, height.min()), max(height.max(), 100), 30)
axis.hist(height, edges, color="#0072B2")
for end in (25, 40):
    axis.axvline(end, color="#222222", lw=1, ls=":")
axis.set(xscale="log", xlabel=f"height, pixels of {stored[0]}", ylabel="objects")
axis.set_xticks([10, 25, 40, 100], [10, 25, 40, 100])
axis.minorticks_off()
axis.set_title(f"{below:.0f} % of {len(height)} objects are too low for any level (left of 25)")
plt.show()

# %% [markdown]
# The dotted lines are 25 and 40 pixels, in pixels of the *stored* picture. KITTI's pictures are 375
# pixels high. Simulated ones are lower, so the same object is smaller on them and an easy object is
# a nearer one than in KITTI.
#
# ## The views
#
# Each step zooms, shifts, flips and recolours its pictures at random; boxes move with them. A box
# of which less than 30 % is left in the view becomes an ignored region.

# %%
image, first = stills[0]
images = torch.from_numpy(image).permute(2, 0, 1).repeat(4, 1, 1, 1)
numbers = augment.draw(4, cfg.augment, runtime.generator(seed, "preview"))
targets = detection.collate([first] * 4)
views = augment.apply(images, targets, numbers, cfg.augment.crop or cfg.data.size)
pictures = [view.permute(1, 2, 0).numpy() for view in views.images]
moved = [
    outlined(picture, xyxy, colours_of(classes, ignored), thick=3)
    for picture, xyxy, classes, ignored in zip(pictures, *views.labels)
]
lost = int((views.labels.ignored & ~targets.ignored).sum())
title = f"Four views of one still; {lost} of {4 * objects[0]} objects left the view"
sheet([moved[:2], moved[2:]], [f"zoom {zoom:.2f}" for zoom in numbers.zoom], title, height=1.7)
plt.show()

# %% [markdown]
# ## The network
#
# A ShuffleNet of stride 16: grouped 1 × 1 convolutions, a shuffle of the channels between them, and
# 3 × 3 convolutions of single channels. Its last map, the *neck*, is what a student imitates later.
# One convolution reads everything from it:
#
# $$x \;\to\; \mathrm{ShuffleNet}_{\text{width}} \;\to\; t \;\to\; \mathrm{head}(t) =
# \bigl(z_{ijk},\; s_{ijk},\; d_{ijk}\bigr),\qquad z\in\mathbb R^{3},\; s\in\mathbb R,\;
# d\in\mathbb R^{4},$$
#
# for each cell $(i,j)$ and each of its $K=9$ anchors: class scores, confidence, box. The paper's
# three sizes differ in the width, a factor of all channels.

# %% tags=["nbval-check-output"]
printed = {1.0: 1_602_312, 0.5: 535_656, 0.25: 202_776}
for width, expected in printed.items():
    network = models.build("shuffledet", 3, width=width)
    count = experiment.parameter_count(network)
    assert count == expected
    print(f"ok: width {width}: {count:,} parameters, {network.neck_channels} channels in the neck")

# %%
parts.network.eval()
with torch.inference_mode():
    output = parts.network(views.images.to(device))
rows, columns = output.features["neck"].shape[-2:]
names = ("classes", "confidence", "deltas")
shapes = {name: str(tuple(getattr(output, name).shape)) for name in names}
shapes |= {"neck": str(tuple(output.features["neck"].shape))}
print(f"{rows} x {columns} cells with 9 anchors each: {len(output.anchors):,} anchors")
pd.DataFrame({"shape": shapes}).T

# %% [markdown]
# ## Anchors
#
# An anchor is a box that the network does not have to invent. Nine shapes, the clusters of KITTI's
# boxes, stand around every cell's point. Column $j$ of $w$ is at
#
# $$x_j = \frac{j\,W}{w+1},\qquad j = 1\dots w,$$
#
# rows likewise. (At 1248 × 384 pixels that is every 15.8 pixels, not 16.) A run on smaller pictures
# shrinks the shapes by the same factor.

# %%
grid = output.anchors.cpu().unflatten(0, (rows, columns, 9))
middle = grid[rows // 2, columns // 2].numpy()
points = (grid[..., :2] + grid[..., 2:]).mean(2) / 2
tint = (255 * plt.cm.tab10(np.arange(9))[:, :3]).round()
view = outlined(image, middle, tint, thick=3)
for x, y in points.flatten(0, 1).numpy():
    cv2.circle(view, (round(3 * float(x)), round(3 * float(y))), 3, (255, 255, 255), -1)
sides = ", ".join(f"{x2 - x1:.0f} × {y2 - y1:.0f}" for x1, y1, x2, y2 in middle)
sheet([[view]], [], "The nine anchors of one cell, and the points of all cells", height=2.9)
print("width × height in pixels:", sides)
plt.show()

# %% [markdown]
# There are flat shapes for cars and upright ones for people. How well do they fit? For each object
# that is learnt from, the next figure asks for the best overlap with any anchor.

# %%
scaled = [detection.resized(one, stored, cfg.data.size) for one in labels["learnt from"]]
wanted = [one.xyxy[~one.ignored] for one in scaled]
kinds = np.concatenate([one.classes[~one.ignored] for one in scaled])
wanted = torch.from_numpy(np.concatenate(wanted))
best = detection.iou(wanted, output.anchors.cpu()).amax(1).numpy()
side = detection.area(wanted).sqrt().numpy()
smallest = float(detection.area(grid[0, 0]).min().sqrt())

# %%
figure, axis = plt.subplots(figsize=(8, 2.8))
for k, kind in enumerate(layout.CLASSES):
    axis.plot(side[kinds == k], best[kinds == k], ".", ms=4, color=COLOURS[k] / 290, label=kind)
axis.axvline(smallest, color="#222222", lw=1, ls=":")
axis.set(xscale="log", xlabel="square root of the box's area, pixels seen", ylabel="best IoU")
axis.set_xticks([5, 10, 20, 50, 100], [5, 10, 20, 50, 100])
axis.minorticks_off()
axis.legend(frameon=False, fontsize=8)
axis.set_title(f"Mean best IoU {best.mean():.2f}; left of the dotted line no anchor is as small")
plt.show()

# %% [markdown]
# The dotted line is the smallest anchor. Smaller objects overlap with every anchor that contains
# them about equally little. Page 2 meets them again: they are hard on the rule that picks cells.
#
# ## Which anchor learns which object
#
# Each object, one after the other, takes the anchor with the highest IoU that is still free; if no
# free one overlaps it, the nearest. All other anchors learn to be silent.

# %%
truth = squeezedet.assign(output.anchors.cpu(), views.labels)
chosen = []
for n, picture in enumerate(pictures):
    own = truth.found[n]
    classes = views.labels.classes[n][own].numpy()
    anchors = output.anchors.cpu()[truth.anchor[n][own]].numpy()
    tint = colours_of(classes, np.zeros(len(classes), bool))
    chosen.append(outlined(picture, anchors, tint, thick=3))
share = 100 * truth.found.sum() / (len(pictures) * len(output.anchors))
title = f"Above: the labels; below: their anchors, {share:.1f} % of all"
sheet([moved[:2], chosen[:2]], [], title, height=1.7)
plt.show()

# %% [markdown]
# What lies between an anchor and its label is left to the deltas $d$: shifts as shares of the
# anchor's sides, and logarithms of the factors of width and height.
#
# ## The loss
#
# SqueezeDet's. With the $O$ objects of a batch of $N$ pictures, their classes $q$ one-hot, the
# probabilities $p$, confidences $s$, the IoU $u$ of the predicted box with its label, the deltas
# $d$, those of the label $d^*$, and $A$ anchors in a picture,
#
# $$\mathcal L_{\text{cls}} = \frac1O\sum_{O}\sum_c \bigl[-q_c\log p_c - (1-q_c)\log(1-p_c)\bigr],
# \qquad \mathcal L_{\text{box}} = \frac5O\sum_{O}\|d-d^*\|^2,$$
#
# $$\mathcal L_{\text{conf}} = \frac1N\Bigl[\frac{75}{O}\sum_{O}(u-s)^2 +
# \frac{100}{A-O}\sum_{\text{others}} s^2\Bigr].$$
#
# The confidence shall say how well the box fits, and 0 where there is no object. A tiny case can be
# computed by hand: two anchors, one object exactly on the first, and a network that says 0.

# %% tags=["nbval-check-output"]
two = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])
silent = [torch.zeros(1, 2, *inner, 1, 1) for inner in ((3,), (), (4,))]
said = AnchorOutput(*silent, two, (10, 30), {})
one = detection.Targets(two[None, :1], torch.tensor([[1]]), torch.tensor([[False]]))
terms = squeezedet.detection(said, one)
assert math.isclose(terms["classification"], math.log(3) + 2 * math.log(1.5), rel_tol=1e-6)
assert math.isclose(terms["confidence"], 75 * (1 - 0.5) ** 2 + 100 * 0.5**2, rel_tol=1e-6)
assert terms["box"] == 0
print({name: round(float(term), 3) for name, term in terms.items()})

# %% [markdown]
# ## Training

# %%
trained = experiment.fit(parts)
print(f"{cfg.schedule.steps} steps of {cfg.schedule.batch} pictures in {trained.seconds:.0f} s")

# %%
history = pd.DataFrame(trained.history)
epochs = trained.samples / len(parts.source)
figure, axes = plt.subplots(1, 3, figsize=(10, 2.6))
for axis, name in zip(axes, ("classification", "confidence", "box")):
    axis.plot(history["step"], history[name], "o-", ms=3, color="#0072B2")
    axis.set(xlabel="step", xlim=(0, 1.03 * cfg.schedule.steps), title=name)
    axis.set_ylim(0, 1.1 * history[name].max())
axes[0].set_ylabel("loss with its factor")
first, last = history["loss"].iloc[[0, -1]]
said = f"from {first:.2f} to {last:.2f}" if len(history) > 1 else f"{last:.2f} on average"
title = f"The sum: {said}; every still was seen {epochs:.0f} times"
figure.suptitle(title, x=0.01, ha="left", fontsize=11)
figure.tight_layout()
plt.show()


# %% [markdown]
# A point is the mean of up to fifty steps, so a smoke run has one. The confidence falls first: most
# of it is anchors that learn to be silent, which is easy.
#
# ## From anchors to boxes
#
# The score of an anchor is the probability of its best class times its confidence. The 64 best
# anchors stay, and of those of one class that overlap by more than 0.4 the best one (*non-maximum
# suppression*).

# %%
def found(network, image):
    """What a network finds in a picture, in pixels of the run's size."""
    view = to_device([loader.resize(image, cfg.data.size)], fabric)
    with torch.inference_mode(), fabric.autocast():
        output = network.eval()(view)
        one = network.detections(output, cfg.data.size)[0]
    return detection.Detections(*(part.cpu().numpy() for part in one))


def painted(image, one, least=0.3):
    """A picture with the boxes of a score from `least` on."""
    sure = one.scores >= least
    tint = colours_of(one.classes[sure], np.zeros(sure.sum(), bool))
    return outlined(loader.resize(image, cfg.data.size), one.xyxy[sure], tint, thick=3)


# %%
picture = layout.read_image(parts.report[0].image)
one = found(parts.network, picture)
least = (0.0, 0.1, 0.3)
tiles = [painted(picture, one, score) for score in least]
captions = [f"score {score} and up: {(one.scores >= score).sum()} boxes" for score in least]
sheet([tiles], captions, "One answer read out with three thresholds", height=1.4)
plt.show()

# %% [markdown]
# No threshold is right, and the score needs none.
#
# ## What it can find
#
# Detections of a class are taken in the order of their scores. One is a hit if it overlaps an
# object by more than 0.7 (cars) or 0.5 (people). Precision is read at eleven recalls,
#
# $$\mathrm{AP} = \frac1{11}\sum_{r\in\{0,\,0.1,\,\dots,\,1\}}\max_{\rho\ge r}
# \mathrm{precision}(\rho),\qquad \mathrm{mAP} = \frac19\sum_{\text{class}}\sum_{\text{level}}
# \mathrm{AP}.$$
#
# What is ignored, or harder than the level, may be found or missed at no cost. So may whatever lies
# in a DontCare region, and detections that are lower than 25 pixels (40 at *easy*).

# %% tags=["nbval-check-output"]
here = torch.tensor([[0.0, 0, 50, 50], [100, 0, 150, 50]])
two = detection.Boxes(here.numpy(), np.array([0, 0]), np.array([False, False]), np.array([0, 2]))
hit = detection.Detections(here[:1], torch.tensor([0.9]), torch.tensor([0]))
both = detection.Detections(here, torch.tensor([0.9, 0.8]), torch.tensor([0, 0]))
many = kitti_ap([both] * 50, [two] * 50, layout.CLASSES)["ap"]["Car"]
assert many["easy"] == many["hard"] == 1  # the harder one costs nothing at "easy"
half = kitti_ap([hit] * 50, [two] * 50, layout.CLASSES)["ap"]["Car"]
assert half["easy"] == 1 and math.isclose(half["hard"], 6 / 11)
print("ok: one of two found gives 6 of 11 recalls; easy does not ask for the hard one")

# %%
scores = experiment.score(parts)
val = scores["val"]
table = pd.DataFrame(val["ap"], dtype=float).T.mul(100)
reached = "nothing to find" if val["map"] is None else f"{100 * val['map']:.1f} %"
print(f"mAP: {reached}")
table.map(lambda score: "–" if np.isnan(score) else f"{score:.1f}")

# %%
figure, axis = plt.subplots(figsize=(7, 2.6))
table.plot.bar(ax=axis, color=["#9ecae1", "#4292c6", "#084594"], width=0.75, rot=0)
known = table.mean(axis=1).dropna()
axis.set(ylabel="AP, %", ylim=(0, 1.15 * max(1, table.max().max())))
axis.legend(frameon=False, fontsize=8)
best = f"best is {known.idxmax()}" if known.max() > 0 else "nothing is found yet"
axis.set_title(f"mAP {reached}: {best}")
plt.show()

# %% [markdown]
# An en dash means that the reported split holds no such object. A car has to be met with an IoU of
# more than 0.7, so a box that looks right may still be an error.

# %%
chosen = parts.report[:: max(1, len(parts.report) // 3)][:3]
rows = [[], []]
for sample in chosen:
    picture = layout.read_image(sample.image)
    true = detection.resized(layout.read_boxes(sample), picture.shape[:2], cfg.data.size)
    tint = colours_of(true.classes, true.ignored)
    rows[0].append(outlined(loader.resize(picture, cfg.data.size), true.xyxy, tint, thick=3))
    rows[1].append(painted(picture, found(parts.network, picture)))
title = f"Above: truth, ignored in grey; below: found with score 0.3 and up (mAP {reached})"
sheet(rows, [sample.id for sample in chosen], title, height=1.1)
plt.show()

# %% [markdown]
# Look for small objects that are missing below. A student that imitates this teacher gets its
# features near every labelled object, also near those that the teacher itself does not find.
#
# ## What is kept
#
# The weights go to `runs/` with the score that they reached on a fixed sample. A teacher that does
# not reach it again refuses to teach. The record goes to `results/`; tables are made from records
# only.

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
# The network is the released one. The pictures are simulated, smaller than KITTI's and far fewer,
# and the schedule is short. Rows *Small detector*, *Small detector: losses*, *Start of students*,
# *Data*, *Views*, *Schedule*, *Choice of the weights that are scored* and *Average precision* of
# the [deviation ledger](../../published/feature_imitation.yaml) say what was done and why; page 4
# prints the whole ledger.
#
# ## Exercises
#
# 1. **Anchors of these pictures.** Cluster the boxes of the labelled stills and pass the result as
#    `anchor_shapes`. How far does the mean best overlap rise?
# 2. **Forty points.** Call `kitti_ap` with `points=40`, as KITTI has counted since 2019. Which of
#    the nine numbers moves most, and why do eleven points flatter a detector with low recall?
# 3. **The weight of silence.** In the last batch of the training, how much of the confidence loss
#    comes from anchors without an object?
