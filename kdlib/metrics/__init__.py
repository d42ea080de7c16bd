"""Metrics: pure functions of label maps, boxes and lanes; tensors in, or arrays, numbers out.

Public names by task: ``segmentation``, ``detection``, ``lanes``. The other files hold one official
tool each, or a part of one: ``box_ap`` and ``kitti`` of ``detection``; ``culane`` with
``culane_maps`` and ``culane_pixels``, and ``llamas``, of ``lanes``.
"""
