"""Clips: names above pictures, frames in order, the same bytes."""

import numpy as np
import pytest
from PIL import Image

from kdlib.report import clip


def test_pictures_stand_below_their_names():
    red, blue = (np.full((20, 60, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 0, 200)))
    frame = clip.stacked({"one": red, "two": blue}, 60)
    assert frame.shape == (2 * (20 + clip.LINE), 60, 3)
    assert (frame[clip.LINE : clip.LINE + 20] == red).all() and (frame[-20:] == blue).all()
    for line in (frame[: clip.LINE], frame[clip.LINE + 20 : -20]):
        assert (line == clip.PAPER).all(axis=-1).any() and (line < 100).any()  # paper, and a name
    assert clip.stacked({"one": red}, 30).shape == (10 + clip.LINE, 30, 3)
    with pytest.raises(ValueError, match="pictures of one size"):
        clip.stacked({"one": red, "two": blue[1:]}, 60)


def test_a_clip_keeps_order_pace_and_bytes(tmp_path):
    frames = [np.full((12, 16, 3), 0, np.uint8) for _ in range(3)]
    for i, frame in enumerate(frames):
        frame[:, 5 * i : 5 * i + 3] = (0, 220, 60)
    first = clip.save(frames, tmp_path / "one.gif", rate=5)
    assert first.read_bytes() == clip.save(frames, tmp_path / "two.gif", rate=5).read_bytes()
    with Image.open(first) as found:
        assert found.n_frames == 3 and found.info["loop"] == 0
        for i, frame in enumerate(frames):
            found.seek(i)
            assert found.info["duration"] == 200
            assert np.abs(np.asarray(found.convert("RGB"), int) - frame).max() <= 8
    with pytest.raises(ValueError, match="at least one frame"):
        clip.save([], tmp_path / "none.gif", rate=5)
