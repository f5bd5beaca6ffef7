"""Record the NumPy calls of a function, so that `fmlp.jit` can repeat them.

While a function is recorded, stand-ins replace its arrays. A stand-in is not an array. It implements NumPy's protocols
``__array_ufunc__`` and ``__array_function__``, which pass each call to the tape, and it refuses any other operation
that would turn it into an array or a number. It also holds the actual array, so that calls are executed while they are
recorded.
"""

from __future__ import annotations

import functools
import operator
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from types import CodeType, FrameType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["asarray", "primitive"]

F = TypeVar("F", bound=Callable[..., Any])


def primitive(f: F) -> F:
    """Make a function a single call of a plan: the call is recorded, and not the calls inside it.

    The function must be pure and return an array, a number, or a tuple of them. A function needs this decorator if it
    reads values of its arrays in Python, as `random.fold_in` reads a key.

    >>> import math
    >>> from fmlp import jit
    >>> @primitive
    ... def total(x):
    ...     return math.fsum(x.tolist())
    >>> jit(lambda x: x / total(x))(np.array([1.0, 3.0]))
    array([0.25, 0.75])
    """

    @functools.wraps(f, updated=())  # if f is a class, its attributes cannot all be pickled
    def call(*args: Any, **kwargs: Any) -> Any:
        tape = _tape_of((*args, *kwargs.values()))
        return f(*args, **kwargs) if tape is None else tape.call(f, args, kwargs)

    return call  # type: ignore[return-value]


def asarray(x: Any, dtype: npt.DTypeLike | None = None) -> npt.NDArray[Any]:
    """Return np.asarray of `x`, but leave the stand-in of an array unchanged.

    >>> asarray([1, 2], np.float32)
    array([1., 2.], dtype=float32)
    """
    if type(x) is not StandIn:
        return np.asarray(x, dtype)
    if not isinstance(x, np.ndarray):
        return x._tape.call(np.asarray, (x, dtype), {})  # type: ignore[no-any-return]
    return x if dtype is None else x.astype(dtype, copy=False)


def unplanned(why: str) -> None:
    """Refuse a plan for the function that is being recorded, if there is one, before it does what a replay may not."""
    if tape := _current.get():
        raise tape.refuse(why)


_current: ContextVar[Tape | None] = ContextVar("tape", default=None)


class Refused(BaseException):
    """Recording cannot continue. Not an `Exception`, so that no handler in the recorded function catches it."""


class Ref(NamedTuple):
    """A reference to an array in a recorded call: its position among the values of the tape."""

    at: int


class Value(NamedTuple):
    """An array of a recording. `root` is the value that owns its memory: itself, unless it is a view."""

    array: Any
    root: int


class Call(NamedTuple):
    """A recorded call. Its `form` tells how it uses memory.

    "new" returns new arrays. "view" returns views of its operands. "into" writes into an existing array, its result.
    "guard" checks that a value has the same truth as when the function read it.
    """

    form: str
    f: Any
    args: Any
    kwargs: dict[str, Any]
    operands: tuple[int, ...]
    results: tuple[int, ...]
    errors: Any
    place: str
    line: str


class Tape:
    """The values and calls recorded so far, and `refusal`, the reason if they cannot become a plan."""

    def __init__(self, lines: bool = False) -> None:
        self.lines = lines  # whether to note the line of each call
        self.values: list[Value] = []
        self.calls: list[Call] = []
        self.constants: list[tuple[Any, Any]] = []
        self.refusal = ""
        self.open = True
        self.erred = False  # whether the function met an exception, which may not happen the next time

    def stand_in(self, array: Any, root: int | None = None) -> StandIn:
        """Make the stand-in of a new value."""
        index = len(self.values)
        self.values.append(Value(array, index if root is None else root))
        return StandIn(self, index, array)

    def ref(self, x: StandIn) -> Ref:
        """Return the reference to `x` in a call."""
        if x._tape is not self:
            raise self.refuse("uses an array of another recording")
        return Ref(x._index)

    def refuse(self, why: str, hint: str = "") -> Refused:
        """Note why there will be no plan; only the first reason is kept."""
        self.refusal = self.refusal or f"{_line()} {why}{hint and '; '}{hint}"
        return Refused(self.refusal)

    def close(self) -> None:
        """End the recording; it fails if a plain array, which is a constant of the plan, was written to."""
        self.open = False
        if not self.refusal and not all(same_bits(array, copy) for array, copy in self.constants):
            self.refusal = "an array made in the function is used and then written to; write with out= or x[...] = y"

    def call(self, f: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Make a call and record it."""
        if not self.open:
            return f(*unwrapped(args), **unwrapped(kwargs))
        refs, settings = mapped(self.ref, args), mapped(self.ref, kwargs)
        target = self._target(f, refs, settings.pop("out", None))
        operands, options = unwrapped(args), unwrapped(kwargs)
        try:
            if target is not None:
                f(*operands, **options)
                self._add("into", f, refs, settings, (target.at,))
                out = kwargs.get("out")
                return out[0] if type(out) is tuple else out
            # The operands are read-only, so that a function that secretly writes to one raises an error.
            result = f(*mapped(_locked, operands, np.ndarray), **mapped(_locked, options, np.ndarray))
            arrays = result if isinstance(result, tuple | list) else [result]
            given = leaves((operands, options))
            if any(_shares(array, operand) for array in arrays for operand in given):
                result = f(*operands, **options)
        except Exception as error:
            self.erred = True
            self.refuse(f"meets {type(error).__name__} ({error})")
            raise
        return self._recorded(f, refs, settings, result)

    def _target(self, f: Any, refs: Any, out: Any) -> Ref | None:
        """Return the array that a call writes into, or None."""
        targets = [t for t in (out if type(out) is tuple else (out,)) if t is not None]
        if f is operator.setitem or (getattr(f, "__name__", "") == "at" and isinstance(f.__self__, np.ufunc)):
            targets = [refs[0]]
        if not targets:
            return None
        if len(targets) > 1:
            raise self.refuse("writes into several arrays with one call")
        (target,) = targets
        if type(target) is not Ref:
            raise self.refuse("writes into an array that it made itself", "make it from x, as in np.zeros_like(x)")
        if not self.values[target.at].array.flags.writeable:
            raise self.refuse("writes into an argument, or a read-only array", "work on a copy")
        return target

    def _recorded(self, f: Any, refs: Any, settings: dict[str, Any], result: Any) -> Any:
        """Record a call that returned `result`, and return its stand-in."""
        if type(result) is bool:  # such as from np.array_equal; each replay checks it
            truth = self.stand_in(np.bool_(result))
            self._add("new", f, refs, settings, (truth._index,))
            return bool(truth)
        many, used = isinstance(result, tuple | list), indices((refs, settings))
        stand_ins, roots = [], set()
        for array in result if many else [result]:
            if type(array) not in (np.ndarray, int, float) and not isinstance(array, np.generic):
                raise self.refuse(f"reads a {type(array).__name__} by {name_of(f)}", "let NumPy work with the array")
            same = [i for i in used if self.values[i].array is array and isinstance(array, np.ndarray)]
            if same and not many:
                if len(same) > 1:
                    raise self.refuse(f"writes into an operand of {name_of(f)}", "name it: out=")
                return StandIn(self, same[0], array)
            root = next((self.values[i].root for i in used if _shares(array, self.values[i].array)), None)
            roots.add(root is None)
            stand_ins.append(self.stand_in(array, root))
        if len(roots) > 1:
            raise self.refuse(f"gets new arrays beside views by {name_of(f)}")
        self._add("new" if True in roots else "view", f, refs, settings, tuple(s._index for s in stand_ins))
        return type(result)(stand_ins) if many else stand_ins[0]

    def guard(self, x: StandIn) -> bool:
        """Record that the path of the function depends on whether `x` is true."""
        truth = bool(x._value)
        if self.open:
            self._add("guard", bool, (self.ref(x), truth), {}, ())
        return truth

    def _add(self, form: str, f: Any, args: Any, kwargs: dict[str, Any], results: tuple[int, ...]) -> None:
        found = leaves((args, kwargs))
        for constant in found:
            if isinstance(constant, np.ndarray) and not any(constant is known for known, _ in self.constants):
                self.constants.append((constant, constant.copy()))
        line = _line() if self.lines else ""
        operands = tuple([leaf.at for leaf in found if type(leaf) is Ref])
        self.calls.append(Call(form, f, args, kwargs, operands, results, _settings(), _place(), line))


class StandIn:
    """Replaces an array, or a number computed from arrays, while a function is recorded."""

    __slots__ = ("_index", "_tape", "_value")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, tape: Tape, index: int, value: Any) -> None:
        self._tape, self._index, self._value = tape, index, value

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """Make isinstance(x, np.ndarray) true if it is true for the array."""
        return type(self._value)

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._tape.call(ufunc if method == "__call__" else getattr(ufunc, method), args, kwargs)

    def __array_function__(self, f: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if f in _FIXED:
            return f(*unwrapped(args), **unwrapped(kwargs))
        return self._tape.call(f, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in ("T", "mT", "real", "imag"):
            return self._tape.call(_attribute(name), (self,), {})
        found = getattr(self._value, name)
        if callable(found):
            return functools.partial(self._call, name)
        if name not in ("dtype", "itemsize", "nbytes", "ndim", "shape", "size", "strides"):
            raise self._tape.refuse(f"reads .{name} of an array")
        return found

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method; instead of `sum` and the like, the `reduce` that they call."""
        if name in _REDUCES and len(args) < 2 and isinstance(self, np.ndarray):
            axis = args[0] if args else kwargs.pop("axis", None)
            return self._tape.call(_REDUCES[name].reduce, (self, axis), kwargs)
        return self._tape.call(_method(name), (self, *args), kwargs)

    def __getitem__(self, at: Any) -> Any:
        return self._tape.call(operator.getitem, (self, at), {})

    def __setitem__(self, at: Any, value: Any) -> None:
        self._tape.call(operator.setitem, (self, at, value), {})

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __len__(self) -> int:
        return len(self._value)

    def __bool__(self) -> bool:
        return self._tape.guard(self)

    def _read(self, *args: Any, **kwargs: Any) -> Any:
        if self._tape.open:
            raise self._tape.refuse("reads the value of an array", "keep to NumPy's functions of the array")
        raise TypeError("an array of a recording that is over was kept by the function, which is not pure")

    __array__ = __float__ = __int__ = __index__ = __complex__ = __contains__ = _read
    __repr__ = __format__ = __reduce_ex__ = _read
    __array_interface__ = __array_struct__ = property(_read)


_TABLE = """
neg - negative, pos + positive, invert ~ invert, abs abs absolute, lt < less, le <= less_equal, eq == equal,
ne != not_equal, gt > greater, ge >= greater_equal, add + add, sub - subtract, mul * multiply, truediv / divide,
floordiv // floor_divide, mod % remainder, pow ** power, matmul @ matmul, lshift << left_shift, rshift >> right_shift,
and_ & bitwise_and, or_ | bitwise_or, xor ^ bitwise_xor
"""

SYMBOLS: dict[Callable[..., Any], str] = {}
"""The symbols of Python's operators."""


def _operator(f: Any, ufunc: Any, kind: str) -> Callable[..., Any]:
    """Make a stand-in's operator: normal (""), reflected ("r") or in place ("i"). For arrays, NumPy calls a ufunc."""

    def method(self: Any, *others: Any) -> Any:
        args = (*others, self) if kind == "r" else (self, *others)
        if not any(isinstance(x, np.ndarray) for x in args):
            return self._tape.call(f, args, {})
        if f is operator.pow:  # NumPy computes x ** 2 as a square, not with np.power
            power = self._tape.call(f, args, {})
            if kind != "i" or not isinstance(self, np.ndarray):
                return power
            self[...] = power
            return self
        return self._tape.call(ufunc, args, {"out": (self,)} if kind == "i" and isinstance(self, np.ndarray) else {})

    return method


for _name, _symbol, _ufunc in map(str.split, _TABLE.split(",")):
    SYMBOLS[_f := getattr(operator, _name)] = _symbol
    for _kind in ("", "r", "i"):
        setattr(StandIn, f"__{_kind}{_name.strip('_')}__", _operator(_f, getattr(np, _ufunc), _kind))

_REDUCES = {
    "all": np.logical_and,
    "any": np.logical_or,
    "max": np.maximum,
    "min": np.minimum,
    "prod": np.multiply,
    "sum": np.add,
}
"""The methods that do nothing but call a ufunc's `reduce`."""

_FIXED = {np.can_cast, np.iscomplexobj, np.isrealobj, np.ndim, np.result_type, np.shape, np.size}
"""Functions that depend only on shapes and dtypes, which are the same at each replay."""


@functools.cache
def _method(name: str) -> Callable[..., Any]:
    def method(x: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(x, name)(*args, **kwargs)

    method.__name__ = f".{name}()"
    return method


@functools.cache
def _attribute(name: str) -> Callable[..., Any]:
    def attribute(x: Any) -> Any:
        return getattr(x, name)

    attribute.__name__ = f".{name}"
    return attribute


def name_of(f: Any) -> str:
    """Name a function of a recorded call: "add", "add.reduce", ".sum()" for a method, ".T" for an attribute."""
    owner = f.__self__.__name__ + "." if isinstance(getattr(f, "__self__", None), np.ufunc) else ""
    return owner + str(getattr(f, "__name__", f))


def mapped(f: Callable[[Any], Any], value: Any, kind: type = StandIn) -> Any:
    """Apply `f` to the leaves of type `kind` in nested arguments or results."""
    this = type(value)
    if this is kind:
        return f(value)
    if this is tuple:
        return tuple([mapped(f, child, kind) for child in value])
    if this is dict:
        return {name: mapped(f, child, kind) for name, child in value.items()} if value else {}
    if this is not StandIn and isinstance(value, tuple | list):
        children = [mapped(f, child, kind) for child in value]
        return type(value)(*children) if hasattr(value, "_fields") else type(value)(children)
    return value


def unwrapped(value: Any) -> Any:
    """Replace stand-ins by their arrays."""
    return mapped(lambda x: x._value, value)


def indices(value: Any) -> list[int]:
    """List the values that recorded arguments or results refer to."""
    return [leaf.at for leaf in leaves(value) if type(leaf) is Ref]


def _tape_of(values: Iterable[Any]) -> Tape | None:
    for value in values:
        if type(value) is StandIn:
            return value._tape
        if type(value) in (tuple, list) and (tape := _tape_of(value)):
            return tape
    return None


def leaves(value: Any) -> list[Any]:
    """List the leaves of nested arguments or results."""
    found: list[Any] = []
    _collect(value, found)
    return found


def _collect(value: Any, found: list[Any]) -> None:
    kind = type(value)
    if kind is dict:
        value = value.values()
    elif kind is Ref or kind is StandIn or not isinstance(value, tuple | list):
        found.append(value)
        return
    for child in value:
        _collect(child, found)


def same_bits(x: Any, y: Any) -> bool:
    """Tell whether two results are the same: types, dtypes, shapes and every bit."""
    if type(x) is not type(y):
        return False
    if isinstance(x, np.ndarray | np.generic):
        return bool(x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes())
    if isinstance(x, dict):
        return [*x] == [*y] and all(map(same_bits, x.values(), y.values()))
    if isinstance(x, tuple | list):
        return len(x) == len(y) and all(map(same_bits, x, y))
    return x is y or repr(x) == repr(y)


def _locked(array: Any) -> Any:
    if isinstance(array, np.ndarray):
        array = array.view()
        array.flags.writeable = False
    return array


def _shares(array: Any, operand: Any) -> bool:
    both = isinstance(array, np.ndarray) and isinstance(operand, np.ndarray)
    return both and np.may_share_memory(array, operand)


# ---------------------------------------------------------------------- where a call comes from

_PACKAGE = os.path.dirname(__file__)


def _frames() -> Iterator[FrameType]:
    """List the frames of the recorded function, from the innermost outwards."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not recorded.__code__:
        if frame.f_code.co_filename != __file__:
            yield frame
        frame = frame.f_back


def _line() -> str:
    """Name the current line, and the innermost line outside of fmlp if that is a different one."""
    frames = [f for f in _frames() if f"{os.sep}numpy{os.sep}" not in f.f_code.co_filename]
    own = [f for f in frames if not f.f_code.co_filename.startswith(_PACKAGE)]
    lines = [f"{f.f_code.co_filename}:{f.f_lineno}, in {f.f_code.co_qualname}" for f in frames[:1] + own[:1]]
    return ", called from ".join(dict.fromkeys(lines)) or "the function"


def _place() -> str:
    """Name the layer that a call comes from, such as ``dense_3``, or else the function."""
    function, layers = "", []
    for frame in _frames():
        names_layers, public = _role(frame.f_code)
        if names_layers:
            layers.append(str(frame.f_locals.get("name", "")))
        function = function or public
    return "/".join([*filter(None, layers[::-1])]) or function


@functools.lru_cache(maxsize=1024)
def _role(code: CodeType) -> tuple[bool, str]:
    """Tell whether a function belongs to a combinator, which names its layers; also return its public name."""
    head, *within = code.co_qualname.split(".")
    head = head.lstrip("_") if within else head  # _adam makes the equation of adam and of adamw
    own = code.co_filename.startswith(_PACKAGE) and "name" in code.co_varnames and "children" in code.co_freevars
    return own, "" if head.startswith(("_", "<")) else code.co_name if head == code.co_qualname else head


class _Silent:
    """Ignores NumPy's messages in mode "log", which nobody uses: any other mode was set by the recorded function."""

    def write(self, message: str) -> None:
        """Take a message."""


def _settings() -> dict[str, Any]:
    return {name: mode for name, mode in np.geterr().items() if mode != "log"}


def recorded(f: Callable[..., Any], args: Any, kwargs: Any, lines: bool = False) -> tuple[Tape, list[int], Any]:
    """Record ``f(*args, **kwargs)``; return the tape, the positions of the arguments' arrays, and the result.

    The result holds references to values of the tape. If the function could not be recorded, `Tape.refusal` gives the
    reason, and the result is None.
    """
    tape, inputs = Tape(lines), []

    def stand_in(value: Any) -> Any:
        if isinstance(value, np.ndarray | np.generic):
            inputs.append(len(tape.values))
            return tape.stand_in(_locked(value))  # read-only, because no call may write to an argument
        if type(value) is dict:
            return {name: stand_in(child) for name, child in value.items()}
        if isinstance(value, tuple | list):
            children = [stand_in(child) for child in value]
            return type(value)(*children) if hasattr(value, "_fields") else type(value)(children)
        return value

    result, token = None, _current.set(tape)
    try:
        with np.errstate(all="log", call=_Silent()):
            result = f(*stand_in(args), **stand_in(kwargs))
        result = mapped(tape.ref, result)
    except Refused:
        pass
    except Exception as error:
        tape.erred = True
        tape.refuse(f"raises {type(error).__name__} ({error})")
    finally:
        _current.reset(token)
    tape.close()
    return tape, inputs, result
