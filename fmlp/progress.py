"""The bar that shows how far a training has come. Whatever goes wrong with it or with stderr, the training goes on."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fmlp.signals import undone_in_children

__all__ = ["Bar", "progress_bar"]


class Bar:
    """Shows a training's progress, or nothing; the first thing that goes wrong with it ends it."""

    def __init__(self) -> None:
        self._bar: Any = None

    def begin(self, total: int | None, unit: str, initial: int) -> None:
        """Draw it on stderr.

        It has a lock of its own and no monitor thread. Those of tqdm are shared with forked processes, which may be
        killed while they hold the lock.
        """
        with self._trying():
            from tqdm import tqdm

            class Own(tqdm):  # type: ignore[type-arg]
                monitor_interval = 0
                _lock = threading.RLock()

                def __del__(self) -> None:
                    """Do nothing: `end` closes it."""

            stream = _Unbuffered(sys.stderr)
            self._bar = Own(total=total, initial=initial, unit=unit, dynamic_ncols=True, miniters=1, file=stream)

    def describe(self, text: str) -> None:
        """Write text before the bar, when it is drawn next."""
        if self._bar is not None:
            with self._trying():
                self._bar.set_description(text, refresh=False)

    def update(self, steps: int = 1) -> bool:
        """Count steps, and say whether the bar was drawn."""
        if self._bar is not None:
            with self._trying():
                return bool(self._bar.update(steps))
        return False

    def show(self, scores: dict[str, float]) -> None:
        """Write scores behind the bar, when it is drawn next."""
        if self._bar is not None:
            with self._trying():
                _show(self._bar, scores)

    def note(self, now: Any, epochs: int) -> None:
        """Show what training has reached, an `Epoch`."""
        if now.step == 0:
            self.describe(f"epoch {min(now.epoch + 1, epochs)}/{epochs}")
        if now.measured or (now.step and self.update()):
            self.show(now.scores())

    def end(self) -> None:
        """Leave it on the screen as it is."""
        if self._bar is not None:
            with self._trying():
                self._bar.close()
            self.drop()

    def drop(self) -> None:
        """Draw nothing any more."""
        self._bar = None

    @contextmanager
    def _trying(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            self.drop()


@contextmanager
def progress_bar(shown: bool, total: int | None, unit: str, initial: int = 0) -> Iterator[Bar]:
    """Draw a bar if it is to be `shown` and there is a stderr, but not in processes that are forked meanwhile."""
    bar = Bar()
    with undone_in_children(bar.drop):
        try:
            if shown and sys.stderr is not None:
                bar.begin(total, unit, initial)
            yield bar
        finally:
            bar.end()


class _Unbuffered:
    """A stream written past its buffer, where what it did not take would fail again when the program ends."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.raw = stream, getattr(getattr(stream, "buffer", None), "raw", None)

    def write(self, text: str) -> None:
        if self.raw is None:
            self.stream.write(text)
        else:
            self.stream.flush()
            self.raw.write(text.encode(self.stream.encoding, "replace"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _show(bar: Any, scores: dict[str, float]) -> None:
    """Write scores behind the bar, and where the line is short less before them, and loss=0.313/0.349 with val_loss."""
    line = ", ".join(f"{name}={score:.3g}" if name == "lr" else f"{name}={score:.4f}" for name, score in scores.items())
    if bar.total and bar.ncols and len(line) > bar.ncols - 70:
        bar.bar_format = "{desc}{percentage:3.0f}%|{bar}| {remaining}{postfix}"
        if len(line) > bar.ncols - 40:
            twins = {name for name in scores if name.startswith("val_") and name[4:] in scores}
            pairs = {name: [name, *twins & {f"val_{name}"}] for name in scores if name not in twins}
            line = ", ".join(f"{name}={'/'.join(f'{scores[n]:.3g}' for n in pair)}" for name, pair in pairs.items())
    bar.set_postfix_str(line, refresh=False)
