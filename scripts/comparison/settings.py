"""What a comparison of heads is: its settings, and the runs that follow from them.

A cell is one run of `train.py`: one method with one seed. Everything that could be wrong with any
of them is found while they are made, before the first is trained.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, PositiveInt, StringConstraints, model_validator

from recognition.config import Config, Section
from recognition.config_file import ConfigError, load_config, read_settings

Seed = Annotated[int, Field(ge=0, lt=2**63)]
MethodName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
"""A method's name names its folders, too."""

OWN = ("output", "seed")
"""Settings of a run that the comparison itself decides."""


class Comparison(Section):
    """A whole comparison: the same run, once for each method and seed.

    `run` is the run's config, a path beside this file, and `settings` changes it for all methods;
    with `--quick` the settings of `quick` go on top. A method is what it changes in the section
    `head`. Every method is trained with each of `seeds`; those in `more_seeds` with further ones
    (but not with `--quick`), whose spread tells what a difference between two methods means.
    """

    output: Path
    run: Path
    ranks: PositiveInt = 1
    seeds: list[Seed] = Field(default=[0], min_length=1)
    more_seeds: dict[str, list[Seed]] = Field(default={})
    settings: dict[str, Any] = Field(default={})
    quick: dict[str, Any] = Field(default={})
    methods: dict[MethodName, dict[str, Any]] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in self.more_seeds:
            if name not in self.methods:
                raise ValueError(
                    f"more_seeds: {name} is no method; the methods are {', '.join(self.methods)}"
                )
        for name in self.methods:
            seeds = self.seeds_of(name, quick=False)
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"seeds of {name} are {seeds}: state each seed once")
        for section in ("settings", "quick"):
            for key in OWN:
                if key in getattr(self, section):
                    raise ValueError(
                        f"{section}.{key}: the comparison gives each run its own {key}; state "
                        f"{'output' if key == 'output' else 'seeds'} at the top instead"
                    )
        return self

    def seeds_of(self, method: str, *, quick: bool) -> list[int]:
        """Return the seeds that `method` is trained with."""
        return [*self.seeds, *([] if quick else self.more_seeds.get(method, []))]


@dataclass(frozen=True)
class Cell:
    """One run of the comparison.

    Attributes:
        method: its name.
        seed: of the run.
        run: the run's config file.
        overrides: what `--set` changes in it, in order.
        config: what they make together, checked.
    """

    method: str
    seed: int
    run: Path
    overrides: tuple[str, ...]
    config: Config

    @property
    def name(self) -> str:
        """`method/seed_0`: its folder's name under those of the comparison."""
        return f"{self.method}/seed_{self.seed}"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.config.output


def load_comparison(path: Path) -> Comparison:
    """Return the checked settings of a file; raises `ConfigError` for what cannot be used."""
    return read_settings(path, Comparison)


def make_cells(
    comparison: Comparison, folder: Path, *, output: Path, quick: bool, methods: Collection[str]
) -> list[Cell]:
    """Return the runs of a comparison, in the order of its file; all seeds of a method follow.

    Args:
        comparison: the settings.
        folder: where `comparison.run` is looked up.
        output: the comparison's folder; a run's folder is `output/runs/method/seed_0`.
        quick: whether to put the settings of `quick` on top.
        methods: the methods to take; all if there are none.

    Raises `ConfigError` for a method that does not exist, and with every method whose run cannot
    be started.
    """
    for name in methods:
        if name not in comparison.methods:
            known = ", ".join(comparison.methods)
            raise ConfigError(f"--methods {name}: no such method; the methods are {known}")
    shared = as_overrides(comparison.settings)
    if quick:
        shared += as_overrides(comparison.quick)
    cells, errors = [], []
    for method, head in comparison.methods.items():
        if methods and method not in methods:
            continue
        for seed in comparison.seeds_of(method, quick=quick):
            where = output / "runs" / method / f"seed_{seed}"
            own = as_overrides({"head": head, "seed": seed, "output": str(where)})
            overrides = (*shared, *own)
            run = folder / comparison.run
            try:
                config = load_config(run, overrides)
            except ConfigError as error:
                errors.append(f"method {method}: {error}")
                break  # another seed would say the same
            if not config.verification.sets:
                raise ConfigError(f"{run}: verification.sets is empty: a comparison needs a set")
            cells.append(Cell(method, seed, run, overrides, config))
    if errors:
        raise ConfigError("\n".join(errors))
    return cells


def as_overrides(settings: Mapping[str, Any]) -> list[str]:
    """Return `{section: {key: value}}` as values of `--set`: `section.key=value`, as JSON."""
    overrides = []
    for section, values in settings.items():
        if isinstance(values, Mapping):
            overrides += [f"{section}.{key}={json.dumps(value)}" for key, value in values.items()]
        else:
            overrides.append(f"{section}={json.dumps(values)}")
    return overrides
