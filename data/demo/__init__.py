"""Procedural people, for data that anyone may have: painted once, then rendered for each image.

An identity is some sixty numbers (`identity`). They determine a surface, the radius of the head
over azimuth and height (`geometry`), and its reflectance (`texture`, `features`, on a `canvas`). An
image has its `conditions`; `render` traces the camera's rays to the surface (`project`), moves the
face, covers it (`cover`), shades it and takes the photograph (`camera`). All random numbers come
from a `deck`, by (seed, identity, image). `generate` writes the demo's files.
"""
