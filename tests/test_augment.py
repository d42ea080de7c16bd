"""Views: image and label move together, padding is known as such, and the draw is the batch's."""

import dataclasses

import pytest
import torch

from kdlib.config import Augment
from kdlib.data import augment
from kdlib.data.augment import Draw
from kdlib.runtime import generator

HEIGHT, WIDTH = 24, 40
STEP = 12  # grey levels between two classes of the synthetic picture


def numbers(count: int = 1, **given: float) -> Draw:
    """A draw that changes nothing, but for what is given."""
    plain = {"zoom": 1.0, "flip": 1.0, "brightness": 1.0, "contrast": 1.0, "saturation": 1.0}
    values = {k: torch.full((count,), given.get(k, v)) for k, v in plain.items()}
    centre = torch.tensor([given.get("x", 0.0), given.get("y", 0.0)]).expand(count, 2)
    return Draw(**values, centre=centre, gain=torch.ones(count, 3))


def coloured(count: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose red encodes the label, in 8 x 8 squares; (N, 3, H, W) and (N, H, W) uint8."""
    rows = torch.arange(HEIGHT)[:, None] // 8
    columns = torch.arange(WIDTH)[None] // 8
    labels = (rows * 5 + columns + torch.arange(count)[:, None, None]).to(torch.uint8)
    noise = torch.randint(0, 256, (count, 2, HEIGHT, WIDTH), generator=generator(0, "noise"))
    return torch.cat([labels[:, None] * STEP, noise.to(torch.uint8)], dim=1), labels


def test_a_draw_that_changes_nothing_gives_the_image():
    images, labels = coloured(2)
    views = augment.apply(images, labels, numbers(2), (HEIGHT, WIDTH))
    assert views.images.dtype == torch.float32
    torch.testing.assert_close(views.images, images / 255, atol=1 / 255, rtol=0)
    assert torch.equal(views.labels, labels.long())
    assert views.valid.all()


def test_flip_mirrors_left_and_right():
    images, labels = coloured()
    views = augment.apply(images, labels, numbers(flip=-1.0), (HEIGHT, WIDTH))
    torch.testing.assert_close(views.images, images.flip(3) / 255, atol=1 / 255, rtol=0)
    assert torch.equal(views.labels, labels.flip(2).long())


@pytest.mark.parametrize("zoom", [0.6, 0.8, 1.0, 1.3, 2.0, 3.7])
@pytest.mark.parametrize("flip", [1.0, -1.0])
@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (-1.0, 0.7), (0.4, -1.0)])
def test_labels_stay_on_their_pixels(zoom, flip, x, y):
    images, labels = coloured()
    views = augment.apply(images, labels, numbers(zoom=zoom, flip=flip, x=x, y=y), (HEIGHT, WIDTH))
    shown = views.images[0, 0] * 255 / STEP
    inner = views.valid[0] & ((shown - shown.round()).abs() < 1e-3)  # not between two squares
    assert inner.float().mean() > 0.5 * views.valid.float().mean()
    wrong = shown.round()[inner].long() != views.labels[0][inner]
    # a blend of two squares may by chance look like a third
    assert wrong.float().mean() < 0.02


def test_zooming_in_shows_the_corner_that_the_centre_names():
    images, labels = coloured()
    views = augment.apply(images, labels, numbers(zoom=2.0, x=-1.0, y=1.0), (HEIGHT, WIDTH))
    expected = labels[0, HEIGHT // 2 :, : WIDTH // 2].long()
    assert torch.equal(views.labels[0], expected.repeat_interleave(2, 0).repeat_interleave(2, 1))


def test_zooming_out_shows_padding_that_does_not_count():
    images, labels = coloured()
    views = augment.apply(images, labels, numbers(zoom=0.5), (HEIGHT, WIDTH))
    inside = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    inside[HEIGHT // 4 : -HEIGHT // 4, WIDTH // 4 : -WIDTH // 4] = True
    assert torch.equal(views.valid[0], inside)
    assert (views.labels[0][~inside] == 255).all()
    assert (views.labels[0][inside] < 20).all()
    assert (views.images[0, :, ~inside] == 0).all()


def test_ignored_pixels_stay_ignored_and_valid():
    images, labels = coloured()
    labels[:, :8] = 255
    views = augment.apply(images, labels, numbers(zoom=1.5, y=-1.0), (HEIGHT, WIDTH))
    assert (views.labels[:, :12] == 255).all() and (views.labels[:, 12:] != 255).all()
    assert views.valid.all()


def test_a_crop_shows_a_part_at_full_size():
    images, labels = coloured()
    views = augment.apply(images, labels, numbers(x=1.0, y=-1.0), (8, 16))
    assert views.images.shape == (1, 3, 8, 16)
    torch.testing.assert_close(views.images, images[..., :8, -16:] / 255, atol=1 / 255, rtol=0)
    assert torch.equal(views.labels, labels[:, :8, -16:].long())
    assert views.valid.all()


def test_colour_changes_by_the_drawn_factors_and_stays_in_range():
    images = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    draw = dataclasses.replace(
        numbers(2),
        brightness=torch.tensor([1.2, 3.0]),
        gain=torch.tensor([[1.0, 0.5, 1.0], [1.0, 1.0, 1.0]]),
    )
    views = augment.apply(images, None, draw, (4, 4))
    level = 100 / 255 * 1.2
    expected = torch.tensor([level, level / 2, level])
    torch.testing.assert_close(views.images[0, :, 0, 0], expected)
    assert (views.images[1] == 1).all()
    assert views.labels is None
    # no saturation: grey; no contrast: one level
    images, _ = coloured()
    views = augment.apply(images, None, numbers(saturation=0.0), (HEIGHT, WIDTH))
    torch.testing.assert_close(views.images[:, 0], views.images[:, 1])
    views = augment.apply(images, None, numbers(contrast=0.0), (HEIGHT, WIDTH))
    assert views.images.std() < 1e-5


def test_the_draw_keeps_to_its_settings():
    settings = Augment(zoom=(0.5, 2.0), flip=0.25, colour=0.2)
    drawn = augment.draw(4000, settings, generator(0, "test"))
    assert 0.5 <= drawn.zoom.min() < 0.52 and 1.98 < drawn.zoom.max() <= 2.0
    assert (drawn.flip == -1).float().mean() == pytest.approx(0.25, abs=0.03)
    assert set(drawn.flip.tolist()) == {-1.0, 1.0}
    assert drawn.centre.min() >= -1 and drawn.centre.max() <= 1
    for factor in (drawn.brightness, drawn.contrast, drawn.saturation, drawn.gain):
        assert 0.8 <= factor.min() < 0.82 and 1.18 < factor.max() <= 1.2
    still = augment.draw(9, Augment(zoom=(1.0, 1.0), flip=0.0, colour=0.0), generator(0, "test"))
    assert (still.zoom == 1).all() and (still.flip == 1).all() and (still.gain == 1).all()


def test_the_same_generator_gives_the_same_draw():
    first, second, other = (augment.draw(3, Augment(), generator(0, word)) for word in "aab")
    assert torch.equal(first.zoom, second.zoom) and torch.equal(first.gain, second.gain)
    assert not torch.equal(first.zoom, other.zoom)


@pytest.mark.parametrize("world", [2, 3])
def test_each_process_sees_its_share_of_the_same_views(world):
    images, labels = coloured(6)
    drawn = augment.draw(6, Augment(zoom=(0.7, 2.0), colour=0.3), generator(0, "views", 4))
    whole = augment.apply(images, labels, drawn, (16, 24))
    for rank in range(world):
        share = slice(rank, None, world)
        part = augment.apply(images[share], labels[share], drawn.rows(share), (16, 24))
        assert torch.equal(part.images, whole.images[share])
        assert torch.equal(part.labels, whole.labels[share])
        assert torch.equal(part.valid, whole.valid[share])
