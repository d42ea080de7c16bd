"""Segmentation scores against torchmetrics, loops and hand-counted cases."""

import math

import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from kdlib.metrics.segmentation import (
    agreement,
    category_iou,
    confusion_matrix,
    grouped,
    iou,
    mean_iou,
    pixel_accuracy,
)


def random_case(seed: int, num_classes: int, present: int):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, present, (3, 17, 23), generator=generator)
    prediction = torch.randint(0, num_classes, (3, 17, 23), generator=generator)
    prediction = prediction.where(torch.rand(3, 17, 23, generator=generator) < 0.4, label)
    label[torch.rand(3, 17, 23, generator=generator) < 0.2] = 255
    return prediction, label


def test_confusion_by_hand():
    label = torch.tensor([[0, 0, 1, 255], [2, 2, 2, 1]], dtype=torch.uint8)
    prediction = torch.tensor([[0, 1, 1, 9], [2, 0, 2, 1]])
    confusion = confusion_matrix(prediction, label, 3, ignore_index=255)
    assert confusion.dtype == torch.int64
    # the 9 stands where the label is ignored, and so does not matter
    assert confusion.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 2]]
    assert iou(confusion).tolist() == pytest.approx([1 / 3, 2 / 3, 2 / 3])
    assert float(mean_iou(confusion)) == pytest.approx(5 / 9)
    assert float(pixel_accuracy(confusion)) == pytest.approx(5 / 7)


def test_confusion_equals_a_loop():
    prediction, label = random_case(0, 6, 6)
    expected = torch.zeros(6, 6, dtype=torch.int64)
    for truth, answer in zip(label.flatten().tolist(), prediction.flatten().tolist(), strict=True):
        if truth != 255:
            expected[truth, answer] += 1
    assert torch.equal(confusion_matrix(prediction, label, 6, ignore_index=255), expected)
    pairs = zip(prediction, label, strict=True)
    parts = [confusion_matrix(p, t, 6, ignore_index=255) for p, t in pairs]
    assert torch.equal(sum(parts), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_integer_types(dtype):
    prediction, label = random_case(0, 6, 6)
    expected = confusion_matrix(prediction, label, 6, ignore_index=255)
    got = confusion_matrix(prediction.to(dtype), label.to(dtype), 6, ignore_index=255)
    assert torch.equal(got, expected)


def test_ignored_value_may_be_a_class_or_nothing():
    label, prediction = torch.tensor([0, 1, 1, -1]), torch.tensor([0, 1, 0, 0])
    assert confusion_matrix(prediction, label, 2, ignore_index=-1).tolist() == [[1, 0], [1, 1]]
    ignoring_0 = confusion_matrix(prediction[:3], label[:3], 2, ignore_index=0)
    assert ignoring_0.tolist() == [[0, 0], [1, 1]]
    everything = confusion_matrix(prediction[:3], label[:3], 2, ignore_index=None)
    assert everything.tolist() == [[1, 0], [1, 1]]


def test_values_out_of_range_are_refused():
    label = torch.tensor([0, 1, 255])
    with pytest.raises(ValueError, match="1 predictions are not in 0"):
        confusion_matrix(torch.tensor([0, 2, 0]), label, 2, ignore_index=255)
    with pytest.raises(ValueError, match="1 predictions"):
        confusion_matrix(torch.tensor([-1, 1, 0]), label, 2, ignore_index=255)
    with pytest.raises(ValueError, match="1 labels"):
        confusion_matrix(torch.tensor([0, 1, 0]), label, 2, ignore_index=None)
    with pytest.raises(ValueError, match="one shape"):
        confusion_matrix(torch.tensor([0, 1]), label, 2, ignore_index=255)
    with pytest.raises(ValueError, match="integers"):
        confusion_matrix(torch.tensor([0.0, 1.0, 1.0]), label, 2, ignore_index=255)
    with pytest.raises(ValueError, match="K, K"):
        iou(torch.zeros(2, 3))


@pytest.mark.parametrize("present", [5, 8])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_torchmetrics(seed, present):
    prediction, label = random_case(seed, 8, present)
    confusion = confusion_matrix(prediction, label, 8, ignore_index=255)
    macro = MulticlassJaccardIndex(8, average="macro", ignore_index=255)
    each = MulticlassJaccardIndex(8, average="none", ignore_index=255)
    assert float(mean_iou(confusion)) == pytest.approx(float(macro(prediction, label)))
    torch.testing.assert_close(
        iou(confusion).float(), each(prediction, label), equal_nan=True, check_dtype=False
    )


def test_rules_for_absent_classes_by_hand():
    # class 0: 6 of 8 right; 1: 2 of 4; 2 is never true but predicted; 3 occurs nowhere
    confusion = torch.tensor([[6, 1, 1, 0], [2, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    scores = iou(confusion).tolist()
    assert scores[:3] == pytest.approx([6 / 10, 2 / 5, 0])
    assert math.isnan(scores[3])
    assert float(mean_iou(confusion)) == pytest.approx((0.6 + 0.4 + 0) / 3)
    assert float(mean_iou(confusion, absent="zero")) == pytest.approx((0.6 + 0.4) / 4)
    assert float(mean_iou(confusion, absent="bdd100k")) == pytest.approx((0.6 + 0.4) / 2)
    with pytest.raises(ValueError, match="absent must be"):
        mean_iou(confusion, absent="nan")


def test_nothing_counted_is_nan():
    empty = torch.zeros(3, 3, dtype=torch.int64)
    assert torch.isnan(mean_iou(empty)) and torch.isnan(mean_iou(empty, absent="bdd100k"))
    assert torch.isnan(pixel_accuracy(empty))
    assert float(mean_iou(empty, absent="zero")) == 0


def test_large_counts_are_exact():
    confusion = torch.tensor([[2**40, 1], [0, 2**40]])
    assert float(iou(confusion)[0]) == 2**40 / (2**40 + 1)


def test_groups_are_merged_before_they_are_scored():
    prediction, label = random_case(3, 6, 6)
    groups = {"flat": (0, 1), "thing": (4, 2, 3), "sky": (5,)}
    confusion = confusion_matrix(prediction, label, 6, ignore_index=255)
    group_of = torch.tensor([0, 0, 1, 1, 1, 2])
    merged_label = group_of[label.where(label != 255, 0)].where(label != 255, 255)
    expected = confusion_matrix(group_of[prediction], merged_label, 3, ignore_index=255)
    assert torch.equal(grouped(confusion, groups), expected)
    scores = category_iou(confusion, groups)
    assert list(scores) == list(groups)
    assert list(scores.values()) == pytest.approx(iou(expected).tolist())


def test_groups_must_hold_every_class_once():
    confusion = torch.ones(3, 3, dtype=torch.int64)
    for groups in ({"a": (0, 1)}, {"a": (0, 1), "b": (1, 2)}, {"a": (0, 1, 2, 3)}):
        with pytest.raises(ValueError, match="each of the 3 classes"):
            grouped(confusion, groups)


def test_agreement_counts_every_pixel():
    teacher = torch.tensor([[0, 0, 1], [1, 2, 2]])
    student = torch.tensor([[0, 1, 1], [1, 2, 2]])
    result = agreement(confusion_matrix(student, teacher, 4, ignore_index=None))
    assert result.pixel == pytest.approx(5 / 6)
    assert result.miou == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
    perfect = agreement(confusion_matrix(teacher, teacher, 4, ignore_index=None))
    assert perfect == (1.0, 1.0)
