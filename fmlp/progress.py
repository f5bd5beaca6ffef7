"""The progress bar of a training. If the bar or stderr fails, the training continues without it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fmlp.signals import undone_in_children

__all__ = ["Bar", "progress_bar"]


class Bar:
    """Shows a training's progress, or nothing; at its first error the bar disappears."""

    def __init__(self) -> None:
        self._bar: Any = None

    def begin(self, total: int | None, unit: str, initial: int) -> None:
        """Draw the bar on stderr.

        It has its own lock and no monitor thread, because forked processes share tqdm's lock and may be killed while
        they hold it.
        """
        with self._trying():
            from tqdm import tqdm

            class Own(tqdm):  # type: ignore[type-arg]
                monitor_interval = 0
                _lock = threading.RLock()

                def __del__(self) -> None:
                    """Do nothing, because `end` closes the bar."""

            stream = _Unbuffered(sys.stderr)
            self._bar = Own(total=total, initial=initial, unit=unit, dynamic_ncols=True, miniters=1, file=stream)

    def describe(self, text: str) -> None:
        """Set the text before the bar; it appears when the bar is drawn next."""
        if self._bar is not None:
            with self._trying():
                self._bar.set_description(text, refresh=False)

    def update(self, steps: int = 1) -> bool:
        """Count steps, and tell whether the bar was drawn."""
        if self._bar is not None:
            with self._trying():
                return bool(self._bar.update(steps))
        return False

    def show(self, scores: dict[str, float]) -> None:
        """Set the scores behind the bar; they appear when the bar is drawn next."""
        if self._bar is not None:
            with self._trying():
                _show(self._bar, scores)

    def note(self, now: Any, epochs: int) -> None:
        """Show the progress, an `Epoch`."""
        if now.step == 0:
            self.describe(f"epoch {min(now.epoch + 1, epochs)}/{epochs}")
        if now.measured or (now.step and self.update()):
            self.show(now.scores())

    def end(self) -> None:
        """Stop drawing, and leave the bar on the screen."""
        if self._bar is not None:
            with self._trying():
                self._bar.close()
            self.drop()

    def drop(self) -> None:
        """Stop drawing."""
        self._bar = None

    @contextmanager
    def _trying(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            self.drop()


@contextmanager
def progress_bar(shown: bool, total: int | None, unit: str, initial: int = 0) -> Iterator[Bar]:
    """Draw a bar if `shown` is true and there is a stderr, but not in processes that are forked meanwhile."""
    bar = Bar()
    with undone_in_children(bar.drop):
        try:
            if shown and sys.stderr is not None:
                bar.begin(total, unit, initial)
            yield bar
        finally:
            bar.end()


class _Unbuffered:
    """A stream that writes past its buffer, because text left in the buffer would fail again at the program's end."""

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
    """Set the scores behind the bar; in narrow terminals shorten the bar, and pair scores: loss=0.313/0.349."""
    line = ", ".join(f"{name}={score:.3g}" if name == "lr" else f"{name}={score:.4f}" for name, score in scores.items())
    if bar.total and bar.ncols and len(line) > bar.ncols - 70:
        bar.bar_format = "{desc}{percentage:3.0f}%|{bar}| {remaining}{postfix}"
        if len(line) > bar.ncols - 40:
            twins = {name for name in scores if name.startswith("val_") and name[4:] in scores}
            pairs = {name: [name, *twins & {f"val_{name}"}] for name in scores if name not in twins}
            line = ", ".join(f"{name}={'/'.join(f'{scores[n]:.3g}' for n in pair)}" for name, pair in pairs.items())
    bar.set_postfix_str(line, refresh=False)
