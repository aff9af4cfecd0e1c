from __future__ import annotations

from tests.guest.console import BEGIN, END, Console

PRINTED = f"boot\r\n{BEGIN}\r\n.....é F [ 10%]\n== 1 failed\n\n{END}\nPowering off.\n"


def test_what_the_tests_print_is_shown_whatever_the_pieces() -> None:
    content = PRINTED.encode()
    for size in range(1, len(content)):
        shown: list[str] = []
        console = Console(shown.append)
        for at in range(0, len(content), size):
            console.feed(content[at : at + size])
        assert "".join(shown) == ".....é F [ 10%]\n== 1 failed\n\n", size
        assert console.tail.startswith("boot\n")
        assert console.tail.endswith("\nPowering off.\n")


def test_a_part_of_a_line_is_shown_at_once() -> None:
    shown: list[str] = []
    console = Console(shown.append)
    console.feed(f"{BEGIN}\n....".encode())
    assert shown == ["...."]
    assert console.tail.endswith("....")


def test_the_end_of_a_long_console_is_kept() -> None:
    console = Console(lambda _: None)
    console.feed(b"line\n" * 1000 + b"Kernel panic - not syncing")
    assert console.tail.endswith("line\nKernel panic - not syncing")
    assert len(console.tail) < 1000
