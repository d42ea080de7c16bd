# %% [markdown]
# # 2 · The teacher
#
# Function matching starts with a network that is good and too large for the car: the teacher. It
# learns in the ordinary way, from pictures with labels. This page shows those labels, the views
# that the network is trained on, the network, the loss, the training, and what the teacher can and
# cannot see afterwards.
#
# The same page makes the weights that the teacher starts from (`funmatch-seg-pretrain`): there the
# pictures come from *another* simulated world. They play the part that ImageNet plays for the
# paper's networks: general sight, learnt elsewhere, before the few labels at home are used.

# %% tags=["parameters"]
run = "funmatch-seg-teacher"  # a supervised run: funmatch-seg-pretrain, funmatch-camvid-teacher ...
scale = "smoke"  # smoke | sample | gpu | paper
seed = 0  # draws the labelled images, the first weights and the views

# %%
import math
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from kdlib import config, evaluation, experiment, methods, runtime
from kdlib.data import augment, layouts
from kdlib.report.provenance import provenance
from kdlib.report.records import write_record
from kdlib.report.sheet import sheet

# %%
started = time.time()
cfg = config.load_run(run, scale=scale, seed=seed)
plt.rcParams.update({"axes.titlelocation": "left", "axes.titlesize": 11, "figure.dpi": 90})
start = cfg.released or cfg.init or "random weights"
print(f"{cfg.title}: {cfg.model.architecture}, {cfg.method.name}, starts from {start}")
keys = ("steps", "batch", "lr", "optimiser", "weight_decay", "decay", "warmup")
pd.DataFrame({"schedule": {key: getattr(cfg.schedule, key) for key in keys}}, dtype=object).T

# %% [markdown]
# `prepare` reads the data, builds the network and puts it on the device. At smoke scale it first
# makes whatever is missing upstream; at the other scales a missing part is an error that names its
# stage.

# %%
parts = experiment.prepare(cfg)
layout = layouts.get(cfg.data.layout)
device = parts.fabric.device
print(f"{len(parts.labelled)} labelled stills to learn from, {len(parts.report)} to report on")
print(f"on {runtime.device_name(device)}")

# %% [markdown]
# ## Pictures and labels
#
# A label gives every pixel one of the classes, or the value 255: *ignore*. Ignored pixels are left
# out of the loss and of the score.

# %%
blank = [(0, 0, 0)] * (256 - len(layout.PALETTE))
palette = np.array([*layout.PALETTE, *blank], np.uint8)  # ignored pixels turn black

# %%
stills = [parts.source.read(i) for i in range(min(4, len(parts.source)))]
ignored = 100 * np.mean([(label == 255).mean() for _, label in stills])
sheet(
    [[image for image, _ in stills], [palette[label] for _, label in stills]],
    [sample.id for sample in parts.labelled],
    f"{len(stills)} of {len(parts.source)} labelled stills; {ignored:.1f} % of the pixels ignored",
)
plt.show()

# %% [markdown]
# The lower row is all that the teacher is told about the world at home. How much is that for each
# class?

# %%
counts = evaluation.class_counts(parts.source, len(layout.CLASSES)).numpy()
share = 100 * counts / counts.sum()
seen = share > 0
rare = layout.CLASSES[int(np.where(seen, share, np.inf).argmin())]

figure, axis = plt.subplots(figsize=(8, 2.6))
axis.bar(layout.CLASSES, share, color=palette[: len(layout.CLASSES)] / 255)
axis.set(yscale="log", ylabel="labelled pixels, %")
axis.tick_params(axis="x", rotation=60)
times = share.max() / share[seen].min()
largest = layout.CLASSES[int(share.argmax())]
found = f"{seen.sum()} of {len(seen)} classes occur"
axis.set_title(f"{found}; {largest} has {times:,.0f} times the pixels of {rare}")
plt.show()

# %% [markdown]
# The axis is logarithmic: a few classes fill nearly every picture. A loss that counts every pixel
# alike would hardly notice the others.
#
# ## The loss
#
# The teacher is trained by cross entropy, with a weight $w_c$ for each class:
#
# $$\mathcal L = \frac{\sum_u w_{y_u}\,\bigl(-\log p_{u,y_u}\bigr)}{\sum_u w_{y_u}},\qquad
# p_u = \mathrm{softmax}(z_u),\qquad w_c \propto \frac{1}{\sqrt{f_c}} ,$$
#
# where $u$ runs over the pixels that are not ignored, $y_u$ is the label and $f_c$ is the class's
# share of the labelled pixels. The square root is a compromise: with $1/f_c$ a handful of pixels
# would rule.

# %%
weights = methods.inverse_sqrt_weights(torch.from_numpy(counts))
columns = {"labelled pixels, %": share.round(2), "weight": weights.double().numpy().round(2)}
by_weight = pd.DataFrame(columns, layout.CLASSES).sort_values("weight")
pd.concat([by_weight.head(3), by_weight.tail(3)])

# %% [markdown]
# These are the three lightest and the three heaviest classes; one that never occurs gets the
# largest weight of all, which is of no consequence. A network that knows nothing gives all classes
# the same score. Its loss must be $\log C$ for $C$ classes, whatever the weights are.

# %% tags=["nbval-check-output"]
labels = torch.from_numpy(np.stack([label for _, label in stills])).long()
classes = len(layout.CLASSES)
flat = torch.zeros(len(labels), classes, *labels.shape[1:])
loss = F.cross_entropy(flat, labels, weight=weights, ignore_index=255)
assert math.isclose(float(loss), math.log(classes), rel_tol=1e-4)
print("ok: uniform scores cost log C")

# %% [markdown]
# Keep that number in mind for the learning curve below: it is where a network starts that has to
# guess.
#
# ## The views
#
# The network never sees a still twice in the same way. Every step draws, for every picture, a zoom,
# a position, a flip and a change of colour, and applies them on the device: bilinear to the
# picture, nearest neighbour to the label.

# %%
image, label = (torch.from_numpy(part) for part in stills[0])
images, labels = image.permute(2, 0, 1).repeat(5, 1, 1, 1), label.repeat(5, 1, 1)
numbers = augment.draw(5, cfg.augment, runtime.generator(seed, "preview"))
views = augment.apply(images, labels, numbers, cfg.augment.crop or cfg.data.size)

shown = [view.permute(1, 2, 0).numpy() for view in views.images]
sheet(
    [shown, [palette[view.numpy()] for view in views.labels]],
    [f"zoom {zoom:.2f}" for zoom in numbers.zoom],
    f"Five views of one still: zoom {cfg.augment.zoom}, colour ± {100 * cfg.augment.colour:.0f} %",
)
plt.show()

# %% [markdown]
# Picture and label move together, and a mirrored street is still a street. At home the range of the
# zoom is small on purpose: views are a way to get more out of few labels, and in the pilot behind
# these settings wide views on more labels left nothing for the unlabelled frames to repair.
#
# ## The network
#
# PSPNet: a ResNet turns the picture into features on a coarse grid; *pyramid pooling* averages them
# over $1\times1$, $2\times2$, $3\times3$ and $6\times6$ cells, so that every pixel also knows what
# kind of scene it belongs to; one convolution joins the two and a last one scores the classes. (A
# run may name another architecture; then the shapes below are that network's.)
#
# $$f = \mathrm{ResNet}(x),\qquad
# z = W\,*\,\mathrm{conv}\bigl[\,f,\;\mathrm{up}(\mathrm{pool}_1 f),\;
# \mathrm{up}(\mathrm{pool}_2 f),\;\mathrm{up}(\mathrm{pool}_3 f),\;
# \mathrm{up}(\mathrm{pool}_6 f)\,\bigr]$$

# %%
parts.network.eval()
with torch.inference_mode():
    output = parts.network(views.images.to(device))
print(f"{experiment.parameter_count(parts.network):,} parameters")
for name, tensor in {"picture": views.images, **output.features, "scores": output.logits}.items():
    print(f"{name:10}{tuple(tensor.shape)}")

# %% [markdown]
# The scores lie on a grid some times coarser than the picture. They are scaled up to the label's
# size for the loss and for the score; page 3 compares student and teacher on the coarse grid
# itself.

# %% tags=["nbval-check-output"]
batch, channels, height, width = output.logits.shape
assert (batch, channels) == (len(views.images), classes)
assert views.images.shape[-1] / width == views.images.shape[-2] / height
print("ok: one score for each class, on a grid of the picture's shape")

# %% [markdown]
# ## Training
#
# One loop serves all methods. What step $t$ does depends on the seed and on $t$ alone, so a run
# that was killed and started again ends with the same bits as one that was not.

# %%
trained = experiment.fit(parts)
print(f"{cfg.schedule.steps} steps of {cfg.schedule.batch} pictures in {trained.seconds:.0f} s")

# %%
steps = [row["step"] for row in trained.history]
loss = [row["cross_entropy"] for row in trained.history] or [math.nan]  # released: not trained here
epochs = trained.samples / len(parts.source)

figure, axis = plt.subplots(figsize=(7, 2.8))
axis.plot(steps, loss[: len(steps)], "o-", ms=3, color="#0072B2")
axis.axhline(math.log(classes), color="#888888", lw=1, ls=":")
axis.set(xlabel="step", ylabel="cross entropy, nats", xlim=(0, 1.03 * cfg.schedule.steps + 1))
axis.set_ylim(0, 1.1 * max(math.log(classes), *loss))
axis.set_title(
    f"From {loss[0]:.2f} to {loss[-1]:.2f} nats; every still was seen {epochs:.0f} times"
)
plt.show()

# %% [markdown]
# A point is the mean of up to fifty steps. The dotted line is $\log C$, the cost of guessing. Near
# zero would mean that the network has learnt the labelled stills by heart, which says nothing about
# other streets. For that there is another split.
#
# ## What it can see
#
# For each class the score is the intersection over union of prediction and truth, and mIoU is its
# mean:
#
# $$\mathrm{IoU}_c = \frac{TP_c}{TP_c + FP_c + FN_c},\qquad
# \mathrm{mIoU} = \frac{1}{|\mathcal C|}\sum_{c\in\mathcal C}\mathrm{IoU}_c .$$
#
# The counts are of one confusion matrix over the whole split, at the labels' own resolution.
# Nothing was chosen on this split.

# %%
scores = experiment.score(parts)
val = scores["val"]
names = ["miou", "miou_official", "category_miou", "pixel_accuracy"]
pd.DataFrame({"%": {name: round(100 * val[name], 1) for name in names if name in val}}).T

# %% [markdown]
# `miou` is the mean over the classes that occur in truth or prediction, `miou_official` follows
# BDD100K's rule and counts the classes of the truth only. `category_miou` puts the classes into
# seven groups.

# %%
iou = pd.Series(val["iou"], dtype=float).mul(100).sort_values(ascending=False)
known = iou.dropna()
blind = int((known < 1).sum())

figure, axis = plt.subplots(figsize=(8, 2.6))
axis.bar(iou.index, iou.fillna(0), color="#0072B2")
axis.tick_params(axis="x", rotation=60)
axis.set(ylabel="IoU, %", ylim=(0, 100))
axis.axhline(100 * val["miou"], color="#222222", lw=1, ls=":")
axis.set_title(
    f"mIoU {100 * val['miou']:.1f} %: best is {known.index[0]} ({known.iloc[0]:.0f} %), "
    f"{blind} of {len(known)} classes stay below 1 %"
)
plt.show()

# %% [markdown]
# Compare the order with that of the class shares above: large and frequent things are easy. The
# mean counts a pole as much as the road, which is why mIoU is so much lower than the share of right
# pixels.

# %%
chosen = parts.report[:: max(1, len(parts.report) // 4)][:4]
pictures = [layout.read_image(sample.image) for sample in chosen]
truths = [layout.read_label(sample.label) for sample in chosen]
guesses = [evaluation.predict(parts.network, p, cfg.data.size, parts.fabric) for p in pictures]
wrong = [
    np.where(((g != t) & (t != 255))[..., None], (255, 0, 110), p // 3 + 150).astype(np.uint8)
    for g, t, p in zip(guesses, truths, pictures)
]
sheet(
    [pictures, [palette[t] for t in truths], [palette[g] for g in guesses], wrong],
    [sample.id for sample in chosen],
    f"From above: picture, truth, answer, errors ({100 * val['pixel_accuracy']:.0f} % right)",
)
plt.show()

# %% [markdown]
# After good training the errors are left along outlines and on small things. The teacher's answers,
# errors included, are what the student will be asked to copy on the next page: what matters there
# is not the truth but this third row.
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
# The paper's teacher is a PSPNet with a ResNet-101. Its optimiser, crop and schedule are not known.
# Rows *Weights the teacher starts from*, *Networks*, *Optimiser and learning rate* and *Labelled
# images* of the [deviation ledger](../../published/function_matching.yaml) say what was done here
# and why; page 5 prints the whole ledger.
#
# ## Exercises
#
# 1. **No other world.** Give `funmatch-seg-teacher` the line `init: null`. How many points does the
#    teacher lose, and in which classes? Then rerun page 3: what is left of the gap between teacher
#    and student?
# 2. **Weights.** Set `class_weights: none`. Which classes fall to zero, and does pixel accuracy
#    rise?
# 3. **Views.** Widen `augment.zoom` to `[1.0, 2.0]` and `colour` to 0.3 for all runs. The teacher
#    improves; does function matching still have something to add?
