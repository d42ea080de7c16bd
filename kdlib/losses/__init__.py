"""Losses: pure functions of tensors, and of boxes where a detector learns.

A paper's loss is in the file of its name: ``matching``, ``structured``, ``imitation``,
``affinity``. Beside them stand what these are made of (``cosine`` of ``structured``, ``regions`` of
``imitation``; ``areas``, ``moments``, ``moment_sums`` and ``moment_kernels`` of ``affinity``), what
a paper compares itself with (``lane_baselines``), and the losses with labels: ``supervised`` of
masks, ``fcos`` and ``squeezedet`` of detectors. ``options`` checks what is chosen by a word.

They raise half types to float32 inside and leave float64 as it is.
"""
