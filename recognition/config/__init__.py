"""What a run is: every setting, its type, its range, and the rules that tie settings together.

Each section of the YAML file is one class here, each setting a field with its description below
it; `docs/config.md` is made of them. Unknown keys are errors, and everything is checked before any
process group starts or any file is written. `recognition.config_file` reads files, `base:` and
`--set`.
"""

from recognition.config.base import Count, LocalPath, Section, Seed
from recognition.config.data import Augment, Data, DemoData
from recognition.config.head import Head, LossSettings
from recognition.config.run import Checkpoint, Config, Log, Verification
from recognition.config.training import Backbone, Optimizer, Schedule, Train

__all__ = [
    "Augment",
    "Backbone",
    "Checkpoint",
    "Config",
    "Count",
    "Data",
    "DemoData",
    "Head",
    "LocalPath",
    "Log",
    "LossSettings",
    "Optimizer",
    "Schedule",
    "Section",
    "Seed",
    "Train",
    "Verification",
]
