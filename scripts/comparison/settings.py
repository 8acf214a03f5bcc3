"""What a comparison of heads is: its settings, and the runs that follow from them.

A run trains one method with one seed, by `train.py`. All of them are validated before the first
one is trained.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints, model_validator

from eval.build import SUITES
from recognition.config import Config, Count, LocalPath, Section, Seed
from recognition.config_file import ConfigError, load_config

MethodName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
"""A method's name is also that of its folders."""

RUN_KEYS = ("output", "seed")
"""Settings of a run that the comparison decides."""


class Comparison(Section):
    """A whole comparison: the same run, once for each method and seed.

    `run` is the run's config, a path relative to this file, and `settings` changes it for all
    methods; with `--quick` the settings of `quick` are applied after them. A method is what it
    changes in the section `head`. Every method is trained with each of `seeds`, those in
    `more_seeds` also with further ones (but not with `--quick`): their spread tells which
    differences between methods are noise.
    """

    output: LocalPath
    run: LocalPath
    ranks: Count = 1
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
                    f"more_seeds: {name} is not a method; the methods are {', '.join(self.methods)}"
                )
        for name in self.methods:
            seeds = self.seeds_of(name, quick=False)
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"seeds of {name} are {seeds}: state each seed once")
        for section in ("settings", "quick"):
            for key in RUN_KEYS:
                if key in getattr(self, section):
                    raise ValueError(
                        f"{section}.{key}: the comparison decides each run's {key}; set "
                        f"{'output' if key == 'output' else 'seeds'} at the top level instead"
                    )
        return self

    def seeds_of(self, method: str, *, quick: bool) -> list[int]:
        """Return the seeds that `method` is trained with."""
        return [*self.seeds, *([] if quick else self.more_seeds.get(method, []))]


@dataclass(frozen=True)
class MethodRun:
    """One run of the comparison: `config` is `config_file` with `overrides`, values of `--set`."""

    method: str
    seed: int
    config_file: Path
    overrides: tuple[str, ...]
    config: Config

    @property
    def name(self) -> str:
        """`method/seed_0`: its folder, relative to those of the comparison's runs."""
        return f"{self.method}/seed_{self.seed}"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.config.output


def make_runs(
    comparison: Comparison, folder: Path, *, output: Path, quick: bool, methods: Collection[str]
) -> list[MethodRun]:
    """Return the runs of a comparison, in the order of its file, all seeds of a method together.

    `comparison.run` is relative to `folder`; a run's folder is `output/runs/method/seed_0`. Without
    `methods` all of them are included. Raises `ConfigError` for a method that does not exist, and
    one that lists every method whose run cannot be started.
    """
    for name in methods:
        if name not in comparison.methods:
            known = ", ".join(comparison.methods)
            raise ConfigError(f"--methods {name}: no such method; the methods are {known}")
    config_file = folder / comparison.run
    shared = as_overrides(comparison.settings)
    if quick:
        shared += as_overrides(comparison.quick)
    runs: list[MethodRun] = []
    errors = []
    for method, head in comparison.methods.items():
        if methods and method not in methods:
            continue
        for seed in comparison.seeds_of(method, quick=quick):
            run_folder = output / "runs" / method / f"seed_{seed}"
            of_run = as_overrides({"head": head, "seed": seed, "output": str(run_folder)})
            overrides = (*shared, *of_run)
            try:
                config = load_config(config_file, overrides)
            except ConfigError as error:
                errors.append(f"method {method}: {error}")
                break  # the errors of another seed are the same
            if not config.verification.sets:
                raise ConfigError(
                    f"{config_file}: verification.sets is empty; a comparison needs a set"
                )
            for name in config.verification.sets:
                if Path(name).suffix in SUITES:
                    raise ConfigError(
                        f"{config_file}: verification.sets has the suite {name}; a comparison is "
                        "of accuracies: name .bin sets alone"
                    )
            runs.append(MethodRun(method, seed, config_file, overrides, config))
    if errors:
        raise ConfigError("\n".join(errors))
    return runs


def as_overrides(settings: Mapping[str, Any]) -> list[str]:
    """Return `{section: {key: value}}` as values of `--set`: `section.key=value`, as JSON."""
    overrides = []
    for section, values in settings.items():
        if isinstance(values, Mapping):
            overrides += [f"{section}.{key}={json.dumps(value)}" for key, value in values.items()]
        else:
            overrides.append(f"{section}={json.dumps(values)}")
    return overrides
