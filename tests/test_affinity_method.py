"""IntRA-KD as a method, and lane networks on their way to official scores."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import test_training as toy
import torch
from torch import nn

from kdlib import config, evaluation, methods, models, runtime, training
from kdlib.config import Affinity as Block
from kdlib.config import ConfigError
from kdlib.data import layouts
from kdlib.data.augment import Views
from kdlib.data.layouts.sample import Sample
from kdlib.losses import affinity, supervised
from kdlib.methods.affinity import Affinity
from kdlib.methods.supervised import Supervised, existing
from kdlib.models.outputs import ModelError, SegmentationOutput
from kdlib.report import lane_stills
from kdlib.teacher import Teacher

CLASSES, SIZE = 5, (16, 24)
ALL = ("affinity", "attention", "soft-targets")


def output(seed: int, channels: int, middle=(8, 12), high=(4, 6), stride=1, lanes=4):
    """A network's answer with features of any size."""
    numbers = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(2, *shape, generator=numbers).requires_grad_()  # noqa: E731
    height, width = (side // stride for side in SIZE)
    features = {"middle": draw(channels, *middle), "high": draw(2 * channels, *high)}
    return SegmentationOutput(draw(CLASSES, height, width), None, features, draw(lanes))


@pytest.fixture
def views():
    labels = torch.zeros(2, *SIZE, dtype=torch.int64)
    labels[0, :, 4:6], labels[0, :, 12:15], labels[1, 2:9, 20] = 1, 2, 4
    labels[:, :2, :3] = 255
    valid = torch.ones(2, *SIZE, dtype=torch.bool)
    return Views(torch.rand(2, 3, *SIZE), labels, valid)


def student_and_teacher():
    with torch.no_grad():
        teacher = output(1, 6, middle=(4, 6), high=(4, 6), stride=4)
    return output(0, 3), teacher


def test_the_terms_are_the_named_functions_at_each_networks_own_size(views):
    student, teacher = student_and_teacher()
    terms = Affinity(Block(ALL), CLASSES).terms(views, student, teacher)
    assert set(terms) == {"cross_entropy", "existence", "affinity", "attention", "soft_targets"}
    expected = 0.0
    for level in ("middle", "high"):
        own, other = student.features[level], teacher.features[level]
        areas = [
            affinity.areas_of_interest(views.labels, CLASSES, size=tuple(each.shape[-2:]))
            for each in (own, other)
        ]
        expected += affinity.affinity_loss(own, other, *areas)
    torch.testing.assert_close(terms["affinity"], expected, rtol=1e-6, atol=0)
    assert expected > 0
    for term in terms.values():
        assert term.ndim == 0 and torch.isfinite(term)
    sum(terms.values()).backward()
    for part in (student.logits, student.existence, *student.features.values()):
        assert torch.isfinite(part.grad).all() and part.grad.abs().sum() > 0


def test_areas_are_made_once_for_a_size(views, monkeypatch):
    student, teacher = student_and_teacher()
    sizes, areas_of_interest = [], affinity.areas_of_interest

    def counted(*arguments, size, **options):
        sizes.append(size)
        return areas_of_interest(*arguments, size=size, **options)

    monkeypatch.setattr(affinity, "areas_of_interest", counted)
    Affinity(Block(("affinity",)), CLASSES).terms(views, student, teacher)
    assert sorted(sizes) == [(4, 6), (8, 12)]  # three of the four features have the smaller one


def test_a_teacher_that_relates_its_regions_alike_costs_nothing(views):
    student, _ = student_and_teacher()
    same = SegmentationOutput(*(part for part in student))
    terms = Affinity(Block(("affinity", "attention")), CLASSES).terms(views, student, same)
    assert float(terms["affinity"].detach()) == pytest.approx(0, abs=1e-9)
    assert float(terms["attention"].detach()) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("option", ["kernel", "skewness", "nodes", "levels"])
def test_each_option_reaches_the_loss(views, option):
    student, teacher = student_and_teacher()
    other = {"kernel": 1, "skewness": "std", "nodes": "present", "levels": ("high",)}[option]
    blocks = Block(("affinity",)), dataclasses.replace(Block(("affinity",)), **{option: other})
    first, second = (
        float(Affinity(block, CLASSES).terms(views, student, teacher)["affinity"].detach())
        for block in blocks
    )
    assert first != pytest.approx(second, rel=1e-6)


def test_without_terms_it_is_the_supervised_student(views):
    student, _ = student_and_teacher()
    weights = torch.tensor([0.4, 1, 1, 1, 1])
    alone = Affinity(Block(()), CLASSES, weights)
    assert not alone.needs_teacher
    terms = alone.terms(views, student, None)
    plain = Supervised(weights).terms(views, student)
    assert terms.keys() == plain.keys()
    for name in terms:
        assert torch.equal(terms[name], plain[name])
        assert alone.weights[name] == Supervised().weights[name]
    by_hand = supervised.segmentation_ce(student.logits, views.labels, class_weights=weights)
    assert torch.equal(terms["cross_entropy"], by_hand)


def test_factors_are_the_papers_unless_told_otherwise():
    assert Affinity(Block(ALL), CLASSES).weights == {
        **{"cross_entropy": 1.0, "auxiliary": 0.4, "existence": 0.1},
        **{"affinity": 0.1, "attention": 0.1, "soft_targets": 0.1},
    }
    other = Block(ALL, affinity_weight=0.2, attention_weight=0.3, soft_weight=0.5)
    weights = Affinity(other, CLASSES).weights
    assert [weights[n] for n in ("affinity", "attention", "soft_targets")] == [0.2, 0.3, 0.5]


def test_a_lane_exists_where_its_class_has_a_pixel(views):
    expected = [[True, True, False, False], [False, False, False, True]]
    assert existing(views.labels, 4).tolist() == expected


def test_a_network_without_the_levels_is_named(views):
    student, teacher = student_and_teacher()
    bare = student._replace(features={"stage4": student.features["high"]})
    with pytest.raises(ModelError, match=r"'high', 'middle'.*stage4.*erfnet, enet"):
        Affinity(Block(("affinity",)), CLASSES).terms(views, bare, teacher)


def test_the_parameters_name_the_method():
    settings = config.Method("affinity", affinity=Block(("affinity", "attention")))
    method = methods.build(settings, None, CLASSES, "lanes")
    assert isinstance(method, Affinity) and method.needs_teacher and not method.needs_pool
    with pytest.raises(ConfigError, match="affinity: affinity needs this block"):
        config.Method("affinity")
    with pytest.raises(ConfigError, match="affinity learns from masks"):
        methods.build(settings, None, CLASSES, "detection")


class Stripes:
    """Images whose lanes are bright stripes, each of its own colour."""

    def __len__(self):
        return 8

    def read(self, index):
        numbers = np.random.default_rng(index)
        image, label = np.full((*SIZE, 3), 40, np.uint8), np.zeros(SIZE, np.uint8)
        for lane in range(1, 5):
            left = 6 * (lane - 1) + numbers.integers(0, 4)
            label[:, left : left + 2] = lane
            image[:, left : left + 2, lane % 3] = 150 + 20 * lane
        return image, label


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(training, "LOG_EVERY", 4)


def train_lanes(folder: Path, student: str, block: Block) -> training.Trained:
    run = toy.make_run(config.Method("affinity", affinity=block), steps=8, lr=2e-3)
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, layout="culane", size=SIZE))
    made = []
    shape = {"blocks": (1, 1, 1, 1), "width": 4, "context_width": 4}
    for name, options in ((student, {"width": 4}), ("context-resnet", shape)):
        torch.manual_seed(0)
        made.append(models.build(name, CLASSES, lanes=4, **options))
    return training.train(
        run,
        made[0],
        methods.build(run.method, torch.tensor([0.4, 1, 1, 1, 1]), CLASSES, "lanes"),
        Stripes(),
        fabric=runtime.fabric("float32"),
        resume=folder,
        teacher=Teacher(made[1], name="t", score=0.0) if block.terms else None,
    )


@pytest.mark.parametrize("student", ["erfnet", "enet"])
def test_lane_networks_learn_from_another_architecture(tmp_path, student, short):
    done = train_lanes(tmp_path, student, Block(ALL))
    first, last = done.history[0], done.history[-1]
    assert last["cross_entropy"] < first["cross_entropy"]
    for row in done.history:
        assert row["affinity_weighted"] == pytest.approx(0.1 * row["affinity"])
        assert row["existence"] > 0 and row["attention"] > 0 and row["soft_targets"] > 0
    again = train_lanes(tmp_path / "again", student, Block(ALL))
    assert toy.same(done, again)


# -- Scores ----------------------------------------------------------------------------------------


class Oracle(nn.Module):
    """Answers each picture with logits prepared for it, in the order of asking."""

    def __init__(self, labels: list[np.ndarray], existence: torch.Tensor | None):
        super().__init__()
        self.labels, self.existence, self.seen = labels, existence, 0

    def forward(self, images):
        some = self.labels[self.seen : self.seen + len(images)]
        flags = self.existence
        flags = None if flags is None else flags[self.seen : self.seen + len(images)]
        self.seen += len(images)
        masks = torch.from_numpy(np.stack(some)).long()
        logits = 12.0 * nn.functional.one_hot(masks, CLASSES).permute(0, 3, 1, 2).float()
        return SegmentationOutput(logits, None, {}, flags)


@pytest.fixture
def road(monkeypatch, tmp_path):
    """Three pictures of 295 x 820, half the official size: lanes 2 and 3, all four, and none."""
    reader = layouts.get("culane")
    top = reader.top_of(295)
    columns = {1: (60, 200), 2: (260, 360), 3: (560, 460), 4: (780, 620)}
    there = {"a": (2, 3), "b": (1, 2, 3, 4), "c": ()}
    y = np.arange(294, top, -5.0)
    curves = {
        lane: np.stack([np.interp(y, (top, 294), (far, near)), y], 1)
        for lane, (near, far) in columns.items()
    }

    def mask(name):
        drawn = np.zeros((295 - top, 820), np.uint8)
        for lane in there[name]:
            for row in range(len(drawn)):
                centre = np.interp(row + top, (top, 294), columns[lane][::-1])
                drawn[row, round(centre) - 4 : round(centre) + 4] = lane
        return drawn

    pick = lambda path: Path(path).stem  # noqa: E731
    image = lambda path: np.zeros((295 - top, 820, 3), np.uint8)  # noqa: E731
    monkeypatch.setattr(reader, "read_image", image)
    monkeypatch.setattr(reader, "read_label", lambda path: mask(pick(path)))
    lanes = lambda sample: [curves[lane] for lane in there[sample.id]]  # noqa: E731
    monkeypatch.setattr(reader, "read_lanes", lanes)
    scenes = {"a": "normal", "b": "night", "c": "cross"}
    monkeypatch.setattr(reader, "scenario", lambda sample: scenes[sample.id])
    samples = [Sample(name, tmp_path / f"{name}.jpg", tmp_path / f"{name}.png") for name in there]
    flags = torch.tensor([[lane in there[name] for lane in (1, 2, 3, 4)] for name in there])
    return samples, [mask(name) for name in there], 20.0 * flags - 10.0


def score(samples, network, **options):
    fabric = runtime.fabric("float32")
    return evaluation.evaluate(network, "culane", samples, (88, 410), fabric=fabric, **options)


def test_masks_that_are_right_find_every_lane(road):
    samples, masks, flags = road
    scores = score(samples, Oracle(masks, flags), batch=2)
    assert (scores["tp"], scores["fp"], scores["fn"]) == (6, 0, 0)
    assert scores["f1"] == scores["precision"] == scores["recall"] == 1
    assert scores["scenarios"]["night"]["tp"] == 4 and scores["scenarios"]["normal"]["tp"] == 2
    assert scores["scenarios"]["cross"] == {"fp": 0}
    assert scores["miou"] == pytest.approx(1) and "agreement" not in scores
    assert evaluation.headline("culane") == "f1" and evaluation.headline("llamas") == "map"


def test_the_existence_head_takes_lanes_away(road):
    samples, masks, flags = road
    none = score(samples, Oracle(masks, torch.full_like(flags, -10)))
    assert (none["tp"], none["fp"], none["fn"]) == (0, 0, 6) and none["miou"] == pytest.approx(1)
    every = score(samples, Oracle(masks, None))  # without such a head the masks alone decide
    assert (every["tp"], every["fp"]) == (6, 0)


def test_lanes_beside_the_road_are_errors(road):
    samples, masks, flags = road
    shifted = [np.roll(mask, 40, axis=1) for mask in masks]
    scores = score(samples, Oracle(shifted, flags))
    assert scores["tp"] == 0 and scores["fp"] == scores["fn"] == 6 and scores["f1"] == 0


def test_stills_without_masks_have_no_miou(road):
    samples, masks, flags = road
    bare = [dataclasses.replace(sample, label=None) for sample in samples]
    scores = score(bare, Oracle(masks, flags))
    assert "miou" not in scores and scores["f1"] == 1


def test_agreement_is_that_of_the_masks(road):
    samples, masks, flags = road
    teacher = Teacher(Oracle(masks, flags), name="t", score=0.0)
    scores = score(samples, Oracle(masks, flags), teacher=teacher)
    assert scores["agreement"]["pixel"] == pytest.approx(1)
    assert scores["agreement"]["kl"] == pytest.approx(0, abs=1e-6)


def test_a_still_shows_what_was_found_and_what_counts(road):
    samples, masks, flags = road
    reader, fabric = layouts.get("culane"), runtime.fabric("float32")
    for moved, expected in ((0, (4, 4, 4)), (40, (4, 4, 0))):
        network = Oracle([np.roll(masks[1], moved, axis=1)], flags[1:2])
        still = lane_stills.judge(network, reader, samples[1], (88, 410), fabric)
        assert still.counts == expected
        canvas = lane_stills.paint_lanes(still, reader, enlarge=2, thin=1, thick=3)
        assert canvas.shape == (2 * len(masks[1]), 1640, 3) and not still.picture.any()
        shown = {tuple(tint) for tint in canvas.reshape(-1, 3).tolist()}
        kind = "found, does not count" if moved else "found, counts"
        assert shown == {(0, 0, 0), *(lane_stills.TINTS[k] for k in ("labelled", kind))}


def test_lanes_are_painted_by_hand():
    """Upright lanes of the official picture, 590 x 1640, on half of its part below row 240."""
    upright = lambda x: np.array([[x, 589.0], [x, 440.0]])  # noqa: E731
    hits = np.array([True, False])
    found = [upright(400.0), upright(600.0)]
    picture = np.full((175, 820, 3), 9, np.uint8)
    still = lane_stills.Judged(picture, [upright(200.0)], found, hits)
    canvas = lane_stills.paint_lanes(still, layouts.get("culane"), enlarge=1, thin=1, thick=3)
    tints = lane_stills.TINTS.values()
    labelled, right, wrong = (np.flatnonzero((canvas[120] == tint).all(1)) for tint in tints)
    assert labelled.tolist() == [100] and right.mean() == 200 and wrong.mean() == 300
    assert len(right) == len(wrong) >= 3
    rows = np.flatnonzero((canvas[:, 100] == 255).all(1))
    assert rows.tolist() == list(range(100, 175)) and (picture == 9).all()


def test_classes_are_painted_but_for_background_and_ignored_pixels():
    picture = np.full((1, 4, 3), 0.5 * 255)
    label = np.array([[0, 1, 2, 255]])
    painted = lane_stills.paint_classes(picture, label, ((7, 7, 7), (1, 2, 3), (4, 5, 6)))
    assert painted.dtype == np.uint8
    assert painted[0].tolist() == [[127] * 3, [1, 2, 3], [4, 5, 6], [127] * 3]


def test_llamas_counts_the_whole_picture(monkeypatch, tmp_path):
    reader = layouts.get("llamas")
    top = reader.top_of(358)
    mask = np.zeros((358 - top, 638), np.uint8)
    for lane in (1, 2, 3, 4):
        mask[:, 120 * lane : 120 * lane + 12] = lane
    image = lambda path: np.zeros((*mask.shape, 3), np.uint8)  # noqa: E731
    monkeypatch.setattr(reader, "read_image", image)
    whole = np.zeros((358, 638), np.uint8)
    whole[top:] = mask
    read = []
    monkeypatch.setattr(reader, "read_whole_label", lambda where: read.append(where) or whole)
    samples = [Sample("a", tmp_path / "a.png", tmp_path / "a.json")]
    fabric = runtime.fabric("float32")
    sure = Oracle([mask], None)
    scores = evaluation.evaluate(sure, "llamas", samples, (96, 320), fabric=fabric)
    # As the official script has it, the first step of recall gets the precision before it.
    assert scores["map"] > 0.99 and list(scores["ap"]) == ["l1", "l0", "r0", "r1"]
    assert scores["miou"] == pytest.approx(1)  # of the part below the cut
    assert read == samples  # a label is read once for both
    # a lane above the cut cannot be found, but is there: half right, it now costs more
    partly = mask.copy()
    partly[::2, 120:132] = 0
    partly[::2, 140:152] = 1
    half = evaluation.evaluate(Oracle([partly], None), "llamas", samples, (96, 320), fabric=fabric)
    whole[top // 2 : top, 120:132] = 1
    less = evaluation.evaluate(Oracle([partly], None), "llamas", samples, (96, 320), fabric=fabric)
    assert less["ap"]["l1"] != half["ap"]["l1"] and less["ap"]["r1"] == half["ap"]["r1"]
    wrong = Oracle([np.roll(mask, 60, axis=1)], None)
    low = evaluation.evaluate(wrong, "llamas", samples, (96, 320), fabric=fabric)
    assert low["map"] < 0.1


def test_apolloscape_has_means_of_its_own():
    reader = layouts.get("apolloscape")
    confusion = torch.zeros(37, 37, dtype=torch.int64)
    first = min(reader.EVALUATED)
    confusion[first, first], confusion[36, 36], confusion[36, first] = 6, 3, 2
    scores = evaluation.summary(confusion, reader)
    assert scores["miou"] == pytest.approx((6 / 8 + 3 / 5) / 2)
    assert scores["miou36"] == pytest.approx(6 / 8)
    assert scores["miou18"] == pytest.approx(1)  # what is noise in truth counts nowhere
    assert "miou36" not in evaluation.summary(torch.eye(19).long(), layouts.get("bdd100k"))


@pytest.mark.parametrize("scale", config.SCALES)
def test_every_lane_student_can_take_the_pictures_it_is_given(scale):
    """ERFNet and ENet halve three times: sizes are multiples of 8 at every scale."""
    params = config.read_params(config.repository() / "params.yaml")
    for name in params["runs"]:
        run = config.load_run(name, scale=scale)
        if run.model is not None and run.model.architecture in ("erfnet", "enet"):
            for size in (run.data.size, run.augment.crop or run.data.size):
                assert size[0] % 8 == size[1] % 8 == 0, f"{name}: {size}"


def test_settings_that_can_not_work_are_refused_at_once():
    for wrong in ({"levels": ()}, {"kernel": 4}, {"temperature": 0.0}):
        with pytest.raises(ConfigError, match=rf"method\.affinity\.{next(iter(wrong))}"):
            Block(ALL, **wrong)
