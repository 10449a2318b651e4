"""What nobody foresaw, made a value: the error of one action, told with the place where it was raised.

No value of a variable and no word of the exception is taken over, for they may hold a secret.
"""

from __future__ import annotations

import errno
from collections import deque
from types import TracebackType

from jetwatch.errors import Unforeseen
from jetwatch.events import InternalError

MOST_CALLS = 20
"""The newest calls that are told: an endless recursion has a thousand, and all alike."""


def unforeseen(error: BaseException) -> Unforeseen:
    """The named error that stands for `error`."""
    try:
        return Unforeseen(_kind(error), _trace(error.__traceback__))
    except Exception:  # noqa: BLE001 - no memory left, say: that it failed is told all the same
        return Unforeseen(type(error).__name__, "")


def internal_error(error: BaseException, action: str, watch: str = "") -> InternalError:
    """What there is to tell of it."""
    known = error if isinstance(error, Unforeseen) else unforeseen(error)
    return InternalError(watch=watch, action=action, error=known.kind, traceback=known.trace or None)


def _kind(error: BaseException) -> str:
    number = error.errno if isinstance(error, OSError) else None
    code = errno.errorcode.get(number) if number is not None else None
    return f"{type(error).__name__} {code}" if code else type(error).__name__


def _trace(trace: TracebackType | None) -> str:
    calls: deque[str] = deque(maxlen=MOST_CALLS)
    while trace is not None:
        code = trace.tb_frame.f_code
        calls.append(f"{code.co_filename}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return "\n".join(calls)
