"""The soak test: it sees what grows, and a short one passes."""

import pytest

from tests.chaos.soak import Sample, main, problems


def samples(rss: float = 0, descriptors: int = 0, threads: int = 0) -> list[Sample]:
    """Return samples of 1,000 steps in which the three grow by so much in each 100 steps."""
    noise = (0, 9, -9, 5)
    return [
        Sample(100 * n, 500 + noise[n % 4] + rss * n, 20 + n % 3 + descriptors * n, 9 + threads * n)
        for n in range(1, 13)
    ]


def test_what_grows_is_named() -> None:
    assert problems(samples(), 0, 20) == []
    (line,) = problems(samples(rss=5), 0, 20)
    assert "resident set" in line
    (line,) = problems(samples(descriptors=1), 0, 20)
    assert "descriptors" in line
    (line,) = problems(samples(threads=1), 0, 20)
    assert "threads" in line
    assert problems(samples(rss=5)[:7], 300, 20)  # too few samples to say anything


@pytest.mark.slow
def test_a_short_soak_is_flat() -> None:
    # A leak of 4,400 bytes for each image that is resized is 29 MiB in the 110 steps that count.
    short = ["--steps", "200", "--warm-up", "80", "--every", "10", "--save-every", "40"]
    assert main([*short, "--growth-mib", "10"]) == 0
