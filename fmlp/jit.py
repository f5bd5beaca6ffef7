"""Plan once, run many times: `jit` records the NumPy calls of a function, and then repeats exactly these calls."""

from __future__ import annotations

import functools
import inspect
import keyword
import re
import sys
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, ParamSpec, TypeVar

import numpy as np

from fmlp.arguments import function, given, integer
from fmlp.planning import MISS, PASSES, Plan, planned
from fmlp.recording import Ref, StandIn, leaves, mapped, recorded, same_bits

__all__ = ["Jitted", "disable_jit", "jit"]

P = ParamSpec("P")
R = TypeVar("R")

MOST = 16
"""A function keeps plans for this many structures of arguments, and as many plans (paths, threads) for each one."""
MOST_BYTES = 1 << 28
"""The most memory that all plans of a function use together, unless a single plan needs more."""

AFTER = 32
"""The number of calls after which fmlp plans its own functions, because a plan costs as much as many calls."""

KEPT = 4
"""The most that is kept with one owner."""

_disabled: ContextVar[bool] = ContextVar("disabled", default=False)


def jit(f: Callable[P, R], *, donate: int | tuple[int, ...] = ()) -> Jitted[P, R]:
    """Plan `f` once and replay the plan from then on: the same bits, without Python's work between NumPy's calls.

    `f` is a pure function of trees of arrays, written with NumPy's functions. For each structure of arguments (shapes,
    dtypes, and values that are not arrays), `f` runs once on stand-ins that record its calls. These calls are then
    repeated in memory that is allocated once. The results are new arrays, like those of `f`.

    `donate` gives the positions of arguments whose memory the results may use, like `donate_argnums` in JAX. Do not use
    these arrays again.

    If `f` cannot be recorded, for example because it calls ``float(x)``, it runs as written. ``jitted.plan(*args)``
    shows the plan as Python source, or tells why there is none. If `f` raises an error or takes another path because of
    a value (as in ``if x.max() > 3``), the replay is discarded and `f` itself is called. The first replays are compared
    with `f`. A function that is not pure, because it returns different results for the same arrays, runs as written,
    and a warning says so once.

    Raises TypeError when `f` is not a function or `donate` is not an integer or a tuple of integers, ValueError when it
    is negative.

    >>> @jit
    ... def distance(x, y):
    ...     return np.sqrt(((x - y) ** 2).sum())
    >>> distance(np.array([3.0, 0.0]), np.array([0.0, 4.0]))
    np.float64(5.0)
    """
    return Jitted(f, donate)


@contextmanager
def disable_jit() -> Iterator[None]:
    """Run jitted functions as written, for debugging.

    >>> with disable_jit():
    ...     jit(np.add)(1.0, 2.0)
    np.float64(3.0)
    """
    token = _disabled.set(True)
    try:
        yield
    finally:
        _disabled.reset(token)


def kept(owner: Any, parts: tuple[Any, ...], make: Callable[[], R], *settings: Hashable) -> R:
    """Return what `make` returns: keep it with `owner`, a function, so that plans live as long as their owner.

    `parts` are the objects, besides the owner, from which `make` makes it, and `settings` are values: for the same
    objects and equal values, the same is returned.
    """
    plans = getattr(owner, "__dict__", {}).setdefault("_plans", {})
    # The ids stay in use as long as the plans. The owner's is among them, because functools.wraps copies attributes.
    name = make.__qualname__, id(owner), *map(id, parts), *settings
    made = plans.get(name) or plans.setdefault(name, make())
    names = [*plans]
    if len(names) > KEPT:
        plans.pop(names[0], None)  # the oldest
    return made  # type: ignore[no-any-return]


class Jitted(Generic[P, R]):
    """A function made by `jit`."""

    __name__: str

    def __init__(
        self, f: Callable[P, R], donate: int | tuple[int, ...] = (), passes: frozenset[str] = PASSES, after: int = 0
    ) -> None:
        functools.update_wrapper(self, function("f", f), updated=())
        self.__name__ = getattr(f, "__name__", type(f).__name__)
        self._f, self._passes, self._after = f, passes, after
        self._donate = tuple(integer("donate", i, 0) for i in (donate if isinstance(donate, tuple) else (donate,)))
        self._cases: dict[Any, _Case] = {}
        self._latest = _Case()
        self._dropped = 0

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the result of the function."""
        if _disabled.get():
            return self._f(*args, **kwargs)
        case = self._latest
        arrays = case.read(args, kwargs)
        if arrays is None:
            case, arrays = self._case(args, kwargs)
            self._latest = case
        tried: list[Plan] = []
        try:
            while plan := case.take():
                tried.append(plan)
                result = self._replayed(case, plan, arrays, args, kwargs)
                if result is not MISS:
                    return result  # type: ignore[no-any-return]
        finally:
            case.plans += [] if case.impure else tried
        case.calls += 1
        if case.calls <= self._after or case.failures >= MOST or len(tried) == MOST:
            return self._f(*args, **kwargs)
        return self._recorded(case, args, kwargs)

    def plan(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the plan for such arguments as Python source, or why there is none. This may call the function."""
        case, _ = self._case(args, kwargs)
        if not case.plans and case.failures < MOST:
            self._recorded(case, args, kwargs)
        return case.plans[-1].source if case.plans else f"{self.__name__} runs as it is written: {case.why}"

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy and pickle without plans; a module's jitted function by its name, like other functions."""
        module = sys.modules.get(self.__module__)
        if getattr(module, self.__name__, None) is self:
            return self.__name__
        return type(self), (self._f, self._donate, self._passes, self._after)

    def __repr__(self) -> str:
        """Show the name, like a function."""
        return f"<jitted {self.__module__}.{self.__name__}>"

    def _case(self, args: Any, kwargs: Any) -> tuple[_Case, list[Any]]:
        """Find the plans for arguments of this structure, and list the arrays."""
        arrays: list[Any] = []
        donated: list[int] = []
        structure: list[Any] = []
        try:
            for i, arg in enumerate((*args, kwargs)):
                start = len(arrays)
                structure.append(_structure(arg, arrays))
                if i in self._donate and i < len(args):
                    donated += [j for j in range(start, len(arrays)) if type(arrays[j]) is np.ndarray]
        except TypeError as error:
            return _Case(why=str(error)), arrays
        others = [_owner(array) for i, array in enumerate(arrays) if i not in donated]
        alone = _alone([arrays[i] for i in donated], [_owner(arrays[i]) for i in donated], others)
        key = (*structure, alone)
        case = self._cases.pop(key, None)
        if case is None:
            if self._dropped >= MOST:
                return _Case(why="the structure of its arguments changes all the time"), arrays
            case = _Case(_reader(args, kwargs, donated, alone), donated if alone else [])
        self._cases[key] = case  # the last one is the one used last
        sizes = {key: sum(plan.nbytes for plan in case.plans) for key, case in [*self._cases.items()]}
        while len(sizes) > MOST or (len(sizes) > 1 and sum(sizes.values()) > MOST_BYTES):
            del sizes[oldest := next(iter(sizes))]
            self._dropped += not self._cases.pop(oldest, case).replayed
        return case, arrays

    def _replayed(self, case: _Case, plan: Plan, arrays: Any, args: Any, kwargs: Any) -> Any:
        """Replay a plan, or return MISS if it does not apply to these arrays. The first replays are checked."""
        if not plan.checks:
            return plan.run(*arrays)
        replay = plan.run(*[array.copy() if i in plan.taken else array for i, array in enumerate(arrays)])
        if replay is MISS:
            return MISS
        result = self._f(*args, **kwargs)
        plan.checks -= 1
        case.replayed = True
        return self._compared(case, replay, result, args, kwargs)

    def _recorded(self, case: _Case, args: Any, kwargs: Any) -> R:
        """Record and plan the function, and return the result of the function itself."""
        tape, inputs, refs = recorded(self._f, args, kwargs)
        result = self._f(*args, **kwargs)
        if why := tape.refusal or _kept(refs):
            case.why = why
            case.failures += 1 if tape.erred else MOST
            return result
        self._compared(case, mapped(lambda ref: tape.values[ref.at].array, refs, Ref), result, args, kwargs)
        if not case.impure:
            names = dict(zip(inputs, _names(self._f, args, kwargs), strict=True))
            case.plans.append(planned(tape, names, refs, [inputs[i] for i in case.donated], self._passes))
        return result

    def _compared(self, case: _Case, replay: Any, result: R, args: Any, kwargs: Any) -> R:
        """Return the result of the function; if a replay gives another result, there will be no more replays."""
        if not same_bits(replay, result):
            case.why = f"{_impurity(self._f, args, kwargs)} gives something else for the same arguments"
            case.impure, case.failures = True, MOST
            case.plans.clear()
            warnings.warn(f"fmlp.jit: {self.__name__} is not pure, and runs as it is written: {case.why}", stacklevel=4)
        return result


class _Case:
    """The plans for arguments of one structure, one for each path taken so far, or `why` there are none.

    A plan in use is not among `plans`, so that no other thread or forked process can see its half-written memory.
    """

    def __init__(
        self, read: Callable[..., Any] = lambda args, kwargs: None, donated: Sequence[int] = (), why: str = ""
    ) -> None:
        self.read, self.donated, self.why = read, donated, why
        self.plans: list[Plan] = []
        self.calls = 0  # that no plan has answered
        self.failures = MOST if why else 0  # failed recordings; after MOST of them, no more are tried
        self.impure = self.replayed = False

    def take(self) -> Plan | None:
        """Take the most recently used plan, or None."""
        try:
            return self.plans.pop()
        except IndexError:
            return None


def _structure(value: Any, arrays: list[Any]) -> Any:
    """Return the structure of an argument and add its arrays to `arrays`; TypeError for any other object in it."""
    kind = type(value)
    if kind is np.ndarray or isinstance(value, np.generic):
        if value.dtype.kind not in "biufc" or not value.dtype.isnative:
            raise TypeError(f"among its arguments is an array of dtype {value.dtype}")
        arrays.append(value)
        return kind, value.dtype, value.shape, value.strides
    if kind is dict:
        if not all(type(name) is str for name in value):
            raise TypeError("among its arguments is a dict whose keys are no strings")
        return kind, *[(name, _structure(child, arrays)) for name, child in value.items()]
    if kind in (tuple, list) or (isinstance(value, tuple) and hasattr(value, "_fields")):
        return kind, *[_structure(child, arrays) for child in value]
    if value is None or kind in (bool, int, str, bytes):
        return kind, value
    if kind in (float, complex):
        return kind, repr(value)
    if kind is StandIn:
        raise TypeError("it is part of another function that is recorded")
    raise TypeError(f"among its arguments is {given(value)}, a {kind.__name__}")


def _reader(args: Any, kwargs: Any, donated: list[int], alone: bool) -> Callable[..., Any]:
    """Make the function that lists the arrays in arguments of this structure, or returns None for another structure."""
    scope: dict[str, Any] = {"array": np.ndarray}
    lines, arrays = ["def read(args, kwargs):"], []

    def expect(condition: str) -> None:
        lines.append(f"    if not ({condition}): return None")

    def constant(value: Any) -> str:
        name = f"c{len(scope)}"
        scope[name] = value
        return name

    def visit(text: str, value: Any) -> None:
        here, kind = f"x{len(lines)}", type(value)
        lines.append(f"    {here} = {text}")
        if isinstance(value, np.ndarray | np.generic):
            arrays.append(here)
            expect(f"type({here}) is {constant(kind)} and {here}.dtype is {constant(value.dtype)}")
            if kind is np.ndarray:
                expect(f"{here}.shape == {value.shape} and {here}.strides == {value.strides}")
        elif kind is dict:
            expect(f"type({here}) is dict and (*{here},) == {(*value,)}")
            for name, child in value.items():
                visit(f"{here}[{name!r}]", child)
        elif isinstance(value, tuple | list):
            expect(f"type({here}) is {constant(kind)} and len({here}) == {len(value)}")
            for i, child in enumerate(value):
                visit(f"{here}[{i}]", child)
        elif value is None or kind is bool:
            expect(f"{here} is {value}")
        elif kind in (int, str, bytes) or (kind is float and value):
            expect(f"type({here}) is {kind.__name__} and {here} == {constant(value)}")
        else:
            expect("False")  # 0.0 == -0.0

    visit("args", args)
    visit("kwargs", kwargs)
    everything = f"({', '.join(arrays)}{',' * (len(arrays) == 1)})"
    if donated:  # as `_alone` does, but without a call for each array
        lines += [f"    {array}_ = {array} if {array}.base is None else {array}.base" for array in arrays]
        mine, others = (
            ", ".join(f"id({array}_)" for i, array in enumerate(arrays) if (i in donated) is inside)
            for inside in (True, False)
        )
        each = [
            f"type({a}_) is array and {a}_.base is None and {a}.flags.writeable"
            for a in map(arrays.__getitem__, donated)
        ]
        lines.append(f"    mine = {{{mine}}}")
        condition = f"len(mine) == {len(donated)} and mine.isdisjoint([{others}]) and {' and '.join(each)}"
        expect(f"({condition}) is {alone}")
    lines.append(f"    return {everything}")
    exec("\n".join(lines), scope)
    return scope["read"]  # type: ignore[no-any-return]


def _alone(donated: list[Any], owners: list[Any], others: list[Any]) -> bool:
    """Tell whether donated arrays can be overwritten unseen: no other argument shares the owners of their memory."""
    memory = {*map(id, owners)}
    return (
        len(memory) == len(donated)
        and memory.isdisjoint(map(id, others))
        and all(type(owner) is np.ndarray and owner.base is None for owner in owners)
        and all(array.flags.writeable for array in donated)
    )


def _owner(array: Any) -> Any:
    return array if array.base is None else array.base


def _names(f: Callable[..., Any], args: Any, kwargs: Any) -> list[str]:
    """Give the arrays among the arguments readable names: ``params_dense_0_w``."""
    try:
        parameters = [p.name for p in inspect.signature(f).parameters.values() if p.kind < p.VAR_POSITIONAL]
    except (TypeError, ValueError):  # a ufunc
        parameters = []
    parameters += [f"arg{i}" for i in range(len(parameters), len(args))]
    names: list[str] = []

    def visit(name: str, value: Any) -> None:
        if isinstance(value, np.ndarray | np.generic):
            name = re.sub(r"\W", "_", name)
            taken = name in names or keyword.iskeyword(name) or re.fullmatch(r"[cv]\d.*|MISS|errstate|plan", name)
            names.append(f"{name}_{len(names)}_" if taken else name)
        elif isinstance(value, dict):
            for key, child in value.items():
                visit(f"{name}_{key}", child)
        elif isinstance(value, tuple | list):
            for key, child in zip(getattr(value, "_fields", range(len(value))), value, strict=True):
                visit(f"{name}_{key}", child)

    for name, value in (*zip(parameters, args, strict=False), *kwargs.items()):
        visit(name, value)
    return names


def _kept(result: Any) -> str:
    """Name the first object in a result that a plan cannot make anew, or return ""."""
    for leaf in leaves(result):
        plain = type(leaf) in (Ref, np.ndarray, type(None), bool, int, float, complex, str, bytes)
        if not plain and not isinstance(leaf, np.generic):
            return f"it returns {given(leaf)}, a {type(leaf).__name__}"
    return ""


def _impurity(f: Callable[..., Any], args: Any, kwargs: Any) -> str:
    """Name the first call that differs between two recordings of the function."""
    (one, _, _), (other, _, _) = (recorded(f, args, kwargs, lines=True) for _ in range(2))
    for a, b in zip(one.calls, other.calls, strict=False):
        arrays, others = ([tape.values[i].array for i in call.results] for tape, call in ((one, a), (other, b)))
        if a.f is not b.f or not same_bits((a.args, a.kwargs, arrays), (b.args, b.kwargs, others)):
            return f"{a.place} ({a.line})"
    return "it"
