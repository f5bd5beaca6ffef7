"""How data become the batches of `fit`: rows in the order that a key gives, by windows where memory is too small.

Data are a pair (x, y) of arrays, where x may be a tree of them, sparse, or memory-mapped, or an iterable of batches.
With `comm` they are the rows of all ranks, in their order, of which each holds its own.
"""

from __future__ import annotations

import mmap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice, pairwise
from math import inf, prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fmlp import distributed, losses, random, tree
from fmlp.checks import array, array_of_numbers, finite, given, number, unmasked
from fmlp.random import Key
from fmlp.tree import Array

__all__ = [
    "Examples",
    "Source",
    "as_array",
    "check_finite",
    "check_rows",
    "count_rows",
    "drawn",
    "examples",
    "in_turn",
    "inputs",
    "is_pair",
    "kind",
    "labels_of",
    "prepared",
    "slices",
    "source",
    "take",
]

# Memory-mapped data larger than a window are shuffled by blocks into windows, and by rows within these.
BLOCK, WINDOW = 128 << 10, 128 << 20


class Examples(NamedTuple):
    """Rows to train or to measure on, checked; those of weight 0 are left out, whatever they hold."""

    x: Any
    y: Array
    weight: Array | None = None
    """Of each row, as it was given: for metrics."""
    loss_weight: Array | None = None
    """Of each row, times that of its class: for the loss."""
    left_out: int = 0
    """How many rows had weight 0, on all ranks."""

    def take(self, rows: Array) -> Examples:
        """Return those rows; of memory-mapped arrays, without reading them."""
        x = tree.map(lambda a: _subset(a, rows) if isinstance(a, np.memmap | _Subset) else take(a, rows), self.x)
        weight, loss_weight = (w if w is None else w[rows] for w in (self.weight, self.loss_weight))
        return Examples(x, take(self.y, rows), weight, loss_weight, self.left_out)


def examples(name: str, data: Any, weight: Any = None, class_weight: Any = None, comm: Any = None) -> Examples:
    """Check a pair (x, y) and the weights of its rows; raise ValueError or TypeError, which name what does not fit."""
    x, y = inputs(f"{name}: x", data[0]), targets(name, data[1])
    n = check_rows(name, x, y, comm)
    found = Examples(x, y, *_row_weights("" if name == "data" else f"{name}: ", y, n, weight, class_weight, comm))
    if found.loss_weight is not None:
        rows = np.flatnonzero(found.loss_weight)
        left_out = n - len(rows)
        found = found.take(rows) if left_out else found
        found = found._replace(left_out=left_out if comm is None else comm.allreduce(left_out))
    check_finite(f"{name}: x", found.x)
    check_finite(f"{name}: y", found.y)
    return found


def prepared(
    data: Any, validation: Any, weight: Any, class_weight: Any, key: Key, comm: Any, loss: Any
) -> tuple[Any, Examples | None]:
    """Check what `fit` got, and return the data to train on, `Examples` or batches, and those to validate on."""
    if is_pair(data):
        data = examples("data", data, weight, class_weight, comm)
    elif weight is not None or class_weight is not None:
        raise ValueError("weight, class_weight: batches bring their own; yield (x, y, weight)")
    if validation is None:
        return data, None
    if isinstance(validation, float | np.floating):
        return _set_aside(data, float(validation), key, comm, loss)
    if not isinstance(validation, tuple) or len(validation) not in (2, 3):
        raise TypeError(
            f"validation: expected a pair (x, y) or a fraction in (0, 1), got {given(validation)}; a third array may "
            "hold the rows' weights"
        )
    x, y, validation_weight = (*validation, None)[:3]
    return data, examples("validation", (x, y), validation_weight, comm=comm)


class Source(NamedTuple):
    """What `fit` reads its data from."""

    batches: Callable[[Key], Iterator[tuple[Any, ...]]]
    """An epoch of (x, y, weight), in the order of its key; with ranks (x, y, weight, rows of the ranks before)."""
    steps: int | None
    """How many batches an epoch has, where that is known."""
    inputs: Callable[[], Iterator[Any]]
    """All x in parts, to calibrate with."""
    examples: Examples | None
    """The data, unless they come as batches."""
    batch_size: int | None
    windows: list[int] | None = None
    """Bytes of a row, a block and a window, where data are shuffled by windows."""


def source(data: Any, batch_size: int | None, shuffle: bool, comm: Any = None) -> Source:
    """Say how `data`, `Examples` or an iterable of batches, come to the steps of `fit`; see there."""
    if isinstance(data, np.lib.npyio.NpzFile):
        raise TypeError(
            "data: expected a pair (x, y) of arrays, got an npz file, which cannot be memory-mapped. Take (file['x'], "
            "file['y']) if they fit into memory; else save each as npy and open it with np.load(path, mmap_mode='r')"
        )
    if isinstance(data, Examples):
        return _of_examples(data, batch_size, shuffle, comm)
    if not isinstance(data, Iterable) or isinstance(data, Iterator):
        raise TypeError(
            "data: expected a pair (x, y) of arrays or an iterable of batches that can be gone through once an "
            f"epoch, got {kind(data)}"
        )
    return _of_batches(data, batch_size, shuffle, comm)


def _of_batches(data: Any, batch_size: int | None, shuffle: bool, comm: Any) -> Source:
    own = getattr(data, "batch_size", None)
    if batch_size is not None and own not in (None, batch_size):
        raise ValueError(f"batch_size: expected {own}, the size of the batches that the data are, got {batch_size}")

    def batches(key: Key | None = None) -> Iterator[tuple[Any, ...]]:
        given = _checked(data if key is None or not hasattr(data, "shuffled") else data.shuffled(key), comm is None)
        return given if comm is None else distributed.padded(comm, given)

    steps = getattr(data, "__len__", lambda: None)() if comm is None else None
    return Source(lambda key: batches(key if shuffle else None), steps, lambda: (x for x, *_ in batches()), None, None)


def _checked(data: Iterable[Any], alone: bool) -> Iterator[tuple[Any, Array, Any]]:
    for batch in data:
        if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
            raise TypeError(
                f"data: expected batches (x, y) or (x, y, weight), or all data as a tuple (x, y), got "
                f"{kind(data)} whose first is {kind(batch)}"
            )
        x, y, weight = (*batch, None)[:3]
        x, y = inputs("data: x", x), np.asarray(targets("data", y))
        if weight is not None and np.shape(weight) == y.shape[:1] and len(y) and not np.all(weight):
            rows = np.flatnonzero(weight)  # the others count nothing, whatever they hold
            x, y, weight = take(x, rows), y[rows], np.asarray(weight)[rows]
            if alone and not rows.size:
                continue
        yield x, y, weight


def _of_examples(examples: Examples, batch_size: int | None, shuffle: bool, comm: Any) -> Source:
    x, y, _, w, left_out = examples
    n = len(y)
    here = None if comm is None else distributed.Rows(comm, n)
    total = here.total if here else n
    if batch_size is None:
        batch_size = min(32, total)
    elif batch_size > total + left_out:
        raise ValueError(f"batch_size: expected at most {total}, the number of rows to train on, got {batch_size}")
    batch_size = min(batch_size, total)
    parts, whole = slices(total, batch_size), slices(total, 1024)
    row_bytes = _mapped_bytes(x)
    if comm is not None:
        row_bytes = max(comm.allgather(row_bytes))
    if row_bytes * total <= WINDOW:
        row_bytes = 0

    def batches(key: Key) -> Iterator[tuple[Any, ...]]:
        generator = random.generator(key) if shuffle else None
        # Where the data are read by windows, the rows of this one, what x holds of them here, and where that begins.
        rows, held, begin, end = None, x, here.start if here else 0, here.stop if here else n
        for window, some in _windows(generator, parts, row_bytes):
            if window is not None:
                begin, end = np.searchsorted(window, [here.start, here.stop]) if here else (0, len(window))
                rows, held = window[begin:end] - (here.start if here else 0), None  # the last one's memory is free now
                held = _read(x, rows)
            for at in some:
                own: Array = at
                start: tuple[int, ...] = ()
                if here:  # of the whole batch's rows those that are here, and how many are on the ranks before
                    first, last = np.searchsorted(at, [begin, end])
                    own, start = at[first:last] - begin, (int(first),)
                of_all = own if rows is None else rows[own]
                yield take(held, own), take(y, of_all), None if w is None else w[of_all], *start

    def inputs() -> Iterator[Any]:
        return here.whole(x, whole, in_turn) if here else in_turn(x, whole)

    windows = [row_bytes, BLOCK, WINDOW] if row_bytes else None
    return Source(batches, len(parts), inputs, examples, batch_size, windows)


def _row_weights(
    place: str, y: Array, n: int, weight: Any, class_weight: Any, comm: Any
) -> tuple[Array | None, Array | None]:
    """Return the weights of rows, and these multiplied by the weights of their classes; None for all ones."""
    if weight is not None:
        weight = np.asarray(array_of_numbers(f"{place}weight", weight), np.float64)
        if weight.shape not in ((n,), (n, 1)):
            raise ValueError(f"{place}weight: expected shape ({n},), one per row, got {weight.shape}")
        weight = weight.reshape(n)
        _check_weights(f"{place}weight", weight, comm)
    if class_weight is None:
        return weight, weight
    w = np.ones(n) if weight is None else weight.copy()
    rows = np.flatnonzero(w)
    one_each = _as_vector(y[rows])
    if one_each.ndim != 1:
        raise ValueError(f"class_weight: expected y to hold one label a row, got y of shape {y.shape}")
    labels, index, counts = np.unique(one_each, return_inverse=True, return_counts=True)
    w[rows] *= _per_class(labels, counts, class_weight, comm)[index]
    _check_weights("class_weight", w, comm)
    return weight, w


def _check_weights(name: str, w: Array, comm: Any) -> None:
    low, high = w.min(initial=0), w.max(initial=0)
    some = w.any()
    if not (np.isfinite(w).all() and low >= 0 and (some if comm is None else comm.allreduce(int(some)))):
        low, high = (w.min(), w.max()) if w.size else (low, high)
        raise ValueError(f"{name}: expected finite numbers of at least 0, not all 0, got {low} to {high}")


def _as_vector(y: Array) -> Array:
    """Return a column, or rows of zeros and a single one, as a vector of labels, and anything else as it is."""
    if y.ndim == 2 and y.shape[1] == 1:
        return y[:, 0]
    if y.ndim == 2 and y.dtype.kind in "biuf" and ((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all():
        labels: Array = y.argmax(1)
        return labels
    return y


def _per_class(labels: Array, counts: Array, class_weight: Any, comm: Any) -> Array:
    """Return the weight of each of the labels, which occur so many times."""
    if isinstance(class_weight, str) and class_weight == "balanced":
        every, counted = (np.concatenate(parts) for parts in zip(*_collected(comm, (labels, counts)), strict=True))
        every, at = np.unique(every, return_inverse=True)
        balanced: Array = (counted.sum() / (len(every) * np.bincount(at, counted)))[np.searchsorted(every, labels)]
        return balanced
    unmasked("class_weight", class_weight)
    if hasattr(class_weight, "to_dict"):  # a Series of pandas
        class_weight = class_weight.to_dict()
    elif isinstance(class_weight, np.ndarray | list | tuple) and np.ndim(class_weight) == 1:
        if labels.dtype.kind not in "biu":
            raise TypeError(
                f"class_weight: an array holds the weights of the labels 0, 1, …, but the labels are {labels.dtype}; "
                "dict(zip(classes, weights)) says which weight is whose"
            )
        class_weight = dict(enumerate(class_weight))
    if not isinstance(class_weight, Mapping):
        raise TypeError(
            "class_weight: expected a dict from labels to weights, an array of the weights of the labels 0, 1, …, or "
            f"'balanced', got {given(class_weight)}"
        )
    if missing := [label for label in labels.tolist() if label not in class_weight]:
        raise ValueError(f"class_weight: no weight for the label {missing[0]!r}")
    return np.array([number(f"class_weight[{label!r}]", class_weight[label]) for label in labels.tolist()])


def _collected(comm: Any, value: Any) -> list[Any]:
    """Return the values of all ranks, in their order."""
    return [value] if comm is None else list(comm.allgather(value))


def labels_of(y: Array, *, whole: bool = False) -> Array | None:
    """Return the label of each row; None where there are several, or floats that are not `whole`."""
    y = _as_vector(y)
    if y.ndim != 1 or (y.dtype.kind == "O" and len({type(label) for label in y.tolist()}) > 1):
        return None
    whole = not len(y) or (whole and y.dtype.kind == "f" and (y == np.round(y)).all())
    return y if whole or y.dtype.kind in "biuUSTO" else None


def drawn(order: Array, labels: Array | None, count: int, offset: int) -> npt.NDArray[np.bool_]:
    """Choose `count` rows in proportion to the labels, and of each label with two rows or more at least one, not all.

    `order` is a random order of the rows, `offset` a random number below their number.
    """
    n = len(order)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    # Evenly spaced places in an order sorted by label meet each label in proportion.
    chosen = np.empty(n, bool)
    chosen[order] = np.diff((np.arange(n + 1) * count + offset) // n) == 1
    if labels is not None:
        codes = np.unique(labels, return_inverse=True)[1].reshape(n)
        chosen = ~_with_each(1, ~_with_each(2, chosen, codes, order), codes, order)
    return chosen


def _with_each(rows: int, chosen: npt.NDArray[np.bool_], codes: Array, order: Array) -> npt.NDArray[np.bool_]:
    """Exchange rows so that, where it can be, each label of so many rows or more is among those chosen."""
    chosen, sizes = chosen.copy(), np.bincount(codes)
    for code in np.flatnonzero((sizes >= rows) & (np.bincount(codes, chosen) == 0)):
        counts = np.bincount(codes, chosen)
        donor = np.where(counts > 1, counts - sizes * chosen.mean(), -inf).argmax()
        if counts[donor] > 1:
            chosen[order[chosen[order] & (codes[order] == donor)][0]] = False
            chosen[order[codes[order] == code][0]] = True
    return chosen


def _can_stratify(labels: Array, held: int, *, say: bool) -> bool:
    """Tell whether so few rows can hold each label; `say` what cannot be had."""
    found, counts = np.unique(labels, return_counts=True)
    if say and len(found) > held:
        warnings.warn(f"validation: {held} rows cannot hold all {len(found)} labels; drawn at random", stacklevel=4)
    elif say and counts.min() == 1:
        alone = found[counts == 1].tolist()
        warnings.warn(f"validation: only one row has the label {alone[0]!r}, and it stays in training", stacklevel=4)
    return len(found) <= held


def _set_aside(data: Any, fraction: float, key: Key, comm: Any, loss: Any) -> tuple[Examples, Examples]:
    """Draw a fraction of the rows for validation: return the other rows, and those drawn.

    Labels are drawn in proportion. Floats are labels where `loss` predicts labels.
    """
    if not isinstance(data, Examples):
        raise TypeError(f"data: expected a pair (x, y) of arrays, of which validation is a fraction, got {kind(data)}")
    if not 0 < fraction < 1:
        raise ValueError(f"validation: expected a fraction in (0, 1) or a pair (x, y), got {fraction}")
    here = None if comm is None else distributed.Rows(comm, len(data.y))
    n = here.total if here else len(data.y)
    held = round(n * fraction)
    if not 0 < held < n:
        raise ValueError(f"validation: {fraction} of {n} rows leaves one side empty")
    generator = random.generator(key)
    order, of_labels = generator.permutation(n), losses.prediction_of(loss) in (losses.argmax, losses.positive)
    every = _collected(comm, labels_of(data.y, whole=of_labels))
    if all(own is not None for own in every) and _can_stratify(np.concatenate(every), held, say=of_labels):
        chosen = drawn(order, np.concatenate(every), held, int(generator.integers(n)))
        parts = [np.flatnonzero(~chosen), np.flatnonzero(chosen)]
    else:
        parts = [np.sort(order[held:]), np.sort(order[:held])]
    if here:
        parts = [here.own(part) for part in parts]
    return data.take(parts[0]), data.take(parts[1])


def slices(n: int, batch_size: int) -> list[slice]:
    """Cut n rows into batches; a last batch that alone has one row joins the one before, for one has no variance."""
    ends = [*range(batch_size, n, batch_size), n]
    if len(ends) > 1 and ends[-1] - ends[-2] == 1 < batch_size:
        del ends[-2]
    return [slice(a, b) for a, b in pairwise([0, *ends])]


def _windows(generator: Any, parts: list[slice], row_bytes: int) -> Iterator[tuple[Array | None, Iterator[Array]]]:
    """Yield the rows of each batch, in their order, and where not all are in memory at once, those that are: windows.

    Rows of memory-mapped data, of `row_bytes` each, are read by blocks. A window is as many blocks, drawn from all over
    the data, as make `WINDOW` bytes, or a little less, for whole batches; the batches are of its rows, by their
    position in it. Without a generator all is in the order of the data.
    """
    n = parts[-1].stop

    def batches(some: list[slice]) -> Iterator[Array]:
        first, size = some[0].start, some[-1].stop - some[0].start
        order = np.arange(size) if generator is None else generator.permutation(size)
        return (np.sort(order[part.start - first : part.stop - first]) for part in some)  # sorted: is read faster

    if not row_bytes:
        yield None, batches(parts)
        return
    block = max(BLOCK // row_bytes, 1)
    blocks = iter(np.arange(-(-n // block)) if generator is None else generator.permutation(-(-n // block)))
    many = max(WINDOW // (row_bytes * (parts[0].stop - parts[0].start)), 1)
    left = np.empty(0, np.intp)
    for i in range(0, len(parts), many):
        some = parts[i : i + many]
        size = some[-1].stop - some[0].start
        missing = -(-(size - len(left)) // block) + 1  # one more, for the last block of all may be short
        more = np.array([*islice(blocks, missing)], np.intp)[:, None] * block + np.arange(block)
        stream = np.concatenate([left, more[more < n]])
        left = stream[size:]
        yield np.sort(stream[:size]), batches(some)


def _read(x: Any, rows: Array) -> Any:
    """Read rows of memory-mapped arrays into memory, and let go of the files' pages on the way."""

    def read(leaf: Any) -> Any:
        if not isinstance(leaf, np.memmap | _Subset):
            return take(leaf, rows)
        array, at = (leaf.array, leaf.rows[rows]) if isinstance(leaf, _Subset) else (as_array(leaf), rows)
        held = np.empty((len(at), *array.shape[1:]), array.dtype)
        piece = max(WINDOW // 64 // max(prod(array.shape[1:]) * array.itemsize, 1), 1)
        for i in range(0, len(at), piece):
            np.take(array, at[i : i + piece], 0, held[i : i + piece], "clip")
            _release(x)
        return held

    return tree.map(read, x)


class _Subset:
    """Some rows of a memory-mapped array, read when they are asked for."""

    def __init__(self, array: np.memmap[Any, Any], rows: Array) -> None:
        self.array, self.rows = array, rows
        self.shape, self.dtype, self.ndim = (len(rows), *array.shape[1:]), array.dtype, array.ndim

    def __getitem__(self, at: slice | Array) -> Array:
        return np.asarray(self.array)[self.rows[at]]


def _subset(mapped: np.memmap[Any, Any] | _Subset, rows: Array) -> _Subset:
    return _Subset(mapped.array, mapped.rows[rows]) if isinstance(mapped, _Subset) else _Subset(mapped, rows)


def _mapped(x: Any) -> Iterator[np.memmap[Any, Any]]:
    """Yield what is memory-mapped."""
    for leaf in tree.leaves(x):
        array = leaf.array if isinstance(leaf, _Subset) else leaf
        if isinstance(array, np.memmap):
            yield array


def _mapped_bytes(x: Any) -> int:
    return sum(prod(array.shape[1:]) * array.itemsize for array in _mapped(x))


def _release(x: Any) -> None:
    """Let go of the pages read of memory-mapped files: they stay in the system's cache, but are not this process's."""
    for mapped in _mapped(x):
        file: Any = mapped
        while isinstance(file, np.ndarray):
            file = file.base
        if mapped.mode == "r" and hasattr(file, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
            file.madvise(mmap.MADV_DONTNEED)


def in_turn(x: Any, parts: list[slice]) -> Iterator[Any]:
    """Yield parts of the rows, and let go now and then of what was memory-mapped to read them."""
    read, row_bytes = 0, _mapped_bytes(x)
    for part in parts:
        yield take(x, part)
        read += (part.stop - part.start) * row_bytes
        if read > WINDOW // 8:
            _release(x)
            read = 0


def take(x: Any, rows: slice | Array) -> Any:
    """Return those rows of every array in `x`."""
    if type(x) is np.ndarray:
        return x[rows] if isinstance(rows, slice) else x.take(rows, axis=0)
    return tree.map(lambda a: as_array(a)[rows], x)


def as_array(x: Any) -> Any:
    """Return `x` as an array, unless it is sparse or read when it is asked for."""
    if isinstance(x, np.memmap):
        return x.view(np.ndarray)
    return x if isinstance(x, _Subset) else x.tocsr() if hasattr(x, "tocsr") else array("x", x)


def inputs(name: str, x: Any) -> Any:
    """Return `x` with an array for each of its leaves that is neither sparse nor memory-mapped: the gate for data."""
    if type(x) is np.ndarray:
        return x

    def checked(path: str, leaf: Any) -> Any:
        if isinstance(leaf, np.memmap | _Subset) or np.ndim(leaf) == 0:
            return leaf
        return leaf.tocsr() if hasattr(leaf, "tocsr") else array(f"{name}/{path}" if path else name, leaf)

    return tree.unflatten(x, map(checked, tree.paths(x), tree.leaves(x)))


def count_rows(x: Any) -> int:
    """Return the number of rows of the first array in `x`."""
    leaves: list[Any] = [x] if isinstance(x, np.ndarray) else tree.leaves(x) or [None]
    leaf = next((leaf for leaf in leaves if np.ndim(leaf) == 0), leaves[0])
    if np.ndim(leaf) == 0:
        raise TypeError(
            "x: expected an array, or a tree of arrays, with the examples along the first axis, got a "
            f"{type(x).__name__} of {type(leaf).__name__}; np.asarray makes an array of rows"
        )
    return int(np.shape(leaf)[0])


def is_pair(data: Any) -> bool:
    """Tell a pair (x, y) from batches, even from two of them: their examples are of one shape, with as many targets."""
    if not isinstance(data, tuple) or len(data) != 2 or isinstance(data[0], str):
        return False
    if not all(isinstance(part, tuple | list) and len(part) in (2, 3) for part in data):
        return True
    (x, y), (other, _) = shapes = [([np.shape(a) for a in tree.leaves(part[0])], np.shape(part[1])) for part in data]
    if [s[1:] for s in x] != [s[1:] for s in other] or () in (y, *x, *other):
        return True
    return any(len({s[:1] for s in (*inputs, targets)}) > 1 for inputs, targets in shapes)


def kind(value: Any) -> str:
    """Name the type for an error, and the length where that tells more."""
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, tuple | list) else type(value).__name__


def check_rows(name: str, x: Any, y: Any, comm: Any = None) -> int:
    """Return how many rows x and y both have; raise ValueError unless they do, on some rank."""
    if any(np.ndim(a) == 0 for a in [*tree.leaves(x), y]):
        raise ValueError(
            f"{name}: expected arrays with the examples along the first axis, got numbers in {kind(x)}; "
            "np.asarray makes an array of rows"
        )
    lengths = {int(np.shape(a)[0]) for a in [*tree.leaves(x), y]}
    shapes = ", ".join(str(np.shape(a)) for a in [*tree.leaves(x), y])
    if len(lengths) != 1:
        raise ValueError(f"{name}: expected x and y with as many rows, got shapes {shapes}")
    n = lengths.pop()
    if (n if comm is None else comm.allreduce(n)) < 1:
        raise ValueError(f"{name}: expected at least one row, got shapes {shapes}")
    return n


def targets(name: str, y: Any) -> Any:
    """Return `y` as an array, which NumPy would also make of several targets."""
    if isinstance(y, dict) or (isinstance(y, tuple) and any(isinstance(leaf, np.ndarray) for leaf in y)):
        raise TypeError(
            f"{name}: expected y to be one array, got {kind(y)}; stack several targets as columns of one array, and "
            "let the loss take them apart"
        )
    return array(f"{name}: y", y)


def check_finite(name: str, x: Any) -> None:
    """Raise ValueError for a NaN or an infinity in what is in memory."""
    for path, a in zip(tree.paths(x), tree.leaves(x), strict=True):
        if not isinstance(a, np.memmap | _Subset):
            finite(f"{name}/{path}" if path else name, a)
