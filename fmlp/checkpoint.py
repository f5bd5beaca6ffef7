"""Checkpoints: files from which `fit` continues, bit for bit, after a kill, a crash or a full disk.

`save` writes the file. The parameters, the optimizer's state, the best parameters and the history are arrays; the
position in the training and the settings are metadata. A setting that is a function is described by its code and the
values it closes over. `fit` refuses a checkpoint of other settings and names the differences.
"""

from __future__ import annotations

import copyreg
import functools
import hashlib
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from enum import Enum
from pathlib import Path, PurePath
from types import CodeType, ModuleType
from typing import Any, NamedTuple

import numpy as np

from fmlp import tree
from fmlp.arguments import integer, number
from fmlp.arguments import path as checked_path
from fmlp.autodiff import Differentiable
from fmlp.files import FileFormatError, drafts, holding, locked, opened, reading, shown
from fmlp.serialization import load_with_metadata, save, unnamed
from fmlp.signals import undone_in_children
from fmlp.tree import Array, Tree

__all__ = ["Checkpoint", "CheckpointError", "Epoch", "Saver", "describe", "differences"]


class Epoch(NamedTuple):
    """The state of a training. A callback gets one after each epoch, and may return it with fields replaced."""

    epoch: int
    """Counted from 0."""
    params: Tree
    state: Any
    """The optimizer's state."""
    history: dict[str, list[float]] = {}  # noqa: RUF012 - never written to
    """The history so far, as in `FitResult`."""
    stop: bool | str = False
    """Whether training ends; if `fit` itself ends it, the reason."""
    best: Tree = None
    """The parameters of the best epoch so far."""
    step: int = 0
    """The number of steps made in this epoch, 0 at its end."""
    total: float = 0.0
    """The sum of the losses of the epoch's batches so far, each times the batch's weight."""
    total_weight: float = 0.0
    seconds: float = 0.0
    """The seconds of the earlier runs that this run continues."""
    measured: bool = False
    """Whether the history already includes this epoch while its callbacks have not been called yet."""

    def scores(self) -> dict[str, float]:
        """Return the loss of the epoch so far, and the latest scores."""
        measured = {
            name: values[-1] for name, values in self.history.items() if len(values) == self.epoch + self.measured
        }
        return measured | ({"loss": self.total / self.total_weight} if self.total_weight else {})


class Checkpoint:
    """Where and how often `fit` writes a checkpoint: every `epochs` epochs, and every `seconds` seconds if given.

    `fit` writes one more when training ends normally, by Ctrl-C or by SIGTERM. The file is replaced atomically, so
    readers see either the old file or the new one. `path` names the same file even if the program changes its working
    directory. `fit` removes unfinished files next to it, ``.run.npz.….tmp``, that a killed training has left.

    Only one training at a time can use the file. It locks the file while it runs, and `fit` raises ValueError for a
    second training. If the second starts before the first has written anything, or if the file is removed meanwhile,
    one of them gets a `CheckpointError` at its next write. Windows and some network file systems have no such locks
    between processes.

    A training continues only with the arguments it had before. These are equal if:

    - functions have the same code (compiled by the same version of Python), default arguments and closed-over values;
      fmlp's own functions are compared by name instead of code;
    - arrays, of any library, hold the same numbers;
    - other objects have the same type, and equal attributes except for those that begin with ``_``.

    Some values cannot be compared: global variables, memory-mapped arrays, objects in sets, and objects that have
    neither attributes nor a pickled form, such as a lock or a generator. The file's settings then say "not compared".

    A training does not continue if early stopping or a callback has ended it, or if it has already reached `epochs`:
    `fit` then returns the result that it had reached, with all its epochs. The optimizer's state may change its dtypes
    during training, but not its shapes.

    Raises ValueError for a number that is not positive, TypeError for a value that is not a number.

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
        """Show the arguments."""
        return f"Checkpoint({os.fspath(self.path)!r}, epochs={self.epochs}, seconds={self.seconds})"


class CheckpointError(OSError):
    """A checkpoint could not be written; the old file is unchanged, and `params` are the latest parameters."""

    def __init__(self, message: str, params: Tree) -> None:
        super().__init__(message)
        self.params = params

    def __reduce__(self) -> tuple[Any, ...]:
        """Make it picklable, with its parameters."""
        return type(self), (str(self), self.params)


class Saver:
    """Reads and writes the checkpoints of one training; without a `checkpoint` it does nothing."""

    checkpoint: Checkpoint | None
    latest: Epoch

    def __init__(self, checkpoint: Checkpoint | None, settings: Mapping[str, Any], start: Epoch) -> None:
        self.checkpoint, self.latest = checkpoint, start
        self.started = self.written_at = time.monotonic()
        self.written: Epoch | None = None
        if checkpoint:
            self.settings, self.shapes = describe(settings), _shapes(start)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Read the progress in the file, if there is one, and lock the file for this training during the block."""
        if not self.checkpoint:
            yield
            return
        path = self.checkpoint.path
        if path.is_dir():
            raise ValueError(f"checkpoint: expected a file, got the folder {path}")
        _clear_drafts(path)
        with ExitStack() as stack:
            try:
                let_go = stack.enter_context(holding(path))
            except BlockingIOError as error:
                raise ValueError(
                    f"checkpoint: {path}: {error.strerror}; wait for its end, or name another file"
                ) from None
            stack.enter_context(undone_in_children(let_go))
            if path.exists():
                self.latest = self.written = _read(path, self.settings, self.latest)
            yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write a checkpoint before the block, so that an unwritable file is noticed before any work, and one after it.

        The last one is also written after Ctrl-C, even if that has interrupted a write, but not after an error.
        """
        try:
            self.write()
            yield
            self.write()
        except KeyboardInterrupt:
            self.write()
            raise

    def note(self, now: Epoch) -> None:
        """Note the progress, and write if it is time, but never between an epoch's scores and its callbacks."""
        if not self.checkpoint or now.measured:
            return
        was_written, seconds = self.latest is self.written, self.checkpoint.seconds
        self.latest = now
        if was_written:  # after the first step, for example, so that the error comes early; not at every step
            self.check()
        if (now.step == 0 and now.epoch % self.checkpoint.epochs == 0) or (
            seconds is not None and time.monotonic() - self.written_at >= seconds
        ):
            self.write()

    def check(self) -> None:
        """Raise CheckpointError if shapes have changed since the start, because the file could not be read again."""
        where = "as the optimizer's init made it", "now"
        if other := list(differences(self.shapes, _shapes(self.latest), where)):
            listed = "\n  ".join(other[:10])
            raise CheckpointError(
                f"checkpoint: shapes have changed, so that it could not be read again:\n  {listed}", self.latest.params
            )

    def write(self) -> None:
        """Replace the file by one with the latest progress, unless it is up to date."""
        if not self.checkpoint or self.latest is self.written:
            return
        self.check()
        latest = self.latest
        numbers = {name: getattr(latest, name) for name in _NUMBERS}
        numbers["seconds"] += time.monotonic() - self.started
        trees = _trees(latest)
        leaves = zip(tree.paths(trees), tree.leaves(trees), strict=True)
        kinds = {path: _kind(leaf) for path, leaf in leaves if not isinstance(leaf, np.ndarray)}
        metadata = {
            "format": FORMAT,
            "settings": self.settings,
            "progress": numbers | {"history": [*latest.history]},
            "kinds": kinds,
        }
        history = [np.asarray(values, np.float64) for values in latest.history.values()]
        try:
            save(self.checkpoint.path, trees | {"history": history}, metadata=metadata)
        except OSError as error:
            raise CheckpointError(
                f"checkpoint: {self.checkpoint.path} could not be written: {error.strerror or error}", latest.params
            ) from error
        self.written, self.written_at = latest, time.monotonic()


FORMAT = 1
"""The version of the file format; increase it when the format changes."""

_NUMBERS = {"epoch": int, "step": int, "total": float, "total_weight": float, "stop": str, "seconds": float}
_KINDS = {"bool": bool, "int": int, "float": float, "complex": complex, "str": str}
"""The types of leaves that are not arrays, by name."""


def _trees(epoch: Epoch) -> dict[str, Tree]:
    return {"params": epoch.params, "state": epoch.state, "best": epoch.best}


def _shapes(epoch: Epoch) -> dict[str, Any]:
    trees = _trees(epoch)
    return describe(
        {name: str(np.shape(leaf)) for name, leaf in zip(tree.paths(trees), tree.leaves(trees), strict=True)}
    )


def _kind(leaf: Any) -> str:
    """Name the kind of a leaf: "scalar" for NumPy's scalars, the type for Python's, "array: …" for other arrays."""
    name = type(leaf).__name__
    return "scalar" if isinstance(leaf, np.generic) else name if type(leaf) in _KINDS.values() else f"array: {name}"


def _read(path: Path, settings: dict[str, Any], start: Epoch) -> Epoch:
    """Return the progress in the file, all from one version of the file."""
    found, metadata = load_with_metadata(path)
    if not {"settings", "progress"} <= metadata.keys():
        raise FileFormatError(f"{path}: expected a checkpoint, got a file without settings and progress")
    if metadata.get("format") != FORMAT:
        raise FileFormatError(
            f"{path}: expected a checkpoint of format {FORMAT}, got {shown(repr(metadata.get('format')))}, written by "
            "another version of fmlp"
        )
    with reading(path, "a checkpoint"):
        other = list(differences(metadata["settings"], settings))
    if other:
        listed = "\n  ".join(other[:10] + ["…"] * (len(other) > 10))
        raise ValueError(
            f"checkpoint: {path} is of another training; remove it to start anew, or name another file:\n  {listed}"
        )
    with reading(path, "a checkpoint"):
        progress, kinds, history = metadata["progress"], metadata["kinds"], found.pop("history", {})
        numbers = {name: progress[name] for name in _NUMBERS}
        for name, kind in _NUMBERS.items():
            if not (type(numbers[name]) is kind and (kind is not int or numbers[name] >= 0)):
                raise TypeError(f"{name} is {shown(repr(numbers[name]))}")
        curves = {name: history[str(i)].tolist() for i, name in enumerate(progress["history"])}
        if len(curves) != len(history) or not all(type(v) is float for values in curves.values() for v in values):
            raise TypeError("expected a history of numbers")
    held = dict(zip(tree.paths(found), tree.leaves(found), strict=True))
    like = _trees(start)
    named = list(zip(tree.paths(like), tree.leaves(like), strict=True))
    # Use the dtypes in the file, because training may have changed them since its start.
    wanted = [_in_dtype_of(held.get(name), leaf) for name, leaf in named]
    leaves = tree.leaves(unnamed(held, tree.unflatten(like, wanted), path))
    with reading(path, "a checkpoint"):
        given = [_as(kinds.get(name), leaf, first) for (name, first), leaf in zip(named, leaves, strict=True)]
    return Epoch(**tree.unflatten(like, given), **numbers, history=curves)


def _in_dtype_of(held: Any, leaf: Any) -> Any:
    numbers = held is not None and held.dtype.kind in "fiub"
    return np.broadcast_to(np.zeros((), held.dtype), np.shape(leaf)) if numbers else leaf


def _as(kind: str | None, leaf: Array, first: Any) -> Any:
    """Return a leaf in its original kind: a NumPy array, or an array of the library of the first leaf."""
    if kind is None or kind == "scalar":
        return leaf if kind is None else leaf[()]
    if kind.startswith("array: "):
        return first.__array_namespace__().asarray(leaf) if kind == _kind(first) else leaf
    return _KINDS[kind](leaf.item())


def _clear_drafts(path: Path) -> None:
    """Remove unfinished files that killed writers have left."""
    for draft in drafts(path):
        with suppress(OSError, FileFormatError), opened(draft) as file:  # a folder, another user's, or gone
            if locked(file):  # nobody is writing to it
                draft.unlink()


# --------------------------------------------------------------------------- what a resume compares


def describe(value: Any) -> dict[str, Any]:
    """Describe settings in terms that JSON can hold, in time and space proportional to their size.

    Functions are described by name, a hash of their code (except for fmlp's own), default arguments and closed-over
    values; arrays of any library by dtype, shape and a hash; modules, classes and loggers by name; other objects by
    type and public attributes, or by their pickled form if they have no attributes. Anything else, and memory-mapped
    arrays, are described as "not compared".

    Returns ``{"value": …, "objects": […]}``. A value with parts is listed once, in "objects", and referred to by its
    position there.

    >>> def constant(learning_rate):
    ...     return lambda count: learning_rate
    >>> describe(constant(0.1))["objects"][0]["learning_rate"]
    0.1
    >>> describe([1, [2.5, "a"]])
    {'value': {'object': 0}, 'objects': [[1, {'object': 1}], [2.5, 'a']]}
    """
    found: list[Any] = []  # also keeps the objects alive, so that no other object gets the same id
    places: dict[int, int] = {}

    def told(part: Any) -> Any:
        while isinstance(part, Differentiable):
            part = part.rule
        if (leaf := _leaf(part)) is not _HAS_PARTS:
            return leaf
        if id(part) not in places:
            places[id(part)] = len(found)
            found.append(part)
        return {"object": places[id(part)]}

    root, objects = told(value), []
    for each in found:  # grows during the loop
        try:
            parts = _parts(each)
        except MemoryError:
            raise
        except Exception:  # foreign objects may raise anything
            parts = {"__name__": _not_compared(each)}
        told_parts = [*map(told, parts)] if isinstance(parts, list) else {name: told(parts[name]) for name in parts}
        objects.append(told_parts)
    return {"value": root, "objects": objects}


_HAS_PARTS = object()


def _leaf(value: Any) -> Any:
    """Describe a value without parts, or return `_HAS_PARTS`."""
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int):
        return value if abs(value) < 1 << 64 else hex(value)
    if isinstance(value, np.generic):
        return value.item() if value.dtype.kind in "biuf" and value.itemsize <= 8 else f"{value.dtype} {value!s}"
    if isinstance(value, type):
        return _name(value)
    if hasattr(type(value), "__array__") or hasattr(type(value), "__array_interface__"):
        return _array(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return _hash(bytes(value))
    if isinstance(value, complex | range | slice | PurePath | Enum):
        return repr(value)
    return value.__name__ if isinstance(value, ModuleType) else _HAS_PARTS


def _array(value: Any) -> str:
    try:
        array = np.asarray(value.detach() if hasattr(value, "detach") else value)  # a PyTorch tensor without gradient
        told = f"{array.dtype} {array.shape}"
        if isinstance(value, np.memmap):  # may be larger than memory
            return f"{told}, not compared"
        if array.dtype.hasobject:
            leaves = [_leaf(leaf) for leaf in array.ravel().tolist()]
            return f"{told}, not compared" if _HAS_PARTS in leaves else f"{told} {_hash(repr(leaves).encode())}"
        mask = f" masked {_hash(value.mask.tobytes())}" if isinstance(value, np.ma.MaskedArray) else ""
        return f"{told} {_hash(np.ascontiguousarray(array).tobytes())}{mask}"
    except MemoryError:
        raise
    except Exception:  # such as an array on another device
        return _not_compared(value)


def _parts(value: Any) -> list[Any] | dict[str, Any]:
    """Return the parts of an object."""
    if isinstance(value, Mapping):
        return {name if isinstance(name, str) else str(_flat(name)): child for name, child in value.items()}
    if isinstance(value, tuple | list | deque):
        return [*value]
    if isinstance(value, set | frozenset):
        return sorted(map(_flat, value), key=repr)
    if isinstance(value, functools.partial):
        return {"partial": value.func, "args": value.args, **value.keywords}
    found: dict[str, Any] = {"__name__": _name(value)}
    code = getattr(value, "__code__", None)
    if isinstance(code, CodeType):
        if not found["__name__"].startswith("fmlp."):
            version = f"{sys.version_info[0]}.{sys.version_info[1]}"
            found["__code__"] = f"{_hash(repr(_code(code)).encode())} of Python {version}"
        found |= {part: held for part in HELD if (held := getattr(value, part, None)) is not None}
        for variable, cell in zip(code.co_freevars, value.__closure__ or (), strict=True):
            with suppress(ValueError):  # an empty cell
                found[variable] = cell.cell_contents
    elif hasattr(value, "__wrapped__"):  # such as functools.lru_cache
        found["__wrapped__"] = value.__wrapped__
    elif found["__name__"].startswith("logging."):  # loggers change whenever anything logs
        pass
    elif public := {name: getattr(value, name) for name in _attributes(value) if not name.startswith("_")}:
        found |= public
    elif not hasattr(value, "__dict__"):
        reduce: Any = copyreg.dispatch_table.get(type(value))
        found["pickled as"] = reduce(value) if reduce else value.__reduce_ex__(2)
    return found


HELD = ("__defaults__", "__kwdefaults__", "__self__")
"""The attributes of a function that are compared besides its code and closed-over values."""


def _attributes(value: Any) -> Iterator[str]:
    yield from getattr(value, "__dict__", ())
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        yield from (slot for slot in ([slots] if isinstance(slots, str) else slots) if hasattr(value, slot))


def _flat(value: Any) -> Any:
    """Describe an element of a set or a key, independently of the order in which other values are described."""
    if (leaf := _leaf(value)) is not _HAS_PARTS:
        return leaf
    return [*map(_flat, value)] if isinstance(value, tuple) else _not_compared(value)


def _name(value: Any) -> str:
    module, name = (getattr(value, part, getattr(type(value), part)) for part in ("__module__", "__qualname__"))
    return f"{module}.{name}"


def _not_compared(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}, not compared"


def _code(code: CodeType) -> tuple[Any, ...]:
    """Return the parts of a function's code that determine what it does, in the same order in every process."""
    constants = [_code(c) if isinstance(c, CodeType) else c for c in code.co_consts]
    constants = [sorted(map(repr, c)) if isinstance(c, frozenset) else c for c in constants]
    return code.co_code, code.co_names, constants


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def differences(
    was: Mapping[str, Any], now: Mapping[str, Any], where: tuple[str, str] = ("in the file", "now")
) -> Iterator[str]:
    """Yield the differences between two descriptions, by path.

    >>> list(differences(describe({"batch_size": 32, "shuffle": True}), describe({"batch_size": 64, "shuffle": True})))
    ['batch_size: 32 in the file, 64 now']
    """
    todo, seen = [("", was["value"], now["value"])], set()
    while todo:
        path, *parts = todo.pop()
        if all(isinstance(part, dict) for part in parts):
            pair = tuple(part["object"] for part in parts)
            if pair in seen:
                continue
            seen.add(pair)
        a, b = (
            of["objects"][p["object"]] if isinstance(p, dict) else p for p, of in zip(parts, (was, now), strict=True)
        )
        below: list[tuple[Any, Any, Any]] = []
        if isinstance(a, dict) and isinstance(b, dict):
            names = [*a, *(name for name in b if name not in a)]
            below = [(name, a.get(name, "absent"), b.get(name, "absent")) for name in names]
        elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            below = [*zip(range(len(a)), a, b, strict=True)]
        elif a != b and not (a != a and b != b):
            yield f"{path}: {_short(a)} {where[0]}, {_short(b)} {where[1]}"
        todo += [(f"{path}/{name}".lstrip("/"), *pair) for name, *pair in reversed(below)]


def _short(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("__name__", {name: "…" if isinstance(part, dict) else part for name, part in value.items()})
    elif isinstance(value, list):
        value = ["…" if isinstance(part, dict) else part for part in value]
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}…"
