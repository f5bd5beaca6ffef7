"""Checkpoints: a file from which `fit` goes on, bit for bit, after a kill, a crash or a full disk.

The file is one that `save` writes: the parameters, the optimizer's state and the best parameters as arrays; where in
the training they were reached, the history and the settings as metadata. Settings that are functions are told by their
code and by what they close over, so that a checkpoint of other settings can be refused by what differs.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

import numpy as np

from fmlp import tree
from fmlp.autodiff import Differentiable
from fmlp.checks import integer, number
from fmlp.checks import path as checked_path
from fmlp.files import FileFormatError, locked, opened
from fmlp.serialization import load, load_metadata, save, unnamed
from fmlp.tree import Tree

__all__ = ["Checkpoint", "CheckpointError", "Progress", "Saver", "describe", "differences"]

HELD = ("__defaults__", "__kwdefaults__", "__self__")
"""What a function brings along, besides its code and what it closes over."""


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
    looks sees the old one or the new one. `path` is from now on the same file, wherever the program goes to, and it is
    of one training at a time. Drafts beside it, ``.run.npz.….tmp``, that a killed training has left are removed.

    A training goes on with the arguments that it had. Functions are the same if they have the same code, as one version
    of Python compiles it (those of fmlp, the same name), default arguments and values that they close over; objects, if
    they are of the same type and their attributes, but those that begin with ``_``, are equal. Global variables are not
    looked at. One that early stopping or a callback has ended does not go on; nor does one that has come to `epochs` or
    further: `fit` returns what it had reached, all its epochs. The optimizer's state may change its dtypes on the way,
    but not its shapes.

    Raises ValueError for numbers that are not positive, TypeError for what is none.

    >>> Checkpoint("/tmp/run.npz", seconds=60)
    Checkpoint('/tmp/run.npz', epochs=1, seconds=60.0)
    """

    path: Path
    epochs: int
    seconds: float | None

    def __init__(self, path: str | os.PathLike[str], epochs: int = 1, seconds: float | None = None) -> None:
        self.path, self.epochs = Path(os.path.abspath(checked_path("path", path))), integer("epochs", epochs)
        self.seconds = None if seconds is None else number("seconds", seconds, "(0, inf]")

    def __repr__(self) -> str:
        """Show how it was made."""
        return f"Checkpoint({os.fspath(self.path)!r}, epochs={self.epochs}, seconds={self.seconds})"


class CheckpointError(OSError):
    """A checkpoint could not be written; the old file is as it was, and `params` are what had been reached."""

    def __init__(self, message: str, params: Tree) -> None:
        super().__init__(message)
        self.params = params

    def __reduce__(self) -> tuple[Any, ...]:
        """Let it be pickled, with its parameters."""
        return type(self), (str(self), self.params)


class Saver:
    """Reads and writes the checkpoints of one training; without a `checkpoint` it does nothing."""

    checkpoint: Checkpoint | None
    settings: dict[str, Any]
    latest: Progress

    def __init__(self, checkpoint: Checkpoint | None, settings: dict[str, Any], start: Progress) -> None:
        self.checkpoint, self.settings, self.latest = checkpoint, settings, start
        self.started = self.written_at = time.monotonic()
        self.written: Progress | None = None
        self.shapes = _shapes(start) if checkpoint else {}

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Read the progress in the file, if there is one."""
        if self.checkpoint:
            self.latest = self._read(self.checkpoint.path, self.latest)
        yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write the first checkpoint, so that a file that cannot be written is found before any work, and the last.

        The last is written after Ctrl-C, too, even where that cut another one short; not after an error.
        """
        try:
            self.write()
            yield
            self.write()
        except KeyboardInterrupt:
            self.write()
            raise

    def _read(self, path: Path, start: Progress) -> Progress:
        """Return the progress in the file, or `start` where there is none."""
        if path.is_dir():
            raise ValueError(f"checkpoint: expected a file, got the folder {path}")
        _clear_drafts(path)
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
        like, found = _arrays(start), load(path)
        held = dict(zip(tree.paths(found), tree.leaves(found), strict=True))
        # In the dtypes of the file: training may have made others of those that it began with.
        wanted = [
            _in_dtype_of(held.get(name), leaf) for name, leaf in zip(tree.paths(like), tree.leaves(like), strict=True)
        ]
        arrays = tree.map(_as_given, like, unnamed(held, tree.unflatten(like, wanted), path))
        self.written = Progress(**arrays, **metadata["progress"])
        return self.written

    def after_step(self, progress: Progress) -> None:
        """Note a step; write when it is time to."""
        if not self.checkpoint:
            return
        was_written = self.latest is self.written
        self.latest = progress
        if was_written:  # as after the first step: told early, and not at every step
            self.check()
        seconds = self.checkpoint.seconds
        if seconds is not None and time.monotonic() - self.written_at >= seconds:
            self.write()

    def after_epoch(self, progress: Progress) -> None:
        """Note an epoch; write when it is one of those that are to be written."""
        if self.checkpoint and progress.epoch % self.checkpoint.epochs == 0:
            self.latest = progress
            self.write()
        self.after_step(progress)

    def check(self) -> None:
        """Raise CheckpointError when what was reached has other shapes than the start, and could not be read again."""
        shapes = _shapes(self.latest)
        if other := list(differences(self.shapes, shapes, ("as the optimizer's init made it", "now"))):
            listed = "\n  ".join(other[:10])
            raise CheckpointError(
                f"checkpoint: shapes have changed, so that it could not be read again:\n  {listed}", self.latest.params
            )

    def write(self) -> None:
        """Replace the file by one that holds the latest progress, unless it does already."""
        if not self.checkpoint or self.latest is self.written:
            return
        self.check()
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


def _arrays(progress: Progress) -> dict[str, Tree]:
    return {"params": progress.params, "state": progress.state, "best": progress.best}


def _shapes(progress: Progress) -> dict[str, str]:
    arrays = _arrays(progress)
    return {name: str(np.shape(leaf)) for name, leaf in zip(tree.paths(arrays), tree.leaves(arrays), strict=True)}


def _in_dtype_of(held: Any, leaf: Any) -> Any:
    numbers = held is not None and held.dtype.kind in "fiub"
    return np.broadcast_to(np.zeros((), held.dtype), np.shape(leaf)) if numbers else leaf


def _as_given(like: Any, leaf: Any) -> Any:
    if isinstance(like, np.ndarray):
        return leaf
    return leaf[()] if isinstance(like, np.generic) else type(like)(leaf.item())


def _clear_drafts(path: Path) -> None:
    """Remove what writers that were killed have left: see `fmlp.files.replacing`."""
    import glob

    whole = Path(os.path.realpath(path))
    for draft in whole.parent.glob(f".{glob.escape(whole.name)}.{'[0-9a-f]' * 16}.tmp"):
        with suppress(OSError, FileFormatError), opened(draft) as file:  # a folder, another user's, or gone
            if locked(file):  # nobody writes it
                draft.unlink()


def describe(value: Any, seen: tuple[int, ...] = ()) -> Any:
    """Describe a setting in terms that JSON can hold.

    Functions are told by name, a hash of their code (but for fmlp's own), default arguments and what they close over;
    arrays by a hash; modules, classes and loggers by name; other objects by type and public attributes.

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
        return shape if mapped else f"{shape} {_hash(np.ascontiguousarray(value).tobytes())}"
    if isinstance(value, bytes):
        return _hash(value)
    if isinstance(value, complex | range | slice | Path | Enum):
        return repr(value)
    if isinstance(value, ModuleType):
        return value.__name__
    if id(value) in seen:
        return "itself"
    inside = functools.partial(describe, seen=(*seen, id(value)))
    if isinstance(value, Mapping):
        return {str(name): inside(child) for name, child in value.items()}
    if isinstance(value, tuple | list):
        return [inside(child) for child in value]
    if isinstance(value, set | frozenset):
        return sorted(map(inside, value), key=repr)
    if isinstance(value, functools.partial):
        return {"partial": inside(value.func), "args": inside(value.args), **inside(value.keywords)}
    if isinstance(value, Differentiable):
        return inside(value.rule)
    module, name = (getattr(value, part, getattr(type(value), part)) for part in ("__module__", "__qualname__"))
    found: dict[str, Any] = {"__name__": f"{module}.{name}"}
    code = getattr(value, "__code__", None)
    if isinstance(code, CodeType):
        if not str(module).startswith("fmlp."):
            found["__code__"] = (
                f"{_hash(repr(_code(code)).encode())} of Python {sys.version_info[0]}.{sys.version_info[1]}"
            )
        found |= {part: inside(held) for part in HELD if (held := getattr(value, part, None)) is not None}
        for variable, cell in zip(code.co_freevars, value.__closure__ or (), strict=True):
            try:
                found[variable] = inside(cell.cell_contents)
            except ValueError:  # an empty cell
                continue
    elif not isinstance(value, type) and not str(module).startswith("logging"):  # a logger changes with all that log
        slots = {slot: getattr(value, slot) for slot in getattr(type(value), "__slots__", ()) if hasattr(value, slot)}
        attributes = getattr(value, "__dict__", slots)
        found |= {name: inside(child) for name, child in attributes.items() if not name.startswith("_")}
    return found


def _code(code: CodeType) -> tuple[Any, ...]:
    """Return what of a function's code decides what it does, in the same order in every process."""
    constants = [_code(c) if isinstance(c, CodeType) else c for c in code.co_consts]
    constants = [sorted(map(repr, c)) if isinstance(c, frozenset) else c for c in constants]
    return code.co_code, code.co_names, constants


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


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
    text = repr(value["__name__"] if isinstance(value, dict) and "__name__" in value else value)
    return text if len(text) <= 100 else f"{text[:97]}…"
