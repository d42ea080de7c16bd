# %% [markdown]
# # 3 · The pair-wise term
#
# The pixel-wise term looks at one position at a time. The pair-wise term looks at two and asks: do
# both networks find them equally alike? Two places on the road should be neighbours in the
# student's features if they are in the teacher's, wherever those features lie and however many
# channels they have. This page draws what is compared, on a still: the nodes, the matrix of their
# similarities, and what the window and the norm have to do with it.

# %% tags=["parameters", "reads-records"]
run = "structured-pi-pa"  # its teacher and its student are asked; any structured row will do
scale = "smoke"  # smoke | sample | gpu | paper
seed = 0  # which student
still = 1  # number of the reported still that is shown
window = 4  # side of a node in positions, for the large figures

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from ipywidgets import SelectionSlider, interact
from matplotlib.patches import Rectangle

from kdlib import config, experiment
from kdlib.data import layouts, loader
from kdlib.losses import structured
from kdlib.methods.structured import WEIGHTS, feature
from kdlib.resize import to_grid

# %%
cfg = config.load_run(run, scale=scale, seed=seed)
plt.rcParams.update({"axes.titlelocation": "left", "axes.titlesize": 11, "figure.dpi": 90})
parts = experiment.prepare(cfg)
student, notes = experiment.load_network(cfg, parts.root, parts.fabric)
layout, device, size = layouts.get(cfg.data.layout), parts.fabric.device, cfg.data.size
print(f"teacher: {parts.teacher.name}; student: {run}, seed {seed}, {cfg.schedule.steps} steps")

# %%
sample = parts.report[still % len(parts.report)]
picture = loader.resize(layout.read_image(sample.image), size)
with torch.no_grad():
    batch = torch.from_numpy(picture).permute(2, 0, 1)[None].to(device) / 255
    f_s = feature(student(batch)).float()
    f_t = to_grid(feature(parts.teacher(batch)).float(), f_s.shape[-2:])
height, width = f_s.shape[-2:]
print(f"features on {height} x {width} positions: {f_s.shape[1]} channels of the student, ", end="")
print(f"{f_t.shape[1]} of the teacher")


# %% [markdown]
# Compared is what the classifier reads: the output of the pyramid pooling for a PSPNet, level 3 for
# an ESPNet. The two have different numbers of channels, and nothing projects one onto the other:
# similarities have no channels.
#
# ## The formula
#
# Pool the features to $M$ nodes $f_1 \dots f_M$, take the cosine of every two of them, and compare
# the matrices:
#
# $$a_{ij} = \frac{f_i^\top f_j}{\|f_i\|\,\|f_j\|},\qquad
# \mathcal L_{pa} = \frac{1}{N M^2}\sum_{n}\sum_{i,j}\bigl(a^s_{ij}-a^t_{ij}\bigr)^2 .$$

# %%
def slow_pairwise(student_NCHW, teacher_NCHW):
    """The formula in loops, for nodes of one position."""
    total, n_images, nodes = 0.0, len(student_NCHW), student_NCHW[0, 0].numel()
    for n in range(n_images):
        for i in range(nodes):
            for j in range(nodes):
                a = [
                    torch.cosine_similarity(f[n].flatten(1)[:, i], f[n].flatten(1)[:, j], dim=0)
                    for f in (student_NCHW, teacher_NCHW)
                ]
                total += float((a[0] - a[1]) ** 2)
    return total / (n_images * nodes**2)


# %% tags=["nbval-check-output"]
random = torch.Generator().manual_seed(0)
one, other = torch.randn(2, 5, 3, 4, generator=random), torch.randn(2, 7, 3, 4, generator=random)
assert np.isclose(slow_pairwise(one, other), structured.pairwise(one, other, window=1), rtol=1e-4)
assert structured.pairwise(one, 3 * one, window=1) < 1e-10
assert structured.pairwise(one, one.flip(1), window=1) < 1e-10
print("ok: the formula in loops and the library agree, with 5 and 7 channels")
print("ok: longer features, or the same channels in another order, cost nothing")


# %% [markdown]
# ## Nodes and their matrix

# %%
def shape_of(kernel):
    """Rows and columns of nodes on the map, with windows that may run over its edge."""
    return -(-height // kernel[0]), -(-width // kernel[1])


def draw_nodes(axis, kernel, mark=()):
    """The still with the windows of its nodes; marked ones in pink."""
    axis.imshow(picture, extent=(0, width, height, 0))
    rows, columns = shape_of(kernel)
    for i in range(rows * columns):
        top, left = i // columns * kernel[0], i % columns * kernel[1]
        high, wide = min(kernel[0], height - top), min(kernel[1], width - left)
        look = {"ec": "#FF006E", "lw": 2.0, "zorder": 3} if i in mark else {"ec": "w", "lw": 0.4}
        axis.add_patch(Rectangle((left, top), wide, high, fill=False, **look))
    axis.set_axis_off()


# %%
kernel = (window, window)
rows, columns = shape_of(kernel)
a_s, a_t = (structured.affinity(f, window=window)[0].cpu().numpy() for f in (f_s, f_t))
value = float(structured.pairwise(f_s, f_t, window=window))
low = float(min(a_s.min(), a_t.min()))
apart = (a_s - a_t) ** 2
assert a_s.shape == a_t.shape == (rows * columns, rows * columns)
assert np.isclose(apart.mean(), value, rtol=1e-3)

# %%
figure, axes = plt.subplots(1, 4, figsize=(11, 2.7), width_ratios=(1.5, 1, 1, 1))
draw_nodes(axes[0], kernel)
axes[0].set_title(f"{rows} × {columns} nodes of {window} × {window} positions", fontsize=9)
panels = {"teacher": a_t, "student": a_s, "squared difference": apart}
for axis, (name, matrix) in zip(axes[1:], panels.items()):
    bottom = 0 if name.startswith("sq") else low
    mesh = axis.imshow(matrix, cmap="magma", vmin=bottom, vmax=None if bottom == 0 else 1)
    figure.colorbar(mesh, ax=axis, fraction=0.046)
    axis.set_title(name, fontsize=9)
    axis.set(xticks=[], yticks=[])
title = f"The matrices lie {np.sqrt(value):.2f} apart (root mean square)"
figure.suptitle(title, x=0.01, ha="left")
figure.tight_layout()
plt.show()


# %% [markdown]
# Nodes are counted line by line from the top left. The diagonal is one, and it counts in the mean.
# Pale blocks are parts of the picture that a network finds alike: sky and road are blocks of their
# own where it tells them apart. Features that have hardly been trained tell bright from dark, which
# makes blocks as well.
#
# ## One row of the matrix, over the picture
#
# Row $i$ says how much every place resembles node $i$. The next figure paints three rows over the
# still: one node at the top, one in the middle, one at the bottom.

# %%
def painted(matrix, i):
    """A row of a matrix over the grey still, on the matrices' common scale."""
    row = (matrix[i].reshape(rows, columns) - low) / max(1 - low, 1e-9)
    large = row.repeat(kernel[0], 0).repeat(kernel[1], 1)[:height, :width]
    # every position of the map covers as many pixels of the picture
    ys = np.arange(size[0]) * height // size[0]
    xs = np.arange(size[1]) * width // size[1]
    grey = picture.mean(2, keepdims=True) / 255
    return 0.35 * grey + 0.65 * plt.cm.magma(large[np.ix_(ys, xs)])[..., :3]


# %%
marked = [columns // 2, (rows // 2) * columns + columns // 4, rows * columns - columns // 2 - 1]
figure, axes = plt.subplots(len(marked), 3, figsize=(9.5, 1.75 * len(marked) + 0.3))
for line, i in zip(axes, marked):
    draw_nodes(line[0], kernel, [i])
    for axis, (name, matrix) in zip(line[1:], (("teacher", a_t), ("student", a_s))):
        axis.imshow(painted(matrix, i))
        axis.set_axis_off()
        axis.set_title(f"{name}: from {matrix[i].min():.2f} to 1", fontsize=8, pad=2)
worst = max(marked, key=lambda i: apart[i].mean())
said = ("top", "middle", "bottom")[marked.index(worst)]
title = f"What resembles the pink node (pale: alike); they differ most about the {said} one"
figure.suptitle(title, x=0.01, ha="left")
figure.tight_layout()
plt.show()

# %% [markdown]
# The node itself is palest: nothing resembles it more. With a trained teacher the pale region is
# the thing that the node lies on, and the term asks the student for the same region.
#
# ## The window
#
# How large is a node? The paper says "β = 2 × 2", and its author explained that two-by-two nodes
# were meant, "implemented by pooling with 0.5". The code multiplies 0.5 with the *map*: on 65 × 65
# positions the kernel is 32, without padding and rounded up. That leaves neither 33 × 33 nodes nor
# 2 × 2.

# %% tags=["nbval-check-output"]
full = torch.randn(1, 8, 65, 65, generator=random)
by_ratio, by_window = structured.affinity(full, ratio=0.5), structured.affinity(full, window=2)
assert by_ratio.shape == (1, 9, 9) and by_window.shape == (1, 33**2, 33**2)
assert torch.equal(by_ratio, structured.affinity(full, window=32))
print(f"ok: ratio 0.5 on 65 x 65 leaves 3 x 3 nodes, {by_ratio[0].numel()} pairs")
print(f"ok: windows of 2 leave 33 x 33 nodes, {by_window[0].numel():,} pairs")

# %%
figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.0))
for axis, side in zip(axes, (32, 2)):
    nodes = -(-65 // side)
    for i in range(nodes):
        for j in range(nodes):
            wide, high = min(side, 65 - j * side), min(side, 65 - i * side)
            area = Rectangle((j * side, i * side), wide, high, ec="w", lw=0.5)
            area.set_facecolor(plt.cm.viridis(wide * high / side**2))
            axis.add_patch(area)
    axis.set(xlim=(0, 65), ylim=(65, 0), aspect="equal", xticks=(0, 32, 64), yticks=(0, 32, 64))
    axis.set_title(f"window {side}: {nodes} × {nodes} nodes", fontsize=10)
title = "65 × 65 positions: the code's nodes, and the nodes that were meant"
figure.suptitle(title, x=0.01, ha="left")
figure.tight_layout()
plt.show()

# %% [markdown]
# Colour is the share of a full window. Five of the code's nine nodes see one line of positions, or
# a single one, and count as much as the four large ones. The library offers both: `ratio` as
# released, `window` in positions as intended.
#
# The same still with windows from 1 to the released ratio:

# %%
half = (height // 2, width // 2)
choices = {f"{w}": (w, w) for w in (1, 2, 4, 8) if w <= min(half)} | {"ratio 0.5": half}


def options(kernel):
    """What to ask the library for."""
    return {"ratio": 0.5} if kernel == half else {"window": kernel[0]}


# %%
figure, axes = plt.subplots(3, len(choices), figsize=(11, 5.6), height_ratios=(0.75, 1, 1))
for column, (word, kernel_) in zip(axes.T, choices.items()):
    draw_nodes(column[0], kernel_)
    distance = float(structured.pairwise(f_s, f_t, **options(kernel_)))
    column[0].set_title(f"window {word}" if "ratio" not in word else word, fontsize=9)
    for axis, f in zip(column[1:], (f_t, f_s)):
        matrix = structured.affinity(f, **options(kernel_))[0].cpu()
        axis.imshow(matrix, cmap="magma", vmin=low, vmax=1, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
    column[2].set_xlabel(f"{len(matrix)} nodes, loss {distance:.4f}", fontsize=8)
for place, word in ((1, "teacher"), (2, "student")):
    axes[place, 0].set_ylabel(word)
figure.suptitle(f"The same features through {len(choices)} windows", x=0.01, ha="left")
figure.tight_layout()
plt.show()


# %% [markdown]
# A larger window leaves fewer nodes and a coarser question: whether large parts of the picture are
# alike, not whether two poles are. The losses are means over pairs, so they can be compared.
#
# In JupyterLab the window is a slider.

# %%
def look(side):
    """Nodes and the two matrices for one window."""
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.6), width_ratios=(1.5, 1, 1))
    draw_nodes(axes[0], (side, side))
    for axis, f, name in zip(axes[1:], (f_t, f_s), ("teacher", "student")):
        matrix = structured.affinity(f, window=side)[0].cpu()
        axis.imshow(matrix, cmap="magma", vmin=low, vmax=1, interpolation="nearest")
        axis.set(xticks=[], yticks=[], title=name)
    loss = float(structured.pairwise(f_s, f_t, window=side))
    figure.suptitle(f"window {side}: {len(matrix)} nodes, loss {loss:.4f}", x=0.01, ha="left")
    plt.show()


if not os.environ.get("KDLIB_HEADLESS"):  # a page that nobody watches has no use for a slider
    interact(look, side=SelectionSlider(options=range(1, min(half) + 1), value=min(window, *half)))

# %% [markdown]
# ## The largest or the mean
#
# The paper pools by averages. The code takes the largest value of each channel, which its author
# found better later.

# %%
pools = {
    pool: [structured.affinity(f, pool=pool, window=window)[0].cpu().numpy() for f in (f_t, f_s)]
    for pool in ("max", "avg")
}
off = ~np.eye(rows * columns, dtype=bool)
both = {p: float(structured.pairwise(f_s, f_t, pool=p, window=window)) for p in pools}
print(f"loss with max {both['max']:.4f}, with avg {both['avg']:.4f}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 2.5), sharey=True)
for axis, place, name in zip(axes, (0, 1), ("teacher", "student")):
    for pool, colour in (("max", "#0072B2"), ("avg", "#E69F00")):
        values = pools[pool][place][off]
        axis.hist(values, bins=40, alpha=0.6, color=colour, label=f"{pool}: {values.mean():.2f}")
    axis.set(xlabel="similarity of two nodes", title=name)
    axis.legend(frameon=False, title="pooling: mean", loc="upper left")
axes[0].set_ylabel("pairs")
plt.show()

# %% [markdown]
# The largest values of two windows may come from different positions for each channel, so a
# max-pooled node is no feature that the network has anywhere. After an activation that cuts off
# what is negative, such nodes have large positive parts in common; the means in the legends say
# whether that makes them more alike here.
#
# ## The norm in the gradient
#
# The journal's code divides by $\|f\|$ but *detaches* it: the gradient takes the norm for a
# constant. With the whole derivative, the gradient at a node is at right angles to the node, since
# a longer vector has the same cosines. Without it, part of the gradient points along the vector.

# %% tags=["nbval-check-output"]
angles = {}
for detached in (True, False):
    asked = one.double().requires_grad_()
    structured.pairwise(
        asked, other.double(), window=1, detach_norm=detached, eps=0.0
    ).backward()
    angles[detached] = torch.cosine_similarity(asked.grad, asked.detach(), dim=1)
assert angles[False].abs().max() < 1e-6
assert angles[True].abs().mean() > 0.05
print("ok: with the norm's own derivative the gradient is at right angles to every node")
print("ok: with a detached norm it is not")

# %%
v = torch.tensor([[1.6, 0.0], [0.9, 1.0]], dtype=torch.float64)  # two nodes, two channels


def steps(cosine, detached):
    """The two steps against the gradient, where the teacher has this cosine; (2 nodes, 2)."""
    target = torch.tensor([[1, 0], [cosine, (1 - cosine**2) ** 0.5]], dtype=torch.float64)
    asked, taught = (f.T.reshape(1, 2, 1, 2).clone() for f in (v, target))
    asked.requires_grad_()
    structured.pairwise(asked, taught, window=1, detach_norm=detached, eps=0.0).backward()
    return -asked.grad[0, :, 0].T


kinds = {True: ("norm detached", "#E69F00"), False: ("whole derivative", "#0072B2")}

# %%
figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.2), sharey=True)
for axis, cosine in zip(axes, (0.0, 1.0)):
    for detached, (word, colour) in kinds.items():
        arrow = {"color": colour, "width": 1.2, "headwidth": 6}
        for f, step in zip(v, steps(cosine, detached)):
            axis.annotate("", f + 2 * step, f, arrowprops=arrow)
            axis.plot([0, f[0]], [0, f[1]], color="#222222", lw=1.5)
        axis.plot([], [], color=colour, label=word)
    axis.set(xlim=(-0.3, 2.4), ylim=(-0.9, 2.0), aspect="equal")
    axis.set(xlabel="channel 1", ylabel="channel 2" if cosine == 0 else "")
    axis.set_title(f"The teacher's cosine is {cosine:g}, the student's 0.67", fontsize=9)
axes[1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
figure.suptitle("Where a gradient step moves two features", x=0.01, ha="left")
figure.tight_layout()
plt.show()

# %% [markdown]
# Black are two of the student's features, the arrows are steps against the gradient. Blue turns
# them only. Orange moves each along the *other* one: it turns them in the same sense and changes
# their length besides, shortening them where the cosine is to fall and lengthening them where it is
# to rise. The length has no effect on this term, but on everything else that reads the features.
#
# ## The sets once more

# %%
sets = {
    name: {"factor": chosen.pairwise, **vars(chosen.pairs), "variant of page 2": chosen.variant}
    for name, chosen in WEIGHTS.items()
}
pd.DataFrame(sets).T

# %% [markdown]
# ## Where this differs from the paper
#
# The paper connects each node with its α nearest ones; no code has that, and neither has this
# library: all pairs count, the diagonal among them. The rows of this workbook use the released
# script's form (max pooling, ratio 0.5, norm detached) and its factor of 0.5, where the text says
# 10. The windows at the edge see fewer positions, as released. Page 6 prints the whole deviation
# ledger.
#
# ## Exercises
#
# 1. **The pixels that matter.** Sort the pairs by their squared difference. Which tenth of the
#    nodes holds half of the loss, and what is there on the still?
# 2. **All positions.** Time `pairwise` with window 1 and with the ratio, forward and backward. What
#    does the finer question cost, in seconds and in memory?
# 3. **Scores instead of features.** Compute the matrices on the logits. Does the loss rise or fall,
#    and which of the two would you rather ask a student to match?
