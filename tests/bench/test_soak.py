"""What the soak says of memory over time."""

from __future__ import annotations

from bench.soak import slopes


def samples(*rss: int) -> list[dict[str, int]]:
    return [
        {"cycle": (number + 1) * 100, "rss": kb, "pss": 7, "threads": 9, "descriptors": 20}
        for number, kb in enumerate(rss)
    ]


def line(text: str, what: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.split()[:1] == [what])


def test_growth_is_told_for_each_thousand_cycles() -> None:
    text = slopes(samples(*(40_000 + 3 * number for number in range(20))))
    assert line(text, "rss") == ["rss", "40003", "40057", "40057", "+30.0"]
    assert line(text, "pss")[-1] == "+0.0"


def test_the_first_tenth_does_not_count() -> None:
    assert line(slopes(samples(10, *([40_000] * 19))), "rss") == ["rss", "40000", "40000", "40000", "+0.0"]
