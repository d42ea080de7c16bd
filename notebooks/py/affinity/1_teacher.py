# %% [markdown]
# # 1 · The teacher
#
# Inter-region affinity distillation, IntRA-KD for short (Hou et al., CVPR 2020), is about markings
# on the road: thin lines on a large background. A small network learns from a large one how the
# *regions* of a scene relate to each other. This page makes the large network. It shows the labels
# of three data sets, the network, its training, and how lanes are scored, which is not by pixels.
#
# The authors never released the code of the distillation. What the next pages build follows the
# formulas of their paper; where these leave something open, the page says so.

# %% tags=["parameters"]
run = "affinity-culane-teacher"  # or affinity-llamas-teacher, affinity-apollo-teacher
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
from kdlib import config, evaluation, experiment, runtime
from kdlib.data import augment, layouts, loader
from kdlib.evaluation.feeding import to_device
from kdlib.losses import affinity, supervised
from kdlib.metrics import lanes as rules
from kdlib.report.lane_stills import judge, paint_classes, paint_lanes
from kdlib.report.provenance import provenance
from kdlib.report.records import write_record
from kdlib.report.sheet import sheet
from kdlib.resize import bilinear

# %%
started = time.time()
cfg = config.load_run(run, scale=scale, seed=seed)
plt.rcParams.update({"axes.titlelocation": "left", "axes.titlesize": 11, "figure.dpi": 90})
print(f"{cfg.title}: {cfg.model.architecture}, starts from {cfg.init or 'random weights'}")
keys = ("steps", "batch", "lr", "optimiser", "weight_decay", "clip_norm", "warmup")
pd.DataFrame({"schedule": {key: getattr(cfg.schedule, key) for key in keys}}, dtype=object).T

# %%
parts = experiment.prepare(cfg)
layout, fabric = layouts.get(cfg.data.layout), parts.fabric
device, metric = fabric.device, getattr(layout, "METRIC", "miou")
print(f"{len(parts.labelled)} labelled stills to learn from, {len(parts.report)} to report on")
print(f"{experiment.parameter_count(parts.network):,} parameters, on {runtime.device_name(device)}")


# %% [markdown]
# ## The labels
#
# | data set | classes | scored by |
# |---|---|---|
# | CULane | background and four lanes, counted from left to right | F1 of lanes |
# | LLAMAS | background and l1, l0, r0, r1, from left to right | average precision of pixels |
# | ApolloScape | void, 35 kinds of marking, and one for what is ignored | mean IoU of pixels |
#
# A lane's class is its *place*, not its looks. So a view may never be mirrored: lane 1 would become
# lane 4. And a lane is labelled where a driver knows it to be, behind a car as well.
#
# Lanes do not climb into the sky, so the papers cut the top of the picture off before training. The
# next figure shows whole pictures with that line, and the labels below it.

# %%
def whole(sample):
    """A whole picture with a line where the top is cut off."""
    picture = layout.read_whole(sample.image).copy()
    picture[layout.top_of(len(picture)) - 1 :][:2] = (255, 0, 110)
    return picture


# %%
stills = parts.labelled[: min(4, len(parts.labelled))]
pictures = [layout.read_image(still.image) for still in stills]
labels = [layout.read_label(still.label) for still in stills]
painted = [paint_classes(*both, layout.PALETTE) for both in zip(pictures, labels)]
shown = [[whole(still) for still in stills], painted]
height = len(shown[0][0])
kept = 1 - layout.top_of(height) / height
title = f"{len(stills)} of {len(parts.labelled)} labelled stills; {100 * kept:.0f} % of rows stay"
sheet(shown, [still.id.split("/")[1][:8] for still in stills], title, height=1.2)
plt.show()

# %% [markdown]
# ## Few pixels
#
# How much of the labels is background? Cross entropy adds up pixels, so a network that answers
# "background" everywhere is nearly right. So the background gets a smaller weight $w_0$, 0.4 on
# CULane and LLAMAS, 0.05 on ApolloScape:
#
# $$\mathcal L_{seg} = \frac{\sum_u w_{y_u}\bigl(-\log p_{u,y_u}\bigr)}{\sum_u w_{y_u}},\qquad
# p_u = \mathrm{softmax}(z_u).$$

# %%
spaced = parts.labelled[:: 1 + len(parts.labelled) // 2000]  # CULane has 88,880: minutes to read
source = loader.Stills(cfg.data.layout, spaced, cfg.data.size, labels=True)
counts = evaluation.class_counts(source, len(layout.CLASSES)).double()
share = (counts / counts.sum()).numpy()
weight = np.array(layout.CLASS_WEIGHTS) * share
table = pd.DataFrame({"pixels, %": 100 * share, "weight": layout.CLASS_WEIGHTS}, layout.CLASSES)
table["of the loss at the start, %"] = 100 * weight / weight.sum()
table[counts.numpy() > 0].round(2)

# %% tags=["nbval-check-output"]
some = torch.tensor([0.4, 1.0, 1.0, 1.0, 1.0])
labels_ = torch.tensor([[[0, 0], [0, 3]]])
flat = torch.zeros(1, 5, 2, 2)
guess = supervised.segmentation_ce(flat, labels_, class_weights=some)
assert math.isclose(guess, math.log(5), rel_tol=1e-6)
flat[:, 0] = 5.0  # background everywhere
mixed = float(supervised.segmentation_ce(flat, labels_, class_weights=some))
right, wrong = (-float(flat[0, :, 0, 0].log_softmax(0)[k]) for k in (0, 3))
assert math.isclose(mixed, (3 * 0.4 * right + wrong) / (3 * 0.4 + 1), rel_tol=1e-5)
plain = (3 * right + wrong) / 4
print(f"ok: missing one lane pixel in four costs {mixed:.2f} nats instead of {plain:.2f}")

# %% [markdown]
# ## A second head
#
# A lane that is not there has no pixels to say so. On CULane a small second head says for each of
# the four lanes whether it exists, from the encoder's map, and learns it with a factor of 0.1:
#
# $$\mathcal L_{ex} = -\frac14\sum_{k=1}^{4}\bigl[e_k\log\sigma(v_k) +
# (1-e_k)\log(1-\sigma(v_k))\bigr] .$$
#
# The released code has a slip here. Its head ends in a sigmoid, and the loss applies one more.
# After two of them no probability leaves the range from 0.5 to 0.73.

# %% tags=["nbval-check-output"]
logits, exists = torch.tensor([[20.0, -20, 20, -20]]), torch.tensor([[1, 0, 1, 0]])
perfect = float(affinity.existence_bce(logits, exists))
released = float(affinity.existence_bce(logits, exists, released=True))
assert perfect < 1e-6
assert math.isclose(released, (math.log(1 + math.exp(-1)) + math.log(2)) / 2, rel_tol=1e-5)
print(f"ok: right and sure costs {perfect:.2f} nats, in the released form {released:.2f}")

# %% [markdown]
# ## The network
#
# A ResNet whose last stages keep an eighth of the resolution (a quarter at sample and smoke scale),
# and a *context module* behind it: the
# map is shrunk to cells of 10, 20, 30 and 60 positions a side, each cell gets a 1 × 1 convolution,
# and all of them are enlarged again and put beside the map. Two of its maps are what students learn
# from later, the *middle* and the *high* level.

# %%
pixels, masks = loader.Batches(parts.source, cfg.schedule.batch, seed)[0]
numbers = augment.draw(len(pixels), cfg.augment, runtime.generator(seed, "preview"))
crop = cfg.augment.crop or cfg.data.size
views = augment.apply(pixels.to(device), masks.to(device), numbers, crop)
parts.network.eval()
with torch.inference_mode():
    output = parts.network(views.images)
shapes = {"view": views.images, **output.features, "scores": output.logits}
shapes |= {} if output.existence is None else {"existence": output.existence}
pd.DataFrame({"shape": {name: str(tuple(one.shape)) for name, one in shapes.items()}}).T

# %%
view = [one.permute(1, 2, 0).cpu().numpy() for one in views.images[:4]]
mask = [one.cpu().numpy() for one in views.labels[:4]]
painted = [paint_classes(255 * one, label, layout.PALETTE) for one, label in zip(view, mask)]
captions = [f"zoom {zoom:.2f}" for zoom in numbers.zoom]
title = "Views of one batch: zoomed, shifted, recoloured, never mirrored"
sheet([view, painted], captions, title, height=0.8)
plt.show()

# %% [markdown]
# ## Training

# %%
trained = experiment.fit(parts)
print(f"{cfg.schedule.steps} steps of {cfg.schedule.batch} pictures in {trained.seconds:.0f} s")

# %%
history = pd.DataFrame(trained.history)
curves = [name for name in ("cross_entropy", "existence") if name in history]
figure, axes = plt.subplots(1, len(curves), figsize=(4.6 * len(curves), 2.7), squeeze=False)
guess = {"cross_entropy": math.log(len(layout.CLASSES)), "existence": math.log(2)}
for axis, name in zip(axes[0], curves):
    axis.plot(history["step"], history[name], "o-", ms=3, color="#0072B2")
    axis.axhline(guess[name], color="#888888", lw=1, ls=":")
    axis.set(xlabel="step", ylabel="nats", title=name, xlim=(0, 1.05 * cfg.schedule.steps))
    axis.set_ylim(0, 1.1 * max(guess[name], history[name].max()))
first, last = history["loss"].iloc[[0, -1]]
words = f"from {first:.2f} to {last:.2f}" if len(history) > 1 else f"{last:.2f} on average"
figure.suptitle(f"The teacher's loss: {words}; dotted: guessing", x=0.01, ha="left", fontsize=11)
figure.tight_layout()
plt.show()


# %% [markdown]
# A point is the mean of up to fifty steps, so a smoke run has one. Cross entropy falls fast at
# first, because the background is easy; the lanes come later.
#
# ## From scores to lanes
#
# CULane wants lanes as curves. Its rule reads the probability of a lane, smoothed by a 9 × 9 mean,
# at 18 rows that are 20 pixels apart on the picture of 590. In each row it takes the column of the
# largest value, if that is above 0.3; a lane needs two such points, and an existence above 0.5.

# %%
def probabilities(sample):
    """A still below the cut, and (C, H, W) what the network says about its pixels."""
    picture = layout.read_image(sample.image)
    seen = to_device([loader.resize(picture, cfg.data.size)], fabric)
    with torch.inference_mode(), fabric.autocast():
        said = parts.network.eval()(seen)
    return picture, bilinear(said.logits.float(), picture.shape[:2]).softmax(1)[0].cpu()


# %%
picture, p = probabilities(parts.report[0])
best = 1 + int(p[1:].flatten(1).max(1).values.argmax())
glow = plt.cm.magma(p[best].numpy())[..., :3]
points = []
if metric == "culane":
    ratio, top = picture.shape[1] / layout.FULL[1], layout.top_of(layout.FULL[0])
    lanes = evaluation.lanes.predict_lanes(parts.network, picture, cfg.data.size, fabric)
    points = [ratio * (lane - [0, top]) for lane in lanes]

# %%
figure, axis = plt.subplots(figsize=(10, 2.6))
axis.imshow((0.35 * picture.mean(2, keepdims=True) / 255 + 0.65 * glow).clip(0, 1))
for lane in points:
    axis.plot(lane[:, 0], lane[:, 1], "o-", ms=3, lw=1, color="#64C4FF")
axis.set_axis_off()
words = f"{layout.CLASSES[best]}: probability up to {float(p[best].max()):.2f}"
words += f"; blue: {len(points)} lanes that the rule reads" if metric == "culane" else ""
axis.set_title(words)
plt.show()

# %% [markdown]
# Where the glow is pale and thin, the points sit in its middle. After the six steps of a smoke run
# hardly anything passes 0.3.
#
# ## When is a lane found?
#
# Both lanes, the labelled and the found one, become a natural spline, are drawn 30 pixels wide on a
# picture of 1640 × 590, and compared:
#
# $$\mathrm{IoU} = \frac{|A\cap B|}{|A\cup B|} > 0.5\quad\Longrightarrow\quad
# \text{found},\qquad F_1 = \frac{2\,TP}{2\,TP+FP+FN} .$$
#
# How far may a lane be off? The next cell shifts a straight one.

# %% tags=["nbval-check-output"]
upright = np.array([[800.0, 589], [800, 250]])
shifts = (0, 5, 10, 11, 20)
moved = {shift: upright + np.array([shift, 0]) for shift in shifts}
found = {shift: rules.culane_iou([lane], [upright])[0, 0] for shift, lane in moved.items()}
assert found[0] == 1 and found[10] > 0.5 > found[11]
hits = [tuple(rules.culane_match([moved[shift]], [upright])) for shift in (10, 11)]
assert hits == [(1, 0, 0), (0, 1, 1)]
print("IoU by shift in pixels: " + ", ".join(f"{k}: {iou:.3f}" for k, iou in found.items()))
print("ok: 10 pixels aside is a hit, 11 pixels an error and a miss")


# %%
def bar(x):
    """A straight lane drawn as the rule draws it, on a small canvas."""
    canvas = np.zeros((150, 220), np.uint8)
    cv2.polylines(canvas, [np.array([[x, 130], [x, 20]], np.int32)], False, 1, 30)
    return canvas.astype(bool)


# %%
figure, axes = plt.subplots(1, 4, figsize=(10, 2.2))
for axis, shift in zip(axes, (0, 10, 11, 20)):
    one, other = bar(100), bar(100 + shift)
    tint = np.array([(245, 245, 245), (230, 159, 0), (86, 180, 233), (0, 114, 178)], np.uint8)
    axis.imshow(tint[one + 2 * other])
    axis.set_axis_off()
    axis.set_title(f"{shift} pixels aside: IoU {found[shift]:.2f}", fontsize=9)
figure.suptitle("Lanes drawn 30 wide; dark: in both; 10 pixels still count", x=0.01, ha="left")
plt.show()

# %% [markdown]
# Off by a third of its width a lane is still found; one pixel more is an error *and* a miss. Close to
# the car a lane is easily 10 pixels off, and far away it hardly can be: the rule is strict nearby.
#
# LLAMAS scores pixels. For each picture and lane, thresholds fall from 1.00 to 0.00 in 101 steps,
# and the average precision sums each step of recall times the precision *before* it. A picture
# without the lane counts 0, for the best network too.

# %% tags=["nbval-check-output"]
label = torch.tensor([[1, 1], [0, 0]])
best_ = rules.llamas_average_precision(torch.tensor([[1.0, 1.0], [0.0, 0.0]]), label)
late = rules.llamas_average_precision(torch.tensor([[0.9, 0.9], [0.0, 0.0]]), label)
half = rules.llamas_average_precision(torch.tensor([[0.9, 0.0], [0.9, 0.0]]), label)
print(f"right and sure: {best_.auc:.2f}; right, but with 0.90 at most: {late.auc:.2f}; ", end="")
print(f"half right and half wrong: {half.auc:.2f}")

# %% [markdown]
# The second number shows the price of "the precision before it": a network that never says exactly
# 1 loses its first step, here all of it. The rule is the official script's, kept as it is.
#
# ## What it can find

# %%
scores = experiment.score(parts)
val = scores["val"]
reached = val[evaluation.headline(cfg.data.layout)]
names = ("f1", "precision", "recall", "map", "miou", "miou36", "miou18", "pixel_accuracy")
held = {name: f"{100 * val[name]:.1f}" for name in names if val.get(name) is not None}
pd.DataFrame({"%": held}).T

# %%
each = val.get("iou") or {}
if metric == "culane":
    each = {name: one["f1"] for name, one in val["scenarios"].items() if "f1" in one}
each = pd.Series(val.get("ap", each), dtype=float).mul(100)
what = {"culane": "F1 by scenario", "llamas": "AP by lane"}.get(metric, "IoU by class")
figure, axis = plt.subplots(figsize=(max(5, 0.5 * len(each.dropna())), 2.6))
axis.bar(each.dropna().index, each.dropna(), color="#0072B2")
axis.axhline(100 * reached, color="#222222", lw=1, ls=":")
axis.tick_params(axis="x", rotation=60)
axis.set(ylabel="%", ylim=(0, 100))
axis.set_title(f"{what}; all together {100 * reached:.1f} % (dotted)")
plt.show()

# %% [markdown]
# Scenarios without a bar have no lane among the reported stills. Crossroads have none by
# definition, there only lanes are counted that are not there.
#
# In the next figure labelled lanes are thin and white. A found lane is green if it counts and red
# if it does not.

# %%
chosen = parts.report[:: max(1, len(parts.report) // 6)][:6]
if metric == "culane":
    judged = [judge(parts.network, layout, still, cfg.data.size, fabric) for still in chosen]
    times = math.ceil(1200 / judged[0].picture.shape[1])  # thin lines are to be seen
    drawn = [paint_lanes(one, layout, enlarge=times, thin=2, thick=5) for one in judged]
    there, said, right = np.sum([one.counts for one in judged], 0)
    title = f"White: {there} labelled lanes; {said} found, green {right} of them hits"
else:
    pairs = [probabilities(still) for still in chosen]
    drawn = [paint_classes(one, p.argmax(0).byte().numpy(), layout.PALETTE) for one, p in pairs]
    title = "The winning class of each pixel, without the background"
captions = [still.id.split("/")[1][:8] for still in chosen]
sheet([drawn[:3], drawn[3:]] if len(drawn) > 3 else [drawn], captions, title, height=0.95)
plt.show()

# %% [markdown]
# Look at the far end of the lanes and at lanes behind cars: there a wide network with context has
# something to teach.
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
# The paper's teacher is a ResNet-101 with this context module; at sample scale ours has two blocks
# in each stage and few channels, on simulated streets. Rows *Teacher: padding of the context
# module*, *Teacher: batch normalisation*, *Existence of lanes: loss*, *Existence of lanes: head*,
# *Class weights*, *CULane: from probabilities to lanes*, *CULane: matching of lanes*, *LLAMAS:
# average precision*, *ApolloScape: mean IoU*, *Views* and *Start of the teacher* of the
# [deviation ledger](../../published/inter_region_affinity.yaml) say what was done and why; page 5
# prints the whole ledger.
#
# ## Exercises
#
# 1. **A wider lane.** Call `culane_iou` with widths from 10 to 60. How far may a lane be off then,
#    and which width would make the rule as strict far away as nearby?
# 2. **Exact matching.** Call `culane_match` with `exact=True` on the lanes of the report. Does any
#    count change? Build two lanes and labels for which it does.
# 3. **No background weight.** Set `method.class_weights: none`. What happens to recall?
