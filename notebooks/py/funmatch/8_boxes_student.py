# %% [markdown]
# # 8 · The student that finds boxes, three ways
#
# The student is a small FCOS. As on page 3 it starts from weights that were learnt with the labels
# (at scale `paper` from ImageNet's, as its teacher does) and goes on in one of three ways, always
# for the same number of steps:
#
# | way | pictures | told by |
# |---|---|---|
# | (1) supervised | the labelled stills | their boxes |
# | (2) distil | the labelled stills | the teacher |
# | (3) function matching | the labelled stills **and** the unlabelled frames | the teacher |
#
# New here is the distance between two detectors. Their answers are dense, one for every cell, and
# most cells see nothing. This one page runs all three ways, and the common start too.

# %% tags=["parameters"]
run = "funmatch-det-matching"  # or -start, -supervised, -distil, -supervised-double
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
from kdlib.losses import fcos, matching
from kdlib.report.provenance import provenance
from kdlib.report.records import write_record
from kdlib.report.sheet import outlined, sheet

# %%
started = time.time()
cfg = config.load_run(run, scale=scale, seed=seed)
plt.rcParams.update({"axes.titlelocation": "left", "axes.titlesize": 11, "figure.dpi": 90})
print(f"{cfg.title}: method {cfg.method.name}, starts from {cfg.init or 'random weights'}")
parts = experiment.prepare(cfg)

# %%
layout, fabric, device = layouts.get(cfg.data.layout), parts.fabric, parts.fabric.device
method, teacher = parts.method, parts.teacher
print(f"{len(parts.source):,} pictures, {len(parts.labelled)} of them with labels at hand")
print(f"student: {experiment.parameter_count(parts.network):,} parameters")
if teacher is not None:
    size = sum(p.numel() for p in teacher.parameters())
    print(f"teacher: {size:,} parameters, mAP {100 * teacher.score:.1f} % on its sample")

# %% [markdown]
# A teacher that is loaded has passed an examination: on a fixed sample it had to reach the score
# that was recorded with its weights.
#
# ## Pictures and views
#
# A batch of the source, with labelled stills and unlabelled frames as they come. Each picture is
# zoomed, shifted, flipped and recoloured once, and the *result* goes to both networks: in the loop
# this is one variable, `views.images`, used twice.

# %%
pixels, _ = loader.Batches(parts.source, 8, seed)[0]
numbers = augment.draw(len(pixels), cfg.augment, runtime.generator(seed, "preview"))
views = augment.apply(pixels.to(device), None, numbers, cfg.augment.crop or cfg.data.size)
views = method.prepare(views, runtime.generator(seed, "blend"))
pictures = [view.permute(1, 2, 0).float().cpu().numpy() for view in views.images]
times = len(parts.source) / len(parts.labelled)
title = f"Eight views of {len(parts.source):,} pictures, {times:.0f} times as many as have labels"
sheet([pictures[:4], pictures[4:]], [], title, height=1.5)
plt.show()

# %% [markdown]
# No box is drawn on them, because for most of them nobody has drawn one. Ways 2 and 3 are not given
# the boxes of the labelled stills either.

# %% tags=["nbval-check-output"]
assert method.needs_labels != method.needs_teacher
print("ok: a way has a teacher or labels, never both")

# %% [markdown]
# ## Two answers to one view
#
# Teacher and student now say for each cell $i$ of each level: class scores $z_i$, a box $b_i$ as
# distances to its sides, and a centerness score $o_i$. (Where a run has no teacher, the student
# itself stands in, and the distances below are zero.)

# %%
judge = (teacher if teacher is not None else parts.network).eval()
with torch.inference_mode(), fabric.autocast():
    told = judge(views.images)
    said = parts.network.eval()(views.images)
for stride, z in zip(told.strides, told.classification):
    print(f"stride {stride:3}: {z.shape[-2]:3} x {z.shape[-1]:3} cells, {z.shape[1]} classes")


# %% [markdown]
# How much does a cell look like an object to the teacher? Its largest class probability is the
# *evidence of foreground*
#
# $$w_i = \max_c\, p^t_{ic},\qquad p = \sigma(z/T) .$$
#
# The next cell paints numbers of cells onto the picture, the levels one over the other, added up.

# %%
def painted(levels, which):
    """(H, W): the maps (N, h, w) of all levels for one picture, each cell on its own area."""
    size = views.images.shape[:1:-1]
    maps = [level[which].float().cpu().numpy() for level in levels]
    return sum(cv2.resize(part, size, interpolation=cv2.INTER_NEAREST) for part in maps)


def glow(maps):
    """Maps as pictures of one common scale, black at zero."""
    top = max(part.max() for part in maps)
    return [plt.cm.magma(part / max(top, 1e-9)) for part in maps]


# %%
evidence = [z.float().sigmoid().amax(1) for z in told.classification]
every = torch.cat([level.flatten() for level in evidence])
rows = [pictures[:4], glow([painted(evidence, i) for i in range(4)])]
order = every.sort(descending=True).values
half = int((order.cumsum(0) < order.sum() / 2).sum()) + 1
share = 100 * half / len(order)
sheet(rows, [], f"Views and evidence: {share:.1f} % of the cells hold half of it", height=1.5)
plt.show()

# %% [markdown]
# A trained teacher's evidence sits on the objects, and the rest of the street is dark.
#
# ## What a teacher says where nothing is
#
# Boxes and centerness were trained at cells that have an object, and nowhere else (page 7). Still
# the teacher gives a box at *every* cell. Here are the boxes of the cells where it is surest, and
# of cells drawn from the half where it is least sure.

# %%
sizes = [tuple(z.shape[-2:]) for z in told.classification]
places = [detection.centres(*each, device) for each in zip(sizes, told.strides)]
middle, reach = torch.cat(places), fcos.flat(told.box).transpose(1, 2)
corners = torch.cat([middle - reach[..., :2], middle + reach[..., 2:]], -1).cpu().numpy()
w = fcos.flat(told.classification).sigmoid().amax(1).cpu()

# %%
random, tiles = runtime.generator(seed, "cells"), []
for i in range(4):
    ranked = w[i].argsort(descending=True)
    unsure = ranked[len(ranked) // 2 :]
    drawn = unsure[torch.randperm(len(unsure), generator=random)[:40]]
    for cells, colour in ((ranked[:40], (255, 210, 40)), (drawn, (255, 60, 160))):
        tiles.append(outlined(pictures[i], corners[i][cells], [colour] * len(cells)))
title = "Above: the teacher's boxes at the 40 surest cells; below: at 40 of the least sure ones"
sheet([tiles[0::2], tiles[1::2]], [], title, height=1.5)
plt.show()

# %% [markdown]
# Above, many cells agree on few boxes. Below they lie where nothing is: training has never told
# these cells what to say. Two tests, by the overlap of boxes: the teacher sees each view again, a
# little brighter or darker; and the student before training, whose common start learnt from the
# same labels, sees the very same view.

# %%
recolour = config.Augment(zoom=(1.0, 1.0), flip=0.0, colour=max(cfg.augment.colour, 0.1))
drawn = augment.draw(len(pixels), recolour, runtime.generator(seed, "again"))
bytes_ = (255 * views.images).round().to(torch.uint8)
with torch.inference_mode(), fabric.autocast():
    again = judge(augment.apply(bytes_, None, drawn, views.images.shape[-2:]).images)
rank = w.flatten().argsort(descending=True)
cuts = {"surest 1 %": (0, 0.01), "next 9 %": (0.01, 0.1), "next 40 %": (0.1, 0.5)}
cuts["least sure half"] = (0.5, 1.0)
spans = [[int(len(rank) * share) for share in pair] for pair in cuts.values()]
overlaps = {}
for name, other in {"the teacher, recoloured": again, "the student": said}.items():
    same = fcos.paired_iou(fcos.flat(told.box), fcos.flat(other.box)).cpu().flatten()
    overlaps[name] = [float(same[rank[first:last]].mean()) for first, last in spans]

# %%
figure, axis = plt.subplots(figsize=(7, 2.8))
place = np.arange(len(cuts))
for shift, (name, values), colour in zip((-0.2, 0.2), overlaps.items(), ("#BBBBBB", "#0072B2")):
    axis.barh(place + shift, values, 0.38, label=name, color=colour)
axis.set_yticks(place, list(cuts))
axis.invert_yaxis()
axis.set(xlim=(0, 1), xlabel="IoU with the teacher's box of the same cell")
axis.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
first, *_, last = overlaps["the student"]
axis.set_title(f"Student and teacher share {first:.2f} of a sure box, {last:.2f} of an unsure one")
plt.show()


# %% [markdown]
# The grey bars say whether the teacher repeats itself: its boxes on background are a function of
# the picture, not noise. The blue bars say whether the labels have *decided* that function, for
# both networks alike. Of trained networks expect the longest bar at the top. Where the bars are
# alike, as after a few hundred steps, both networks still give boxes of a usual size everywhere.
#
# To copy the boxes of the background would take up the student's few parameters and give nothing:
# no box is read out there. And an unweighted mean over cells would consist of them.
#
# ## The loss
#
# So everything is weighted by the teacher's evidence, which needs no label. With the student's and
# the teacher's answers to the same view and $Z = \max(\sum_i w_i,\,1)$,
#
# $$\mathcal L_{\text{cls}} = \frac{T^2}{Z}\sum_{i,c}\Bigl[p^t\log\frac{p^t}{p^s} + (1-p^t)
# \log\frac{1-p^t}{1-p^s}\Bigr]_{ic},$$
#
# $$\mathcal L_{\text{box}} = \frac1Z\sum_i w_i\,\bigl(1-\mathrm{GIoU}(b^s_i, b^t_i)\bigr),\qquad
# \mathcal L_{\text{ctr}} = \frac1Z\sum_i w_i\,
# \mathrm{BCE}\bigl(\sigma(o^s_i),\sigma(o^t_i)\bigr).$$
#
# The scores are matched at *every* cell, because "nothing here" is an answer that was trained, and
# one that the student has to give as well. $Z$ takes the place of the number of labelled cells.
# The paper's own formula is not known; this one is our choice.

# %%
def terms(student, teacher):
    """The three losses as lists of maps (N, h, w), one for each level, before the division by Z."""
    maps = [[], [], []]
    for level in range(len(teacher.strides)):
        z, b, o = (
            [getattr(one, name)[level].float() for one in (student, teacher)]
            for name in ("classification", "box", "quality")
        )
        p, entropy = z[1].sigmoid(), torch.nn.functional.binary_cross_entropy_with_logits
        kl = entropy(z[0], p, reduction="none") - entropy(z[1], p, reduction="none")
        giou = fcos.paired_iou(*(part.flatten(2) for part in b), generalised=True)
        maps[0].append(kl.sum(1))
        maps[1].append(p.amax(1) * (1 - giou.unflatten(1, p.shape[-2:])))
        maps[2].append(p.amax(1) * entropy(o[0], o[1].sigmoid(), reduction="none")[:, 0])
    return maps


# %% [markdown]
# The two-way divergence is a cross entropy less the teacher's own entropy. (GIoU is the IoU less
# the share of the enclosing box that neither box covers; it still pulls where boxes barely touch.)
# Four properties can be checked without any data. First: the library's losses are the sums of
# these maps.

# %%
def invented(seed, shift=0.0):
    """A random answer of two pictures on two levels; `shift` moves all class scores."""
    random = runtime.generator(seed, "notebook")
    levels = [
        [torch.randn(2, n, *hw, generator=random) for n in (10, 4, 1)] for hw in ((9, 16), (5, 8))
    ]
    z, b, o = zip(*levels)
    z = tuple(part + shift for part in z)
    return detection.DetectionOutput(z, tuple(8 * part.exp() for part in b), o, (8, 16), {})


# %% tags=["nbval-check-output"]
one, other = invented(1), invented(2)
loss = matching.fcos(one, other)
Z = matching.evidence(other).clamp(min=1)
for value, maps in zip(loss.values(), terms(one, other), strict=True):
    assert torch.allclose(value, sum(part.sum() for part in maps) / Z, rtol=1e-4)
print("ok:", ", ".join(loss), "are sums of maps over Z")

# %% [markdown]
# Second: equal answers cost nothing. Only the centerness ends at the teacher's own entropy instead
# of zero, and there its gradient is zero.

# %% tags=["nbval-check-output"]
equal = matching.fcos(other, other)
assert equal["classification"].abs() < 1e-6 and equal["box"].abs() < 1e-6
mine = tuple(part.clone().requires_grad_() for part in other.quality)
matching.fcos(other._replace(quality=mine), other)["centerness"].backward()
assert all(part.grad.abs().max() < 1e-6 for part in mine)
print("ok: zero when equal, and nothing pulls")

# %% [markdown]
# Third: what the teacher says about boxes on background does not matter. Where no class is likely,
# any box will do.

# %% tags=["nbval-check-output"]
nothing = invented(2, shift=-25.0)
elsewhere = nothing._replace(box=tuple(7 * part for part in nothing.box))
first, second = (matching.fcos(one, answer) for answer in (nothing, elsewhere))
assert first["box"] < 1e-4 and second["box"] < 1e-4
assert first["classification"] > 1 and first["classification"] == second["classification"]
print("ok: on background the scores count, the boxes do not")

# %% [markdown]
# Fourth: both networks look at the identical view. A teacher that is asked twice about it answers
# twice the same, so there is an answer to be learnt.

# %% tags=["nbval-check-output"]
with torch.inference_mode():
    twice = [judge(views.images) for _ in range(2)]
assert matching.score_divergence(*twice) < 1e-6
assert matching.box_agreement(*twice) > 1 - 1e-4
print("ok: the same view gets the same answer")

# %%
noise = matching.fcos(again, told)
before = matching.fcos(said, told)
table = {"the teacher, in another colouring": noise, "the student, before training": before}
table = {name: {key: float(value) for key, value in row.items()} for name, row in table.items()}
pd.DataFrame(table).T.round(3)

# %% [markdown]
# The first line is what a teacher with views of its own would put on every target as noise, and no
# student could learn it away. The second is what there is to learn.
#
# ## The three terms on the street

# %%
maps = terms(said, told)
rows = [pictures[:4]]
for levels in maps:
    rows.append(glow([painted(levels, i) for i in range(4)]))
title = "From above: view, classification, box, centerness, each as a map (pale: large)"
sheet(rows, [], title, height=1.4)
plt.show()

# %% [markdown]
# All three are bright where the teacher sees objects. Only the first may be bright elsewhere too:
# there the student sees something that the teacher does not. How much of each loss comes from where
# the teacher sees nothing?

# %%
unsure = w < 0.05
flat = {name: torch.cat([p.flatten(1) for p in m], 1).cpu() for name, m in zip(before, maps)}
share = {name: 100 * float(part[unsure].sum() / part.sum()) for name, part in flat.items()}
print(f"cells with evidence under 0.05: {100 * unsure.float().mean():.0f} % of all")
pd.DataFrame({"of the loss, %": share}).round(1).T

# %% [markdown]
# ## Training
#
# The same loop as on all pages. The method turns a batch into named terms, the loop adds them up
# with equal weights.

# %%
trained = experiment.fit(parts)
print(f"{cfg.schedule.steps} steps of {cfg.schedule.batch} pictures in {trained.seconds:.0f} s")

# %%
history = pd.DataFrame(trained.history)
passes = trained.samples / len(parts.source)
figure, axes = plt.subplots(1, 3, figsize=(10, 2.6))
for axis, name in zip(axes, ("classification", "box", "centerness")):
    axis.plot(history["step"], history[name], "o-", ms=3, color="#0072B2")
    axis.set(xlabel="step", xlim=(0, 1.03 * cfg.schedule.steps), title=name)
    axis.set_ylim(0, 1.1 * history[name].max())
axes[0].set_ylabel("loss")
first, last = history["loss"].iloc[[0, -1]]
title = f"The sum goes from {first:.2f} to {last:.2f}; each picture was seen {passes:.3g} times"
figure.suptitle(title, x=0.01, ha="left", fontsize=11)
figure.tight_layout()
plt.show()

# %% [markdown]
# Centerness can't fall to zero, see above. A way that sees each picture hundreds of times can learn
# the pictures instead of the function, so a low training loss is no success by itself: the next
# section uses pictures that were not trained on.
#
# ## What came of it
#
# The student is judged twice: by average precision against the truth, and by its likeness to the
# teacher. *Agreement* takes the teacher's detections of score 0.3 and more as the truth (`map`,
# `map_50`), the divergence of the scores (`kl`, nats a cell), and the overlap of the boxes weighted
# by the evidence (`box_iou`): the very functions that were the loss.

# %%
scores = experiment.score(parts)
rows = {"mAP with the truth, %": {"val": 100 * scores["val"]["map"]}}
for split, found in scores.items():
    for key, value in found.get("agreement", {}).items():
        unit = "nats a cell" if key == "kl" else "%"
        known = np.nan if value is None else value * (1 if key == "kl" else 100)
        rows.setdefault(f"agreement: {key}, {unit}", {})[split] = known
pd.DataFrame(rows).T.map(lambda number: "–" if np.isnan(number) else f"{number:.3g}")


# %% [markdown]
# `heldout` are unlabelled frames of clips that no run learns from. For them there is no truth, so
# only agreement can be measured: it is the honest measure of how well the *function* was copied.

# %%
def shade(classes, ignored):
    """The colour of each box, light enough for dark pictures; grey where it is ignored."""
    return np.where(ignored[:, None], 150, 90 + 0.65 * np.array(layout.PALETTE)[classes])


def detections(network, image):
    """What a network finds in one picture with score 0.3 and up, in the colours of the classes."""
    view = to_device([image], fabric)
    with torch.inference_mode(), fabric.autocast():
        found = network.detections(network.eval()(view), cfg.data.size)[0]
    sure = [part[found.scores >= 0.3].cpu().numpy() for part in found]
    return outlined(image, sure[0], shade(sure[2], np.zeros(len(sure[2]), bool)))


# %%
chosen = parts.report[:: max(1, len(parts.report) // 4)][:4]
networks = [parts.network] if teacher is None else [teacher.network, parts.network]
images = [loader.resize(layout.read_image(sample.image), cfg.data.size) for sample in chosen]
rows = [[]]
for sample, image in zip(chosen, images):
    shape = layout.read_image(sample.image).shape[:2]
    true = detection.resized(layout.read_boxes(sample), shape, cfg.data.size)
    rows[0].append(outlined(image, true.xyxy, shade(true.classes, true.ignored)))
rows += [[detections(network, image) for image in images] for network in networks]
words = ["truth, ignored in grey", *["teacher"] * (len(networks) - 1), "student"]
title = f"From above: {', '.join(words)}; found with score 0.3 and up"
sheet(rows, [sample.id for sample in chosen], title, height=1.6)
plt.show()

# %% [markdown]
# Look for objects that teacher and student miss together, and for boxes that both put too large.
# For function matching that is success: the student was asked for the teacher's answer, not for the
# right one.
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
# The paper's loss for detection, its weights, schedule and start are not known. Rows *Loss of the
# scores*, *Loss of the boxes*, *Loss of the centerness*, *Divisor of the losses*, *Weights of the
# losses*, *Neighbouring losses*, *Temperature*, *Mixup* and *Start of the student* of the
# [deviation ledger](../../published/function_matching.yaml) say what was done here and why; page 9
# prints the whole ledger.
#
# ## Exercises
#
# 1. **No weight.** Replace `p.amax(1)` by 1 in `terms` and look at the maps again. Which cells now
#    make up the box loss?
# 2. **Neighbours.** Set `run` to `funmatch-det-matching-top` or `-difference`, two published rules
#    of which cells count. Where do they look, and which is not zero for equal networks?
# 3. **Pseudo-labels.** Turn the teacher's detections of score 0.5 and up into targets and train
#    with `fcos.fcos`. What does the student no longer hear about?
