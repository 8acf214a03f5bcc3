"""Suites whose sets are opened once, to judge a network as often as it changes.

Shape legend: n images, u different ones, d embedding size.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from eval.embedding import Model, embed_images
from eval.figures import SetFigures, headline
from eval.suites.images import Embedded
from eval.suites.run import OpenSet, open_suite
from eval.suites.settings import Suite
from recognition.distributed import World
from recognition.failure import on_main


class Verifier:
    """Judges networks by the protocols of suites: their headline figures, without intervals.

    The ranks of `world` share the embedding, and each gets all figures. Every different image of a
    set is embedded once, as is a set that several suites have; nothing is kept on disk. The
    bootstrap is left out, whatever a suite says: for IJB-C it takes minutes.

    All sets are opened and checked here. Raises `ValueError` for one that cannot be used, and for
    two of one name.
    """

    def __init__(
        self,
        suites: Sequence[Suite],
        *,
        image_size: int,
        batch_size: int = 128,
        world: World | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: expected at least 1 image")
        self.image_size, self.batch_size = image_size, batch_size
        self.world = world or World()
        names = [name for suite in suites for name in suite.names]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"verification set {name} is listed {names.count(name)} times, and figures are "
                    "named after the sets: list each set once, or rename one"
                )
        self.sets: list[tuple[Suite, OpenSet]] = []
        for suite in suites:
            settings = suite.model_copy(update={"replicates": 0})
            self.sets += [(settings, item) for item in open_suite(suite)]

    def __call__(self, model: Model, device: torch.device) -> list[SetFigures]:
        """Return the figures of every set, in order; they are the same on every rank.

        `scores` and `faces` are on rank 0 alone. `model` maps float32 [b, 3, S, S] on `device`, RGB
        in [-1, 1], to embeddings [b, d]. An `nn.Module` is in evaluation mode during the call; any
        other function has to take care of that itself. Raises `ValueError` on all ranks as the
        protocols do, such as for embeddings that are not finite, and as `embed_images` does.
        """
        found = []
        kept: dict[tuple[str, bool], Embedded] = {}
        keys = [(item.images.sha256, suite.flip) for suite, item in self.sets]
        with _evaluation_mode(model):
            for number, (suite, item) in enumerate(self.sets):
                key = keys[number]
                embedded = kept.pop(key, None) or self._embed(suite, item, model, device)
                if key in keys[number + 1 :]:
                    kept[key] = embedded
                found.append(self._judge(suite, item, embedded, faces=True))
                del embedded  # up to 2 GB, and the next one is as large
        return found

    def possible(self) -> list[SetFigures]:
        """Return figures of every set as they would be of a useless network, on every rank.

        They show which figures a set has. Collective.
        """
        found = []
        for suite, item in self.sets:
            shape = (len(item.images.unique), 1 + suite.flip, 2)
            random = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
            found.append(self._judge(suite, item, Embedded(random, False, 0.0)))
        return found

    def _embed(self, suite: Suite, item: OpenSet, model: Model, device: torch.device) -> Embedded:
        started = time.perf_counter()
        embeddings = embed_images(
            model,
            item.images.source,
            item.images.unique,
            image_size=self.image_size,
            batch_size=self.batch_size,
            device=device,
            flip=suite.flip,
            world=self.world,
        )
        return Embedded(embeddings, False, time.perf_counter() - started)

    def _judge(
        self, suite: Suite, item: OpenSet, embedded: Embedded, *, faces: bool = False
    ) -> SetFigures:
        """Return the figures, which rank 0 computes, on all ranks."""
        of_main: list[SetFigures] = []

        def judge() -> SetFigures:
            figures = headline(item.judge("", embedded, suite))
            if faces and item.faces is not None:
                figures = replace(figures, faces=item.faces(embedded))
            of_main.append(figures)
            # Millions of pairs, and pictures, need not be sent.
            return replace(figures, scores=None, faces=None)

        found = on_main(judge, suite.folder, ValueError)
        return of_main[0] if of_main else found


@contextmanager
def _evaluation_mode(model: Model) -> Iterator[None]:
    """Put a module into evaluation mode, and each of its parts back into its own mode."""
    if not isinstance(model, nn.Module):
        yield
        return
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
