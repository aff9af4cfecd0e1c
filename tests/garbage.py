"""What is left to the garbage collector, which looks seldom in the agent: memory that nobody uses and nobody frees."""

from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_PRODUCT = "falcon_agent"


@contextlib.contextmanager
def none_left() -> Iterator[None]:
    """For the block; it is left with nothing of the product in a ring, or held by one."""
    gc.collect()
    gc.disable()
    try:
        yield
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = sorted({_name(one) for one in gc.garbage if _is_ours(one)})
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not found


def _is_ours(one: object) -> bool:
    return _name(one).startswith(_PRODUCT)


def _name(one: object) -> str:
    if type(one).__name__ == "frame":
        frame: FrameType = one  # type: ignore[assignment]
        return f"{frame.f_globals.get('__name__')}.{frame.f_code.co_name} (its variables)"
    return f"{type(one).__module__}.{type(one).__qualname__}"
