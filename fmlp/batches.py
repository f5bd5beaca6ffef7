"""Cut data into batches: rows in the order that a key gives, by windows if memory is too small for all rows.

Data are a pair (x, y) of arrays, where x may be a tree of arrays, sparse, or memory-mapped, or an iterable of batches.
The rows of a group of processes are those of all processes, in their order; each process holds its own rows.
"""

from __future__ import annotations

import copy
import mmap
import warnings
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, pairwise
from math import inf, prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fmlp import losses, random, tree
from fmlp.arguments import array, array_of_numbers, finite, given, number, unmasked
from fmlp.distributed import Alone, Batch, group_of
from fmlp.random import Key
from fmlp.tree import Array

__all__ = ["Batch", "Batches", "batches"]

# Memory-mapped data larger than a window are shuffled by blocks into windows, and by rows within each window.
BLOCK, WINDOW = 128 << 10, 128 << 20


class Examples(NamedTuple):
    """Checked rows for training or measuring; rows of weight 0 are left out, whatever they hold."""

    x: Any
    y: Array
    weight: Array | None = None
    """The given weight of each row, for metrics."""
    loss_weight: Array | None = None
    """The weight of each row times the weight of its class, for the loss."""
    left_out: int = 0
    """How many rows had weight 0, on all ranks."""

    def take(self, rows: Array) -> Examples:
        """Return these rows, without reading them yet from memory-mapped arrays."""
        x = tree.map(lambda a: _subset(a, rows) if isinstance(a, np.memmap | _Subset) else take(a, rows), self.x)
        weight, loss_weight = (w if w is None else w[rows] for w in (self.weight, self.loss_weight))
        return Examples(x, take(self.y, rows), weight, loss_weight, self.left_out)


def examples(name: str, data: Any, weight: Any, class_weight: Any, group: Alone) -> Examples:
    """Check a pair (x, y) and the weights of its rows; raise ValueError or TypeError, naming the one that is wrong."""
    x, y = inputs(f"{name}: x", data[0]), targets(name, data[1])
    n = check_rows(name, x, y, group)
    found = Examples(x, y, *_row_weights("" if name == "data" else f"{name}: ", y, n, weight, class_weight, group))
    if found.loss_weight is not None:
        rows = np.flatnonzero(found.loss_weight)
        left_out = n - len(rows)
        found = found.take(rows) if left_out else found
        found = found._replace(left_out=sum(group.collect(left_out)))
    check_finite(f"{name}: x", found.x)
    check_finite(f"{name}: y", found.y)
    return found


def prepared(
    data: Any, validation: Any, weight: Any, class_weight: Any, key: Key, group: Alone, loss: Any
) -> tuple[Any, Examples | None]:
    """Check the data of `fit`, and return those for training, `Examples` or batches, and those for validation."""
    if is_pair(data):
        data = examples("data", data, weight, class_weight, group)
    elif weight is not None or class_weight is not None:
        raise ValueError("weight, class_weight: batches bring their own weights; yield (x, y, weight)")
    if validation is None:
        return data, None
    if isinstance(validation, float | np.floating):
        return _set_aside(data, float(validation), key, group, loss)
    if not isinstance(validation, tuple) or len(validation) not in (2, 3):
        raise TypeError(
            f"validation: expected a pair (x, y) or a fraction in (0, 1), got {given(validation)}; a third array may "
            "hold the rows' weights"
        )
    x, y, validation_weight = (*validation, None)[:3]
    return data, examples("validation", (x, y), validation_weight, None, group)


def batches(
    data: Any, *, batch_size: int | None = None, weight: Any = None, class_weight: Any = None, comm: Any = None
) -> Batches:
    """Check data once, and return their batches, which you can go through as often as you like.

    As in `fit`, `data` is a pair ``(x, y)`` of arrays with the examples along the first axis, or an iterable of
    batches; `fit` also takes the returned batches as its data. `batch_size` is 32 by default, or all rows if there are
    fewer; a last batch of a single row joins the one before. `weight` gives each row a weight and `class_weight` each
    label, as in `fit`; rows of weight 0 are left out. With `comm`, each rank passes its own rows.

    Iterating yields one `Batch` after another in the order of the data; ``shuffled(key)`` returns batches in a random
    order. Raises ValueError or TypeError for data and weights that do not fit.

    >>> data = batches((np.arange(5.0)[:, None], np.arange(5)), batch_size=3)
    >>> [batch.y.tolist() for batch in data], len(data)
    ([[0, 1, 2], [3, 4]], 2)
    >>> [batch.y.tolist() for batch in data.shuffled(random.key(0))]
    [[0, 1, 4], [2, 3]]
    """
    group = group_of(comm)
    return batches_of(prepared(data, None, weight, class_weight, random.key(0), group, None)[0], batch_size, group)


class Batches:
    """The batches of an epoch, in the order of the data or of a key; `batches` returns them."""

    batch_size: int | None = None
    """The rows of a batch; None if the data come as batches."""
    steps: int | None = None
    """The number of batches, if it is known."""
    examples: Examples | None = None
    """The rows, unless the data come as batches."""
    windows: list[int] | None = None
    """The bytes of a row, a block and a window, if the data are shuffled by windows."""

    def __init__(self, group: Alone, key: Key | None = None) -> None:
        self.group, self.key = group, key

    def __len__(self) -> int:
        """Return the number of batches; raises TypeError if it is not known."""
        if self.steps is None:
            raise TypeError("the number of batches is not known before the end of an epoch")
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches."""
        raise NotImplementedError

    def shuffled(self, key: Key | None) -> Batches:
        """Return batches of the same data in the order of a key, or for None in the order of the data."""
        other = copy.copy(self)
        other.key = key
        return other

    def inputs(self) -> Iterator[Any]:
        """Yield all x in parts, in the order of the data."""
        return (batch.x for batch in self.shuffled(None))


def batches_of(data: Any, batch_size: int | None, group: Alone) -> Batches:
    """Return the batches of `Examples`, or of an iterable of batches."""
    if isinstance(data, np.lib.npyio.NpzFile):
        raise TypeError(
            "data: expected a pair (x, y) of arrays, got an npz file, which cannot be memory-mapped. Pass (file['x'], "
            "file['y']) if they fit into memory; else save each as npy and open it with np.load(path, mmap_mode='r')"
        )
    if isinstance(data, Examples):
        return _OfExamples(data, batch_size, group)
    if not isinstance(data, Iterable) or isinstance(data, Iterator):
        raise TypeError(
            "data: expected a pair (x, y) of arrays or an iterable of batches that starts again in each epoch, "
            f"got {kind(data)}"
        )
    own = getattr(data, "batch_size", None)
    if batch_size is not None and own not in (None, batch_size):
        raise ValueError(f"batch_size: expected {own}, the size of the given batches, got {batch_size}")
    return data if isinstance(data, Batches) else _OfBatches(data, group)


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except TypeError:
        return None


class _OfBatches(Batches):
    """Batches from a user's iterable."""

    def __init__(self, data: Any, group: Alone) -> None:
        super().__init__(group)
        lengths = group.collect(_length(data))
        self.data, self.steps = data, None if None in lengths else max(lengths)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches, checked."""
        ordered = self.key is not None and hasattr(self.data, "shuffled")
        yield from self.group.in_step(map(self._checked, self.data.shuffled(self.key) if ordered else self.data))

    def _checked(self, batch: Any) -> Batch:
        if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
            raise TypeError(
                f"data: expected batches (x, y) or (x, y, weight), or all data as a tuple (x, y), got "
                f"{kind(self.data)} whose first item is {kind(batch)}"
            )
        x, y, weight = (*batch, None)[:3]
        if all(np.ndim(leaf) == 0 for leaf in tree.leaves(x)):
            x = np.asarray(x)  # lists of numbers
        x, y = inputs("data: x", x), np.asarray(targets("data", y))
        if weight is not None and np.shape(weight) in (y.shape[:1], (*y.shape[:1], 1)) and not np.all(weight):
            rows = np.flatnonzero(weight)  # the others do not count, whatever they hold
            x, y, weight = take(x, rows), y[rows], np.asarray(weight)[rows]
        return Batch(x, y, weight)


class _OfExamples(Batches):
    """Batches of arrays."""

    def __init__(self, examples: Examples, batch_size: int | None, group: Alone) -> None:
        super().__init__(group)
        self.examples: Examples = examples
        self.here = group.rows(len(examples.y))
        total = self.here.total
        if batch_size is None:
            batch_size = min(32, total)
        elif batch_size > total + examples.left_out:
            raise ValueError(f"batch_size: expected at most {total}, the number of rows to train on, got {batch_size}")
        self.batch_size = min(batch_size, total)
        self.parts = slices(total, self.batch_size)
        self.steps = len(self.parts)
        row_bytes = max(group.collect(_mapped_bytes(examples.x)))
        self.windows = [row_bytes, BLOCK, WINDOW] if row_bytes * total > WINDOW else None

    def __iter__(self) -> Iterator[Batch]:
        """Yield each batch: its rows on this rank, and the number of its rows on the ranks before."""
        x, y, _, weight, _ = self.examples
        here, row_bytes = self.here, self.windows[0] if self.windows else 0
        generator = None if self.key is None else random.generator(self.key)
        # If the data are read by windows: this rank's rows of the window, their x, and their range in the window.
        rows, held, begin, end = None, x, here.start, here.stop
        for window, some in _windows(generator, self.parts, row_bytes):
            if window is not None:
                begin, end = np.searchsorted(window, [here.start, here.stop])
                rows, held = window[begin:end] - here.start, None  # frees the last window's memory
                held = _read(x, rows)
            for at in some:
                start, own = here.cut(at, begin, end)
                of_all = own if rows is None else rows[own]
                yield Batch(take(held, own), take(y, of_all), None if weight is None else weight[of_all], start)

    def inputs(self) -> Iterator[Any]:
        """Yield all x in parts of 1,024 rows; each part is whole on one process."""
        return self.here.whole(self.examples.x, slices(self.here.total, 1024), in_turn)


def _row_weights(
    place: str, y: Array, n: int, weight: Any, class_weight: Any, group: Alone
) -> tuple[Array | None, Array | None]:
    """Return the rows' weights, and these times the weights of the rows' classes; None stands for all ones."""
    if weight is not None:
        weight = np.asarray(array_of_numbers(f"{place}weight", weight), np.float64)
        if weight.shape not in ((n,), (n, 1)):
            raise ValueError(f"{place}weight: expected shape ({n},), one per row, got {weight.shape}")
        weight = weight.reshape(n)
        _check_weights(f"{place}weight", weight, group)
    if class_weight is None:
        return weight, weight
    w = np.ones(n) if weight is None else weight.copy()
    rows = np.flatnonzero(w)
    one_each = _as_vector(y[rows])
    if one_each.ndim != 1:
        raise ValueError(f"class_weight: expected y to hold one label per row, got y of shape {y.shape}")
    labels, index, counts = np.unique(one_each, return_inverse=True, return_counts=True)
    w[rows] *= _per_class(labels, counts, class_weight, group)[index]
    _check_weights("class_weight", w, group)
    return weight, w


def _check_weights(name: str, w: Array, group: Alone) -> None:
    low, high = w.min(initial=0), w.max(initial=0)
    if not (np.isfinite(w).all() and low >= 0 and any(group.collect(bool(w.any())))):
        low, high = (w.min(), w.max()) if w.size else (low, high)
        raise ValueError(f"{name}: expected finite numbers of at least 0, not all 0, got {low} to {high}")


def _as_vector(y: Array) -> Array:
    """Return a column, or one-hot rows, as a vector of labels, and anything else unchanged."""
    if y.ndim == 2 and y.shape[1] == 1:
        return y[:, 0]
    if y.ndim == 2 and y.dtype.kind in "biuf" and ((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all():
        labels: Array = y.argmax(1)
        return labels
    return y


def _per_class(labels: Array, counts: Array, class_weight: Any, group: Alone) -> Array:
    """Return the weight of each label; `counts` says how often each one occurs."""
    if isinstance(class_weight, str) and class_weight == "balanced":
        every, counted = (np.concatenate(parts) for parts in zip(*group.collect((labels, counts)), strict=True))
        every, at = np.unique(every, return_inverse=True)
        balanced: Array = (counted.sum() / (len(every) * np.bincount(at, counted)))[np.searchsorted(every, labels)]
        return balanced
    unmasked("class_weight", class_weight)
    if hasattr(class_weight, "to_dict"):  # a Series of pandas
        class_weight = class_weight.to_dict()
    elif isinstance(class_weight, np.ndarray | list | tuple) and np.ndim(class_weight) == 1:
        if labels.dtype.kind not in "biu" and not (labels.dtype.kind == "f" and np.array_equal(labels, labels.round())):
            raise TypeError(
                f"class_weight: an array holds the weights of the labels 0, 1, …, but the labels are {labels.dtype}; "
                "pass dict(zip(classes, weights))"
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


def labels_of(y: Array, *, whole: bool = False) -> Array | None:
    """Return the label of each row; None for several labels a row, and for floats, except whole ones if `whole`."""
    y = _as_vector(y)
    if y.ndim != 1 or (y.dtype.kind == "O" and len({type(label) for label in y.tolist()}) > 1):
        return None
    whole = not len(y) or (whole and y.dtype.kind == "f" and (y == np.round(y)).all())
    return y if whole or y.dtype.kind in "biuUSTO" else None


def drawn(order: Array, labels: Array | None, count: int, offset: int) -> npt.NDArray[np.bool_]:
    """Choose `count` rows in proportion to the labels; of each label with two rows or more, at least one but not all.

    `order` is a random order of the rows, `offset` a random integer below the number of rows.
    """
    n = len(order)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    # Evenly spaced places in an order sorted by label contain each label in proportion.
    chosen = np.empty(n, bool)
    chosen[order] = np.diff((np.arange(n + 1) * count + offset) // n) == 1
    if labels is not None:
        codes = np.unique(labels, return_inverse=True)[1].reshape(n)
        chosen = ~_with_each(1, ~_with_each(2, chosen, codes, order), codes, order)
    return chosen


def _with_each(rows: int, chosen: npt.NDArray[np.bool_], codes: Array, order: Array) -> npt.NDArray[np.bool_]:
    """Exchange rows so that, if possible, the chosen rows contain each label that has at least `rows` rows."""
    chosen, sizes = chosen.copy(), np.bincount(codes)
    for code in np.flatnonzero((sizes >= rows) & (np.bincount(codes, chosen) == 0)):
        counts = np.bincount(codes, chosen)
        donor = np.where(counts > 1, counts - sizes * chosen.mean(), -inf).argmax()
        if counts[donor] > 1:
            chosen[order[chosen[order] & (codes[order] == donor)][0]] = False
            chosen[order[codes[order] == code][0]] = True
    return chosen


def _can_stratify(labels: Array, held: int, *, say: bool) -> bool:
    """Tell whether `held` rows can contain every label; with `say`, warn about labels that will be missing."""
    found, counts = np.unique(labels, return_counts=True)
    if say and len(found) > held:
        warnings.warn(f"validation: {held} rows cannot hold all {len(found)} labels; drawn at random", stacklevel=8)
    elif say and counts.min() == 1:
        alone = found[counts == 1].tolist()
        warnings.warn(f"validation: only one row has the label {alone[0]!r}, and it stays in training", stacklevel=8)
    return len(found) <= held


def _set_aside(data: Any, fraction: float, key: Key, group: Alone, loss: Any) -> tuple[Examples, Examples]:
    """Draw a fraction of the rows for validation; return the other rows and the drawn rows.

    Labels are drawn in proportion. Floats count as labels if `loss` predicts labels.
    """
    if not isinstance(data, Examples):
        raise TypeError(f"data: expected a pair (x, y) of arrays to set a validation fraction aside, got {kind(data)}")
    if not 0 < fraction < 1:
        raise ValueError(f"validation: expected a fraction in (0, 1) or a pair (x, y), got {fraction}")
    here = group.rows(len(data.y))
    n = here.total
    held = round(n * fraction)
    if not 0 < held < n:
        raise ValueError(f"validation: {fraction} of {n} rows leaves one side empty")
    generator = random.generator(key)
    order, of_labels = generator.permutation(n), losses.prediction_of(loss) in (losses.argmax, losses.positive)
    every = group.collect(labels_of(data.y, whole=of_labels))
    if all(own is not None for own in every) and _can_stratify(np.concatenate(every), held, say=of_labels):
        chosen = drawn(order, np.concatenate(every), held, int(generator.integers(n)))
        parts = [np.flatnonzero(~chosen), np.flatnonzero(chosen)]
    else:
        parts = [np.sort(order[held:]), np.sort(order[:held])]
    return data.take(here.own(parts[0])), data.take(here.own(parts[1]))


def slices(n: int, batch_size: int) -> list[slice]:
    """Cut n rows into batches; a last batch of one row, which has no variance, joins the one before."""
    ends = [*range(batch_size, n, batch_size), n]
    if len(ends) > 1 and ends[-1] - ends[-2] == 1 < batch_size:
        del ends[-2]
    return [slice(a, b) for a, b in pairwise([0, *ends])]


def _windows(generator: Any, parts: list[slice], row_bytes: int) -> Iterator[tuple[Array | None, Iterator[Array]]]:
    """Yield pairs: the rows of a window, or None if all rows are in memory, and the rows of each of its batches.

    Memory-mapped rows, of `row_bytes` each, are read by blocks. A window consists of as many blocks, drawn from all
    over the data, as make `WINDOW` bytes, or a little less to have whole batches; a batch gives the positions of its
    rows in the window. Without a generator, everything is in the order of the data.
    """
    n = parts[-1].stop

    def batches(some: list[slice]) -> Iterator[Array]:
        first, size = some[0].start, some[-1].stop - some[0].start
        order = np.arange(size) if generator is None else generator.permutation(size)
        return (np.sort(order[part.start - first : part.stop - first]) for part in some)  # sorted, to read faster

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
        missing = -(-(size - len(left)) // block) + 1  # one more, because the last block of all may be short
        more = np.array([*islice(blocks, missing)], np.intp)[:, None] * block + np.arange(block)
        stream = np.concatenate([left, more[more < n]])
        left = stream[size:]
        yield np.sort(stream[:size]), batches(some)


def _read(x: Any, rows: Array) -> Any:
    """Read rows of memory-mapped arrays into memory, and release the files' pages on the way."""

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
    """Some rows of a memory-mapped array, which are read only when needed."""

    def __init__(self, array: np.memmap[Any, Any], rows: Array) -> None:
        self.array, self.rows = array, rows
        self.shape, self.dtype, self.ndim = (len(rows), *array.shape[1:]), array.dtype, array.ndim

    def __getitem__(self, at: slice | Array) -> Array:
        return np.asarray(self.array)[self.rows[at]]


def _subset(mapped: np.memmap[Any, Any] | _Subset, rows: Array) -> _Subset:
    return _Subset(mapped.array, mapped.rows[rows]) if isinstance(mapped, _Subset) else _Subset(mapped, rows)


def _mapped(x: Any) -> Iterator[np.memmap[Any, Any]]:
    """Yield the memory-mapped arrays."""
    for leaf in tree.leaves(x):
        array = leaf.array if isinstance(leaf, _Subset) else leaf
        if isinstance(array, np.memmap):
            yield array


def _mapped_bytes(x: Any) -> int:
    return sum(prod(array.shape[1:]) * array.itemsize for array in _mapped(x))


def _release(x: Any) -> None:
    """Release the pages that were read from memory-mapped files: they stay in the system's cache only."""
    for mapped in _mapped(x):
        file: Any = mapped
        while isinstance(file, np.ndarray):
            file = file.base
        if mapped.mode == "r" and hasattr(file, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
            file.madvise(mmap.MADV_DONTNEED)


def in_turn(x: Any, parts: list[slice]) -> Iterator[Any]:
    """Yield parts of the rows, and from time to time release the memory-mapped pages that were read."""
    read, row_bytes = 0, _mapped_bytes(x)
    for part in parts:
        yield take(x, part)
        read += (part.stop - part.start) * row_bytes
        if read > WINDOW // 8:
            _release(x)
            read = 0


def take(x: Any, rows: slice | Array) -> Any:
    """Return these rows of every array in `x`."""
    if type(x) is np.ndarray:
        return x[rows] if isinstance(rows, slice) else x.take(rows, axis=0)
    return tree.map(lambda a: as_array(a)[rows], x)


def as_array(x: Any) -> Any:
    """Return `x` as an array, unless it is sparse or is read only when needed."""
    if isinstance(x, np.memmap):
        return x.view(np.ndarray)
    return x if isinstance(x, _Subset) else x.tocsr() if hasattr(x, "tocsr") else array("x", x)


def inputs(name: str, x: Any) -> Any:
    """Return `x` with an array for each leaf that is neither sparse nor memory-mapped; all data pass through here."""
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
    """Tell a pair (x, y) from batches, even from two: their examples have one shape, and each has as many targets."""
    if not isinstance(data, tuple) or len(data) != 2 or isinstance(data[0], str):
        return False
    if not all(isinstance(part, tuple | list) and len(part) in (2, 3) for part in data):
        return True
    (x, y), (other, _) = shapes = [([np.shape(a) for a in tree.leaves(part[0])], np.shape(part[1])) for part in data]
    if [s[1:] for s in x] != [s[1:] for s in other] or () in (y, *x, *other):
        return True
    return any(len({s[:1] for s in (*inputs, targets)}) > 1 for inputs, targets in shapes)


def kind(value: Any) -> str:
    """Name the type for an error, and the length of a tuple or list."""
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, tuple | list) else type(value).__name__


def check_rows(name: str, x: Any, y: Any, group: Alone) -> int:
    """Return the number of rows of x and y here; raise ValueError if they differ, or if no process has any."""
    if any(np.ndim(a) == 0 for a in [*tree.leaves(x), y]):
        raise ValueError(
            f"{name}: expected arrays with the examples along the first axis, got numbers in {kind(x)}; "
            "np.asarray makes an array of rows"
        )
    lengths = {int(np.shape(a)[0]) for a in [*tree.leaves(x), y]}
    shapes = ", ".join(str(np.shape(a)) for a in [*tree.leaves(x), y])
    if len(lengths) != 1:
        raise ValueError(f"{name}: expected x and y with the same number of rows, got shapes {shapes}")
    n = lengths.pop()
    if sum(group.collect(n)) < 1:
        raise ValueError(f"{name}: expected at least one row, got shapes {shapes}")
    return n


def targets(name: str, y: Any) -> Any:
    """Return `y` as an array; refuse several targets, which NumPy would silently stack."""
    if isinstance(y, dict) or (isinstance(y, tuple) and any(isinstance(leaf, np.ndarray) for leaf in y)):
        raise TypeError(
            f"{name}: expected y to be one array, got {kind(y)}; stack several targets as columns of one array, and "
            "let the loss split them"
        )
    return array(f"{name}: y", y)


def check_finite(name: str, x: Any) -> None:
    """Raise ValueError for a NaN or an infinity in arrays that are in memory."""
    for path, a in zip(tree.paths(x), tree.leaves(x), strict=True):
        if not isinstance(a, np.memmap | _Subset):
            finite(f"{name}/{path}" if path else name, a)
