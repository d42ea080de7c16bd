"""Files that are replaced whole: whenever a process dies, readers see the old one or the new."""

import fcntl
import functools
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)  # mkstemp gives 0600, which nobody else could read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """One process at a time: others wait here until the block ends. `path` is the lock's file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write(path: Path, content: bytes) -> None:
    """Replace a file's content."""
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def content_hash(path: Path) -> str:
    """SHA-256 of a file's content; a file that has not changed since is not read again.

    A data set's stills may all have their labels in one file of half a gigabyte.
    """
    state = path.stat()
    return _hash(Path(os.path.abspath(path)), state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=1 << 20)
def _hash(path: Path, changed: int, size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
