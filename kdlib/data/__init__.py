"""From bytes on disk to batches: layouts, audit, frames, shards, augmentation, loader."""
