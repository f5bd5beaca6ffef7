"""How a training behaves among other processes: what signals do to it, and what the processes that it forks inherit."""

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
    """Have every process that is forked within the block call `undo` first."""
    _UNDO.append(undo)
    try:
        yield
    finally:
        with suppress(ValueError):  # in the child itself, which has undone it
            _UNDO.remove(undo)


def _in_child() -> None:
    while _UNDO:
        _UNDO.pop()()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


class Interrupted(KeyboardInterrupt):
    """All ranks stop after this step because one of them got a signal."""


class Interrupts:
    """End a training in good order on any of `signals`, and on Ctrl-C.

    In one process the first signal raises KeyboardInterrupt within `raising`. With `barrier`, the one of several ranks,
    it is only noted, for all of them to stop after the same step, and a second signal ends the process at once, even
    one that waits for another rank.

    A signal that was ignored stays ignored. One whose handler is C code, which Python cannot put back, stays with that.
    Forked processes have the handlers from before. Outside the main thread signals do what they always do.
    """

    noted: int | None = None
    """The last signal."""
    stopped: bool = False
    """Whether the training was ended."""

    def __init__(self, *signals: int, barrier: Callable[[], object] | None = None) -> None:
        self._signals, self._barrier, self._raises = signals, barrier, False

    def __call__(self) -> bool:
        """Say whether there was a signal."""
        return self.noted is not None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals, and afterwards let them do what they did before: a SIGTERM is passed on to that.

        If there was no error, a rank first waits for the others, so that none is ended while rank 0 still writes.
        """
        self.noted, self._handlers = None, dict[int, Any]()
        with undone_in_children(self._restore):
            try:
                if threading.current_thread() is threading.main_thread():  # no other may set a handler
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
        """Leave the block, and note that the training was stopped, when it is interrupted."""
        try:
            yield
        except KeyboardInterrupt as error:
            if self._barrier and not isinstance(error, Interrupted):  # one rank's own is an error
                raise
            self.stopped = True

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Let a first signal to one process raise KeyboardInterrupt within the block."""
        self._raises = self._barrier is None
        try:
            self.check()
            yield
        finally:
            self._raises = False

    def check(self) -> None:
        """Raise KeyboardInterrupt for a signal from before the block, or whose KeyboardInterrupt a callback caught."""
        if self._raises and self.noted is not None:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: object) -> None:
        first, self.noted = self.noted is None, number
        if self._barrier:  # a handler in Python would wait for as long as MPI does
            for each in self._handlers:
                signal.signal(each, signal.SIG_DFL)
        elif first and self._raises:
            raise KeyboardInterrupt

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
