# %% [markdown]
# # 3 · Moments and the affinity graph
#
# Page 2 chose the regions. Here each region becomes a node: three vectors that say what a network
# sees in it. Two nodes are joined by how alike their vectors are. That is the affinity graph, and
# it is all that the student gets from the teacher's features. This page computes it for one still,
# teacher beside student, before and after training, and shows where its numbers are delicate.

# %% tags=["parameters", "reads-records"]
run = "affinity-culane-erfnet-intra"  # its teacher and its student are asked
scale = "smoke"  # smoke | sample | gpu | paper
seed = 0  # which student
still = 0  # number of the still that is shown
level = "high"  # or "middle"

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

# %%
from kdlib import config, experiment
from kdlib.data import layouts, loader
from kdlib.evaluation.feeding import to_device
from kdlib.losses import affinity
from kdlib.runtime import generator

# %%
cfg = config.load_run(run, scale=scale, seed=seed)
plt.rcParams.update({"axes.titlelocation": "left", "axes.titlesize": 11, "figure.dpi": 90})
parts = experiment.prepare(cfg)
student, notes = experiment.load_network(cfg, parts.root, parts.fabric)
teacher = parts.teacher
layout, size = layouts.get(cfg.data.layout), cfg.data.size
networks = {"teacher": teacher, "before": parts.network.eval(), "after": student}
print(f"teacher: {teacher.name}; student: {run}, seed {seed}, {cfg.schedule.steps} steps")

# %% [markdown]
# "Before" is the student as it starts this run: with random weights, or, at the scales before
# `paper`, already trained on the labels by the run that `init` names. The still comes from the
# split on which settings are chosen, or the reported one where there is no such split: it has
# labels, and no network has learnt from it.

# %%
held_out = cfg.data.tune or cfg.data.report
samples = loader.select(cfg.data.layout, parts.root / cfg.data.root, held_out, seed)
stills = loader.Stills(cfg.data.layout, samples, size, labels=True)
settings = cfg.method.affinity or config.Affinity(("affinity",))  # a run without it: defaults
kernel, skewness, nodes = settings.kernel, settings.skewness, settings.nodes
classes, first = len(layout.CLASSES), 1 if nodes == "foreground" else 0
print(f"{len(stills)} labelled stills; the areas are made with a kernel of {kernel}")
print(f"skewness divided by the {skewness}; nodes: {nodes}")


# %%

def seen(network, picture, label):
    """The feature (1, C, h, w) of a level in one still, and its areas (1, R, h, w)."""
    with torch.inference_mode():
        feature = network(to_device([picture], parts.fabric)).features[level].float().cpu()
    labels, grid = torch.from_numpy(label)[None].long(), tuple(feature.shape[-2:])
    return feature, affinity.areas_of_interest(labels, classes, kernel=kernel, size=grid)


# %%
order = sorted(range(min(len(stills), 200)), key=lambda i: -len(np.unique(stills.read(i)[1])))
picture, label = stills.read(order[still % len(order)])
both = {who: seen(network, picture, label) for who, network in networks.items()}
every = range(first, classes)
present = [k for k in every if all(areas[0, k].any() for _, areas in both.values())]
names = [layout.CLASSES[k] for k in present]
for who, (feature, areas) in both.items():
    count = areas[0, present].sum((1, 2)).tolist()
    print(f"{who:8} {tuple(feature.shape[1:])}, positions of the regions: {count}")


# %% [markdown]
# ## Three moments
#
# In the area $M_r$ of a class each channel has a mean, a variance and a skewness: where it lies,
# how far it spreads, and to which side.
#
# $$\mu_1 = \frac1{|M_r|}\sum_{M_r} F,\qquad \mu_2 = \frac1{|M_r|}\sum_{M_r}(F-\mu_1)^2,\qquad
# \mu_3 = \frac1{|M_r|}\sum_{M_r}\Bigl(\frac{F-\mu_1}{\mu_2}\Bigr)^3 .$$
#
# Each is a vector with an entry for each channel. As printed, the last two sums run over the whole
# map; then every pixel *outside* adds powers of the mean, and the variance of a lane would grow
# with the picture around it. Here they run inside the area. And the skewness is printed with the
# variance as its divisor, where a textbook has the standard deviation. The library follows the
# print, unless a run's settings say `skewness: std`.

# %%
def slow_moments(feature, areas):
    """The formulas in loops, for one image: (3, R, C)."""
    out = torch.zeros(3, len(areas), len(feature))
    for r, area in enumerate(areas):
        for c, channel in enumerate(feature):
            values = channel[area]
            if len(values):
                mean = values.mean()
                variance = (values - mean).square().mean()
                out[0, r, c], out[1, r, c] = mean, variance
                out[2, r, c] = ((values - mean) / (variance + 1e-10)).pow(3).mean()
    return out


# %% tags=["nbval-check-output"]
random = generator(0, "moments")
feature_, areas_ = torch.randn(1, 4, 6, 9, generator=random), torch.zeros(1, 3, 6, 9).bool()
areas_[0, 0], areas_[0, 1] = torch.rand(6, 9, generator=random) < 0.5, False
areas_[0, 2, 2:4, 3:7] = True
quick = affinity.moment_pooling(feature_, areas_)
assert torch.allclose(quick[0], slow_moments(feature_[0], areas_[0]), rtol=1e-3, atol=1e-5)
assert (quick[:, :, 1] == 0).all()
print("ok: the formulas in loops and the library agree; an absent class has zeros")

# %% [markdown]
# ## What the regions look like
#
# Rows are regions, columns are channels, sorted by how far the teacher's means of the regions lie
# apart. Every channel is divided by its largest value, because only the directions will matter.

# %%
moments = {
    who: affinity.moment_pooling(*pair, skewness=skewness)[0][:, present]
    for who, pair in both.items()
}
words = ("mean", "variance", "skewness")

# %%
shown = {who: one for who, one in moments.items() if who != "before"}
figure, axes = plt.subplots(3, 2, figsize=(10, 0.9 + 0.75 * len(present)), squeeze=False)
for k, (who, one) in enumerate(shown.items()):
    spread = one[0].std(0).argsort(descending=True)[:48]
    for axis, values, word in zip(axes[:, k], one, words):
        part = values[:, spread] / values[:, spread].abs().amax(0).clamp(min=1e-12)
        axis.imshow(part, aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        axis.set_yticks(range(len(names)), [] if k else names, fontsize=7)
        axis.set_xticks([])
        axis.set_title(f"{who}: {word}", fontsize=9)
figure.suptitle(f"{level} level: 48 channels in which the regions differ most", x=0.01, ha="left")
figure.tight_layout()
plt.show()

# %% [markdown]
# Two rows of the same pattern are regions that a network sees alike. The background's row is the
# mean of the whole picture (page 2); with `nodes: foreground` it is left out here and below.
#
# ## From moments to a graph
#
# $$C(r_1,r_2,m) = \frac{\mu_m(r_1)^\top\mu_m(r_2)}{\|\mu_m(r_1)\|\,\|\mu_m(r_2)\|},
# \qquad m = 1,2,3 .$$
#
# An $n\times n$ matrix for each order, ones on its diagonal. It does not know how many channels
# there were, nor how large the map was: this is why a student of 64 channels can learn from a
# teacher of 2048, without an adapter between them.

# %% tags=["nbval-check-output"]
one = torch.randn(1, 3, 4, 6, generator=random)
graph = affinity.region_affinity(one)
cosine = torch.cosine_similarity(one[:, :, :, None], one[:, :, None], dim=-1)
assert torch.allclose(graph, cosine, atol=1e-6)
one[0, :, 2] = 0  # an absent class
assert (affinity.region_affinity(one)[0, :, 2] == 0).all()
print("ok: the cosine of every two nodes; an absent one has 0 with all, itself included")

# %%
graphs = {who: affinity.region_affinity(one[None])[0].numpy() for who, one in moments.items()}
titles = {"teacher": "teacher", "before": "student before", "after": "student after"}


def heat(axis, matrix):
    """A matrix of cosines, with its numbers where they can be read."""
    axis.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    for i, j in np.ndindex(*matrix.shape) if len(names) <= 6 else ():
        ink = "white" if abs(matrix[i, j]) > 0.6 else "black"
        axis.text(j, i, f"{matrix[i, j]:z.2f}", ha="center", va="center", fontsize=7, color=ink)
    axis.set_xticks(range(len(names)), names, rotation=60, fontsize=7)
    axis.set_yticks(range(len(names)), names, fontsize=7)


# %%
figure, axes = plt.subplots(3, 3, figsize=(9.2, 8.2), sharex=True, sharey=True)
for column, (who, graph) in zip(axes.T, graphs.items()):
    for axis, matrix, word in zip(column, graph, words):
        heat(axis, matrix)
        axis.set_title(f"{titles[who]}: {word}", fontsize=9)
apart = {who: float(np.square(one - graphs["teacher"]).mean()) for who, one in graphs.items()}
said = f"{apart['before']:.3f} before training, {apart['after']:.3f} after"
figure.suptitle(f"Mean squared distance from the teacher: {said}", x=0.01, ha="left")
figure.tight_layout()
plt.show()


# %% [markdown]
# Red is alike, blue opposite. Variances are never negative, nor are means behind a ReLU, where the
# levels of the teacher, of ERFNet and of ResNet-18 lie, so their cosines are near one, and
# differences are small. (ENet's levels lie behind PReLUs, and its means may have both signs.)
# Skewness has both signs: there the regions come apart, and most of the distance lies there. Why
# some of its matrices are nearly empty off the diagonal is the matter of *A delicate divisor*
# below. At smoke scale "after" means six steps.
#
# ## The loss
#
# $$\mathcal L_m = \frac1{3n^2}\sum_{m=1}^3\sum_{r_1,r_2}
# \bigl(C_S(r_1,r_2,m)-C_T(r_1,r_2,m)\bigr)^2 .$$

# %%
def slow_loss(own, other):
    """(3,) the loss order by order, picture by picture; own, other: a feature and its areas."""
    pooled = [affinity.moment_pooling(*pair, skewness=skewness) for pair in (own, other)]
    shown = [areas.flatten(2).any(2) for _, areas in (own, other)]
    graphs, rows = [affinity.region_affinity(one) for one in pooled], []
    for i, difference in enumerate((graphs[0] - graphs[1]).square()):
        kept = torch.ones(difference.shape[-1]).bool()
        kept[:first] = False  # the background, with `nodes: foreground`
        if nodes == "present":
            kept = shown[0][i] & shown[1][i]
        n = max(int(kept.sum()), 1)
        rows.append(difference[:, kept][:, :, kept].sum((1, 2)) / n**2)
    return torch.stack(rows).mean(0)


# %% tags=["nbval-check-output"]
pair = torch.randn(2, 5, 6, 9, generator=random), torch.randn(2, 8, 6, 9, generator=random)
areas_ = torch.rand(2, 3, 6, 9, generator=random) < 0.4
options = {"skewness": skewness, "nodes": nodes}
by_hand = slow_loss((pair[0], areas_), (pair[1], areas_)).mean()
assert torch.isclose(affinity.affinity_loss(*pair, areas_, **options), by_hand)
alike = affinity.affinity_loss(pair[0], 3 * pair[0], areas_, **options)
assert alike < 1e-10  # longer vectors are alike
counted = {
    "all": "all classes",
    "present": "the classes that both networks show",
    "foreground": "all classes but the background",
}
print(f"ok: 5 and 8 channels; n counts {counted[nodes]}; a mean over the pictures")

# %%
f_t, a_t = both["teacher"]
values = {
    kind: {
        titles[who]: float(affinity.affinity_loss(f, f_t, a, a_t, skewness=skewness, nodes=kind))
        for who, (f, a) in both.items()
        if who != "teacher"
    }
    for kind in ("all", "present", "foreground")
}
pd.DataFrame(values).map("{:.4f}".format)


# %% [markdown]
# Three ways to count the nodes: all classes as in the formula, those present in both networks, or
# all but the background. A cosine that differs by 0.1 counts 0.01, so the loss is small by nature,
# and its factor in the sum is 0.1 besides.
#
# ## The graph on the picture
#
# Every node sits in the middle of its class; the background, which has no middle, sits at the top.
# Edges are coloured by the affinity of their ends.

# %%
def places():
    """x and y of each node, in pixels of the picture."""
    found = []
    for k in present:
        ys, xs = np.nonzero(label == k)
        found.append((np.median(xs), np.median(ys)) if k else (size[1] / 2, 0.04 * size[0]))
    return found


# %%
def draw(axis, matrix, low):
    """The still with the nodes and the edges of one matrix."""
    axis.imshow(0.5 * picture / 255)
    points, scale = places(), plt.Normalize(low, 1)
    for i, j in zip(*np.triu_indices(len(points), 1)):
        (x0, y0), (x1, y1) = points[i], points[j]
        axis.plot([x0, x1], [y0, y1], lw=2.2, color=plt.cm.plasma(scale(matrix[i, j])))
    axis.scatter(*zip(*points), s=42, c="white", edgecolors="black", zorder=3)
    axis.set_axis_off()


# %%
figure, axes = plt.subplots(3, 3, figsize=(11, 4.6))
for line, m, word in zip(axes, range(3), words):
    off = [graph[m][~np.eye(len(present), dtype=bool)] for graph in graphs.values()]
    low = min((float(values.min()) for values in off if len(values)), default=0.0)
    for axis, (who, graph) in zip(line, graphs.items()):
        draw(axis, graph[m], low)
        axis.set_title(f"{titles[who]}: {word} (violet {low:z.2f}, yellow 1)", fontsize=8)
said = f"The graph of {len(present)} regions; distance to the teacher {said}"
figure.suptitle(said, x=0.01, ha="left", fontsize=11)
figure.tight_layout()
plt.show()

# %% [markdown]
# Compare the first and the last column. Where an edge has the teacher's colour, the student sees
# the two regions as much alike as the teacher does. One colour scale holds for a row only.
#
# ## More than one still
#
# The loss itself on up to forty stills, order by order, with the run's own `skewness` and `nodes`.
# Where `nodes` is `all` or `foreground`, a class that a still does not show counts with affinity 0.

# %%
distance = {who: [] for who in ("before", "after")}
for i in range(min(len(stills), 40)):
    one = {who: seen(network, *stills.read(i)) for who, network in networks.items()}
    for who, rows in distance.items():
        rows.append(slow_loss(one[who], one["teacher"]).tolist())
means = {who: np.mean(rows, 0) for who, rows in distance.items()}
total = {who: rows.mean() for who, rows in means.items()}

# %%
figure, axis = plt.subplots(figsize=(6.5, 2.6))
for k, (who, colour) in enumerate((("before", "#B5B5B5"), ("after", "#0072B2"))):
    axis.bar(np.arange(3) + 0.38 * k - 0.19, means[who], 0.36, color=colour, label=who)
axis.set_xticks(range(3), words)
axis.set_ylabel(f"squared difference, nodes: {nodes}")
axis.legend(frameon=False)
said = f"{total['before']:.4f} before training, {total['after']:.4f} after"
axis.set_title(f"The loss, mean over {len(rows)} stills: {said}")
plt.show()

# %% [markdown]
# ## A delicate divisor
#
# How much of the third vector does a single channel hold? Divided by the variance $\sigma^2$
# instead of $\sigma$, the skewness of a channel grows with $\sigma^{-3}$. The quietest channel
# wins.

# %% tags=["nbval-check-output"]
random = generator(0, "quiet")
loud = torch.rand(1, 3, 20, 20, generator=random).square()
whole = torch.ones(1, 1, 20, 20).bool()
for factor in (1.0, 0.1, 0.01):
    scaled = loud * torch.tensor([1.0, 1.0, factor])[None, :, None, None]
    said = []
    for form in ("variance", "std"):
        third = affinity.moment_pooling(scaled, whole, skewness=form)[0, 2, 0]
        said.append(f"{form} {100 * float(third[2].square() / third.square().sum()):5.1f} %")
    print(f"third channel times {factor:4}: its share of the vector: {', '.join(said)}")

# %% [markdown]
# A hundred times quieter, the channel is the whole vector in the printed form, and one of three in
# the textbook's. In a network with ReLUs there are always channels that hardly move in a region.

# %%
share = {}
for form in ("variance", "std"):
    for who, pair in both.items():
        third = affinity.moment_pooling(*pair, skewness=form)[0, 2][present].double().square()
        top = third.sort(dim=1, descending=True).values
        share[form, who] = 100 * (top[:, 0] / top.sum(1).clamp(min=1e-300))
table = pd.DataFrame({key: value.numpy() for key, value in share.items()}, names)
table.columns.names = ["divisor", "share of the largest channel, %"]
table.round(1)

# %% [markdown]
# If a line says 100, one channel alone decides how that region is related to all others. The runs
# follow the print but for `...-intra-std`; `skewness: std` is one word in their settings.
#
# ## Three more traps
#
# *Raw moments.* Mean square minus square of the mean is the quick way to a variance. In short
# numbers it subtracts two large ones.

# %% tags=["nbval-check-output"]
far = 100 + 0.01 * torch.randn(1000, generator=random)
raw = float(far.square().mean() - far.mean().square())
area = torch.ones(1, 1, 1, 1000).bool()
centred = float(affinity.moment_pooling(far.view(1, 1, 1, -1), area)[0, 1, 0, 0])
truth = float(far.double().var(unbiased=False))
assert abs(centred / truth - 1) < 1e-3 and abs(raw / truth - 1) > 0.5
print("ok: centred first, the variance is right to a thousandth; raw, it is off by half and more")

# %% [markdown]
# *One pixel.* A region of a single position has no variance. What a raw formula leaves there is
# rounding noise, and a cosine makes noise as large as anything. The library gives exact zeros.

# %% tags=["nbval-check-output"]
feature_ = torch.randn(1, 6, 4, 4, generator=random).requires_grad_()
single = torch.zeros(1, 2, 4, 4).bool()
single[0, 0], single[0, 1, 2, 2] = True, True
pooled = affinity.moment_pooling(feature_, single)
assert (pooled[0, 1:, 1] == 0).all()
loss = affinity.affinity_loss(feature_, torch.randn(1, 6, 4, 4, generator=random), single)
loss.backward()
assert torch.isfinite(loss) and torch.isfinite(feature_.grad).all()
print("ok: one position: variance and skewness are 0, loss and gradient are finite")

# %% [markdown]
# *The gradient of a quiet channel.* Where one channel is nearly the whole vector, the vectors of all
# regions nearly agree, and how their cosines change with it is a difference of nearly equal
# numbers. Written down in short numbers the formula is right and its gradient is not. The library
# takes what comes after the maps, a few vectors, in long ones.

# %%
quiet = torch.randn(1, 64, 40, 60, generator=random).relu()
quiet[:, 2] *= 0.03
five = torch.rand(1, 5, 40, 60, generator=random) < 0.2


def plain(moments):
    units = torch.nn.functional.normalize(moments, dim=-1)
    return units @ units.mT


def gradient(features, graph):
    features = features.clone().requires_grad_()
    graph(affinity.moment_pooling(features, five)).square().sum().backward()
    return features.grad[:, 2].double()


# %% tags=["nbval-check-output"]
truth = gradient(quiet.double(), plain)
errors = [gradient(quiet, graph) - truth for graph in (plain, affinity.region_affinity)]
of_plain, of_library = (float(error.abs().max() / truth.abs().max()) for error in errors)
assert of_plain > 0.1 and of_library < 1e-4
print("ok: short numbers lose the quiet channel's gradient, the library keeps four digits and more")

# %% [markdown]
# ## Where this differs from the paper
#
# Rows *Moments: where the sums run*, *Moments: divisor of the skewness*, *Moments: number of
# pixels*, *Moments: rounding*, *Moments: a region of one pixel*, *Affinity: a vector of zeros*,
# *Affinity: absent classes*, *Affinity: mean over the batch* and *Levels* of the
# [deviation ledger](../../published/inter_region_affinity.yaml) say what was done and why; page 5
# prints the whole ledger.
#
# ## Exercises
#
# 1. **A fourth moment.** The paper says that orders above the third gain little. Add the kurtosis
#    to `slow_moments`. Is its matrix close to one that is there already?
# 2. **Which pixels?** Take the gradient of the loss with respect to the student's feature and sum
#    its squares over the channels. Does it lie in the lanes or in the background, and why?
# 3. **Other divisors.** Train `affinity-culane-erfnet-intra` with `skewness: std`. Does the bar of
#    the skewness fall further, and does F1 notice?
