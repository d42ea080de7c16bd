"""The names that the writer and the reader of frame shards share."""

SETS = ("pool", "heldout")
COLUMNS = (
    "set",
    "shard",
    "key",
    "clip",
    "frame",
    "time_s",
    "height",
    "width",
    "offset",
    "bytes",
    "sha256",
)


def key_of(clip: str, frame: int) -> str:
    """The WebDataset key of a frame. A key ends at its first dot, so dots in ids are replaced."""
    return f"{clip.replace('.', '_')}-{frame:06d}"
