from pathlib import Path

import pytest

from recognition.config_file import ConfigError, dump_config, load_config
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


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("head.sampel_rate=0.2", r"head\.sampel_rate: no such setting; did you mean sample_rate\?"),
        ("zzz=1", r"zzz: no such setting; expected one of output, seed"),
        ("data.demo.identites=5", r"did you mean identities\?"),
        ("optimizer.lr=fast", r"optimizer\.lr: .*found 'fast'"),
        ("optimizer.lr=0", r"optimizer\.lr: .*greater than 0 \(found 0\)"),
        ("train.epochs=null", r"exactly one of epochs and steps"),
        ("train.steps=5", r"exactly one of epochs and steps"),
        ("head.sample_rate=0.1", r"sample_rate is 0\.1 but sampling is all"),
        ("head.sampling=random_negative", r"needs a sample_rate"),
        ("head.sampling=hardest", r"'all', 'random_negative', 'random_all'"),
        ("head.loss={name: arcfase}", r"head\.loss: .*'arcfase'.*'adaface', 'arcface'"),
        ("head.loss={name: cosface, m2: 0.3}", r"head\.loss: .*'cosface'.*'m2'.*0\.3.*\['m'\]"),
        ("head.loss={name: cosface, m: 0.4, detached: true}", r"'cosface'.*'detached'"),
        ("head.loss={name: adaface, m: 0.4, k: 3}", r"'adaface'.*'k'.*3.*\['m', 'h', 'alpha'\]"),
        ("head.loss={name: arcface, m: true}", r"option m: True"),
        ("head.loss={name: arcface, m: wide}", r"option m: 'wide'"),
        ("head.loss={name: arcface, m: -0.1}", r"option m: -0\.1"),
        ("head.loss={name: subcenter_arcface, k: 2.5}", r"option k: 2\.5"),
        ("head.rebuild_every=5", r"rebuild_every is 5 but sampling is all"),
        ("head.hard_share=0.5", r"hard_share is 0\.5 but sampling is all"),
        ("head={sampling: hash_forest, sample_rate: 0.1, placement: replicated}", r"copies would"),
        ("optimizer={name: adamw, nesterov: true}", r"nesterov is a form of sgd"),
        ("head.momentum=bf16;optimizer.name=adamw", r"bf16, which belongs to sgd"),
        ("train.accumulation=65", r"accumulation 65 exceeds global_batch_size 64"),
        ("schedule.name=step", r"needs milestone_steps or milestone_epochs"),
        ("schedule={name: step, milestone_steps: [9, 5]}", r"milestones must rise"),
        ("schedule={warmup_steps: 1, warmup_epochs: 1}", r"state only one"),
        ("data.augment.blurr=0.1", r"data\.augment\.blurr: no such setting; did you mean blur"),
        ("data.augment.jpeg=1.1", r"data\.augment\.jpeg: .*equal to 1 \(found 1\.1\)"),
        ("data.augment.hue=0.6", r"data\.augment\.hue: .*equal to 0\.5 \(found 0\.6\)"),
        ("data.augment.blur_sigma=[0, 1]", r"data\.augment\.blur_sigma.*greater than 0"),
        ("data.augment.blur_sigma=[2, 1]", r"blur_sigma is \[2\.0, 1\.0\]: state the least first"),
        ("data.augment.low_resolution_side=0.5", r"data\.augment\.low_resolution_side"),
        ("data.augment.jpeg_quality=[50, 101]", r"jpeg_quality.*equal to 100 \(found 101\)"),
        ("data.augment.jpeg_quality=[1.5, 50]", r"jpeg_quality.*found 1\.5"),
        ("data.order=random", r"'global', 'blocks' or 'none'"),
        ("data.mixing_blocks=0", r"data\.mixing_blocks: .*\(found 0\)"),
        (
            "data={train: x, order: none, sampler: class_balanced}",
            r"order is none but sampler is c",
        ),
        (
            "data={train: x, sampler: p_k, images_per_identity: 4}",
            r"p_k needs identities_per_batch",
        ),
        ("data.images_per_identity=4", r"images_per_identity is 4 but sampler is uniform"),
        (
            f"data={P_K}",
            r"batch_size is 64, no multiple of .* 12 x data\.images_per_identity 4 = 48",
        ),
        ("data.train=null", r"data\.train: expected a path, a URL, or a list of .*found None"),
        ("data.train=[]", r"data\.train: .* one or more of these \(found \[\]\)"),
        ("data.train=[a, [b]]", r"data\.train: .* one or more of these \(found \['a', \['b'\]\]\)"),
        ("data.train=''", r"data\.train: .* one or more of these \(found ''\)"),
        ("data.merge=name", r"data\.merge: .*'offset' or 'by_name' \(found 'name'\)"),
        ("data={train: [a, b], demo: {}}", r"demo is made in one folder .* train is \[.*set train"),
        ("data={train: 's3://bucket/a', demo: {}}", r"demo is made in one folder .* s3://bucket/a"),
        (
            "data.on_bad_record=ignore",
            r"data\.on_bad_record: .*'stop' or 'skip' \(found 'ignore'\)",
        ),
        ("data.max_bad_share=0", r"data\.max_bad_share: .*greater than 0 \(found 0\)"),
        ("seed", r"--set seed: expected key=value"),
        ("seed=[1", r"not valid YAML"),
    ],
)
def test_a_wrong_setting_is_named_with_its_mend(small: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(small, override.split(";"))


def test_all_errors_are_told_at_once(small: Path) -> None:
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


def test_what_a_loss_leaves_out_has_the_defaults_of_its_function(small: Path) -> None:
    assert load_config(small).head.loss.build() == cosface()
    # Written by a version that stated all options of all losses.
    old = "head.loss={name: arcface, m: 0.5, detached: null, k: null}"
    assert load_config(small, [old]).head.loss.build() == arcface(0.5)


def test_bases_in_a_circle_and_twice_given_keys_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(ConfigError, match="in a circle"):
        load_config(tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text(SMALL + "seed: 1\nseed: 2\n")
    with pytest.raises(ConfigError, match="'seed' is given twice"):
        load_config(tmp_path / "c.yaml")


def test_a_missing_file_names_those_that_exist(small: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such config; .* holds small\.yaml"):
        load_config(small.with_name("smal.yaml"))


@pytest.mark.parametrize(
    ("value", "train"),
    [
        ("x/train-*.rec", Path("x/train-*.rec")),
        ("s3://bucket/faces", "s3://bucket/faces"),
        ("[a.rec, s3://bucket/faces]", [Path("a.rec"), "s3://bucket/faces"]),
    ],
)
def test_training_data_is_a_path_a_url_or_a_list_of_them(
    small: Path, value: str, train: object, tmp_path: Path
) -> None:
    config = load_config(small, [f"data.train={value}"])
    assert config.data.train == train
    (tmp_path / "copy.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "copy.yaml") == config


def test_the_resolved_config_loads_to_itself(small: Path, tmp_path: Path) -> None:
    config = load_config(small, ["head.sampling=random_negative", "head.sample_rate=0.1"])
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_config(config))
    assert load_config(copy) == config
