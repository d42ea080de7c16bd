"""Scores of networks whose answers are known beforehand."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from kdlib import evaluation, runtime
from kdlib.data.layouts import bdd100k
from kdlib.data.layouts.sample import Sample
from kdlib.data.loader import Stills
from kdlib.losses import matching
from kdlib.models.outputs import SegmentationOutput
from kdlib.views import Views

HEIGHT, WIDTH = 32, 64  # of the files
VIEW = (16, 32)  # what the networks see
LEVEL = 12  # grey levels between two classes
ROAD, SIDEWALK, BUILDING, POLE = 0, 1, 2, 5


class Reader(nn.Module):
    """Reads the class off the grey level; `swaps` maps class -> the class that it answers."""

    def __init__(self, swaps: dict[int, int] | None = None, sharpness: float = 9.0):
        super().__init__()
        levels = torch.arange(19) * LEVEL / 255
        order = torch.arange(19)
        for seen, answered in (swaps or {}).items():
            order[answered] = seen
        self.register_buffer("levels", levels[order].view(1, 19, 1, 1))
        self.sharpness = sharpness
        self.dropout = nn.Dropout(0.9)  # scoring must switch it off

    def forward(self, images_NCHW):
        grey = images_NCHW.mean(dim=1, keepdim=True)
        # cut off at one level, so that between two classes no third one is the nearest
        distance = ((grey - self.levels).abs() * 255 / LEVEL).clamp(max=1)
        logits = self.dropout(-self.sharpness * distance)
        return SegmentationOutput(logits, None, {})


@pytest.fixture(scope="module")
def fabric():
    return runtime.fabric("float32")


@pytest.fixture
def stills(tmp_path):
    """Three stills: road left, sidewalk right. Masks differ from the pictures in known pixels."""
    samples = []
    for number in range(3):
        seen = np.zeros((HEIGHT, WIDTH), np.uint8)
        seen[:, WIDTH // 2 :] = SIDEWALK
        label = seen.copy()
        label[3:6, 50:55] = BUILDING  # 15 pixels, no multiple of the view's: scored at full size
        label[-4:] = 255
        if number == 2:
            seen[:, :8] = POLE  # a class that is answered but never true
        samples.append(Sample(f"s{number}", tmp_path / f"{number}.jpg", tmp_path / f"{number}.png"))
        picture = np.repeat(seen[..., None] * LEVEL, 3, axis=2)
        cv2.imwrite(str(samples[-1].image), picture, [cv2.IMWRITE_JPEG_QUALITY, 100])
        cv2.imwrite(str(samples[-1].label), label)
    return samples


def test_scores_are_those_of_the_known_mistakes(stills, fabric):
    scores = evaluation.evaluate(Reader(), "bdd100k", stills, VIEW, fabric=fabric, batch=2)
    half = (HEIGHT - 4) * WIDTH // 2  # counted pixels of each half
    wrong = 3 * 15
    poles = 8 * (HEIGHT - 4)
    road, sidewalk = (3 * half - poles) / (3 * half), (3 * half - wrong) / (3 * half)
    iou = scores["iou"]
    assert list(iou) == list(bdd100k.CLASSES)
    assert iou["road"] == pytest.approx(road)
    assert iou["sidewalk"] == pytest.approx(sidewalk)
    assert iou["building"] == iou["pole"] == 0.0
    assert [name for name, value in iou.items() if value is not None] == [
        *("road", "sidewalk", "building", "pole")
    ]
    assert scores["miou"] == pytest.approx((road + sidewalk) / 4)
    assert scores["miou_official"] == pytest.approx((road + sidewalk) / 3)
    right = (6 * half - poles - wrong) / (6 * half)
    assert scores["pixel_accuracy"] == pytest.approx(right)
    # flat takes road and sidewalk; construction and object have no hit
    flat = (6 * half - poles - wrong) / (6 * half)
    assert scores["category_miou"] == pytest.approx(flat / 3)
    assert "agreement" not in scores


def test_the_batch_size_changes_no_score(stills, fabric):
    options = {"fabric": fabric, "teacher": Reader({ROAD: POLE}).eval()}
    one, all_ = (
        evaluation.evaluate(Reader(), "bdd100k", stills, VIEW, batch=batch, **options)
        for batch in (1, 8)
    )
    assert one["agreement"].pop("kl") == pytest.approx(all_["agreement"].pop("kl"), rel=1e-5)
    assert one == all_


def test_a_network_agrees_with_itself(stills, fabric):
    network = Reader()
    scores = evaluation.evaluate(
        network, "bdd100k", stills, VIEW, fabric=fabric, teacher=network.eval()
    )
    assert scores["agreement"] == {"pixel": 1.0, "miou": 1.0, "kl": pytest.approx(0, abs=1e-6)}
    assert scores["miou"] < 0.6  # agreement is no matter of the labels


class Pictures:
    """In memory: road above, sidewalk below the middle; image number i with i rows of pole."""

    def __len__(self) -> int:
        return 6

    def read(self, index: int) -> tuple[np.ndarray, None]:
        assert 0 <= index < 6
        self.seen = [*getattr(self, "seen", []), index]
        seen = np.full(VIEW, ROAD, np.uint8)
        seen[8:] = SIDEWALK
        seen[:index] = POLE
        return np.repeat(seen[..., None] * LEVEL, 3, axis=2), None


def test_agreement_counts_and_measures_as_training_does(fabric):
    student, teacher = Reader({POLE: ROAD, ROAD: POLE}), Reader(sharpness=7.0).eval()
    source = Pictures()
    found = evaluation.agreement_on(
        student, teacher, source, "bdd100k", fabric=fabric, count=3, batch=2
    )
    assert source.seen == [0, 2, 4]
    # both read sidewalk alike; the student swaps the upper half's two classes
    assert found["pixel"] == pytest.approx(0.5)
    assert found["miou"] == pytest.approx(1 / 3)
    images = torch.stack([torch.from_numpy(source.read(i)[0]) for i in (0, 2, 4)])
    images = images.permute(0, 3, 1, 2) / 255
    expected = matching.segmentation(student.eval()(images).logits, teacher(images).logits)
    assert found["kl"] == pytest.approx(float(expected), rel=1e-5)


def test_agreement_takes_no_more_images_than_there_are(fabric):
    source = Pictures()
    evaluation.agreement_on(Reader(), Reader().eval(), source, "bdd100k", fabric=fabric, count=100)
    assert source.seen == list(range(6))


def test_class_counts_leave_out_what_is_ignored(stills):
    counts = evaluation.class_counts(
        Stills("bdd100k", stills, (HEIGHT, WIDTH), labels=True), len(bdd100k.CLASSES)
    )
    half = 3 * (HEIGHT - 4) * WIDTH // 2
    assert counts[:3].tolist() == [half, half - 45, 45]
    assert counts[3:].sum() == 0 and counts.dtype == torch.int64


def test_predict_answers_at_the_size_of_the_image(stills, fabric):
    image = bdd100k.read_image(stills[0].image)
    answer = evaluation.predict(Reader(), image, VIEW, fabric)
    assert answer.shape == (HEIGHT, WIDTH) and answer.dtype == np.uint8
    assert (answer[:, : WIDTH // 2] == ROAD).all() and (answer[:, WIDTH // 2 :] == SIDEWALK).all()


def test_scores_of_nothing_but_ignored_pixels_are_no_numbers():
    scores = evaluation.summary(torch.zeros(19, 19, dtype=torch.int64), bdd100k)
    assert set(scores["iou"].values()) == {None}
    assert all(scores[key] != scores[key] for key in ("miou", "miou_official", "category_miou"))


def test_other_views_of_an_image(stills, fabric):
    class Watching(Reader):
        def forward(self, images_NCHW):
            sizes.add(tuple(images_NCHW.shape))
            return super().forward(images_NCHW)

    sizes: set[tuple[int, ...]] = set()
    plain = evaluation.evaluate(Reader(), "bdd100k", stills, VIEW, fabric=fabric)
    how = Views(mode="sliding", tile=(16, 12), stride=(16, 10), flip=True)
    tiled = evaluation.evaluate(Watching(), "bdd100k", stills, VIEW, fabric=fabric, how=how)
    # what this network answers depends on the pixel alone: tiles and mirror images change nothing
    assert tiled == plain and (1, 3, 16, 12) in sizes
    how = Views(scales=(0.25,))
    shrunk = evaluation.evaluate(Reader(), "bdd100k", stills, VIEW, fabric=fabric, how=how)
    assert shrunk != plain


def test_the_rules_for_absent_classes_differ(stills, fabric):
    scores = evaluation.evaluate(Reader(), "bdd100k", stills, VIEW, fabric=fabric)
    known = [value for value in scores["iou"].values() if value is not None]
    assert scores["miou"] == pytest.approx(sum(known) / len(known))
    assert scores["miou_zero"] == pytest.approx(sum(known) / 19)
    assert len(known) < 19 and scores["miou_official"] != scores["miou"]
