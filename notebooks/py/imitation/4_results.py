# %% [markdown]
# # 4 · Results
#
# What is it worth to imitate features, and does it matter where? The paper's table beside ours,
# letter by letter. A number on this page comes from one of two places: `published/` for what was
# printed, and the records of finished runs for what was measured here. No table, figure or title
# has a typed one; remarks on earlier records name the commit that holds them. Figures are seen when the page is run; the kept ones of scale `sample` lie in
# [results](../../results/imitation/sample/summary), first of them the
# [headline](../../results/imitation/sample/summary/headline.png).

# %% tags=["parameters", "reads-records"]
run = "imitation-kitti-i"  # without its last part the name of the family of runs
scale = "smoke"  # smoke | sample | gpu | paper
seed = 0  # of the networks in the pictures; tables show every seed that has a record

# %%
import torch
from IPython.display import Markdown, display

from kdlib import config, detection, experiment, files, runtime
from kdlib.data import layouts, loader
from kdlib.evaluation.feeding import to_device
from kdlib.losses.imitation import imitation_mask

# %%
from kdlib.report import arms, boxes, imitation, ledger, look, pairs, published
from kdlib.report import imitation_classes as one_less
from kdlib.report import imitation_costs as costs
from kdlib.report import imitation_factor as factor
from kdlib.report import imitation_figures as figures
from kdlib.report.imitation_size import size_finding, size_table
from kdlib.report.imitation_width import width_finding, width_table
from kdlib.report.provenance import provenance
from kdlib.report.records import read_records, write_record
from kdlib.report.starts import budget

# %%
root = config.repository()
prefix = run.rsplit("-", 1)[0]
out = root / "results/imitation" / scale / "summary"
names = ("teacher", *imitation.ROWS)
runs = {name: config.load_run(f"{prefix}-{name}", scale=scale, seed=seed) for name in names}
print(f"runs {prefix}-*, results to {out.relative_to(root)}")

# %% [markdown]
# At smoke scale, and only there, runs without a record are made now. They last seconds and prove
# that everything fits together; their numbers mean nothing.

# %%
for cfg in runs.values():
    if scale == "smoke" and not (root / cfg.record).is_file():
        facts = experiment.make(cfg)
        origin = provenance(root, data_hash=facts["data_hash"])
        write_record(root / cfg.record, origin | facts)

# %%
records = read_records(root / "results/imitation/records" / scale)
paper = published.load(root / "published/feature_imitation.yaml")
quarter, half = paper.tables["kitti-quarter"], paper.tables["kitti-half"]
printed = {"0.25x": quarter, "0.5x": half}
again = {"0.25x, released code": paper.tables["kitti-quarter-released"]}
again |= {"0.5x, released code": paper.tables["kitti-half-released"]}
sweeps = {"0.25x": paper.tables["psi-quarter"], "0.5x": paper.tables["psi-half"]}
print(f"{len(records)} records; published: {quarter.title}")

# %% [markdown]
# ## The question
#
# Six students with the same first weights, the same views and the same number of steps. All learn
# from the labels; five also from the teacher:
#
# $$\mathcal L = \mathcal L_{\text{labels}} + \lambda\,\frac1{2N_p}\sum_{n,i,j} I_{nij}\,
# \bigl\|f(s)_{nij}-t_{nij}\bigr\|^2 + \lambda_D\,\mathcal L_D .$$
#
# I, F and G differ in the region $I$ and in nothing else: cells by the anchors, all cells, cells of
# the boxes. D matches the class scores, ID does both. So two differences answer two questions. A
# row minus *student alone* says what the teacher is worth. I minus G says whether it matters
# *where* one imitates. I minus F says so only if cells beyond the objects cost no more than theirs,
# which is looked at below. Both are taken seed by seed.
#
# ## What is published

# %%
theirs = imitation.printed_table(printed | again)
theirs

# %% [markdown]
# In print the region lifts both students, the smaller one more; boxes and scores help little, and
# the whole map does harm. No figure has a spread, and each is the best checkpoint on the reported
# split. How far do two runs of the authors themselves lie apart?

# %%
for name in printed:
    first, second = (
        {row: figure.value for row, figure in one.rows.items()}
        for one in (printed[name], again[f"{name}, released code"])
    )
    apart = second["baseline"] - first["baseline"]
    gains = [one["i"] - one["baseline"] for one in (first, second)]
    print(f"{name}: the region adds {gains[0]:.1f} points, in the second run {gains[1]:.1f}")
    print(f"       the second student alone scores {apart:+.1f} points")

# %% [markdown]
# Differences of two points between single runs are therefore no finding.
#
# ## Ours

# %%
table = imitation.imitation_table(records, quarter, prefix=prefix)
short = imitation.imitation_table(records, quarter, prefix=prefix, compact=True)
short

# %% [markdown]
# Compare differences and order with the published columns, never the levels: pictures, their
# number, the students' start and the length of training are not the paper's.
#
# ## The same as a picture

# %%
headline = figures.imitation_figure(records, printed, prefix=prefix)
headline

# %% [markdown]
# Left: scores, with the teacher as a line. Right: points over the student alone, published ones
# hollow. Small points are single seeds: where they spread across zero, a letter has not shown to
# help.
#
# ## Is it a fair test?

# %%
found = imitation.scores(records, prefix)
print(budget(records, prefix, dict(imitation.ROWS), "All six students"))
lead = (found["teacher"] - found["baseline"]).dropna()
print(f"Teacher over the student alone: {arms.spread_text(lead)} points, n = {len(lead)}")

# %% [markdown]
# The first line checks the budget from the records. The second is the room that there is: a student
# can hardly gain more than its teacher is ahead. In the paper's readme the VGG11 student alone and
# the imitating one differ in the batch as well, so part of that gain may be the batch.
#
# ## Class by class

# %%
by_class = imitation.class_table(records, quarter, prefix=prefix)
by_class

# %%
classes = figures.class_figure(records, prefix=prefix)
classes

# %% [markdown]
# The three numbers of a class are KITTI's levels. Cars need an IoU of 0.7, people 0.5. KITTI's AP
# is a mean over 11 points, and a class of which a network finds next to nothing keeps the first of
# them or loses it: if the one detection it is surest of is a hit, AP is 1/11 at least, on all three
# levels. That is three points of mAP for one box. Cyclists here are such a class. So below each
# lead stands again with one class left out.
#
# ## One class left out

# %%
left_out = one_less.without_table(records, imitation.ROWS)
left_out

# %% [markdown]
# A verdict that changes from column to column hangs on one class. Cars are most of what students
# and teacher find, and three seeds are few for the rest.
#
# ## How wide a region

# %%
widths = imitation.psi_table(records, sweeps, prefix=prefix)
widths

# %%
sweep = figures.psi_figure(records, sweeps, prefix=prefix)
sweep

# %% [markdown]
# The published curves were read off a plot and come from other runs than the table. At ψ = 0 they
# stand for the whole map; ours has F for that, drawn to the left of 0, because ψ = 0 itself is
# another region (page 2). ψ = 1 is the student alone. ψ = 0.5 is the table's I; further widths,
# like the factors, the wider student and the larger sample below, are runs of `make evidence`, and
# any other is one line of `params.yaml`.
#
# ## How large a factor
#
# The paper does not give its λ. The released ones, 0.01 and 1, belong to other networks and other
# divisors, and the author's advice is to bring both losses to a similar level first. With λ = 0.5,
# what the released code comes to for this student, the region's loss ends at about 1/26 of the
# labels' on our pictures. So the rows of the table have 15 at scale `sample`; the released one
# stands beside it here.
#
# How that came about matters to what the table proves. With λ = 0.5 and an earlier form of the loss
# all three seeds had been scored on the reported split (records in git before `abc4ae5`), and no
# letter was clearly ahead: I −0.1 ± 0.4 points over the student. Then 15 was taken from the losses
# and written down before a score with it was seen, and it became the table's factor after seed 0
# had been scored with it. So seed 0 does not count in full, and it has the largest lead of I: on
# the other two seeds about half of the mean lead is left, little more than one deviation. The
# larger sample below was run with λ fixed.

# %%
own = runs["i"].method.imitation.weight
factors = factor.factor_table(records, own, prefix=prefix)
factors

# %%
by_factor = figures.factor_figure(records, own, prefix=prefix)
by_factor

# %% [markdown]
# Region and whole map at the same λ differ in the cells alone. Each of these rows has the start,
# the views and the steps of the table's.
#
# ## A wider student
#
# In print the region is worth less than half as much to a student of half the width. The teacher is
# the same, so there is less room. Ours has the λ, views and steps of the table above.

# %%
students = width_table(records, printed)
students

# %% [markdown]
# ## On a larger sample
#
# In print the region is worth more than the boxes. With 180 labelled stills the teacher itself has
# seen little. `make evidence` renders 1,440 training stills, of which 1,260 give labels, and trains
# teacher, student, I and G again: the teacher for twice as long, the rest as above. 360 stills are
# scored instead of 120. Whether the harm of F, and what D and ID add, looks there as in print has
# not been tried.

# %%
sizes = size_table(records)
sizes

# %% [markdown]
# ## What a cell costs
#
# The adapter starts near zero, so at first a cell costs half the squared length of the teacher's
# feature there, $\tfrac12\|t\|^2$. Below its mean over the reported split, or over at most 200 of
# its stills. Without pictures or the teacher's weights there is no figure.

# %%
cfg = runs["teacher"]
layout, fabric = layouts.get(cfg.data.layout), runtime.fabric(cfg.schedule.precision)
made = {name: (root / one.folder / "model.safetensors").is_file() for name, one in runs.items()}
there = (root / cfg.data.root).is_dir()
stills = []
if there:
    stills = loader.select(cfg.data.layout, root / cfg.data.root, cfg.data.report, seed)
print("without weights: " + (", ".join(name for name in runs if not made[name]) or "none"))
print(f"pictures from {cfg.data.root}" if there else f"{cfg.data.root} is not there: no pictures")


# %%
def cells(network, still, psi):
    """(h, w): what each cell costs at first, and whether it lies in the region of letter I."""
    image, size_hw = layout.read_image(still.image), cfg.data.size
    with torch.inference_mode(), fabric.autocast():
        said = network(to_device([loader.resize(image, size_hw)], fabric))
    told = said.features["neck"].float().cpu()
    marked = detection.resized(layout.read_boxes(still), image.shape[:2], size_hw)
    objects = [torch.from_numpy(marked.xyxy[~marked.ignored])]
    (region,) = imitation_mask(
        said.anchors.cpu(), objects, told.shape[-2:], psi=psi, inclusive=False
    )
    return 0.5 * told[0].square().sum(0), region


# %%
by_cell = None
if stills and made["teacher"]:
    network, _ = experiment.load_network(runs["teacher"], root, fabric)
    psi = runs["i"].method.imitation.psi
    some = stills[:: 1 + len(stills) // 200]
    cost, region = zip(*(cells(network, still, psi) for still in some))
    by_cell = costs.cost_figure(torch.stack(cost).numpy(), torch.stack(region).numpy())
by_cell

# %% [markdown]
# The teacher's features are largest in the top row, where there is never anything; how large differs
# from still to still, a thousandfold. The loss of the whole map is then the loss of these cells. So
# what F costs with the λ of I, clear for cars and a tie in the mean, is first of all the size of
# its loss, and how much of it is a matter of place that row cannot tell. Letter G can: its cells
# lie at the objects as well, and their cost is of the order of that of I's.
#
# ## The larger detectors
#
# The paper's other students are Faster R-CNNs on VOC07 and COCO. Their networks, losses and runs
# are here (`imitation-voc-*`, `imitation-coco-*`); their length is a GPU's work.

# %%
larger = pairs.pairs_table(records, paper.tables, scale=scale)
larger

# %% [markdown]
# "Not run" is said of every row without a record at this scale. Put VOC07 or COCO in place (README,
# real data), run a pair, and its row fills.
#
# ## What they see
#
# Three stills of the reported split, spread evenly over it and not chosen. Each takes two lines.
# Above: the labelled boxes, then what teacher and students find with score 0.3 and up. Below: what
# the teacher misses of the truth and adds to it, and what each student misses of the *teacher's*
# boxes and adds to them. Without the pictures or the teacher's weights there is no figure.

# %%
chosen = [stills[(2 * i + 1) * len(stills) // 6] for i in range(3)] if stills else []
images = [layout.read_image(still.image) for still in chosen]
truth = [layout.read_boxes(still) for still in chosen]


# %%
def find(network, image, size_hw):
    """What a network finds in a picture, in pixels of the picture as stored."""
    view = to_device([loader.resize(image, size_hw)], fabric)
    with torch.inference_mode(), fabric.autocast():
        one = network.detections(network(view), size_hw)[0]
    rows, columns = (stored / seen for stored, seen in zip(image.shape, size_hw))
    return one._replace(xyxy=one.xyxy.cpu() * torch.tensor([columns, rows, columns, rows]))


# %%
seen = {}
for name in ("teacher", "baseline", "i"):
    if chosen and made[name]:
        network, _ = experiment.load_network(runs[name], root, fabric)
        seen[name] = [find(network, image, runs[name].data.size) for image in images]

# %%
grid = None
if chosen and made["teacher"]:
    grid = boxes.comparison_grid(
        images,
        truth,
        seen["teacher"],
        {imitation.ROWS[name]: seen[name] for name in ("baseline", "i") if made[name]},
        boxes.PALETTE[1:],  # without the yellow of what is missed
        classes=layout.CLASSES,
        names=[still.id for still in chosen],
    )
grid

# %% [markdown]
# Compare the last two pictures of a lower line. What only the student alone misses, the imitation
# has won; what both miss, a quarter of the teacher's width may not hold. Boxes near score 0.3 come
# and go by a hair, so a single box proves nothing.
#
# ## What is kept
#
# Tables, figures and ledger, in files that have the same bytes for the same records. Pictures of
# other people's data sets stay in the executed notebook.

# %%
book = ledger.ledger_table(paper, "detection")
kept = {"table": table, "short": short, "published": theirs, "ledger": book}
kept |= {"classes": by_class, "without": left_out, "psi": widths, "factor": factors}
kept |= {"width": students, "size": sizes, "pairs": larger}
for name, one in kept.items():
    one.save(out / name)
saved = {"headline": headline, "classes": classes, "psi": sweep}
saved["factor"] = by_factor
if by_cell is not None:
    saved["costs"] = by_cell
if grid is not None and not cfg.data.root.startswith("external/"):
    saved["pictures"] = grid
for name, figure in saved.items():
    look.save(figure, out / f"{name}.png")

# %%
sentence = imitation.finding(records, prefix=prefix)
width = imitation.psi_finding(imitation.psi_points(records, prefix=prefix))
level = factor.factor_finding(factor.factor_points(records, own, prefix=prefix), own)
grown = size_finding(records)
hung = one_less.without_finding(records, prefix=prefix)
wider = width_finding(records)
told = (sentence, hung, width, level, wider, grown)
files.write(out / "finding.md", "\n\n".join(f"{one}." for one in told).encode() + b"\n")
print("\n".join(sorted(path.name for path in out.iterdir())))

# %% [markdown]
# ## In one sentence

# %%
further = " ".join(f"{one}." for one in told[1:])
display(Markdown(f"> **{sentence}.** {further} (scale {scale})"))

# %% [markdown]
# The sentences are written by `kdlib.report` from the records, whichever way they fall. They say
# "tie" where the seeds differ in sign, or where the mean difference is not above its standard
# deviation. That is a weak rule: with no true difference it still finds one in about 21 % of cases
# with three seeds; fewer get no verdict. Treat a difference of about one deviation as a hint.
#
# ## Deviation ledger
#
# What the paper says, what its released code does, what we do, and why. Its full text could not be
# read, so "not known" stands where only the text could tell.

# %%
book

# %% tags=["nbval-check-output"]
alone, region, whole = (quarter.rows[name].value for name in ("baseline", "i", "f"))
assert round(region - alone, 2) == 6.67 and round(100 * (region / alone - 1), 1) == 14.5
assert whole < alone < region < quarter.rows["teacher"].value
assert all(entry["why"] for entry in paper.deviations)
print("ok: the paper's 15 % is a share of the student's own mAP, 6.67 points")
print("ok: every deviation has its reason")

# %% [markdown]
# ## Exercises
#
# 1. **A fair λ.** F and G have the weight of I, yet the loss of the whole map ends more than a
#    hundred times as large as the region's (column `imitation` of both runs' `history.csv`). The
#    released λ, a thirtieth, is a row of the factors above, and F's part still outweighs the
#    labels' there. Give `imitation-kitti-f` the λ at which its part ends like that of
#    `imitation-kitti-i`. Is it the place that hurts, or the size of the loss?
# 2. **The released rounding.** Let `kdlib.methods.imitation` call `box_region` with the rule
#    "released". Which objects lose their region, and what happens to G?
# 3. **All letters for the wider student.** `imitation-half-*` has the rows alone and I. Add F, G, D
#    and ID as the smaller student has them. Does their order stay?
