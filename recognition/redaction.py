"""Removes from texts what must not be shown or kept: secrets, and sequences that terminals obey.

A URL may carry them: `https://user:password@host/x.rec?X-Amz-Signature=…`. The URL itself stays in
memory, for the client alone; every copy of it is made with `redact`. Names of files and messages of
servers may hold control characters: what goes to a terminal or a log is made with `printable`.
"""

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote_plus

# Stands where a secret was. No URL that can be read contains it.
MARK: Final = "***"

# Control characters but for tab and line end; line ends and directions of Unicode; lone surrogates,
# as which Python keeps bytes of file names that are no text, and which no stream takes.
_UNPRINTABLE: Final = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_SPACE: Final = re.compile(r"\s")
_WORD: Final = re.compile(r"\S+")
_SCHEME: Final = re.compile(r"\w{1,8}:/+")  # its end tells enough
_END_OF_PATH: Final = re.compile(r"[?#]|\w:/")
# fsspec joins the URLs of a chain with `::`.
_AUTHORITY: Final = re.compile(r"(?:(?!::[a-z0-9]+:/)[^/?#])*")
_HOST_AND_PORT: Final = re.compile(r"(?:\[[0-9A-Fa-f:.%]*\]|[^:]*)(?::\d+)?")
# What precedes the @ is a container here, not a user.
_AZURE: Final = re.compile(r"(?:abfss?|wasbs?|adl|az):/+", re.IGNORECASE)
_ENDS_OF_WORDS: Final = "'\")]}>.,:;`"


def redact(text: str) -> str:
    """Return `text` without the secrets in its URLs, of any scheme and wherever they stand.

    User, password, query and fragment become `***`; scheme, host and path stay.
    """
    return _WORD.sub(lambda word: _redact_word(word[0]), text) if ":/" in text else text


def printable(text: str) -> str:
    r"""Return `text` with escapes, such as `\x1b`, for characters that would do more than show."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def redact_as_quoted(text: str, url: str) -> str:
    """Return `text` as `redact` does, and without the secrets of `url` in any other form.

    Clients state them without the URL, or decoded.
    """
    address, _, query = url.partition("?")
    user = address.partition(":/")[2].lstrip("/").rpartition("@")[0]
    secrets = {user, *user.split(":"), query}
    secrets |= {option.partition("=")[2] or option for option in re.split("[&;#]", query)}
    secrets |= {unquote_plus(secret) for secret in secrets}
    for secret in sorted(secrets - {""}, key=len, reverse=True):
        text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(secret)}(?![A-Za-z0-9])", MARK, text)
    return redact(text)


def check_urls(locations: Iterable[object]) -> None:
    """Raise `ValueError` for a URL without its secret, and for one with white space in it.

    The messages do not have the URL, as it is not known where its secret ends.
    """
    for url in [str(location) for location in locations if "://" in str(location)]:
        if MARK in url:
            raise ValueError(
                f"found a URL with {MARK} in place of its secret, which a run's copy of the config "
                "does not have: expected the whole URL; state the value again, as in "
                "--set 'data.train=https://host/train.rec?token=…'"
            )
        if _SPACE.sub("_", redact(url)) != redact(_SPACE.sub("_", url)):
            raise ValueError(
                "found a URL with white space in its user, password or query: expected %20 there"
            )


def _redact_word(word: str) -> str:
    done, at = [], 0
    last_user_end = word.rfind("@")
    while (scheme := _SCHEME.search(word, at)) is not None:
        done.append(word[at : scheme.end()])
        at = scheme.end()
        found = _AUTHORITY.match(word, at)
        assert found is not None, "the pattern matches an empty text"
        user, sign, host = found[0].rpartition("@")
        # Of a password with an unescaped slash or question mark, this is a part, as are slashes
        # and a colon before an @.
        end = _END_OF_PATH.search(word, found.end())
        path_end = len(word) if end is None else end.start()
        in_path = word.rfind("@", found.end(), path_end)
        if not sign and last_user_end > at and not _HOST_AND_PORT.fullmatch(found[0]):
            done.append(f"{MARK}@")
            at = last_user_end + 1
        elif word.find(":", found.end(), max(in_path, 0)) >= 0:
            done.append(f"{MARK}@")
            at = in_path + 1
        else:
            is_secret = sign and (":" in user or not _AZURE.fullmatch(scheme[0]))
            done.append(f"{MARK}@{host}" if is_secret else found[0])
            at = found.end()
        end = _END_OF_PATH.search(word, at)
        if end is not None and end[0] in "?#":
            rest = word[end.end() :]
            return "".join(
                [*done, word[at : end.end()], MARK, rest[len(rest.rstrip(_ENDS_OF_WORDS)) :]]
            )
    return "".join([*done, word[at:]])
