"""Handle signals during training, and clean up in processes that are forked meanwhile."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

__all__ = ["Interrupted", "Interrupts", "undone_in_children"]

_UNDO: list[Callable[[], None]] = []


@contextmanager
def undone_in_children(undo: Callable[[], None]) -> Iterator[None]:
    """Make every process that is forked within the block call `undo` first."""
    _UNDO.append(undo)
    try:
        yield
    finally:
        with suppress(ValueError):  # in the child process, which has already undone it
            _UNDO.remove(undo)


def _in_child() -> None:
    while _UNDO:
        _UNDO.pop()()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


class Interrupted(KeyboardInterrupt):
    """All ranks stop after this step, because one of them received a signal."""


class Interrupts:
    """End a training cleanly on any of `signals`, and on Ctrl-C.

    In a single process, the first signal raises KeyboardInterrupt within `raising`. On several ranks, whose barrier is
    `barrier`, the first signal is only noted, so that all ranks stop after the same step. A second signal ends the
    process at once, even if it is waiting for another rank.

    Ignored signals stay ignored. A handler written in C stays in place, because Python could not restore it. Forked
    processes get the old handlers back. Outside the main thread, signals keep their usual effect.
    """

    noted: int | None = None
    """The last signal."""
    stopped: bool = False
    """Whether a signal has stopped the training."""

    def __init__(self, *signals: int, barrier: Callable[[], object] | None = None) -> None:
        self._signals, self._barrier, self._raises = signals, barrier, False

    def __call__(self) -> bool:
        """Tell whether there was a signal."""
        return self.noted is not None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals within the block, then restore the old handlers and raise a noted SIGTERM again.

        Without an error, a rank first waits for the others, so that no rank ends while rank 0 is still writing.
        """
        self.noted, self._handlers = None, dict[int, Any]()
        with undone_in_children(self._restore):
            try:
                if threading.current_thread() is threading.main_thread():  # only this thread may set handlers
                    for number in self._signals:
                        if (handler := signal.getsignal(number)) not in (None, signal.SIG_IGN):
                            self._handlers[number] = handler
                            signal.signal(number, self._note)
                yield
                if self._barrier:
                    self._barrier()
            finally:
                self._restore()
        if self.noted == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Leave the block when it is interrupted, and note that the training was stopped."""
        try:
            yield
        except KeyboardInterrupt as error:
            if self._barrier and not isinstance(error, Interrupted):  # an interrupt of a single rank is an error
                raise
            self.stopped = True

    @contextmanager
    def raising(self) -> Iterator[None]:
        """In a single process, let the first signal raise KeyboardInterrupt within the block."""
        self._raises = self._barrier is None
        try:
            self.check()
            yield
        finally:
            self._raises = False

    def check(self) -> None:
        """Raise KeyboardInterrupt for a signal that came before the block or that a callback has caught."""
        if self._raises and self.noted is not None:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: object) -> None:
        first, self.noted = self.noted is None, number
        if self._barrier:  # a Python handler would not run while MPI waits, so the second signal gets the default
            for each in self._handlers:
                signal.signal(each, signal.SIG_DFL)
        elif first and self._raises:
            raise KeyboardInterrupt

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
