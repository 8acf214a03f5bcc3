"""Passwords, tokens and signatures in URLs: they give access, and are written down nowhere."""

import logging
import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from data.datasets.dataset import DatasetError, open_dataset
from data.records.reader import RecordFile
from data.records.remote import ranges as remote
from data.records.remote.ranges import RemoteError, RemoteMissing, RemoteRefused
from data.records.remote.reader import RemoteRecordFile
from tests.data.records.remote.web import Web, serving
from tests.launch import train, train_well

LABELS = [key % 7 for key in range(400)]


@pytest.fixture
def web(local: RecordFile, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.01))
    with serving(Path(local.path).parent) as web:
        yield web


def check_has_no_secret(*folders: Path) -> None:
    """Fail for a secret in the names and contents of the files in `folders`."""
    files = [path for folder in folders for path in folder.rglob("*")]
    assert files
    for path in files:
        assert "hush" not in str(path)
        if path.is_file():
            assert b"hush" not in path.read_bytes(), path


def test_a_url_signed_for_one_object_is_read_without_the_index_and_cached(
    web: Web, cache: Path
) -> None:
    dataset = open_dataset(web.signed)
    assert dataset.labels.tolist() == LABELS
    assert web.take_requests().count("GET train.idx 403") == 1
    web.signature = "hush-signature-2"  # as another day's
    assert open_dataset(web.signed).labels.tolist() == LABELS
    assert web.take_requests().count("GET train.rec 206") == 1  # the start
    assert len(list(cache.iterdir())) == 3  # folder, index and table
    check_has_no_secret(cache)


@pytest.mark.parametrize("rule", ["token", "password"])
def test_a_url_with_a_token_or_a_password_gives_access_to_the_index_too(
    rule: str, web: Web, cache: Path
) -> None:
    web.rule = rule
    dataset = open_dataset(web.with_token if rule == "token" else web.with_password)
    assert dataset.labels.tolist() == LABELS
    assert len(dataset.encoded(7))
    assert "hush" not in dataset.describe(7)
    assert "GET train.idx 206" in web.take_requests()
    check_has_no_secret(cache)
    again = pickle.loads(pickle.dumps(dataset))  # as a worker process has it
    assert bytes(again.encoded(7)) == bytes(dataset.encoded(7))


def test_a_file_that_changed_is_not_taken_from_the_cache(web: Web, local: RecordFile) -> None:
    assert open_dataset(web.signed).labels.tolist() == LABELS
    path = Path(local.path)
    path.write_bytes(path.read_bytes()[: local.scan()[300]])
    assert open_dataset(web.signed).labels.tolist() == LABELS[:300]


def test_urls_that_differ_in_their_query_alone_are_two_files(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.rule = "token"
    one, two = (f"{web.with_token}&part={part}" for part in "12")
    dataset = open_dataset([one, two])
    assert dataset.labels.tolist() == [*LABELS, *(label + 7 for label in LABELS)]
    assert dataset.class_mapping is not None
    assert len(dataset.class_mapping) == 2
    assert "hush" not in str(dataset.class_mapping)
    with pytest.raises(DatasetError) as caught:
        open_dataset([one, one])
    assert "hush" not in str(caught.value)


def everything_shown(error: BaseException) -> str:
    """Return an error's message and traceback, those of its causes included."""
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("http://hush-user:hush%3Aword@127.0.0.1:{port}/faces/train.rec", RemoteRefused),
        ("http://127.0.0.1:{port}/faces/train.rec?X-Amz-Signature=hush-old", RemoteRefused),
        ("http://127.0.0.1:1/train.rec?sig=hush", RemoteError),
        ("http://hush-user:hush%3Aword@127.0.0.1:1/train.rec", RemoteError),
        ("http://hush-user:hush-port@127.0.0.1:notaport/train.rec", RemoteError),
        ("s4://hush-user:hush@bucket/train.rec?hush", RemoteError),
        ("memory://hush-user:hush-word@bucket/train.rec", RemoteMissing),
        ("file:///absent/train.rec?hush=hush", RemoteMissing),
        ("https://hush-user:hush@host/train-*.rec?token=hush", DatasetError),
    ],
)
def test_no_failure_shows_a_secret(url: str, kind: type[Exception], web: Web) -> None:
    with pytest.raises(ValueError, match=r"/.*train") as caught:
        open_dataset(url.format(port=web.port))
    assert type(caught.value) is kind
    assert "hush" not in everything_shown(caught.value)


def test_an_absent_file_and_an_expired_signature_are_told_apart(web: Web) -> None:
    web.rule = "token"
    with pytest.raises(RemoteMissing):
        open_dataset(web.with_token.replace("/faces/", "/faces/absent.rec"))
    file = RemoteRecordFile(web.with_token.replace("/faces/", "/faces/train.rec"))
    web.rule = "signature"
    with pytest.raises(RemoteRefused) as caught:
        file.read(0)
    assert "hush" not in everything_shown(caught.value)


def test_a_web_server_that_answers_later_is_asked_again(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.rule = "token"
    answers = iter([False, False])  # to HEAD and GET
    allows = web.allows
    monkeypatch.setattr(web, "allows", lambda *request: next(answers, True) and allows(*request))
    monkeypatch.setattr(remote, "_REFUSALS", (401,))  # the 403 stands for a server in trouble
    assert open_dataset(web.with_token).labels.tolist() == LABELS


@pytest.mark.slow
def test_a_run_from_a_signed_url_keeps_no_secret(
    tiny_data: Path, tiny_config: Path, tmp_path: Path, cache: Path
) -> None:
    run = tmp_path / "run"
    short = ["train.steps=6", f"verification.folder={tiny_data}", "checkpoint.every_steps=3"]
    options = [part for setting in short for part in ("--set", setting)]
    with serving(tiny_data) as web:
        command = ["--config", str(tiny_config), *options, "--set", f"data.train={web.signed}"]
        shown = [train([*command, "--dry-run"])[0], train(command)[0]]
        copy = ["--config", str(run / "config.yaml"), "--resume", "auto"]
        (refused,) = train(copy)
        web.signature = "hush-signature-2"
        train_well([*copy, "--set", f"data.train={web.signed}", "--set", "train.steps=8"])
    assert [ended.code for ended in shown] == [0, 0]
    assert refused.code != 0
    assert "data.train: " in refused.output
    for ended in (*shown, refused):
        assert "hush" not in ended.output
    stated = yaml.safe_load((run / "config.yaml").read_text())["data"]["train"]
    assert stated == web.signed.partition("?")[0] + "?***"
    check_has_no_secret(run, cache)


def test_no_library_logs_a_secret(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        open_dataset(web.signed)
    assert "hush" not in caplog.text
