"""What files and command lines may hold: anything that is no config ends in a `ConfigError`."""

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recognition.config.yaml_text import MOST_CHARACTERS, MOST_LEVELS
from recognition.config_file import ConfigError, load_config

SMALL = "output: runs/x\ndata: {train: x}\ntrain: {global_batch_size: 64, epochs: 2}\n"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.lr=.inf",
        "optimizer.lr=.nan",
        "optimizer.lr=1e999",
        "optimizer.lr=true",
        "optimizer.lr='0.1'",
        "head.scale=-.inf",
        "head.loss.m=.inf",
        "train.global_batch_size=true",
        "train.global_batch_size=64.0",
        "train.global_batch_size=1e2",
        "train.epochs=.inf",
        "train.compile=1",
        "train.timeout_seconds=.inf",
        "data.workers=true",
        "data.workers=2.0",
        "data.augment.flip=true",
        "data.augment.blur_sigma.0=true",
        "optimizer.betas=[0.9, .nan]",
        "schedule={name: step, milestone_epochs: [1, .inf]}",
        "seed=true",
        "seed=" + "9" * 5000,
    ],
)
def test_a_number_is_finite_and_of_its_kind(small: Path, override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(small, [override])
    section = override.partition("=")[0].partition(".")[0]
    assert any(line.startswith(f"  {section}") for line in str(caught.value).splitlines())


def test_whole_numbers_do_for_floats_and_exponents_need_no_point(small: Path) -> None:
    overrides = ["optimizer.lr=1e-3", "train.epochs=3", "optimizer.weight_decay=0", "head.scale=32"]
    config = load_config(small, [*overrides, "head.loss={name: cosface, m: 1e-1}"])
    assert (config.optimizer.lr, config.train.epochs, config.head.scale) == (0.001, 3.0, 32.0)
    assert config.optimizer.weight_decay == 0.0
    assert config.head.loss.model_extra == {"m": 0.1}


def test_one_line_per_setting_names_what_each_type_needs(small: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(small, ["data.workers=many", "data.augment.blur_sigma=[1]", "log=3"])
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    keys = {line.partition(": ")[0] for line in lines}
    assert keys == {"data.workers", "data.augment.blur_sigma.1", "log"}
    assert lines[0].count("'many'") == 1


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "huge", "text", "missing", "long"])
def test_a_base_that_is_no_config_is_refused_by_its_name(
    small: Path, tmp_path: Path, kind: str
) -> None:
    base = tmp_path / ("x" * 5000 if kind == "long" else kind)
    if kind == "fifo":
        os.mkfifo(base)
    elif kind == "device":
        base = Path("/dev/zero")
    elif kind == "folder":
        base.mkdir()
    elif kind == "huge":
        with base.open("wb") as file:
            file.truncate(1 << 40)
    elif kind == "text":
        base.write_bytes(b"\xff\xfe\x00")
    small.write_text(f"base: {base}\n{SMALL}")
    with pytest.raises(ConfigError) as caught:
        load_config(small)
    assert str(caught.value).startswith(f"{base}: ")


def test_a_long_chain_of_bases_ends(tmp_path: Path) -> None:
    for number in range(MOST_LEVELS + 2):
        (tmp_path / f"{number}.yaml").write_text(f"base: {number + 1}.yaml\n")
    with pytest.raises(ConfigError, match=rf"{MOST_LEVELS}\.yaml"):
        load_config(tmp_path / "0.yaml")


def test_messages_are_short_and_change_no_terminal(small: Path) -> None:
    wrong = ['data.train="\\e[2J"', '"\\e"=1', "\x1b=1", "a." * 5000 + "a=1"]
    wrong += ["optimizer.lr=" + "x" * 9000, "data.train=" + "x" * MOST_CHARACTERS]
    for override in wrong:
        with pytest.raises(ConfigError) as caught:
            load_config(small, [override])
        assert len(str(caught.value)) < 1000
    small.write_text(SMALL + "".join(f"key{number}: 1\n" for number in range(2000)))
    with pytest.raises(ConfigError) as caught:
        load_config(small)
    assert len(str(caught.value).splitlines()) < 30


SECTIONS = ["", "data.", "data.augment.", "data.demo.", "head.", "head.loss.", "optimizer."]
SECTIONS += ["schedule.", "train.", "verification.", "checkpoint.", "log.", "backbone."]
NAMES = ["name", "m", "k", "train", "output", "seed", "lr", "betas", "sets", "folder", "workers"]
NAMES += ["sampling", "sample_rate", "epochs", "steps", "milestone_steps", "jpeg_quality", "base"]
PARTS = [
    "[",
    "]",
    "{",
    "}",
    ": ",
    ", ",
    "a",
    "1",
    "1.5",
    "-",
    "true",
    "null",
    ".inf",
    "'",
    "*",
    "&",
]
SETTINGS = st.tuples(
    st.sampled_from(SECTIONS), st.sampled_from(NAMES), st.lists(st.sampled_from(PARTS))
)


@settings(max_examples=50)
@given(st.lists(SETTINGS, max_size=4))
def test_whatever_is_set_is_a_config_or_a_config_error(
    chosen: list[tuple[str, str, list[str]]],
) -> None:
    overrides = [f"{section}{name}={''.join(parts)}" for section, name, parts in chosen]
    with contextlib.suppress(ConfigError):
        load_config(Path(__file__).parents[2] / "configs" / "demo.yaml", overrides)
