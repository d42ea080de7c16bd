"""Boxes in a process group: two processes against one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from processes import in_two

from kdlib import checkpoint, config, methods, runtime, training
from kdlib.data import augment
from kdlib.detection import Boxes, collate
from kdlib.methods.imitation import Imitation
from kdlib.models import rcnn
from kdlib.models.fcos import FCOS
from kdlib.models.shuffledet import ShuffleDet
from kdlib.teacher import Teacher

SIZE = (64, 96)
PIXELS = np.random.default_rng(0).integers(0, 255, (8, *SIZE, 3), np.uint8)
PIXELS[:3] //= 16  # dark ones, of which the teacher makes something else


class Pictures:
    """Noise with one box each, of unequal size, so that processes see unequal evidence."""

    def __len__(self):
        return len(PIXELS)

    def read(self, index):
        box = np.array([[8, 8, 16 + 6 * index, 16 + 5 * index]], np.float32)
        return PIXELS[index], Boxes(box, np.array([index % 3]), np.zeros(1, bool), np.zeros(1, int))


def fcos(width: int) -> FCOS:
    """With group norm, so that no number depends on the processes."""
    shape = {"blocks": [1, 1, 1], "width": width, "norm": "group", "levels": (3, 4, 5)}
    return FCOS(3, channels=8, head_convs=1, **shape)


def train_one(folder: Path, name: str) -> None:
    """A few steps of a method; weights of student and method in a file of this process."""
    if name == "matching":
        settings, lr, optimiser = config.Method("matching"), 1e-2, "sgd"
        build = {"student": lambda: fcos(8), "teacher": lambda: fcos(16)}
    else:
        block = config.Imitation(letters=("I",), weight=1e-4)
        settings, lr, optimiser = config.Method("imitation", imitation=block), 1e-3, "adamw"
        build = {
            "student": lambda: ShuffleDet(3, width=0.25, anchor_scale=0.1),
            "teacher": lambda: ShuffleDet(3, width=0.5, anchor_scale=0.1),
        }
    made = {}
    for number, (role, network) in enumerate(build.items()):
        torch.manual_seed(number)
        made[role] = network()
    if name == "matching":  # a teacher whose evidence depends on the picture
        with torch.no_grad():
            made["teacher"].head.classes.weight.mul_(2000)
    run = config.Run(
        name="toy",
        scale="smoke",
        seed=0,
        data=config.Data("kitti", "nowhere", SIZE, config.Subset("train"), config.Subset("val")),
        method=settings,
        schedule=config.Schedule(steps=4, batch=4, lr=lr, optimiser=optimiser, workers=0),
    )
    method = methods.build(settings, None, 3, "detection")
    fabric = runtime.fabric("float32")
    done = training.train(
        run,
        made["student"],
        method,
        Pictures(),
        fabric=fabric,
        resume=folder / "resume",
        teacher=Teacher(made["teacher"], name="toy", score=0.0),
    )
    own = {key: value.clone() for key, value in method.state().items()}
    notes = {"history": done.history}
    checkpoint.save(folder / f"{name}-{fabric.global_rank}.safetensors", done.weights | own, notes)


def pyramid(width: int) -> rcnn.TwoStageDetector:
    """With group norm, so that no number depends on the processes."""
    shape = {"blocks": (1, 1, 1, 1), "norm": "group", "width": width, "pyramid_channels": 2 * width}
    return rcnn.fpn_r50(3, head_channels=16, scales=(2,), roi_batch=8, rpn_batch=16, **shape)


def imitate_once(folder: Path) -> None:
    """The imitation of this process's share of a batch and its gradient, for two networks."""
    fabric = runtime.fabric("float32")
    rows = range(fabric.global_rank, len(PIXELS), fabric.world_size)
    read = [Pictures().read(index) for index in rows]
    images = torch.stack([torch.from_numpy(pixels).permute(2, 0, 1) / 255 for pixels, _ in read])
    # the second process has a single object, the first has four
    drop = [number % 2 == 1 and number != 3 for number in rows]
    targets = collate([boxes for _, boxes in read])
    targets = targets._replace(ignored=targets.ignored | torch.tensor(drop)[:, None])
    views = augment.Views(images, targets, torch.ones(len(read), *SIZE, dtype=torch.bool))
    kept = {}
    builds = {"one map": lambda width: ShuffleDet(3, width=width / 16), "pyramid": pyramid}
    for name, build in builds.items():
        torch.manual_seed(0)
        student, teacher = build(4), Teacher(build(8), name="toy", score=0.0)
        student.train(name == "pyramid")  # its losses need it; the other's batch norms must not
        method = Imitation(config.Imitation(letters=("I",), assign="every"))
        method.begin(fabric, 0, 10, student, teacher)
        with torch.no_grad():
            for kernel in method.joint.parameters():
                kernel.mul_(300)
        output = student(images, targets) if name == "pyramid" else student(images)
        with torch.inference_mode():
            told = teacher(images)
        loss = method.terms(views, output, told)["imitation"]
        loss.backward()
        kept[name] = loss.detach()[None]
        kept |= {f"{name}.{key}": p.grad for key, p in method.joint.named_parameters()}
    checkpoint.save(folder / f"once-{fabric.global_rank}.safetensors", kept, {})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of the same runs, made by two processes and by one."""
    two, one = (tmp_path_factory.mktemp(name) for name in ("two", "one"))
    body = f"""
    from pathlib import Path
    import test_boxes_processes as tests
    for name in ("matching", "imitation"):
        tests.train_one(Path({str(two)!r}), name)
    tests.imitate_once(Path({str(two)!r}))
    """
    in_two(two, body)
    train_one(one, "matching")
    imitate_once(one)
    return two, one


def test_two_processes_match_a_teacher_like_one(trained):
    """The teacher's evidence is shared, although the processes see unequal amounts of it."""
    two, notes = checkpoint.load(trained[0] / "matching-0.safetensors")
    one, alone = checkpoint.load(trained[1] / "matching-0.safetensors")
    torch.manual_seed(0)
    before = fcos(8).state_dict()
    moved = max(float((one[key] - before[key]).abs().max()) for key in one)
    assert moved > 1e-4
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=0, atol=1e-3 * moved, msg=key)
    for row, other in zip(notes["history"], alone["history"], strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_two_processes_imitate_like_one(trained):
    """The mean over processes of unequal regions is the loss of the batch, so is its gradient."""
    first, second = (checkpoint.load(trained[0] / f"once-{rank}.safetensors")[0] for rank in (0, 1))
    one, _ = checkpoint.load(trained[1] / "once-0.safetensors")
    assert one["one map"] > 0 and one["pyramid"] > 0 and "pyramid.p5.0.bias" in one
    assert not torch.allclose(first["pyramid"], second["pyramid"], rtol=0.1)
    for key, value in one.items():
        mean = (first[key] + second[key]) / 2
        atol = 1e-5 * float(value.abs().max())
        torch.testing.assert_close(mean, value, rtol=1e-4, atol=atol, msg=key)


def test_two_processes_have_one_adapter(trained):
    mine, theirs = (
        checkpoint.load(trained[0] / f"imitation-{rank}.safetensors")[0] for rank in (0, 1)
    )
    assert mine["adapter.0.weight"].abs().max() > 2.1e-4  # it has left its first values
    for key in ("adapter.0.weight", "adapter.0.bias", "head.weight"):
        assert torch.equal(mine[key], theirs[key]), key
