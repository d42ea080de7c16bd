# %% [markdown]
# # 1 · The teacher
#
# Structured distillation (Liu et al., CVPR 2019; TPAMI 2020) asks what a small segmentation network
# can take over from a large one beyond the answer at each pixel. The large one is trained first, in
# the ordinary way. [Function matching, page 2](../funmatch/2_teacher.ipynb) explains that training
# step by step: labels, views, network, score. This page does the same with another set of labels,
# and adds one thing to look at: *how sure* the teacher is, because that is what the pixel-wise loss
# will pass on.

# %% tags=["parameters"]
run = "structured-teacher"  # or structured-camvid-teacher, whose weights were released
scale = "smoke"  # smoke | sample | gpu | paper
seed = 0  # draws the first weights and the views

# %%
import math
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from kdlib import config, evaluation, experiment, runtime
from kdlib.data import layouts, loader
from kdlib.losses import supervised
from kdlib.report.provenance import provenance
from kdlib.report.records import write_record
from kdlib.report.sheet import sheet

# %%
started = time.time()
cfg = config.load_run(run, scale=scale, seed=seed)
plt.rcParams.update({"axes.titlelocation": "left", "axes.titlesize": 11, "figure.dpi": 90})
start = cfg.released or cfg.init or "random weights"
print(f"{cfg.title}: {cfg.model.architecture}, {cfg.method.name}, starts from {start}")
parts = experiment.prepare(cfg)
layout, device = layouts.get(cfg.data.layout), parts.fabric.device
print(f"{len(parts.labelled)} labelled stills to learn from, {len(parts.report)} to report on")
print(f"{experiment.parameter_count(parts.network):,} parameters, on {runtime.device_name(device)}")

# %% [markdown]
# ## What differs from function matching
#
# | | function matching | here |
# |---|---|---|
# | labels | thirty, drawn anew by each seed | every still of its part of the training split |
# | teacher | one for each seed | one for all: the rows differ in the student's loss only |
# | its start | weights learnt in another simulated world | the same |
#
# Function matching is about few labels and many unlabelled pictures. Structured distillation is
# about a small network: teacher and student see the same labelled stills, and the student may use
# the labels too.

# %%
blank = [(0, 0, 0)] * (256 - len(layout.PALETTE))
palette = np.array([*layout.PALETTE, *blank], np.uint8)  # ignored pixels turn black
stills = [parts.source.read(i) for i in range(min(4, len(parts.source)))]
sheet(
    [[image for image, _ in stills], [palette[label] for _, label in stills]],
    [sample.id for sample in parts.labelled],
    f"{len(stills)} of {len(parts.source)} labelled stills",
)
plt.show()

# %% [markdown]
# ## The loss
#
# Cross entropy of every labelled pixel $u$ at the resolution of the label $y$; the scores $z$ are
# scaled up to it, corners aligned. A PSPNet with an auxiliary head counts that head's loss with a
# factor of 0.4, as the paper does:
#
# $$\mathcal L_{mc} = \frac{\sum_u w_{y_u}\bigl(-\log p_{u,y_u}\bigr)}{\sum_u w_{y_u}}
# \;\bigl[\,+\;0.4\,\mathcal L_{aux}\bigr],\qquad p_u = \mathrm{softmax}(\mathrm{up}(z)_u).$$
#
# The weights $w_c$ are 1 or fall with the root of a class's share, as the run says. A network that
# scores all classes alike pays $\log C$; a batch without any labelled pixel pays nothing, where a
# plain mean would be $0/0$.

# %% tags=["nbval-check-output"]
classes = len(layout.CLASSES)
labels = torch.from_numpy(np.stack([label for _, label in stills])).long()
flat = torch.zeros(len(labels), classes, 9, 16)
guess = supervised.segmentation_ce(flat, labels)
assert math.isclose(float(guess), math.log(classes), rel_tol=1e-4)
assert supervised.segmentation_ce(flat, torch.full_like(labels, 255)) == 0
print("ok: uniform scores cost log C, a batch without labels costs 0")

# %% [markdown]
# ## Training
#
# Released weights are not trained further: their run has 0 steps, and the curve is empty.

# %%
trained = experiment.fit(parts)
print(f"{cfg.schedule.steps} steps of {cfg.schedule.batch} pictures in {trained.seconds:.0f} s")

# %%
if trained.history:
    history = pd.DataFrame(trained.history)
    first, last = history["cross_entropy"].iloc[[0, -1]]
    figure, axis = plt.subplots(figsize=(7, 2.8))
    axis.plot(history["step"], history["cross_entropy"], "o-", ms=3, color="#0072B2")
    axis.axhline(math.log(classes), color="#888888", lw=1, ls=":")
    axis.set(xlabel="step", ylabel="cross entropy, nats", xlim=(0, 1.03 * cfg.schedule.steps))
    axis.set_ylim(0, 1.1 * max(math.log(classes), history["cross_entropy"].max()))
    passes = trained.samples / len(parts.source)
    said = f"{first:.2f} to {last:.2f} nats" if len(history) > 1 else f"{last:.2f} nats on average"
    axis.set_title(f"Training: {said}; every still was seen {passes:.1f} times")
    plt.show()
else:
    print("released weights: nothing was trained here")

# %% [markdown]
# A point is the mean of up to fifty steps, so a smoke run has one. The dotted line is $\log C$, the
# cost of guessing.
#
# ## What it can see

# %%
scores = experiment.score(parts)
val = scores["val"]
names = ["miou", "miou_official", "category_miou", "pixel_accuracy"]
pd.DataFrame({"%": {name: round(100 * val[name], 1) for name in names if name in val}}).T

# %%
iou = pd.Series(val["iou"], dtype=float).mul(100).sort_values(ascending=False)
known = iou.dropna()
figure, axis = plt.subplots(figsize=(8, 2.6))
axis.bar(iou.index, iou.fillna(0), color="#0072B2")
axis.tick_params(axis="x", rotation=60)
axis.set(ylabel="IoU, %", ylim=(0, 100))
axis.axhline(100 * val["miou"], color="#222222", lw=1, ls=":")
blind = int((known < 1).sum())
best = f"best is {known.index[0]} ({known.iloc[0]:.0f} %)"
axis.set_title(f"mIoU {100 * val['miou']:.1f} %: {best}, {blind} of {len(known)} stay below 1 %")
plt.show()

# %% [markdown]
# ## What it will pass on
#
# A label names one class for each pixel. The teacher gives a probability to all of them, and how
# wide it spreads them is the entropy of its answer, $h_u = -\sum_c p_{u,c}\log p_{u,c}$: 0 where it
# is sure, $\log C$ where it has no idea. Page 2 meets this number again.

# %%
chosen = parts.report[:: max(1, len(parts.report) // 4)][:4]
pictures = [layout.read_image(sample.image) for sample in chosen]
truths = [layout.read_label(sample.label) for sample in chosen]
guesses = [evaluation.predict(parts.network, p, cfg.data.size, parts.fabric) for p in pictures]


def doubt(picture):
    """Entropy of the teacher's answer at each pixel, in nats, at the size that it sees."""
    image = torch.from_numpy(loader.resize(picture, cfg.data.size)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        log_p = parts.network(image.to(device) / 255).logits.float().log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)[0].cpu().numpy()


# %%
maps = [doubt(picture) for picture in pictures]
sheet(
    [
        pictures,
        [palette[t] for t in truths],
        [palette[g] for g in guesses],
        [plt.cm.magma(h / math.log(classes)) for h in maps],
    ],
    [sample.id for sample in chosen],
    f"Picture, truth, answer, doubt (pale: log C); mean doubt {np.mean(maps):.2f} nats",
)
plt.show()

# %% [markdown]
# After good training the doubt lies along outlines and on small things, where a label has to decide
# and a picture does not. That is what a student learns from a teacher's answer and cannot learn
# from a label. After six steps of a smoke run the doubt is everywhere.
#
# ## What is kept

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
# The paper's teacher is a PSPNet with a ResNet-101 of 70.4 million parameters, trained on
# Cityscapes from ImageNet weights; its published mIoU on the validation split is 78.56 %. At sample
# scale ours is a small PSPNet on simulated pictures. `kdlib.models.structured` has the paper's
# networks, scale `paper` uses them. Page 6 prints the whole deviation ledger.
#
# ## Exercises
#
# 1. **A worse teacher.** Halve the teacher's steps and run page 5 again. How many of the lost
#    points does the student lose?
# 2. **Doubt and error.** Is the teacher wrong where it doubts? Sort the pixels of the reported
#    split by $h_u$ and plot the share of wrong ones.
