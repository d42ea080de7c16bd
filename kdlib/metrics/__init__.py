"""Metrics: pure functions of tensors, one file per task."""
