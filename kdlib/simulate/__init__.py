"""Driving video from a seed, with the labels that go with it.

A clip is drawn from nothing but its seed and its world: `world` says what stands where, `camera`
says where that falls on the picture, `ground`, `sky` and `shape` draw it from back to front,
`weather` finishes the picture, `render` ties these together and `files` writes the official layouts
of the data sets. `python -m kdlib.simulate --help` shows what can be asked for.

The same seed gives the same bytes on any machine with the locked versions: nothing on the way to a
pixel depends on the order or the fusing of floating-point operations. So there are no sines, no
matrix products, no drawing of normal variates; coordinates are rounded to 1/16 pixel, and only
those OpenCV calls are used whose arithmetic is integer.
"""
