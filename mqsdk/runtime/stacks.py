"""Where a running handler stands: code places, no values."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from itertools import dropwhile
from typing import Any

STACK_FRAMES = 40
_STDLIB = os.path.dirname(threading.__file__) + os.sep
_MACHINERY = (
    "<frozen runpy>",
    *(_STDLIB + part for part in ("threading.py", f"asyncio{os.sep}")),
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep,
)


def place(frame: Any) -> str:
    """`file:line in function` of one frame."""
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def thread_stack(thread_id: int) -> str:
    """Code places of a thread, innermost last. Walked by hand: traceback.extract_stack reads source files."""
    frame: Any = sys._current_frames().get(thread_id)
    frames: list[Any] = []
    while frame is not None and len(frames) < STACK_FRAMES:
        frames.append(frame)
        frame = frame.f_back
    return stack_text(frames[::-1])


def stack_text(frames: Sequence[Any]) -> str:
    """The places of frames, outermost first, without what leads to the handler: threads, the event loop and mqsdk itself."""
    shown = list(dropwhile(lambda frame: frame.f_code.co_filename.startswith(_MACHINERY), frames))
    return "\n".join(map(place, shown or frames))
