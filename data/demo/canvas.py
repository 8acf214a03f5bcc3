"""A reflectance map to paint on.

Legend: H rows (height), W columns (azimuth); 3 colour channels (linear RGB).
"""

import numpy as np
import torch

from data.demo.deck import Floats
from data.demo.geometry import ARC, BOTTOM, TOP, Grid
from data.demo.identity import Colour

FINE = Grid.of(144, 184)
"""The grid of the maps that the renderer reads; a texel of the face is about a pixel."""


class Canvas:
    """A reflectance map, or a part of one that shares its memory."""

    def __init__(self, grid: Grid, colour: Floats) -> None:
        self.grid = grid
        self.side = np.abs(grid.x)  # distance from the middle of the face, float32 [1, W]
        self.colour = colour  # float32 [3, H, W], painted in place

    @classmethod
    def filled(cls, colour: Colour) -> "Canvas":
        """Return a whole map of one colour."""
        pixels = np.empty((3, len(FINE.y), FINE.x.shape[1]), np.float32)
        pixels[:] = np.array(colour, np.float32)[:, None, None]
        return cls(FINE, pixels)

    def part(self, top: float, bottom: float, left: float, right: float) -> "Canvas":
        """Return the part between these heights and arc lengths, which is faster to paint."""
        height, width = self.colour.shape[1:]
        rows = (np.array((top, bottom)) - TOP) * ((height - 1) / (BOTTOM - TOP))
        azimuths = np.clip(np.array((left, right)) / ARC, -np.pi, np.pi)
        columns = (np.sin(azimuths / 2) + 1) * ((width - 1) / 2)
        y = slice(max(int(rows[0]), 0), max(int(rows[1]) + 2, 1))
        x = slice(max(int(columns[0]), 0), int(columns[1]) + 2)
        grid = Grid(self.grid.azimuth[:, x], self.grid.x[:, x], self.grid.y[y])
        return Canvas(grid, self.colour[:, y, x])

    def blend(self, cover: Floats, colour: Colour | Floats) -> None:
        """Blend `colour`, [3] or [3, H, W], into the canvas with weights `cover`, [H, W]."""
        target = np.asarray(colour, np.float32)
        if target.ndim == 1:
            target = target[:, None, None]
        self.colour += cover * (target - self.colour)

    def tint(self, cover: Floats, factor: Colour) -> None:
        """Multiply the canvas by `factor` with weights `cover`, [H, W]."""
        for channel, value in zip(self.colour, factor, strict=True):
            channel *= 1 + cover * np.float32(value - 1)


def noise(rng: np.random.Generator, rows: int, columns: int) -> Floats:
    """Return smooth noise over `FINE`, float32 [H, W], from this many cells of unit variance."""
    cells = rng.standard_normal((1, 1, rows, columns), dtype=np.float32)
    smooth = torch.nn.functional.interpolate(
        torch.from_numpy(cells), size=(len(FINE.y), FINE.x.shape[1]), mode="bilinear"
    )
    return smooth[0, 0].numpy()


def between(y: Floats, low: Floats, high: Floats, soft: float) -> Floats:
    """Return 1 where low < y < high, with edges `soft` wide on each side."""
    scale = np.float32(0.5 / soft)
    return np.clip((y - low) * scale + 0.5, 0, 1) * np.clip((high - y) * scale + 0.5, 0, 1)
