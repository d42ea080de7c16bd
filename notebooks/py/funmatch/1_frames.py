# %% [markdown]
# # 1 · Unlabelled frames
#
# A segmentation label can cost an annotator more than an hour. A picture without a label costs next
# to nothing: a car that drives with a camera makes thirty of them every second. Function matching
# asks a *teacher* for its answer on such pictures and trains the *student* to give the same one.
# Nobody has to know the right answer, so the only question is how many pictures there are.
#
# This page turns videos into that supply:
#
# $$\text{videos}\;\xrightarrow{\text{decode, sample}}\;\text{frames}
# \;\xrightarrow{\text{drop what must not be there}}\;\text{pool}
# \;\xrightarrow{\text{shuffle, pack}}\;\text{shards}$$
#
# It looks at one clip first, then at each rule by itself, then runs the whole thing.

# %% tags=["parameters", "own-folder"]
run = "funmatch-frames"  # a run of params.yaml that clips frames
scale = "smoke"  # smoke | sample | gpu | paper
seed = 0  # draws the held-out clips and the order of the frames

# %%
import hashlib
import math
import os
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from ipywidgets import FloatSlider, interact

# %%
from kdlib import config, unlabelled
from kdlib.data import decode, layouts
from kdlib.data.shards import Shards

# %% [markdown]
# The name of the run is all that this page is given. `params.yaml` says what it stands for.

# %%
cfg = config.load_run(run, scale=scale, seed=seed)
how, root = cfg.frames, config.repository()
layout = layouts.get(cfg.data.layout)
unlabelled.require_data(cfg, root)
plt.rcParams.update({"axes.titlelocation": "left", "axes.titlesize": 11, "figure.dpi": 90})
pd.Series({k: str(v) for k, v in vars(how).items()}, name="value").to_frame()

# %% [markdown]
# `splits` names the video folders that are read (or `folder` a plain folder of clips), `rate`
# (frames a second) or `stride` (every k-th frame) says how densely, `heldout` how many clips are
# kept away from training so that agreement can be measured on frames that no student has seen.
#
# ## What there is
#
# One row for each clip, from the file's header. Nothing is decoded yet.

# %%
clips = unlabelled.videos(cfg)


def header(video):
    with av.open(str(video.path)) as file:
        stream = file.streams.video[0]
        rate, size = float(stream.average_rate), f"{stream.height} × {stream.width}"
        return video.id, stream.frames, rate, stream.frames / rate, size


columns = ["clip", "frames", "frames a second", "seconds", "pixels, height × width"]
table = pd.DataFrame(map(header, clips[:500]), columns=columns)
print(f"{len(clips)} clips; the first {len(table)} hold {table['seconds'].sum() / 60:.1f} minutes")
table.head(3)


# %% [markdown]
# ## Sampling
#
# Neighbouring frames are nearly the same picture. With $r$ frames a second, time is cut into slots
# of $1/r$ seconds and the first frame of each slot is taken. Frame $i$, shown at $t_i$, is taken
# when
#
# $$\lfloor r\,(t_i - t_0)\rfloor \;>\; \lfloor r\,(t_j - t_0)\rfloor ,$$
#
# where $j$ is the frame taken last. Times come from the file and not from a frame count, because
# real cameras skip frames. The clip is read from front to back: jumping around costs about twenty
# times as much for each frame.

# %%
def sampled(path):
    """(seconds, RGB picture) of each frame that the sampling takes."""
    slot, first = -1, None
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        rate = Fraction(how.rate or stream.average_rate / how.stride).limit_denominator(10**6)
        for frame in file.decode(stream):
            now = frame.pts * frame.time_base
            first = now if first is None else first
            if math.floor((now - first) * rate) > slot:
                slot = math.floor((now - first) * rate)
                yield float(now - first), frame.to_ndarray(format="rgb24")


# %%
def sheet(pictures, captions, title, columns=5):
    """A contact sheet."""
    rows = -(-len(pictures) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(10, 0.35 + 1.35 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture, caption in zip(axes.flat, pictures, captions):
        axis.imshow(picture)
        axis.set_title(caption, fontsize=7, pad=2)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.tight_layout(pad=0.3, rect=(0, 0, 1, 1 - 0.2 / figure.get_figheight()))
    plt.show()


# %%
evaluation = layout.evaluation_ids(root / cfg.data.root)
usable = [clip for clip in clips if clip.id not in evaluation]
times, pictures = zip(*sampled(usable[0].path))
apart = np.diff(times).mean()
title = f"One clip, {len(pictures)} samples: one every {apart:.2f} s"
sheet(pictures[:10], [f"{t:.2f} s" for t in times], title)


# %% [markdown]
# Each picture is a different moment of the same drive. What changes from one to the next is what
# the student can learn from; what stays the same is paid for twice.
#
# ## Near-duplicates
#
# A car that waits at a light films one picture over and over. Two frames $a$ and $b$ are compared
# by their brightness on a grid of $32\times18$ cells:
#
# $$d(a, b) = \frac{1}{32\cdot 18}\sum_{u}\left|a_u - b_u\right|
# \qquad\text{(grey levels, 0 to 255)}.$$
#
# A sampled frame is dropped when $d$ to the last frame *kept* is below a threshold. Measuring from
# the last kept frame, and not from the last one seen, lets a slow drift add up until it counts.

# %%
def luma(path):
    """Thumbnails of the sampled frames: brightness on 18 x 32 cells."""
    grey = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for _, picture in sampled(path))
    return [cv2.resize(g, (32, 18), interpolation=cv2.INTER_AREA).astype(float) for g in grey]


def kept(thumbnails, threshold):
    """Numbers of the frames that stay."""
    stay = [0]
    for i, thumbnail in enumerate(thumbnails[1:], 1):
        if np.abs(thumbnail - thumbnails[stay[-1]]).mean() >= threshold:
            stay.append(i)
    return stay


# %% [markdown]
# How many frames would each threshold cost? A dozen clips are enough to see the shape.

# %%
examples = [thumbnails for clip in usable[:12] if (thumbnails := luma(clip.path))]
total = sum(map(len, examples))
thresholds = np.linspace(0, 40, 41)
dropped = [100 - 100 * sum(len(kept(e, t)) for e in examples) / total for t in thresholds]
now = np.interp(how.duplicate_threshold, thresholds, dropped)

figure, axis = plt.subplots(figsize=(6, 2.8))
axis.plot(thresholds, dropped, color="#0072B2")
axis.axvline(how.duplicate_threshold, color="#222222", lw=1, ls=":")
axis.set(xlabel="threshold, grey levels", ylabel="sampled frames dropped, %", ylim=(-3, 103))
axis.set_title(f"At {how.duplicate_threshold:g} grey levels {now:.0f} % of the frames are dropped")
plt.show()

# %% [markdown]
# The dotted line is the threshold of this run. Far to the right only the first frame of each clip
# would be left. The next figure shows what a threshold does to one clip: pale frames are dropped.

# %%
strip, marks = pictures[:10], examples[0][:10]


def look(threshold):
    """The clip with its dropped frames in pale."""
    stay = kept(marks, threshold)
    shown = [p if i in stay else (0.25 * p + 190).astype(np.uint8) for i, p in enumerate(strip)]
    words = ["kept" if i in stay else "dropped" for i in range(len(strip))]
    sheet(shown, words, f"{len(stay)} of {len(strip)} frames stay at {threshold:g} grey levels")


look(max(how.duplicate_threshold, 8.0))

# %% [markdown]
# In JupyterLab the threshold is a slider. Move it until two frames that you would call the same
# picture are no longer both kept.

# %%
if not os.environ.get("KDLIB_HEADLESS"):  # a page that nobody watches has no use for a slider
    slider = FloatSlider(value=8.0, min=0.0, max=40.0, step=0.5, continuous_update=False)
    interact(look, threshold=slider)

# %% [markdown]
# The rule above was written out to be read. The extraction has its own code, so the two are held
# against each other on one clip.

# %% tags=["nbval-check-output"]
sampling = decode.Sampling(how.stride, how.rate, how.size, how.quality, how.duplicate_threshold)
clip = decode.read_clip(usable[0].path, sampling)
assert len(clip.frames) + clip.duplicates == len(pictures)
assert abs(len(clip.frames) - len(kept(examples[0], how.duplicate_threshold))) <= 1  # rounding
print("ok: the extraction samples and drops as this page does")

# %% [markdown]
# ## What must not be there
#
# A clip may be the source of a still on which we report scores. Its frames would show the student
# the very pictures of the examination, without their labels but with the teacher's answers.
# Official splits do not protect from this: evaluation stills of BDD100K come from clips of the
# *training* videos as well. So every clip whose id is an evaluation still's id is left out,
# whatever folder it lies in.

# %%
leaks = sorted({clip.id for clip in clips} & evaluation)
print(f"{len(evaluation)} evaluation stills, {len(clips)} clips; left out by id: {len(leaks)}")
print("\n".join(leaks[:4]))

# %% [markdown]
# ## The whole thing
#
# One process for each core decodes clips; each clip's frames go into a part file of its own; then
# the frames of many clips are shuffled into tar shards. A run that is killed goes on where it
# stopped and ends with the same bytes.

# %%
manifest = unlabelled.extract_frames(cfg)

# %% [markdown]
# The lines above give the pace in decoded frames a second, over all processes.
#
# ## The manifest
#
# A shard is an ordinary tar file of JPEGs. The manifest has one row for each frame: which set and
# shard it lies in (`set`, and `shard`, which is not shown), from which clip and second it comes,
# and where its bytes begin.

# %%
rows = pd.read_csv(manifest)
rows.head(4).drop(columns=["key", "shard"]).assign(sha256=rows["sha256"].str[:12] + "...")

# %% [markdown]
# `offset` and `bytes` are enough to read one frame out of the middle of a shard, here or in an
# object store, and `sha256` tells whether it is still the frame that was written.

# %% tags=["nbval-check-output"]
row = rows.iloc[len(rows) // 2]
with open(manifest.parent / row["shard"], "rb") as shard:
    shard.seek(row["offset"])
    jpeg = shard.read(row["bytes"])
assert hashlib.sha256(jpeg).hexdigest() == row["sha256"]
assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), -1).shape == (row["height"], row["width"], 3)
print("ok: the bytes are a frame of the size and the hash that the manifest gives")

# %% [markdown]
# Two promises of this page are checked on every row: no evaluation clip got in, and no clip lies in
# both sets.

# %% tags=["nbval-check-output"]
assert not set(rows["clip"]) & evaluation
sets = {name: set(group["clip"]) for name, group in rows.groupby("set")}
assert not sets["pool"] & sets.get("heldout", set())
print("ok: no evaluation clip; pool and held-out clips are apart")

# %% [markdown]
# What was left out is listed too: evaluation clips, near-duplicates, and clips that broke while
# they were read. A broken clip costs its own frames and nothing else.

# %%
gone = pd.read_csv(manifest.parent / "dropped.csv")
gone["reason"] = gone["reason"].str.split(":").str[0]
taken = 100 * len(rows) / (len(rows) + gone["count"].sum())
print(f"{len(rows)} frames stored, {taken:.0f} % of what was sampled")
for reason, group in gone.groupby("reason"):
    print(f"{reason}: {group['count'].sum()} frames of {len(group)} clips")

# %% [markdown]
# ## Shuffled on the way in
#
# A reader that goes through a shard from front to back should meet all kinds of scenes, not one
# drive after the other. Here are the first frames of the pool in the order in which they are
# stored.

# %%
pool = Shards(manifest.parent, set="pool")
names = rows.loc[rows["set"] == "pool", "clip"].to_numpy()
same = 100 * (names[1:] == names[:-1]).mean()
first = range(min(20, len(pool)))
sheet(
    [pool.read(i) for i in first],
    [names[i] for i in first],
    f"Stored order: {same:.0f} % of the neighbours come from one clip",
)


# %% [markdown]
# Look at the ids above the pictures: two neighbours with the same id are rare where there are many
# clips. At smoke scale there are only a few, so some meet.
#
# ## From here to sixteen million
#
# The paper used about 16 million frames. BDD100K has 100 000 clips of 40 s at 30 frames a second,
# 120 million frames in all, and several rules lead from them to 16 million. Scale `paper` reads the
# 70 000 training clips, 84 million frames to decode, and keeps every fifth: 16.8 million, less
# near-duplicates. To know what that costs on *this* machine, a clip in BDD100K's own form is made
# up, 5 seconds of 720p at about 3.6 Mbit/s, and read by the code above.

# %%
def make_clip(path, picture, seconds=5):
    """A camera that pans over a large picture, with some noise of its own."""
    wide = cv2.resize(picture, (1280 + 10 * 30 * seconds, 720), interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(0).integers(0, 12, wide.shape, np.uint8)
    wide = cv2.add(wide, noise)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=30, options={"preset": "veryfast"})
        stream.width, stream.height, stream.bit_rate = 1280, 720, 3_600_000
        for i in range(30 * seconds):
            view = np.ascontiguousarray(wide[:, 10 * i : 10 * i + 1280])
            file.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        file.mux(stream.encode(None))


# %%
with tempfile.TemporaryDirectory() as scratch:
    path = Path(scratch, "clip.mp4")
    make_clip(path, pictures[0])
    megabit = path.stat().st_size * 8 / 5e6
    began = time.perf_counter()
    decoded = decode.read_clip(path, decode.Sampling(stride=5)).decoded
    pace = decoded / (time.perf_counter() - began)
cores = len(os.sched_getaffinity(0))
hours = 84e6 / pace / cores / 3600
print(f"720p at {megabit:.1f} Mbit/s: {pace:.0f} frames/s on one core, one in five taken")
print(f"84 million frames: {hours * cores:.0f} core-hours, {hours:.0f} hours on {cores} cores")
shards = math.ceil(16.8e6 / how.frames_per_shard)
print(f"16.8 million JPEGs of 53 KB: {16.8e6 * 53e3 / 1e12:.2f} TB in {shards:,} shards")

# %% [markdown]
# 53 KB is the mean size of BDD100K's own 720p stills; frames that are stored smaller, as
# `frames.size` allows, need less. The decoding is done once, front to back, and shares out over as
# many machines as there are: it is a matter of days for one small machine and of an hour or two for
# a large one.
#
# ## Where this differs from the paper
#
# The paper does not say by which rule its 16 million frames were taken, nor from which splits. Rows
# *Unlabelled frames* and *Data* of the [deviation ledger](../../published/function_matching.yaml)
# say what was done here and why; page 5 prints the whole ledger.
#
# ## Exercises
#
# 1. **Rate.** Set `frames.rate` of `funmatch-frames` to 1.0 and to 4.0 in `params.yaml`. Does four
#    times the rate give four times the frames after near-duplicates are dropped?
# 2. **Threshold.** Raise `duplicate_threshold` until a tenth of the frames is dropped. Which scenes
#    lose most? Then run page 3 on that pool: do fewer but more different frames teach as well?
# 3. **Break something.** Cut a video file in half with `head -c` in a copy of the data and run this
#    page again. Which row of `dropped.csv` is new, and how many of the clip's frames were saved?
