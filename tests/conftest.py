"""Shared by all tests: the root, one thread per process, the real data where they lie."""

import os
from pathlib import Path

import pytest

# Tests run beside one another on small machines; set before torch and OpenCV start their threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("KDLIB_HEADLESS", "1")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real driving data beside the repository; without them the test is skipped."""
    if not SHARED.is_dir():
        pytest.skip(
            "no ../shared/data beside the repository: the test reads real images from there"
        )
    return SHARED
