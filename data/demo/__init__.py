"""Procedural people, for data that anyone may have: painted once, then projected and shaded.

An identity is some sixty numbers (`identity`). They make a surface, the radius of the head over
azimuth and height (`geometry`), and its reflectance (`texture`, `features`, on a `canvas`). An
image is a set of `conditions`; `render` follows the camera's rays to the surface (`project`),
moves the face (`expression`), covers it (`cover`), shades it and takes the photograph (`camera`).
All random numbers come from `deck`, by (seed, identity, image).
"""
