from pathlib import Path

import pytest

from recognition.config_file import ConfigError, config_values, dump_config, load_config
from recognition.head import arcface, build_loss, cosface

SMALL = """
output: runs/x
data: {train: datasets/x}
train: {global_batch_size: 64, epochs: 2}
"""

P_K = "{train: x, sampler: p_k, identities_per_batch: 12, images_per_identity: 4}"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


# What is wrong, then the key that the message must name and the values that it must show.
WRONG = [
    ("head.sampel_rate=0.2", "head.sampel_rate", ["sample_rate?"]),
    ("zzz=1", "zzz", ["output, seed"]),
    ("data.demo.identites=5", "data.demo.identites", ["identities?"]),
    ("optimizer.lr=fast", "optimizer.lr", ["'fast'"]),
    ("optimizer.lr=0", "optimizer.lr", ["greater than 0", "found 0"]),
    ("train.epochs=null", "train", ["epochs is None", "steps is None"]),
    ("train.steps=5", "train", ["epochs is 2.0", "steps is 5"]),
    ("head.sample_rate=0.1", "head", ["sample_rate is 0.1", "sampling is all", "hash_forest"]),
    ("head.sampling=random_negative", "head", ["random_negative", "sample_rate"]),
    ("head.sampling=hardest", "head.sampling", ["'hardest'", "random_negative"]),
    ("head.loss={name: arcfase}", "head.loss", ["'arcfase'", "'adaface', 'arcface'"]),
    ("head.loss={name: cosface, m2: 0.3}", "head.loss", ["'cosface'", "'m2'", "0.3", "['m']"]),
    ("head.loss={name: cosface, detached: true}", "head.loss", ["'cosface'", "'detached'"]),
    ("head.loss={name: adaface, k: 3}", "head.loss", ["'k'", "3", "['m', 'h', 'alpha']"]),
    ("head.loss={name: arcface, m: true}", "head.loss", ["option m", "True", "float"]),
    ("head.loss={name: arcface, m: wide}", "head.loss", ["option m", "'wide'", "float"]),
    ("head.loss={name: arcface, m: -0.1}", "head.loss", ["option m", "-0.1"]),
    ("head.loss={name: subcenter_arcface, k: 2.5}", "head.loss", ["option k", "2.5", "int"]),
    ("head.rebuild_every=5", "head", ["rebuild_every is 5", "sampling is all"]),
    ("head.hard_share=0.5", "head", ["hard_share is 0.5", "sampling is all"]),
    (
        "head={sampling: hash_forest, sample_rate: 0.1, placement: replicated}",
        "head",
        ["'hash_forest'", "replicated"],
    ),
    ("optimizer={name: adamw, nesterov: true}", "optimizer", ["nesterov", "adamw", "0.9"]),
    ("head.momentum=bf16;optimizer.name=adamw", "config", ["head.momentum", "bf16", "adamw"]),
    ("head.storage=int4", "head.storage", ["int4", "int8"]),
    ("checkpoint.best=ema/lfw/accuracy", "config", ["checkpoint.best is ema/lfw", "train.ema"]),
    ("init_weights=ema", "config", ["init_weights is ema", "init_from"]),
    ("train.ema=1", "train.ema", ["less than 1", "1"]),
    ("train.ema=0", "train.ema", ["greater than 0", "0"]),
    ("train.accumulation=65", "train", ["accumulation 65", "global_batch_size 64"]),
    ("schedule.name=step", "schedule", ["name is step", "None", "milestone_steps"]),
    ("schedule={name: step, milestone_steps: [9, 5]}", "schedule", ["[9, 5]"]),
    ("schedule={warmup_steps: 1, warmup_epochs: 2}", "schedule", ["warmup_steps is 1", "2.0"]),
    ("verification={every_steps: 3, every_epochs: 2}", "verification", ["every_steps is 3", "2.0"]),
    ("checkpoint={every_steps: 3, every_epochs: 2}", "checkpoint", ["every_steps is 3", "2.0"]),
    ("data.augment.blurr=0.1", "data.augment.blurr", ["blur"]),
    ("data.augment.jpeg=1.1", "data.augment.jpeg", ["equal to 1", "1.1"]),
    ("data.augment.hue=0.6", "data.augment.hue", ["0.5", "0.6"]),
    ("data.augment.blur_sigma=[0, 1]", "data.augment.blur_sigma.0", ["greater than 0"]),
    ("data.augment.blur_sigma=[2, 1]", "data.augment", ["blur_sigma is [2.0, 1.0]"]),
    ("data.augment.low_resolution_side=0.5", "data.augment.low_resolution_side", ["0.5"]),
    ("data.augment.jpeg_quality=[50, 101]", "data.augment.jpeg_quality.1", ["100", "101"]),
    ("data.augment.jpeg_quality=[1.5, 50]", "data.augment.jpeg_quality.0", ["1.5"]),
    ("data.order=random", "data.order", ["'global', 'blocks' or 'none'"]),
    ("data.mixing_blocks=0", "data.mixing_blocks", ["found 0"]),
    (
        "data={train: x, order: none, sampler: class_balanced}",
        "data",
        ["order is none", "sampler is class_balanced"],
    ),
    (
        "data={train: x, sampler: p_k, images_per_identity: 4}",
        "data",
        ["identities_per_batch is None", "p_k"],
    ),
    ("data.images_per_identity=4", "data", ["images_per_identity is 4", "sampler is uniform"]),
    (f"data={P_K}", "config", ["batch_size is 64", "12 x data.images_per_identity 4 = 48"]),
    ("head={sampling: random_all, sample_rate: [0.1, 1.5]}", "head.sample_rate", ["1"]),
    ("head={sampling: random_all, sample_rate: [0.1, 1]}", "head", ["[0.1, 1", "[]"]),
    (
        "head={sampling: random_all, sample_rate: [0.1, 0.5, 1], sample_rate_steps: [9, 9]}",
        "head",
        ["[9, 9]"],
    ),
    (
        "head={sampling: random_all, sample_rate: 0.1, sample_rate_epochs: [3]}",
        "head",
        ["0.1", "[3"],
    ),
    (
        "head={sampling: all, sample_rate_epochs: [3], sample_rate_steps: [4]}",
        "head",
        ["sample_rate_steps", "sample_rate_epochs"],
    ),
    ("data.train=null", "data", ["train is None", "synthetic is None"]),
    ("data.synthetic={}", "data", ["train is datasets/x", "identities=10000000"]),
    ("data.train=null;data.synthetic={identities: 9, images: 8}", "data.synthetic", ["8", "9"]),
    ("data.train=[]", "data.train", ["found []"]),
    ("data.train=[a, [b]]", "data.train", ["found ['a', ['b']]"]),
    ("data.train=''", "data.train", ["found ''"]),
    ("data.merge=name", "data.merge", ["'by_name' or 'separate'", "'name'"]),
    ("data={train: [a, b], loss_weights: [1, 2]}", "data", ["[1.0, 2.0]", "merge is offset"]),
    (
        "data={train: [a, b], merge: separate, loss_weights: [2]}",
        "data",
        ["loss_weights is [2.0]", "2 dataset(s)"],
    ),
    (
        "data={train: [a, b], merge: separate, loss_weights: [1, 0]}",
        "data.loss_weights.1",
        ["greater than 0"],
    ),
    ("data={train: [a, b], demo: {}}", "data", ["train is [", "demo: null"]),
    ("data={train: 's3://bucket/a', demo: {}}", "data", ["train is s3://bucket/a", "demo: null"]),
    ("data.on_bad_record=ignore", "data.on_bad_record", ["'stop' or 'skip'", "'ignore'"]),
    ("data.max_bad_share=0", "data.max_bad_share", ["greater than 0", "found 0"]),
    ("backbone.name=r51", "backbone", ["'r51'", "'r50'"]),
    ("data.demo={identities: 20, images: 10}", "data.demo", ["images is 10", "identities is 20"]),
    ("data.demo.seed=-1", "data.demo.seed", ["equal to 0", "-1"]),
    ("output=''", "output", ["''"]),
    ("output=s3://bucket/run", "output", ["URL"]),
    ("output=" + "x" * 256, "output", ["255", "xxxxx"]),
    ("data.train=[a, " + "x/" * 2048 + "x]", "data.train", ["4,095"]),
    ("verification.folder=5", "verification.folder", ["5"]),
    ("log.every_steps=2147483648", "log.every_steps", ["2147483648"]),
    ("train.epochs=1.0e+300", "train.epochs", ["1000000", "1e+300"]),
    ("train.timeout_seconds=1.0e+300", "train.timeout_seconds", ["10000000", "1e+300"]),
    (
        f"data={P_K};data.num_classes=5",
        "data",
        ["identities_per_batch is 12", "num_classes is 5"],
    ),
    ("seed", "--set seed", ["key=value"]),
    ("seed=[1", "--set seed", ["YAML"]),
]


@pytest.mark.parametrize(("override", "key", "values"), WRONG)
def test_a_wrong_setting_is_named_with_what_was_found_and_expected(
    small: Path, override: str, key: str, values: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(small, override.split(";"))
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert any(line.startswith(f"{key}: ") for line in lines), lines
    for value in values:
        assert value in str(caught.value)


def test_all_errors_are_reported_at_once(small: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(small, ["head.sampel_rate=1", "optimizer.momentum=2"])
    assert "sampel_rate" in str(caught.value)
    assert "momentum" in str(caught.value)


def test_files_inherit_and_overrides_win(small: Path, tmp_path: Path) -> None:
    child = tmp_path / "sub" / "child.yaml"
    child.parent.mkdir()
    child.write_text("base: ../small.yaml\ntrain: {epochs: 3}\noptimizer: {lr: 5e-2}\n")
    config = load_config(child, ["optimizer.momentum=0.8"])
    assert config.train.global_batch_size == 64
    assert config.train.epochs == 3
    assert config.optimizer.lr == 0.05
    assert config.optimizer.momentum == 0.8


def test_a_loss_is_replaced_whole_and_never_mixed(small: Path) -> None:
    config = load_config(small, ["head.loss={name: arcface, m: 0.3}"])
    assert config.head.loss.build() == arcface(0.3)
    combined = load_config(small, ["head.loss={name: combined, m1: 1, m2: 0.3, m3: 0.2}"])
    assert combined.head.loss.build() == build_loss("combined", m1=1.0, m2=0.3, m3=0.2)


def test_an_option_left_out_has_the_default_of_the_loss_function(small: Path) -> None:
    assert load_config(small).head.loss.build() == cosface()
    # An earlier version wrote down all options of all losses.
    old = "head.loss={name: arcface, m: 0.5, detached: null, k: null}"
    assert load_config(small, [old]).head.loss.build() == arcface(0.5)


def test_circular_bases_and_duplicate_keys_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(ConfigError, match=r"a\.yaml -> .*b\.yaml -> .*a\.yaml"):
        load_config(tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text(SMALL + "seed: 1\nseed: 2\n")
    with pytest.raises(ConfigError, match="'seed'"):
        load_config(tmp_path / "c.yaml")


def test_for_a_missing_file_the_existing_ones_are_listed(small: Path) -> None:
    with pytest.raises(ConfigError, match=r"smal\.yaml: .*small\.yaml"):
        load_config(small.with_name("smal.yaml"))


@pytest.mark.parametrize(
    ("value", "train"),
    [
        ("x/train-*.rec", Path("x/train-*.rec")),
        ("s3://bucket/faces", "s3://bucket/faces"),
        ("[a.rec, s3://bucket/faces]", [Path("a.rec"), "s3://bucket/faces"]),
    ],
)
def test_training_data_is_a_path_a_url_or_a_list_of_these(
    small: Path, value: str, train: object, tmp_path: Path
) -> None:
    config = load_config(small, [f"data.train={value}"])
    assert config.data.train == train
    (tmp_path / "copy.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "copy.yaml") == config


def test_the_dumped_config_loads_to_the_same(small: Path, tmp_path: Path) -> None:
    config = load_config(small, ["head.sampling=random_negative", "head.sample_rate=0.1"])
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_config(config))
    assert load_config(copy) == config


SECRET_URL = "https://me:pw-hush@host/train.rec?sig=hush"


def test_a_written_config_has_no_secret_and_asks_for_it(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    text = "{output: run, data: {train: [%s, /b]}, train: {global_batch_size: 8, steps: 1}}"
    path.write_text(text % f"'{SECRET_URL}'")
    config = load_config(path)
    assert "hush" not in dump_config(load_config(path, [f"verification.sets=['{SECRET_URL}']"]))
    assert config.data.train == [SECRET_URL, Path("/b")]
    path.write_text(dump_config(config))
    assert "hush" not in path.read_text()
    assert config_values(config)["data"]["train"] == ["https://***@host/train.rec?***", "/b"]
    with pytest.raises(ConfigError, match=r"data\.train: .*--set"):
        load_config(path)
    assert load_config(path, [f"data.train=['{SECRET_URL}', /b]"]) == config


@pytest.mark.parametrize(
    "override",
    [
        "data.train={a: 'https://me:hush@host/x?sig=hush'}",
        "data.train='https://me:hush one@host/x'",
        "data.train=['https://host/x?sig=hush one']",
        "data.tarin=https://me:hush@host/x?sig=hush",
        "data.train=[https://me:hush@host/x?sig=hush",
        "train.steps=https://me:hush@host/x?sig=hush",
        "data.list_root=https://me:hush@host/x?sig=hush",
        "data.train=[" + "x" * 50 + "https://me:hush@" + "x" * 90,
        'data.train="https://me:hush\\e one@host/x"',
        "https://me:hush@host/x?sig=hush: 1",
    ],
)
def test_a_refused_config_shows_no_secret(override: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("{output: run, data: {train: a}, train: {global_batch_size: 8, steps: 1}}")
    with pytest.raises(ConfigError) as caught:
        load_config(path, [override])
    assert "hush" not in str(caught.value)
