"""How a program ends when it is told to: Ctrl-C, SIGTERM (a cluster, `kill`) and SIGHUP (a closed terminal) alike.

The two signals are raised where Ctrl-C would be, as a `KeyboardInterrupt` that knows its number, so that what
writes down where it is on Ctrl-C does so for them, and the exit status is the one that a shell expects: 130, 143, 129.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

PARENT_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux' prctl."""


class Interrupted(KeyboardInterrupt):
    """A signal asks this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    def __reduce__(self) -> tuple[type[Interrupted], tuple[int]]:
        """Keep the number on the way from a worker, where Python would make it anew of its message."""
        return type(self), (self.number,)


@contextmanager
def interruptible(*, grace: float | None = None) -> Iterator[None]:
    """Raise `Interrupted` inside the block when SIGTERM or SIGHUP comes; those after the first are not heard.

    What ignores a signal from its start, as `nohup` makes it, goes on ignoring it.

    Args:
        grace: Seconds from the signal after which the process is ended, whatever it does; None gives it all it needs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can say what a signal does
        return

    def interrupt(number: int, _: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)  # what follows writes down where it is
        if grace is not None and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, grace)
        raise Interrupted(number)

    wanted = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in wanted if signal.getsignal(number) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        if grace is not None and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def interruption(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the interruption that an error is or was raised for; Lightning makes a `SystemExit` of one."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def exit_status(interrupted: KeyboardInterrupt) -> int:
    """Return what a shell expects of a process that a signal ended.

    >>> exit_status(KeyboardInterrupt()), exit_status(Interrupted(signal.SIGTERM))
    (130, 143)
    """
    return 128 + getattr(interrupted, "number", signal.SIGINT)


def end_with_parent(parent: int, number: int = signal.SIGTERM) -> None:
    """Have this process sent a signal when the one that started it is gone, however that ended.

    Args:
        parent: Process id of the one that started it.
        number: The signal.
    """
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(PARENT_SIGNAL, int(number), 0, 0, 0)
        if os.getppid() != parent:  # it was gone before the kernel was told
            os.kill(os.getpid(), number)
        return
    threading.Thread(target=_watch, args=(parent, number), daemon=True, name="end-with-parent").start()


def _watch(parent: int, number: int, seconds: float = 1.0) -> None:
    while os.getppid() == parent:
        time.sleep(seconds)
    os.kill(os.getpid(), number)
