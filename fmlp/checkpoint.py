"""Checkpoints: a file from which `fit` goes on, bit for bit, after a kill, a crash or a full disk.

The file is one that `save` writes: the parameters, the optimizer's state and the best parameters as arrays; where in
the training they were reached, the history and the settings as metadata. Settings that are functions are told by their
names and by what they close over, so that a checkpoint of other settings can be refused by what differs.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fmlp import tree
from fmlp.autodiff import Differentiable
from fmlp.checks import integer, number
from fmlp.checks import path as checked_path
from fmlp.files import FileFormatError
from fmlp.serialization import load, load_metadata, save
from fmlp.tree import Tree

__all__ = ["Checkpoint", "CheckpointError", "Progress", "Saver", "describe", "differences"]


class Progress(NamedTuple):
    """How far a training has come: after `step` steps of epoch number `epoch`, both counted from 0."""

    params: Tree
    state: Any
    best: Tree
    """The parameters of the best epoch so far."""
    epoch: int = 0
    step: int = 0
    total: float = 0.0
    """The sum of the epoch's losses so far, each times its batch's weight."""
    total_weight: float = 0.0
    history: dict[str, list[float]] = {}  # noqa: RUF012 - never written to
    stopped: str = ""
    """Why training ended, "" while it goes on."""
    seconds: float = 0.0


class Checkpoint:
    """Where and how often `fit` writes a checkpoint: every `epochs` epochs, and every `seconds` seconds if given.

    One more is written when training ends, by itself, by Ctrl-C or by SIGTERM. The file is replaced whole: whoever
    looks sees the old one or the new one. Raises ValueError for numbers that are not positive,
    TypeError for what is none.

    >>> Checkpoint("run.npz", seconds=60)
    Checkpoint('run.npz', epochs=1, seconds=60.0)
    """

    path: Path
    epochs: int
    seconds: float | None

    def __init__(self, path: str | os.PathLike[str], epochs: int = 1, seconds: float | None = None) -> None:
        self.path, self.epochs = Path(checked_path("path", path)), integer("epochs", epochs)
        self.seconds = None if seconds is None else number("seconds", seconds, "(0, inf]")

    def __repr__(self) -> str:
        """Show how it was made."""
        return f"Checkpoint({os.fspath(self.path)!r}, epochs={self.epochs}, seconds={self.seconds})"


class CheckpointError(OSError):
    """A checkpoint could not be written; the old file is as it was, and `params` are what had been reached."""

    def __init__(self, message: str, params: Tree) -> None:
        super().__init__(message)
        self.params = params


class Saver:
    """Reads and writes the checkpoints of one training; while it is entered, SIGTERM ends that as Ctrl-C does.

    Entering writes the first checkpoint, so that a file that cannot be written is found before any work; leaving
    without an error writes the last, and hands SIGTERM on to whoever was to get it.
    """

    checkpoint: Checkpoint
    settings: dict[str, Any]
    started: float
    written_at: float
    terminated: bool
    latest: Progress
    main: bool
    handler: Any

    def __init__(self, checkpoint: Checkpoint, settings: dict[str, Any], start: Progress) -> None:
        self.checkpoint, self.settings = checkpoint, settings
        self.started = self.written_at = time.monotonic()
        self.written: Progress | None = None
        self.terminated = False
        self.latest = self._read(start)

    def _read(self, start: Progress) -> Progress:
        """Return the progress in the file, or `start` where there is none."""
        import glob

        path = self.checkpoint.path
        for orphan in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # of writers that were killed
            orphan.unlink(missing_ok=True)
        if not path.exists():
            return start
        metadata = load_metadata(path)
        if not {"settings", "progress"} <= metadata.keys():
            raise FileFormatError(f"{path}: expected a checkpoint, got a file without settings and progress")
        if other := list(differences(metadata["settings"], self.settings)):
            listed = "\n  ".join(other[:10] + ["…"] * (len(other) > 10))
            raise ValueError(
                f"checkpoint: {path} is of another training; remove it to start anew, or name another file:\n  {listed}"
            )
        like = {"params": start.params, "state": start.state, "best": start.best}
        arrays = tree.map(_as_given, like, load(path, like=like))
        self.written = Progress(**arrays, **metadata["progress"])
        return self.written

    def __enter__(self) -> Saver:
        """Write the first checkpoint, and listen to SIGTERM."""
        import signal
        import threading

        self.write()
        self.main = threading.current_thread() is threading.main_thread()
        if self.main:  # others may not set a handler
            self.handler = signal.signal(signal.SIGTERM, self._terminate)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write the last checkpoint, unless there was an error, and let SIGTERM do what it did before."""
        import signal

        try:
            if kind is None:
                self.write()
        finally:
            if self.main:
                signal.signal(signal.SIGTERM, self.handler)
            if self.terminated:
                os.kill(os.getpid(), signal.SIGTERM)

    def _terminate(self, *_: object) -> None:
        self.terminated = True

    def after_step(self, progress: Progress) -> None:
        """Note a step; write when it is time to."""
        self.latest = progress
        if self.terminated:
            raise KeyboardInterrupt
        seconds = self.checkpoint.seconds
        if seconds is not None and time.monotonic() - self.written_at >= seconds:
            self.write()

    def after_epoch(self, progress: Progress) -> None:
        """Note an epoch; write when it is one of those that are to be written."""
        self.latest = progress
        if progress.epoch % self.checkpoint.epochs == 0:
            self.write()
        self.after_step(progress)

    def write(self) -> None:
        """Replace the file by one that holds the latest progress, unless it does already."""
        if self.latest is self.written:
            return
        numbers = self.latest._asdict() | {"seconds": self.latest.seconds + time.monotonic() - self.started}
        arrays = {name: numbers.pop(name) for name in ("params", "state", "best")}
        numbers["history"] = {name: [float(value) for value in values] for name, values in numbers["history"].items()}
        try:
            save(self.checkpoint.path, arrays, metadata={"settings": self.settings, "progress": numbers})
        except OSError as error:
            raise CheckpointError(
                f"checkpoint: {self.checkpoint.path} could not be written: {error.strerror or error}",
                self.latest.params,
            ) from error
        self.written, self.written_at = self.latest, time.monotonic()


def _as_given(like: Any, leaf: Any) -> Any:
    return leaf if isinstance(like, np.ndarray) else type(like)(leaf.item())


def describe(value: Any, seen: tuple[int, ...] = ()) -> Any:
    """Describe a setting in terms that JSON can hold: functions by name and by what they close over, arrays by a hash.

    >>> def constant(learning_rate):
    ...     return lambda count: learning_rate
    >>> describe(constant(0.1))["learning_rate"]
    0.1
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        shape = f"{value.dtype} {value.shape}"
        mapped = isinstance(value, np.memmap)  # may be larger than the memory
        return shape if mapped else f"{shape} {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:16]}"
    if id(value) in seen:
        return "itself"
    inside = functools.partial(describe, seen=(*seen, id(value)))
    if isinstance(value, Mapping):
        return {str(name): inside(child) for name, child in value.items()}
    if isinstance(value, tuple | list):
        return [inside(child) for child in value]
    if isinstance(value, functools.partial):
        return {"partial": inside(value.func), "args": inside(value.args), **inside(value.keywords)}
    if isinstance(value, Differentiable):
        return inside(value.rule)
    module, name = (getattr(value, part, getattr(type(value), part)) for part in ("__module__", "__qualname__"))
    found = {"name": f"{module}.{name}"}
    if code := getattr(value, "__code__", None):
        for variable, cell in zip(code.co_freevars, value.__closure__ or (), strict=True):
            try:
                found[variable] = inside(cell.cell_contents)
            except ValueError:  # an empty cell
                continue
    elif not callable(value) or not hasattr(value, "__qualname__"):
        found |= inside(getattr(value, "__dict__", {}))
    return found


def differences(was: Any, now: Any, where: tuple[str, str] = ("in the file", "now"), path: str = "") -> Iterator[str]:
    """Yield what differs between two descriptions, by path.

    >>> list(differences({"batch_size": 32, "shuffle": True}, {"batch_size": 64, "shuffle": True}))
    ['batch_size: 32 in the file, 64 now']
    """
    if isinstance(was, dict) and isinstance(now, dict):
        for name in [*was, *(name for name in now if name not in was)]:
            below = f"{path}/{name}".lstrip("/")
            yield from differences(was.get(name, "absent"), now.get(name, "absent"), where, below)
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for i, (a, b) in enumerate(zip(was, now, strict=True)):
            yield from differences(a, b, where, f"{path}/{i}")
    elif was != now and not (was != was and now != now):
        yield f"{path}: {_short(was)} {where[0]}, {_short(now)} {where[1]}"


def _short(value: Any) -> str:
    text = repr(value["name"] if isinstance(value, dict) and "name" in value else value)
    return text if len(text) <= 100 else f"{text[:97]}…"
