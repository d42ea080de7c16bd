# %% [markdown]
# # 4 · The student
#
# Pages 2 and 3 took the method apart. Here a student learns from the labels and from the teacher.
# The name of the run says how, so this one page makes every row of the table:
#
# | run | what joins the labels |
# |---|---|
# | `affinity-culane-erfnet-baseline` | nothing: labels alone |
# | `affinity-culane-erfnet-kd` | **KD**: the teacher's soft targets, pixel by pixel |
# | `affinity-culane-erfnet-at` | **AT**: the teacher's attention maps |
# | `affinity-culane-erfnet-skd` | **SKD**: soft targets and pairs of places (structured workbook) |
# | `affinity-culane-erfnet-intra` | **IntRA-KD**: affinity graph and attention |
# | `...-intra-affinity`, `-intra-high`, `-intra-middle` | affinity alone; one level alone |
# | `...-intra-std` | skewness divided by the standard deviation, not the variance |
# | `...-intra-weight1`, `-weight10` | factor of the affinity 1 or 10 in place of 0.1 |
# | `affinity-culane-enet-...`, `-resnet18-...` | other students |
# | `affinity-culane-resnet18-...-long` | four times the steps |
# | `affinity-llamas-erfnet-...`, `affinity-apollo-erfnet-...` | other data sets |
#
# All rows of a student and a seed have the same first weights, the same views and the same steps.

# %% tags=["parameters"]
run = "affinity-culane-erfnet-intra"  # or any other row of the table above
scale = "smoke"  # smoke | sample | gpu | paper
seed = 0  # draws the first weights and the views

# %%
import time

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

# %%
from kdlib import config, evaluation, experiment
from kdlib.data import augment, layouts, loader
from kdlib.data.layouts.sample import Sample
from kdlib.losses import affinity
from kdlib.report.lane_stills import judge, paint_classes, paint_lanes
from kdlib.report.provenance import provenance
from kdlib.report.records import write_record
from kdlib.report.sheet import sheet
from kdlib.runtime import generator

# %%
started = time.time()
cfg = config.load_run(run, scale=scale, seed=seed)
plt.rcParams.update({"axes.titlelocation": "left", "axes.titlesize": 11, "figure.dpi": 90})
chosen = cfg.method.affinity or cfg.method.structured
print(f"{cfg.title}: {cfg.method.name}, terms {', '.join(chosen.terms) or 'none'}")
parts = experiment.prepare(cfg)

# %%
layout, fabric, device = layouts.get(cfg.data.layout), parts.fabric, parts.fabric.device
metric, method, teacher = getattr(layout, "METRIC", "miou"), parts.method, parts.teacher
if teacher is None:  # labels alone: the teacher is only looked at
    teacher, _ = experiment.load_teacher(cfg, parts.root, fabric)
size = sum(p.numel() for p in teacher.parameters())
own = experiment.parameter_count(parts.network)
print(f"{len(parts.labelled)} labelled stills, {len(parts.report)} to report on")
print(f"student: {own:,} parameters, starts from {cfg.init or 'random weights'}")
print(f"teacher: {size:,} parameters ({size / own:.1f} times as many), ", end="")
print(f"{evaluation.headline(cfg.data.layout)} {100 * (teacher.score or 0):.1f} % on its sample")


# %% [markdown]
# ## The sum
#
# $$\mathcal L = \mathcal L_{seg} + 0.1\,\mathcal L_{ex} + \alpha_1\!\!\sum_{\text{levels}}
# \mathcal L_m(C_S, C_T) + \alpha_2\!\!\sum_{\text{levels}}\mathcal L_a(A_S, A_T),\qquad
# \alpha_1=\alpha_2=0.1 .$$
#
# $\mathcal L_m$ is page 3's. The attention map of a feature is the sum of its squares over the
# channels, one number for each place: where does the network look? Both maps are brought to unit
# length and subtracted,
#
# $$A_{ij} = \frac{\sum_c F_{cij}^2}{\bigl\|\sum_c F_c^2\bigr\|_2},\qquad
# \mathcal L_a = \sum_{ij}\bigl(A_{S,ij}-A_{T,ij}\bigr)^2 .$$
#
# There is no third factor and no soft target in IntRA-KD: KD is a baseline beside it.

# %%
def slow_attention(feature):
    """(h, w) attention of one image, in loops over the channels."""
    total = torch.zeros(feature.shape[1:])
    for channel in feature:
        total += channel**2
    return total / total.norm()


# %% tags=["nbval-check-output"]
random = generator(0, "notebook")
one, other = (torch.randn(2, channels, 4, 7, generator=random) for channels in (5, 9))
pairs = [slow_attention(a) - slow_attention(b) for a, b in zip(one, other)]
by_hand = sum(pair.square().sum() for pair in pairs) / len(pairs)
assert torch.isclose(affinity.attention_transfer(one, other), by_hand)
assert affinity.attention_transfer(one, 5 * one) < 1e-10
flat = torch.zeros(1, 3, 2, 2)
assert affinity.soft_targets(flat, flat, temperature=4.0) == 0
print("ok: 5 and 9 channels can be compared; a louder network looks at the same places")

# %% [markdown]
# ## One batch before training

# %%
pixels, masks = loader.Batches(parts.source, cfg.schedule.batch, seed)[0]
numbers = augment.draw(len(pixels), cfg.augment, generator(seed, "preview"))
crop = cfg.augment.crop or cfg.data.size
views = augment.apply(pixels.to(device), masks.to(device), numbers, crop)
method.begin(fabric, seed, cfg.schedule.steps, parts.network, teacher)
network = parts.network.train()
with torch.no_grad():
    told = teacher(views.images)
said = network(views.images)
levels = ("middle", "high")
shapes = {who: {k: str(tuple(o.features[k].shape[1:])) for k in levels}
          for who, o in (("student", said), ("teacher", told))}
pd.DataFrame(shapes).T

# %%
terms = method.terms(views, said, told)
factors = {name: method.weights[name] for name in terms}
table = pd.DataFrame({"term": {name: float(term.detach()) for name, term in terms.items()}})
table["factor"] = factors
table["times factor"] = table["term"] * table["factor"]
table.round(4)


# %% [markdown]
# A value says little about what a loss does. What moves the student is the gradient. The next table
# has its length at the student's two levels, for each term times its factor, in the same batch.

# %%
def pull(name):
    """Length of the gradient of a term, times its factor, at both levels; 0 where it has none."""
    found = torch.autograd.grad(
        factors[name] * terms[name],
        [said.features[level] for level in levels],
        retain_graph=True,
        allow_unused=True,
    )
    return {level: 0.0 if g is None else float(g.norm()) for level, g in zip(levels, found)}


pd.DataFrame({name: pull(name) for name in terms}).T.map("{:.3g}".format)


# %% [markdown]
# Compare the lines. A term whose pull is a thousandth of the labels' can hardly change the student,
# whatever its value. The affinity's can be large where a channel is quiet (page 3).
#
# ## Where do they look?

# %%
def attention(output, level):
    """(N, h, w) attention of a batch, each picture from 0 to 1."""
    maps = output.features[level].detach().float().square().sum(1).cpu()
    return (maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)).numpy()


def looks(picture, values):
    """Numbers of a map over the grey picture."""
    wide = cv2.resize(values, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return 0.35 * picture.mean(2, keepdims=True) + 0.65 * plt.cm.magma(wide)[..., :3]


# %%
few = range(min(3, len(views.images)))
seen = [views.images[i].permute(1, 2, 0).float().cpu().numpy() for i in few]
rows = [seen]
rows += [[looks(seen[i], attention(o, "high")[i]) for i in few] for o in (told, said)]
title = "From above: views; attention of the teacher; of the student before training (high level)"
sheet(rows, [], title, height=0.85)
plt.show()

# %% [markdown]
# Pale is where the squares are large. A student with random weights follows edges and brightness;
# one that starts from weights trained on the labels has places of its own to look at.
#
# ## Training

# %%
trained = experiment.fit(parts)
print(f"{cfg.schedule.steps} steps of {cfg.schedule.batch} pictures in {trained.seconds:.0f} s")

# %%
history = pd.DataFrame(trained.history)
curves = [name for name in terms if f"{name}_weighted" in history]
figure, axes = plt.subplots(1, len(curves), figsize=(2.7 * len(curves), 2.5), squeeze=False)
for axis, name in zip(axes[0], curves):
    axis.plot(history["step"], history[f"{name}_weighted"], "o-", ms=3, color="#0072B2")
    axis.set(xlabel="step", xlim=(0, 1.05 * cfg.schedule.steps))
    axis.set_ylim(0, 1.1 * max(history[f"{name}_weighted"].max(), 1e-6))
    axis.set_title(f"{name} × {method.weights[name]:g}", fontsize=9)
first, last = history["loss"].iloc[[0, -1]]
words = f"from {first:.2f} to {last:.2f}" if len(history) > 1 else f"{last:.2f} on average"
figure.suptitle(f"The student's sum: {words}", x=0.01, ha="left", fontsize=11)
figure.tight_layout()
plt.show()

# %% [markdown]
# Each panel has its own axis; a point is the mean of up to fifty steps, so a smoke run has one.
#
# ## What came of it

# %%
scores = experiment.score(parts)
val, alike = scores["val"], scores["val"]["agreement"]
taught = evaluation.evaluate(
    teacher.network, cfg.data.layout, parts.report, cfg.data.size, fabric=fabric, title="teacher"
)
names = [k for k in ("f1", "precision", "recall", "map", "miou", "miou36", "miou18") if k in val]
percent = lambda value: "–" if value is None else f"{100 * value:.1f}"  # noqa: E731
table = {name: (percent(taught[name]), percent(val[name])) for name in names}
table["pixels equal to the teacher's"] = ("", percent(alike["pixel"]))
pd.DataFrame(table, ["teacher, %", "student, %"]).T


# %%
def each(found):
    """Percent of each scenario, lane or class."""
    own = {k: one["f1"] for k, one in found.get("scenarios", {}).items() if "f1" in one}
    return pd.Series(own or found.get("ap") or found["iou"], dtype=float).mul(100)


both = pd.DataFrame({"teacher": each(taught), "student": each(val)}).dropna(how="all")
figure, axis = plt.subplots(figsize=(max(6, 0.5 * len(both)), 2.7))
both.plot.bar(ax=axis, color=["#B5B5B5", "#0072B2"], width=0.8)
axis.tick_params(axis="x", rotation=60)
axis.set(ylabel="%", ylim=(0, 100))
axis.legend(frameon=False)
head = evaluation.headline(cfg.data.layout)
axis.set_title(f"{head}: teacher {percent(taught[head])} %, student {percent(val[head])} %")
plt.show()


# %% [markdown]
# One row by itself says nothing about distillation: page 5 compares them, seed by seed.
#
# ## Lanes on pictures
#
# Truth thin and white. A found lane is green if it is a hit, matched to a labelled lane with an IoU
# above 0.5, else red.

# %%
def outlined(network, sample):
    """A still with truth and found lanes, and (labelled, found, counting)."""
    still = judge(network, layout, sample, cfg.data.size, fabric)
    return paint_lanes(still, layout, enlarge=2, thin=1, thick=3), still.counts


def masked(network, sample):
    """A picture with the winning class of each pixel, without the background."""
    picture = layout.read_image(sample.image)
    answer = evaluation.predict(network, picture, cfg.data.size, fabric)
    return paint_classes(picture, answer, layout.PALETTE)


# %%
few = parts.report[:: max(1, len(parts.report) // 4)][:4]
networks = {"teacher": teacher.network, "student": parts.network}
if metric == "culane":
    drawn = {who: [outlined(one, still) for still in few] for who, one in networks.items()}
    rows = [[canvas for canvas, _ in tiles] for tiles in drawn.values()]
    sums = {who: np.sum([count for _, count in tiles], 0) for who, tiles in drawn.items()}
    words = [f"{who} {n[2]} of {n[0]} lanes, {n[1] - n[2]} wrong" for who, n in sums.items()]
    title = f"Above the teacher, below the student: {'; '.join(words)}"
else:
    rows = [[masked(one, still) for still in few] for one in networks.values()]
    title = "Above the teacher, below the student: the winning class of each pixel"
sheet(rows, [still.id.split("/")[1][:8] for still in few], title, height=0.85)
plt.show()

# %% [markdown]
# ## Lanes in motion
#
# The simulated data have a short drive beside CULane's lists, five pictures a second, which no
# network has learnt from. The strip shows the student on some of them, from left to right.

# %%
folder = parts.root / cfg.data.root
frames = sorted(folder.glob("driver_3_*/*/*.jpg")) if metric == "culane" else []
drive = [Sample(path.relative_to(folder).with_suffix("").as_posix(), path, None) for path in frames]
strip = {who: [outlined(one, frame) for frame in drive] for who, one in networks.items()}
if drive:
    tiles = [canvas for canvas, _ in strip["student"]][:: max(1, len(drive) // 6)]
    counts = {who: np.array([count for _, count in shots]) for who, shots in strip.items()}
    right, there = (counts["student"][:, k].sum() for k in (2, 0))
    title = f"The student in motion: {right} of {there} lanes over {len(drive)} pictures"
    sheet([tiles[:4], tiles[4:]] if len(tiles) > 4 else [tiles], [], title, height=0.85)
    plt.show()

# %%
if drive:
    time_s = np.arange(len(drive)) / 5
    figure, axis = plt.subplots(figsize=(7, 2.3))
    axis.step(time_s, counts["student"][:, 0], where="mid", color="#222222", lw=1, label="labelled")
    for who, colour in (("teacher", "#B5B5B5"), ("student", "#0072B2")):
        axis.plot(time_s, counts[who][:, 2], "o-", ms=4, color=colour, label=f"{who}: found")
    axis.set(xlabel="time, s", ylabel="lanes", ylim=(-0.2, 4.4))
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    changes = int((np.diff(counts["student"][:, 2]) != 0).sum())
    axis.set_title(f"The student's count changes {changes} times in {len(drive) - 1} steps")
    plt.show()

# %% [markdown]
# A lane that comes and goes from picture to picture hardly costs F1, and would be of little use to
# a car. Data sets that are not simulated have no such drive: then there is no strip.
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
# Factors and levels are the paper's, as far as it tells. Before the scale `paper` all rows of a
# student start from the same weights, trained on the labels, and go on for a few steps; at sample
# scale it has fewer channels. Rows *Factors*, *Levels*,
# *Attention: map*, *Attention: size of the map*, *Soft targets (KD)*, *Attention alone (AT)*,
# *Structured distillation (SKD)*, *Other baselines*, *Student: which ERFNet*, *Networks of the
# sample scale* and *Optimiser and schedule* of the
# [deviation ledger](../../published/inter_region_affinity.yaml) say why; page 5 prints the whole
# ledger.
#
# ## Exercises
#
# 1. **The factor.** The paper finds no difference between 0.05, 0.10 and 0.15. Page 5
#    shows 1 and 10. Set `method.affinity.affinity_weight` to 0.01 and 3. From where on does F1 move?
# 2. **Nodes.** Set `method.affinity.nodes: foreground`. The background's edges are gone: does the
#    term pull more or less?
# 3. **Calm.** Average the student's probabilities over three pictures of the drive before reading
#    lanes. Does the count change less often, and does F1 rise?
