import subprocess
import sys

import pytest

from recognition.redaction import check_urls, printable, redact, redact_as_quoted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://u:p@host:80/x.rec?token=s", "https://***@host:80/x.rec?***"),
        ("https://s@host/x.rec", "https://***@host/x.rec"),
        ("s3://key:s@bucket/x.rec", "s3://***@bucket/x.rec"),
        ("hf://datasets/a/b@main/x.rec", "hf://datasets/a/b@main/x.rec"),
        ("https://host/x.rec#s", "https://host/x.rec#***"),
        ("https://host/x.rec?s", "https://host/x.rec?***"),
        # As a path, a URL loses a slash.
        ("https:/u:p@host/x.rec", "https:/***@host/x.rec"),
        # Not escaped as a URL should be.
        ("https://u:p@s@host/x", "https://***@host/x"),
        ("https://u:p/s@host/x", "https://***@host/x"),
        ("https://u:p?s@host/x?s", "https://***@host/x?***"),
        ("https://u:p:/s@host/x", "https://***@host/x"),
        ("https://u:/s@host/x", "https://***@host/x"),
        ("https://u::s@host/x", "https://***@host/x"),
        ("https://u/s:p@host/x", "https://***@host/x"),
        # Several in one word.
        ("zip://x.rec::https://u:p@h/x.zip?s", "zip://x.rec::https://***@h/x.zip?***"),
        ("[https://u:p@a/x,https://v:q@b/y]", "[https://***@a/x,https://***@b/y]"),
        ("https://a/x?next=https://u:p@b/y", "https://a/x?***"),
        # In the text of a message.
        ("(https://host/x?s): 3 bytes", "(https://host/x?***): 3 bytes"),
        ("URL('https://host/x?s'), 'b'", "URL('https://host/x?***'), 'b'"),
        ("a https://u:p@host/x\nb gs://h/y?s, c", "a https://***@host/x\nb gs://h/y?***, c"),
        # Nothing to hide: a container, a port with an @ in the path, an access point.
        ("abfs://faces@account.net/x", "abfs://faces@account.net/x"),
        ("http://127.0.0.1:80/a@b/x.rec", "http://127.0.0.1:80/a@b/x.rec"),
        ("http://[::1]:80/a@b/x.rec", "http://[::1]:80/a@b/x.rec"),
        ("s3://arn:aws:s3:eu:1:accesspoint/x", "s3://arn:aws:s3:eu:1:accesspoint/x"),
        ("abfs://faces:key@account.net/x", "abfs://***@account.net/x"),
        ("/data/a@b/x.rec: is it right? yes@no", "/data/a@b/x.rec: is it right? yes@no"),
    ],
)
def test_secrets_are_removed_and_the_rest_stays(text: str, expected: str) -> None:
    assert redact(text) == expected
    assert redact(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "403, user='u', password='p w', url='/x?sig=a%2Fb&t=z'",
        "key a/b of u:p%20w@host",
        "https://host/x?sig=a/b",
    ],
)
def test_a_client_may_quote_a_part_of_a_url_or_decode_it(text: str) -> None:
    found = redact_as_quoted(text, "https://u:p%20w@host/x?sig=a%2Fb&t=z")
    for secret in ("'u'", "u:p", "p w", "p%20w", "a%2Fb", "a/b", "=z"):
        assert secret not in found
    assert redact_as_quoted("2 attempts", "https://host/x?n=2") == "*** attempts"
    assert redact_as_quoted("12 attempts of https://host/x", "https://host/x?n=2") == (
        "12 attempts of https://host/x"
    )


@pytest.mark.parametrize(
    "url",
    [
        redact("https://u:p@host/x.rec"),
        redact("https://host/x.rec?s"),
        "https://u:p s@host/x.rec",
        "https://host/x.rec?s=a b",
        "https://host/a b.rec?s",
    ],
)
def test_a_url_whose_secret_is_missing_or_cannot_be_recognised_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL") as caught:
        check_urls(["a", url])
    assert url not in str(caught.value)
    check_urls(["https://u:p@host/x.rec?s", "s3://bucket/my faces", "/local/***"])


@pytest.mark.parametrize("text", ["a" * 10**6, "a:/" * 10**5, "x:/y:z" * 10**5, "a:/@" * 10**5])
def test_long_texts_take_time_in_proportion(text: str) -> None:
    assert len(redact(text)) <= 3 * len(text)


def test_it_needs_no_torch() -> None:
    code = "import data.records.locations, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_what_a_terminal_would_obey_is_shown_as_escapes() -> None:
    assert printable("a\x1b[31m\x9b\r\0\udcff\u202e\u2028") == (
        r"a\x1b[31m\x9b\r\x00\udcff\u202e\u2028"
    )
    plain = "two lines\n\tZoë 日本 \u3000 ≤ 😀"
    assert printable(plain) == plain
