"""Losses: pure functions of tensors, one file per paper.

They raise half types to float32 inside and leave float64 as it is.
"""
