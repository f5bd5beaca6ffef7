"""Threads: parts of a large batch side by side, each with one thread of BLAS.

A product that OpenBLAS shares among its threads may be added up in another order, and while other programs use the
cores, its threads wait for each other by spinning. Therefore small products are given one thread.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fmlp.arguments import integer

__all__ = ["threads"]

Item = TypeVar("Item")
Result = TypeVar("Result")

WORTH_A_THREAD = 1 << 22
"""The products of numbers, some 100 µs of work, from which on a thread of its own pays."""
WORTH_TWO_OF_BLAS = 1 << 23
"""The products of numbers in a layer's matrix products from which on more threads of BLAS pay."""

_most: ContextVar[int | None] = ContextVar("threads", default=None)


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Use at most `n` threads for large batches in the block, instead of one for each core; 1 uses none.

    The result does not depend on the number. Raises TypeError or ValueError for what is not an integer above 0.

    >>> from fmlp import predict, random
    >>> from fmlp.layers import Dense
    >>> _, params = Dense(1).init(random.key(0), (2,))
    >>> with threads(1):
    ...     predict(Dense(1), params, np.ones((5000, 2), np.float32)).shape
    (5000, 1)
    """
    token = _most.set(integer("n", n))
    try:
        yield
    finally:
        _most.reset(token)


def count() -> int:
    """Return the number of threads to use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return _most.get() or cores


def mapped(f: Callable[[Item], Result], items: Iterable[Item], n: int) -> Iterator[Result]:
    """Yield ``f(item)`` for each item, in order, worked out in `n` threads, at most one item ahead of each.

    The threads see NumPy's error settings and the other context variables of the caller.
    """
    from concurrent.futures import ThreadPoolExecutor

    waiting: deque[Any] = deque()
    with ThreadPoolExecutor(n) as pool:
        for item in items:
            waiting.append(pool.submit(copy_context().run, f, item))
            if len(waiting) > n:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def in_threads(f: Callable[[Item], Result], items: Iterable[Item], work: float) -> list[Result]:
    """List ``f(item)`` for each item, an item in each thread where its `work`, in products, is worth it."""
    with one_blas_thread:
        return [*(mapped(f, items, count()) if work >= WORTH_A_THREAD and count() > 1 else map(f, items))]


class _OneThread:
    """A context in which BLAS uses one thread; the first to enter sets it, and the last to leave restores it."""

    def __init__(self) -> None:
        self.lock, self.inside, self.before = threading.Lock(), 0, 1

    def __enter__(self) -> None:
        if not (blas := _openblas()):
            return
        with self.lock:
            if self.inside == 0:
                self.before = blas[0]()
                blas[1](1)
            self.inside += 1

    def __exit__(self, *error: object) -> None:
        if not (blas := _openblas()):
            return
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                blas[1](self.before)


one_blas_thread = _OneThread()


def blas_threads_for(work: float) -> AbstractContextManager[None]:
    """Give BLAS one thread in the block, unless the work, in products of numbers, is worth more."""
    return one_blas_thread if work < WORTH_TWO_OF_BLAS else nullcontext()


@functools.cache
def _openblas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """Return the functions that get and set the threads of the OpenBLAS in NumPy's wheel; None for any other BLAS."""
    package = Path(np.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs"):
        for path in folder.glob("*openblas*"):
            try:
                library: Any = ctypes.CDLL(str(path))
            except OSError:
                continue
            for suffix in ("64_", ""):
                get = getattr(library, f"scipy_openblas_get_num_threads{suffix}", None)
                put = getattr(library, f"scipy_openblas_set_num_threads{suffix}", None)
                if get and put:
                    return get, put
    return None
