"""How a program ends when it is told to: Ctrl-C, SIGTERM (a cluster, `kill`) and SIGHUP (a closed terminal) alike.

The two signals are raised where Ctrl-C would be, as a `KeyboardInterrupt` that knows its number, so that what
writes down where it is on Ctrl-C does so for them, and the exit status is the one that a shell expects: 130, 143, 129.

What can stop at certain places only, such as a training between two steps, postpones all three until it is there.
"""

from __future__ import annotations

import _thread
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

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


class Postponed:
    """Holds signals that ask a program to end back until it is where it can, from `begin` to `end`, and not for ever.

    They are heard as whoever listened when this was made would hear them: first here, and from then on there. The
    second one, for instance a second Ctrl-C, does not wait, and neither does the first after a while.

    Args:
        seconds: How long the first may wait.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.asked: int | None = None
        self._timer: threading.Timer | None = None
        wanted = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        listeners = {number: signal.getsignal(number) for number in wanted}
        self._listeners = {number: each for number, each in listeners.items() if each not in (None, signal.SIG_IGN)}
        self._replaced: dict[int, Any] = {}

    def begin(self) -> None:
        """Hold signals back from now on, those that nobody ignores; in the main thread alone, which gets them."""
        if threading.current_thread() is threading.main_thread():
            self._replaced = {number: signal.signal(number, self._hear) for number in self._listeners}

    def heed(self, asked: int | None = None) -> None:
        """Let happen what a signal asks for, if one came, or if one came to another process with which this one ends.

        Raises:
            KeyboardInterrupt: As the listener does.
        """
        number = self.asked or asked
        if number is not None:
            self._pass_on(number)

    def end(self) -> None:
        """Hold back no longer; what was held back is forgotten, see `heed`."""
        if self._timer is not None:
            self._timer.cancel()
        for number, replaced in self._replaced.items():
            signal.signal(number, replaced)
        self._replaced, self._timer, self.asked = {}, None, None

    def _hear(self, number: int, _: FrameType | None) -> None:
        if self.asked is not None:
            self._pass_on(number)
            return
        self.asked = number
        self._timer = threading.Timer(self.seconds, _remind, [number])
        self._timer.daemon = True
        self._timer.start()

    def _pass_on(self, number: int) -> None:
        self.end()
        for each, listener in self._listeners.items():
            signal.signal(each, listener)
        signal.raise_signal(number)


def _remind(number: int) -> None:
    """Send the main thread a signal, which ends its waiting where the system can do that."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        _thread.interrupt_main(number)


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
