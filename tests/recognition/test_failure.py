"""Messages about what went wrong."""

import errno
from pathlib import Path

import pytest

from recognition.failure import describe_os_error


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, "disk full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "no permission"),
        (errno.EPERM, "no permission"),
        (errno.ENAMETOOLONG, "File name too long"),
    ],
)
def test_a_failed_write_says_what_where_and_how_much_is_free(
    tmp_path: Path, number: int, expected: str
) -> None:
    path = tmp_path / "folder that is missing" / "metrics.jsonl"
    message = describe_os_error(path, OSError(number, "File name too long"))
    assert message.startswith(f"{path}: {expected}")
    assert "iB free" in message
    assert "\n" not in message


def test_an_error_without_a_number_is_shown_as_it_is(tmp_path: Path) -> None:
    assert "unexpected pos" in describe_os_error(tmp_path, OSError("unexpected pos 704 vs 598"))
