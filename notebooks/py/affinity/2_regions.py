# %% [markdown]
# # 2 · The regions
#
# IntRA-KD compares *regions*, not pixels. A region belongs to a class: lane 1 and what lies close
# to it is one, the background is another. This page draws them, changes their width, brings them to
# the size of a feature map, and shows what can go wrong on the way. It needs labels and the shapes
# of two networks, but no trained weights.

# %% tags=["parameters", "reads-records"]
run = "affinity-culane-erfnet-intra"  # whose pictures and networks are used; any student will do
scale = "smoke"  # smoke | sample | gpu | paper
seed = 0
still = 0  # number of the labelled still that is shown
kernel = 5  # pixels a side, for the figures of one width

# %%
import os
from dataclasses import replace

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import display
from ipywidgets import IntSlider, interact

# %%
from kdlib import config, preparing
from kdlib.data import layouts, loader
from kdlib.losses.affinity import areas_of_interest
from kdlib.report.sheet import sheet
from kdlib.runtime import generator
from kdlib.unlabelled import require_data

# %%
cfg = config.load_run(run, scale=scale, seed=seed)
plt.rcParams.update({"axes.titlelocation": "left", "axes.titlesize": 11, "figure.dpi": 90})
root = config.repository()
require_data(cfg, root)
layout, size = layouts.get(cfg.data.layout), cfg.data.size
samples = loader.select(cfg.data.layout, root / cfg.data.root, cfg.data.labelled, seed)
stills = loader.Stills(cfg.data.layout, samples, size, labels=True)
classes = len(layout.CLASSES)
print(f"{len(stills)} labelled stills of {size[1]} x {size[0]} pixels, {classes} classes")

# %%
picture, label = stills.read(still % len(stills))
labels = torch.from_numpy(label)[None].long()
present = [k for k in range(classes) if (label == k).any()]
print("on this still: " + ", ".join(layout.CLASSES[k] for k in present))


# %% [markdown]
# ## The rule
#
# Take the mask $L_r$ of class $r$, 1 where the label says $r$ and 0 elsewhere. Smooth it with an
# average kernel $\varphi$ of $k\times k$ pixels. The *area of interest* is everything above zero:
#
# $$M_r = \mathbb 1\bigl(\varphi(L_r) > 0\bigr),\qquad r = 0 \dots n-1 ,$$
#
# for all $n$ classes, the background included. An average of zeros and ones is above zero exactly
# if one of the $k^2$ pixels is one. So the smoothing is a dilation by a square, and areas of
# neighbouring classes overlap.

# %%
def slow_areas(label, classes, kernel):
    """The formula in loops: (R, H, W) bool for a label (H, W)."""
    height, width, reach = *label.shape, kernel // 2
    areas = np.zeros((classes, height, width), bool)
    for r in range(classes):
        for i in range(height):
            for j in range(width):
                near = label[max(i - reach, 0) : i + reach + 1, max(j - reach, 0) : j + reach + 1]
                areas[r, i, j] = (near == r).any()
    return areas


# %% tags=["nbval-check-output"]
some = torch.randint(0, 4, (1, 9, 14), generator=generator(0, "labels"))
some[0, 2:5, 3:8] = 255  # ignored
for side in (1, 3, 5):
    quick = areas_of_interest(some, 4, kernel=side)[0].numpy()
    assert (quick == slow_areas(some[0].numpy(), 4, side)).all()
print("ok: the formula in loops and the library agree, ignored pixels included")


# %% [markdown]
# An ignored pixel is a member of no class, but the area of a neighbour may cover it.
#
# ## The areas of one still
#
# The mask of a class in a strong colour, what the kernel adds in a pale one, the rest darker.

# %%
def shown(mask, area):
    """The still with a mask and its area."""
    canvas = 0.35 * picture.astype(float)
    canvas[area] = 0.55 * picture[area] + 0.45 * np.array((0, 200, 255))
    canvas[mask] = (255, 214, 0)
    return canvas.round().astype(np.uint8)


def areas_of(kernel):
    """(R, H, W) bool of the still."""
    return areas_of_interest(labels, classes, kernel=kernel)[0].numpy()


# %%
areas = areas_of(kernel)
picked = present[-4:] if len(present) > 4 else present[1:] or present
tiles = [shown(label == k, areas[k]) for k in picked]
pairs = [(int((label == k).sum()), int(areas[k].sum())) for k in picked]
captions = [f"{layout.CLASSES[k]}: {a} to {b} pixels" for k, (a, b) in zip(picked, pairs)]
grown = sum(b for _, b in pairs) / max(sum(a for a, _ in pairs), 1)
title = f"Mask yellow, area blue: {kernel} x {kernel} makes the masks {grown:.1f} times as large"
rows = [tiles[i : i + 2] for i in range(0, len(tiles), 2)]
sheet(rows, captions[:2], title, height=1.2)
print("; ".join(captions))
plt.show()

# %% [markdown]
# A lane is a few pixels wide here, so its area is mostly *not* lane: it is lane, and the road on
# both sides. That is the point of it. What a network has to know is the edge.
#
# And the background? With lanes this thin, its area is the picture.

# %%
widths = (1, 3, 5, 7, 11, 15, 21)
table = pd.DataFrame(
    {f"{side}": [100 * areas_of(side)[k].mean() for k in present] for side in widths},
    [layout.CLASSES[k] for k in present],
)
table.columns.name = "share of the picture, %, by kernel"
table.round(1)

# %% [markdown]
# Look at the first line: from a kernel of 3 or 5 on, the region "background" is close to the whole
# picture, lanes included. Its mean is the mean of everything.
#
# In JupyterLab the kernel is a slider.

# %%
if not os.environ.get("KDLIB_HEADLESS"):  # a page that nobody watches has no use for a slider

    def look(reach):
        """The areas for one kernel."""
        side, areas = 2 * reach + 1, areas_of(2 * reach + 1)
        tiles = [shown(label == k, areas[k]) for k in picked]
        rows = [tiles[i : i + 2] for i in range(0, len(tiles), 2)]
        display(sheet(rows, [], f"kernel {side} x {side}", height=1.2))
        plt.close()

    interact(look, reach=IntSlider(value=kernel // 2, min=0, max=15, description="reach"))

# %% [markdown]
# ## A trap: averages of bytes
#
# The rule says average, and libraries have fast averages. Given a mask of bytes they answer in
# bytes, and an average of 10 ones in 25 pixels is rounded to 0. Where less than half of the window
# is covered, the area *loses* pixels instead of winning some.

# %% tags=["nbval-check-output"]
line = np.zeros((20, 20), np.uint8)
line[:, 9:11] = 1  # two pixels wide
rounded = cv2.blur(line, (5, 5)) > 0
exact = cv2.blur(line.astype(np.float32), (5, 5)) > 0
ours = areas_of_interest(torch.from_numpy(line)[None].long(), 2, kernel=5)[0, 1].numpy()
assert (ours == exact).all()
print(f"a line of 2 pixels: {rounded[10].sum()} in bytes, {exact[10].sum()} in floats, ", end="")
print(f"{ours[10].sum()} as a maximum over the window")

# %% [markdown]
# So the library takes a maximum over the window: no rounding, and the same area.
#
# ## To the size of a feature
#
# A feature map is four or eight times smaller than the picture. The paper does not say how an area
# gets there. Here the area is made at the size of the label, and each position of the map takes the
# value of one pixel, row and column
#
# $$i' = \lfloor i\,H/h\rfloor,\qquad j' = \lfloor j\,W/w\rfloor .$$
#
# Each network samples for itself. Only $n\times n$ matrices are compared later, so the maps need
# not have one size, nor one number of channels.

# %%
networks = {"student": cfg, "teacher": config.load_run(cfg.teacher, scale=scale, seed=seed)}
sizes = {}
for who, one in networks.items():
    network = preparing.build_network(replace(one, init=None)).eval()  # shapes need no weights
    with torch.inference_mode():
        features = network(torch.zeros(1, 3, *size)).features
    for level in ("middle", "high"):
        sizes[who, level] = tuple(features[level].shape[1:])
pd.DataFrame(sizes, ["channels", "rows", "columns"]).T

# %%
lane = max(picked, key=lambda k: (label == k).sum())
figure, axes = plt.subplots(len(sizes), 1, figsize=(8.5, 1.75 * len(sizes)))
for axis, ((who, level), (_, *grid)) in zip(axes, sizes.items()):
    area = areas_of_interest(labels, classes, kernel=kernel, size=tuple(grid))[0, lane].numpy()
    axis.imshow(picture, extent=(0, size[1], size[0], 0), alpha=0.55)
    cover = np.where(area[..., None], (0.0, 0.55, 0.9, 0.7), (0.0, 0.0, 0.0, 0.0))
    axis.imshow(cover, extent=(0, size[1], size[0], 0), interpolation="nearest")
    axis.set_axis_off()
    axis.set_title(f"{who}, {level}: {grid[0]} x {grid[1]}, {area.sum()} positions", fontsize=9)
words = f"The region of {layout.CLASSES[lane]} as each network sees it"
figure.suptitle(words, x=0.01, ha="left", fontsize=11)
figure.tight_layout()
plt.show()

# %% [markdown]
# On the coarse maps a lane is a chain of single positions, with gaps where it is far away.
#
# ## A lane between two samples
#
# That is the reason to smooth at all. Without it a line of three pixels lies between samples that
# are eight apart, and the class is gone. The next figure counts, over up to 120 labelled stills,
# how many classes that a label holds have no position left.

# %%
some = range(min(len(stills), 120))
every = torch.stack([torch.from_numpy(stills.read(i)[1]).long() for i in some]).split(8)


def there(**options):
    """(N, R): which classes have an area, a few stills at a time."""
    found = [areas_of_interest(each, classes, **options).flatten(2).any(2) for each in every]
    return torch.cat(found)


# %%
held = there(kernel=1)


def lost(kernel, stride):
    """Share of the (still, class) pairs in the labels that are absent on the map, in percent."""
    grid = (max(size[0] // stride, 1), max(size[1] // stride, 1))
    return 100 * float((held & ~there(kernel=kernel, size=grid)).sum() / held.sum())


# %%
strides = (2, 4, 8, 16, 32)
curves = {side: [lost(side, stride) for stride in strides] for side in (1, 3, 5, 11)}
figure, axis = plt.subplots(figsize=(7, 2.8))
for (side, values), colour in zip(curves.items(), ("#D55E00", "#E69F00", "#0072B2", "#009E73")):
    axis.plot(strides, values, "o-", color=colour, label=f"kernel {side}")
axis.set(xscale="log", xlabel="stride of the map, pixels", ylabel="classes lost, %")
axis.set_xticks(strides, strides)
axis.minorticks_off()
axis.legend(frameon=False)
axis.set_title(f"At stride 8, {curves[1][2]:.0f} % of the classes are lost without smoothing, "
               f"{curves[5][2]:.0f} % with 5 x 5")
plt.show()

# %% [markdown]
# The order matters as well. Sampling first and dilating on the small map keeps the loss of the
# curve for kernel 1 and makes areas of five *positions*, which are forty pixels.

# %% tags=["nbval-check-output"]
thin = torch.zeros(1, 64, 64, dtype=torch.long)
thin[0, :, 21:24] = 1  # three pixels wide, between the samples at 16 and 24
before = areas_of_interest(thin, 2, kernel=5, size=(8, 8))[0, 1]
first = areas_of_interest(thin, 2, kernel=1, size=(8, 8))[0, 1]
assert before.sum() == 8 and first.sum() == 0
print(f"a lane of 3 pixels at stride 8: {before.sum()} positions if dilated first, ", end="")
print(f"{first.sum()} if sampled first")

# %% [markdown]
# ## A trap: height and width
#
# The one fragment of code that the author posted resizes with OpenCV and hands over height and
# width. OpenCV wants width and height. Where the map is not square the area is transposed in shape,
# and multiplying it with the feature fails, or works on a square map and nobody notices.

# %% tags=["nbval-check-output"]
wide = np.zeros((208, 976), np.float32)
posted, meant = cv2.resize(wide, (26, 122)), cv2.resize(wide, (122, 26))
print(f"for a map of 26 x 122: posted {posted.shape}, meant {meant.shape}")

# %% [markdown]
# The fragment also keeps the smoothed map as a *weight* between 0 and 1 instead of a set. Pixels in
# the middle of a lane then count more than its edge.
#
# ## Absent classes
#
# A still rarely shows all classes. The formula counts all $n$ of them; an absent one has no pixels,
# no mean and no affinity. The library gives it zeros, and offers to leave it out (`nodes`).

# %%
number = held.sum(1).numpy()
figure, axis = plt.subplots(figsize=(6, 2.4))
values, counts = np.unique(number, return_counts=True)
axis.bar(values, counts, color="#0072B2", width=0.7)
axis.set(xlabel=f"classes on a still, of {classes}", ylabel="stills")
axis.set_xticks(range(0, number.max() + 1, max(1, number.max() // 8)))
pairs = 100 * (number**2).mean() / classes**2
axis.set_title(f"On average {number.mean():.1f} of {classes} classes: {pairs:.0f} % of the pairs")
plt.show()

# %% [markdown]
# The loss divides by all $n^2$ pairs. On ApolloScape with its 37 classes, few of which a still
# shows, that makes it small; on CULane most of the five are there.
#
# ## Where this differs from the paper
#
# The rule is the paper's. Rows *Area of interest: smoothing*, *Area of interest: background*, *Area
# of interest: size of the feature*, *Area of interest: a lane between two samples*, *Area of
# interest: ignored pixels* and *Affinity: absent classes* of the
# [deviation ledger](../../published/inter_region_affinity.yaml) say what was done and why; page 5
# prints the whole ledger.
#
# ## Exercises
#
# 1. **A soft area.** Average the mask in floats and sample it bilinearly, as the fragment does. How
#    many positions differ by more than 0.5 from the set?
# 2. **Half a stride.** The samples sit at the upper left corner of each cell. Sample at its middle
#    instead. Do fewer classes vanish?
# 3. **The background without lanes.** Take the pixels of class 0 and no dilation for it. By how
#    much does the share of the background fall for a kernel of 21?
