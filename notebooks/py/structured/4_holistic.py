# %% [markdown]
# # 4 · The holistic term
#
# The third term has no formula for what is right. A small network of its own, the *critic*, looks
# at a whole answer and gives it a score; it learns to score the teacher's answers high and the
# student's low, and the student learns to be scored like the teacher. This page trains critics for
# a few steps between two fixed networks, looks at what they see, and shows why this term is the one
# that ends in NaN.

# %% tags=["parameters", "reads-records"]
run = "structured-pi-pa-ho"  # its teacher and its student are asked; any structured row will do
scale = "smoke"  # smoke | sample | gpu | paper
seed = 0  # which student, and the critic's first weights
still = 0  # number of the reported still that is shown
steps = 40  # of each critic on this page

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Rectangle

from kdlib import config, experiment
from kdlib.data import layouts, loader
from kdlib.losses import structured
from kdlib.methods.structured import CRITIC_DECAY, CRITIC_LR, CRITIC_MOMENTUM
from kdlib.models.critic import Critic
from kdlib.models.outputs import ModelError
from kdlib.report.sheet import sheet
from kdlib.resize import to_grid

# %%
cfg = config.load_run(run, scale=scale, seed=seed)
plt.rcParams.update({"axes.titlelocation": "left", "axes.titlesize": 11, "figure.dpi": 90})
parts = experiment.prepare(cfg)
student, notes = experiment.load_network(cfg, parts.root, parts.fabric)
layout, device, size = layouts.get(cfg.data.layout), parts.fabric.device, cfg.data.size
print(f"teacher: {parts.teacher.name}; student: {run}, seed {seed}, {cfg.schedule.steps} steps")

# %% [markdown]
# Both networks stay as they are on this page; only critics learn. Four stills are enough to see
# them do it.

# %%
count = min(4, len(parts.report))
stills = [parts.report[(still + i) % len(parts.report)] for i in range(count)]
images = [loader.resize(layout.read_image(sample.image), size) for sample in stills]
batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(device) / 255
with torch.no_grad():
    z_s = student(batch).logits.float()
    z_t = to_grid(parts.teacher(batch).logits.float(), z_s.shape[-2:])
_, classes, height, width = z_s.shape
print(f"scores of {classes} classes on {height} x {width} positions")

# %% [markdown]
# ## What the critic sees
#
# The journal's critic sees the raw scores of all classes, behind a batch normalisation, and no
# picture. (The conference's sees the picture too, and probabilities instead of scores:
# `Critic(classes, conditional=True)`.) Here are the scores of the three classes that the teacher
# names most often on the first still.

# %%
often = np.bincount(z_t[0].argmax(0).flatten().cpu().numpy(), minlength=classes)
shown = [int(c) for c in np.argsort(often)[::-1][:3]]
rows = []
for z in (z_t, z_s):
    maps = z[0, shown].cpu().numpy()
    bottom, top = maps.min(), max(maps.max(), maps.min() + 1e-9)
    rows.append([images[0], *(plt.cm.magma((m - bottom) / (top - bottom)) for m in maps)])
title = "Scores of the teacher (above) and of the student (pale: high); each row has its own scale"
sheet(rows, ["the still", *(layout.CLASSES[c] for c in shown)], title, height=1.5)
plt.show()

# %% [markdown]
# ## The critic
#
# Blocks of a 4 × 4 convolution of stride 2 under spectral normalisation and a leaky ReLU halve the
# maps; behind the last two blocks every position looks at every other by self-attention; a last
# 4 × 4 convolution gives one score for each window. The paper's four blocks turn 65 × 65 positions
# into one score and need 64 of them a side. A smaller map needs a critic of fewer blocks.

# %% tags=["nbval-check-output"]
assert Critic(19)(torch.zeros(2, 19, 65, 65)).shape == (2, 1, 1, 1)
try:
    Critic(19)(torch.zeros(1, 19, 18, 32))
except ModelError as error:
    print(str(error).split(":")[0])
assert Critic(19, blocks=2)(torch.zeros(1, 19, 18, 32)).shape == (1, 1, 1, 5)
print("ok: one score for 65 x 65; five windows for 18 x 32 with two blocks")


# %%
def new_critic():
    """A critic with weights drawn by the seed, of as many blocks as fit the maps, four at most."""
    torch.manual_seed(seed)
    blocks = min(4, (min(height, width) // 4).bit_length() - 1)
    return Critic(classes, blocks=blocks).to(device).train()


fresh = new_critic()
size_of = experiment.parameter_count(fresh)
print(f"{len(fresh.blocks)} blocks, {size_of:,} parameters, windows of {fresh.smallest} positions")

# %% [markdown]
# ## What it learns
#
# $$\text{Wasserstein:}\quad \mathcal L_D = \overline{D(z^s)} - \overline{D(z^t)} +
# \lambda_{gp}\,\overline{\bigl(\|\nabla_{\hat z} D(\hat z)\|_2 - 1\bigr)^2},\qquad
# \text{hinge:}\quad \mathcal L_D = \overline{[1-D(z^t)]_+} + \overline{[1+D(z^s)]_+},$$
#
# and for the student, with either, $\mathcal L_G = -\overline{D(z^s)}$.

# %%
d = torch.linspace(-3, 3, 61)
forms = {}
for kind in ("wgan-gp", "hinge"):
    zero = torch.zeros(1) if kind == "wgan-gp" else torch.ones(1)  # where the other part is zero
    forms[kind] = (
        [float(structured.adversarial_critic(-zero, x[None], kind=kind)) for x in d],
        [float(structured.adversarial_critic(x[None], zero, kind=kind)) for x in d],
    )
figure, axes = plt.subplots(1, 2, figsize=(8, 2.5), sharey=True)
for axis, place, whose in zip(axes, (0, 1), ("teacher's", "student's")):
    for kind, colour in (("wgan-gp", "#E69F00"), ("hinge", "#0072B2")):
        axis.plot(d, forms[kind][place], color=colour, label=kind)
    axis.set(xlabel=f"score of the {whose} maps", title=f"What the {whose} part costs")
axes[0].legend(frameon=False)
plt.show()

# %% [markdown]
# The hinge is content once the teacher's score is above 1 and the student's below −1: from there on
# its gradient is zero. The Wasserstein form always wants more. What holds it back is the gradient
# penalty, and nothing else.

# %% tags=["nbval-check-output"]
low, high = torch.tensor([-4.0, -3.0]), torch.tensor([2.0, 5.0])
assert structured.adversarial_critic(low, high, kind="hinge") == 0
assert structured.adversarial_critic(low, high, kind="wgan-gp") == -7
assert structured.adversarial_student(low) == 3.5
print("ok: well separated scores cost the hinge nothing and earn the Wasserstein form 7")


# %% [markdown]
# ## A few steps
#
# Three critics, the same first weights, the released optimiser: one with the penalty, one without
# it, one with the hinge.

# %%
def train(kind, *, penalty=0.0, lr=CRITIC_LR):
    """A critic after `steps` steps, and the gap mean D(teacher) - mean D(student) before each."""
    critic, gaps = new_critic(), []
    optimizer = torch.optim.SGD(critic.parameters(), lr, CRITIC_MOMENTUM, weight_decay=CRITIC_DECAY)
    for _ in range(steps):
        scores_s, scores_t = critic(z_s), critic(z_t)
        loss = structured.adversarial_critic(scores_s, scores_t, kind=kind)
        if penalty:
            loss = loss + structured.gradient_penalty(critic, z_s, z_t, weight=penalty)
        gaps.append(float((scores_t.mean() - scores_s.mean()).detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return critic, np.array(gaps)


# %%
ways = {
    "Wasserstein, penalty 10": {"kind": "wgan-gp", "penalty": 10.0},
    "Wasserstein, no penalty": {"kind": "wgan-gp"},
    "hinge": {"kind": "hinge"},
}
made = {word: train(**options) for word, options in ways.items()}
colours = dict(zip(ways, ("#E69F00", "#CC79A7", "#0072B2")))
{word: f"gap {gaps[0]:.2f} before, {gaps[-1]:.3g} after" for word, (_, gaps) in made.items()}

# %%
scores = {}
for word, critic in (("before", fresh), *((word, made[word][0]) for word in list(ways)[::2])):
    with torch.no_grad():
        scores[word] = [critic(z).flatten().cpu().numpy() for z in (z_t, z_s)]

# %%
figure, axes = plt.subplots(1, 3, figsize=(10, 2.4))
for axis, (word, both) in zip(axes, scores.items()):
    edges = np.histogram_bin_edges(np.nan_to_num(np.concatenate(both)), 24)
    for values, colour, whose in zip(both, ("#222222", "#0072B2"), ("teacher", "student")):
        axis.hist(values, edges, alpha=0.65, color=colour, label=whose)
    axis.set(xlabel="score", title=word)
axes[0].set_ylabel("windows")
axes[0].legend(frameon=False)
said = f"after {steps} steps the hinge has pulled them {made['hinge'][1][-1]:.1f} apart"
figure.suptitle(f"Scores of the windows of {count} stills: {said}", x=0.01, ha="left")
figure.tight_layout()
plt.show()

# %% [markdown]
# A fresh critic cannot tell the two apart. Trained ones can, and mind the axes: the penalty keeps
# the scores close together, the hinge does not need to.
#
# ## Which part gives the student away
#
# Several scores for each map tell *where* the critic is suspicious. The next figure shows the
# scores of the hinge's critic, window by window.

# %%
critic = made["hinge"][0]
with torch.no_grad():
    maps = [critic(z)[:, 0].cpu().numpy() for z in (z_t, z_s)]
bound = max(np.abs(m).max() for m in maps)

# %%
figure, axes = plt.subplots(3, count, figsize=(10, 2.8), height_ratios=(4, 1, 1), squeeze=False)
for column, image, *both in zip(axes.T, images, *maps):
    column[0].imshow(image, aspect="auto")
    for axis, m in zip(column[1:], both):
        axis.imshow(m, cmap="RdBu_r", vmin=-bound, vmax=bound, aspect="auto")
    column[0].set_title(f"teacher {both[0].mean():+.1f}, student {both[1].mean():+.1f}", fontsize=8)
    for axis in column:
        axis.set_axis_off()
title = f"Scores of the teacher's maps, below the student's (red +{bound:.1f}, blue −{bound:.1f})"
figure.suptitle(title, x=0.01, ha="left")
figure.tight_layout(pad=0.4)
plt.show()


# %% [markdown]
# A row has as many cells as the critic has windows. On 65 × 65 positions there is one window, and
# the student hears no more than a single number about its whole answer: that is what *holistic*
# means, and why the term is weak beside the other two.
#
# ## The penalty
#
# Between a student's map and its teacher's lies a line, $\hat z = \alpha z^t + (1-\alpha) z^s$. The
# penalty draws one $\alpha$ for each picture and asks that the score rises by one for each unit of
# length there, neither faster nor slower.

# %%
def slope(critic, alpha):
    """Norm of the score's gradient at one place of the line, for each picture."""
    mixed = (alpha * z_t + (1 - alpha) * z_s).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed)
    return gradient.flatten(1).norm(dim=1).cpu().numpy()


alphas = np.linspace(0, 1, 21)
slopes = {"before": np.array([slope(new_critic(), a) for a in alphas])}
slopes |= {word: np.array([slope(made[word][0], a) for a in alphas]) for word in list(ways)[::2]}

# %%
figure, axis = plt.subplots(figsize=(7, 2.8))
for (word, norms), colour in zip(slopes.items(), ("#888888", "#E69F00", "#0072B2")):
    axis.plot(alphas, norms, color=colour, lw=0.8, alpha=0.5)
    axis.plot(alphas, norms.mean(axis=1), color=colour, lw=2, label=word)
axis.axhline(1, color="#222222", lw=1, ls=":")
axis.set(xlabel="α: 0 = student's map, 1 = teacher's", ylabel="norm of the gradient", yscale="log")
axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
means = [f"{norms.mean():.2g}" for norms in slopes.values()]
said = f"{means[0]} before, {means[1]} with the penalty, {means[2]} with the hinge"
axis.set_title(f"Mean slope: {said}")
plt.show()

# %% [markdown]
# Thin lines are single stills, the dotted line is what the penalty asks for. All stills of a batch
# are judged together, because the critic's input passes a batch normalisation in training mode: the
# slope of one still depends on the others, which the theory of the penalty does not foresee.
#
# The norm has a root in it, and the root has no derivative at zero. A critic that does not depend
# on its input breaks the plain formula. The library's form stays finite.

# %% tags=["nbval-check-output"]
dead = torch.nn.Conv2d(3, 1, 4)
torch.nn.init.zeros_(dead.weight)
one, other = torch.randn(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
mixed = (0.5 * one + 0.5 * other).requires_grad_()
(gradient,) = torch.autograd.grad(dead(mixed).sum(), mixed, create_graph=True)
plain = (gradient.square().sum((1, 2, 3)).sqrt() - 1).square().mean()
(broken,) = torch.autograd.grad(plain, dead.weight)
assert broken.isnan().all()
structured.gradient_penalty(dead, one, other).backward()
assert dead.weight.grad.isfinite().all()
print("ok: at a zero gradient the plain formula gives NaN, the library's form does not")

# %% [markdown]
# ## Why it blows up
#
# Users of the released code report that the gradient's norm explodes after one to three thousand
# steps, and that a small number in the root does not help. The next figure repeats the training
# above with the released rate and with ten times that rate.

# %%
fast = {word: train(**options, lr=10 * CRITIC_LR) for word, options in ways.items()}
ends, top = {}, 1e6

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 2.8), sharey=True)
for axis, group, rate in zip(axes, (made, fast), (CRITIC_LR, 10 * CRITIC_LR)):
    for word, (_, gaps) in group.items():
        finite = np.isfinite(gaps)
        gaps = np.abs(gaps[finite]).clip(1e-3, top)
        axis.plot(gaps, color=colours[word], label=word)
        if not finite.all():
            axis.plot(len(gaps) - 1, gaps[-1], "X", ms=9, color=colours[word], clip_on=False)
            ends[f"{word}, rate {rate:g}"] = finite.sum()
    axis.set(xlabel="step", title=f"rate {rate:g}", yscale="log", ylim=(1e-2, 3 * top))
axes[0].set_ylabel("|D(teacher) − D(student)|")
axes[1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %%
for word, step in ends.items():
    print(f"not finite any more from step {step} on: {word}")
if not ends:
    print("every critic stayed finite")

# %% [markdown]
# A cross marks the last finite step; what is above a million is drawn there.
#
# Three things come together. The Wasserstein form has no bound, so its critic grows as long as it
# is let. Spectral normalisation bounds the blocks, but neither the last convolution nor the
# attention nor the batch normalisation of the input. And the penalty, which has to do the rest, is
# steep itself: far from a norm of one its own gradient is large, and a large step leads further
# away. A hinge stops by itself.
#
# In a run, a critic that is not finite ends the training with an error that names the step, the
# terms and this cure; the last resume point stays.

# %%
parts.method.begin(parts.fabric, seed, 1)
print(parts.method.cure or "this row has no critic with a gradient penalty")

# %% [markdown]
# ## Where it looks
#
# Self-attention: position $i$ takes up what position $j$ holds with the share $A_{ij}$. Its sum is
# added with a factor γ that starts at zero, so a critic begins without attention and has to learn
# to use it.

# %%
maps = {whose: critic.attention_maps(z[:1]) for whose, z in (("teacher", z_t), ("student", z_s))}
gamma = {f"block{int(i) + 1}": float(a.gamma.detach()) for i, a in critic.attention.items()}


def look(axis, name, block):
    """The still, and over it how much its middle takes from each place, in the block's map."""
    high, wide = maps["teacher"][block].shape[1:3]
    box, asked = {"extent": (0, wide, high, 0), "aspect": "auto"}, (high // 2, wide // 2)
    axis.imshow(images[0], alpha=1.0 if name == "still" else 0.4, **box)
    if name != "still":
        share = maps[name][block][0][asked].cpu() * high * wide
        axis.imshow(share, cmap="magma", alpha=0.7, **box)
        axis.set_title(f"{name}, {block}: up to {share.max():.1f} times its share", fontsize=8)
    axis.add_patch(Rectangle(asked[::-1], 1, 1, fill=False, ec="#FF006E", lw=1.5))
    axis.set_axis_off()


# %%
figure, axes = plt.subplots(len(gamma), 3, figsize=(10, 1.9 * len(gamma) + 0.3), squeeze=False)
for line, block in zip(axes, gamma):
    for axis, name in zip(line, ("still", "teacher", "student")):
        look(axis, name, block)
title = f"What the middle of the still looks at; γ is {max(map(abs, gamma.values())):.4f} at most"
figure.suptitle(title, x=0.01, ha="left")
figure.tight_layout(pad=0.4)
plt.show()

# %% [markdown]
# The pink frame asks, pale places answer; "its share" is what each would get if all were the same.
# The two networks' maps of one still are looked at by one critic, and differ where the answers do.
#
# After few steps γ is nearly zero, so whatever the map shows, it hardly enters the score yet.
#
# ## Where this differs from the paper
#
# The text gives the critic the picture, the journal's released code does not; the rows of this
# workbook follow the code. Their maps are 18 × 32 at sample scale, so their critic has two blocks
# instead of four. A backward pass reads the power vectors of its own forward pass, where the
# released code overwrites them. The critic takes its step on the answers from before the student's
# step, as released. Page 6 prints the whole deviation ledger.
#
# ## Exercises
#
# 1. **Weights.** Without the batch normalisation of the input
#    (`critic.input_norm = torch.nn.Identity()`), which of the six curves changes most?
# 2. **The student's side.** Take the hinge's critic and move `z_s` itself along the gradient of
#    `adversarial_student`. How many steps until the critic is fooled, and does the map then look
#    like the teacher's?
# 3. **With the picture.** Build the critic with `conditional=True`. Can it tell a teacher's map
#    beside another picture from the right pair?
