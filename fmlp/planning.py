"""Turn a recording into a plan: a Python function that repeats its calls in the same memory.

Most arrays of a plan are in memory that is allocated once, when the plan is made; each replay allocates only its
results. These passes save work without changing a bit:

- "needed" drops calls whose results are not used;
- "whole" uses a vector itself instead of a copy that joins all its parts again;
- "reuse" gives memory to another array after its last use;
- "in_place" writes an element-wise result into the memory of an operand that is not used again;
- "donated" writes results into donated memory;
- "joined" writes the parts of a concatenated vector directly into the vector;
- "numbers_first" computes numbers before arrays, so that more of the donated memory can be used;
- "constants" converts Python's numbers among the operands once, to the dtype that NumPy would convert them to;
- "blocks" runs element-wise calls on long vectors block by block, while the numbers are in the cache.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fmlp.recording import SYMBOLS, Call, Ref, Tape, indices, mapped, name_of
from fmlp.tree import Array, aligned, concatenated

__all__: list[str] = []

PASSES = frozenset(
    {"needed", "whole", "reuse", "in_place", "donated", "joined", "numbers_first", "constants", "blocks"}
)

FILLED = 1 << 20
"""The most bytes of an array that repeats a number."""
BLOCK = 1 << 14
"""The numbers in a block: several blocks fit in the cache, and a call costs little beside its work."""

_JOIN = concatenated.__wrapped__  # type: ignore[attr-defined]
"""The function that a recorded call of `tree.concatenated`, a primitive, refers to."""

MISS = object()
"""The result of a replay that failed or would take another path than the recorded one."""


@dataclass
class Plan:
    """``run(*arrays)`` repeats the calls; it may overwrite the arrays whose positions are in `taken`."""

    run: Callable[..., Any]
    source: str
    nbytes: int
    taken: frozenset[int]
    checks: int = 2
    """The number of replays that are still to be compared with the function itself."""


def planned(tape: Tape, inputs: dict[int, str], result: Any, donated: Iterable[int], passes: frozenset[str]) -> Plan:
    """Plan a recording of `result`, given the names of its arguments and the arguments that may be overwritten."""
    return _Planner(tape, inputs, result, donated, passes).plan()


@dataclass
class _Constant:
    """An array among the results that was not made by a call; each replay returns a copy."""

    array: Array


class _Planner:
    """Decides where each array of a recording is stored, and writes the calls as source code."""

    def __init__(
        self, tape: Tape, inputs: dict[int, str], result: Any, donated: Iterable[int], passes: frozenset[str]
    ) -> None:
        self.values, self.inputs, self.result, self.passes = tape.values, inputs, result, passes
        calls = self._whole(tape.calls) if "whole" in passes else tape.calls
        calls = self._needed(calls) if "needed" in passes else calls
        self.calls = self._numbers_first(calls) if "numbers_first" in passes else calls
        self.scope: dict[str, Any] = {"errstate": np.errstate, "MISS": MISS} | dict.fromkeys(inputs.values())
        self.cut: dict[str, str] | None = None  # within a loop over blocks: parts of vectors, and their names
        self.constants: dict[Any, Array] = {}
        self.nbytes = 0
        self.memory: dict[int, Any] = {}  # by value: its array in the plan's own memory
        self.home = {value.root: value.root for value in self.values}  # by root: the value whose memory it uses
        self.last: dict[int, int] = {}  # by home: the last call that reads or writes it
        for at, call in enumerate(self.calls):
            for i in (*call.operands, *call.results):
                self.last[self.values[i].root] = at
        for i in indices(result):
            self.last[self.values[i].root] = len(self.calls)
        constants = [array for array, _ in tape.constants]
        self.donated = {
            i for i in donated if not any(np.may_share_memory(self.values[i].array, array) for array in constants)
        }
        # From this call on nothing can fail, so donated memory may be overwritten.
        self.safe = max((at + 1 for at, call in enumerate(self.calls) if self._can_fail(call)), default=0)

    def plan(self) -> Plan:
        """Run the passes and make the plan."""
        if "in_place" in self.passes:
            self._take_over()
        if "donated" in self.passes:
            self._give()
        homes = {self.home[self.values[i].root] for i in indices(self.result)}
        made = {i: call for call in self.calls if call.form == "new" for i in call.results}
        self.own = {i for i, call in made.items() if self.home[i] == i and i not in homes and self._placeable(call)}
        self.within = self._joined() if "joined" in self.passes else {}
        self.runs = self._runs() if "blocks" in self.passes else {}
        self.scratch = self._scratch()
        self._allocate()
        source = self._source()
        exec(compile(source, "<plan>", "exec"), self.scope)
        homes = {home for i, home in self.home.items() if home != i}
        taken = frozenset(position for position, i in enumerate(self.inputs) if i in homes)
        return Plan(self.scope["plan"], source, self.nbytes, taken)

    def _placeable(self, call: Call) -> bool:
        """Tell whether a call can write the same bits into given memory."""
        f, name = call.f, name_of(call.f)
        if len(call.results) != 1 or not isinstance(self.values[call.results[0]].array, np.ndarray):
            return False
        if isinstance(f, np.ufunc) or _is_reduce(f):
            return "where" not in call.kwargs and len(call.args) <= 3
        if f in _FILLS:
            return len(call.args) == 1 and not call.kwargs
        if f is np.dot or name == ".dot()":
            return len(call.args) == 2 and not call.kwargs
        if f is _JOIN:
            return all(type(part) is Ref for part in call.args[0])
        return name == ".copy()" or (name == ".astype()" and call.kwargs.keys() <= {"dtype", "copy"})

    def _can_fail(self, call: Call) -> bool:
        """Tell whether a replay of the call may raise an error or take another path."""
        return call.form == "guard" or "raise" in call.errors.values() or not self._sure(call)

    def _sure(self, call: Call) -> bool:
        """Tell whether a call always gives the same shapes and dtypes."""
        known = isinstance(getattr(call.f, "__self__", call.f), np.ufunc) or name_of(call.f).strip(".()") in _SURE
        return call.form != "new" or known or self._placeable(call)

    def _whole(self, calls: list[Call]) -> list[Call]:
        """Replace a copy that joins all parts of a vector by the vector, if nothing writes into either."""
        written = {self.values[i].root for call in calls if call.form == "into" for i in call.results}
        written |= {self.values[i].root for i in indices(self.result)}
        instead: dict[int, int] = {}
        for call in calls:
            if call.f is _JOIN and call.args[0] and all(type(part) is Ref for part in call.args[0]):
                (copy,), parts = call.results, indices(call.args[0])
                root = self.values[parts[0]].root
                if copy not in written and root not in written and self._are_parts(parts, root, copy):
                    instead[copy] = instead.get(root, root)
        if not instead:
            return calls

        def other(ref: Ref) -> Ref:
            return Ref(instead.get(ref.at, ref.at))

        self.values = [value._replace(root=instead.get(value.root, value.root)) for value in self.values]
        return [
            call._replace(
                args=mapped(other, call.args, Ref),
                kwargs=mapped(other, call.kwargs, Ref),
                operands=tuple(instead.get(i, i) for i in call.operands),
            )
            for call in calls
            if not instead.keys() & {*call.results}
        ]

    def _are_parts(self, parts: list[int], root: int, copy: int) -> bool:
        """Tell whether arrays are all parts of a vector, one after the other."""
        whole, start = self.values[root].array, 0
        if not isinstance(whole, np.ndarray) or _layout(whole) != _layout(self.values[copy].array):
            return False
        first = whole.__array_interface__["data"][0]
        for i in parts:
            part = self.values[i].array
            at = part.__array_interface__["data"][0]
            if self.values[i].root != root or not part.flags.c_contiguous or at != first + start:
                return False
            start += part.nbytes
        return bool(start == whole.nbytes)

    def _needed(self, calls: list[Call]) -> list[Call]:
        """Drop the calls whose results are not used, unless they may raise an error."""
        values = {*indices(self.result)}
        memory, kept = {self.values[i].root for i in values}, []
        for call in reversed(calls):
            results = {i if call.form == "view" else self.values[i].root for i in call.results}
            if self._can_fail(call) or results & (values if call.form == "view" else memory):
                memory -= results if call.form == "new" else set()
                operands = {*call.operands}
                values |= operands
                memory |= {self.values[i].root for i in operands}
                kept.append(call)
        return kept[::-1]

    def _numbers_first(self, calls: list[Call]) -> list[Call]:
        """Move calls that use only numbers to the front, because they may fail, and donated memory has to wait."""
        early = {i for i in self.inputs if not isinstance(self.values[i].array, np.ndarray)}
        first = []
        for call in calls:
            operands = {*call.operands}
            numbers = not any(isinstance(self.values[i].array, np.ndarray) for i in call.results)
            if call.form == "new" and numbers and operands <= early:
                first.append(call)
                early |= {*call.results}
        moved = {*map(id, first)}
        return first + [call for call in calls if id(call) not in moved]

    # ------------------------------------------------------------------------------------- memory

    def _home(self, i: int) -> int:
        return self.home[self.values[i].root]

    def _take_over(self) -> None:
        """Write element-wise results into the memory of an operand that is not used again.

        That memory must certainly be new, because a primitive may return an array that is kept elsewhere.
        """
        new = {i for call in self.calls if call.form == "new" and self._sure(call) for i in call.results}
        for at, call in enumerate(self.calls):
            if call.form != "new" or not self._placeable(call) or getattr(call.f, "signature", "") is not None:
                continue
            result = self.values[call.results[0]].array
            operands = {*call.operands}
            for i in sorted(operands, key=lambda i: (self._home(i) not in self.donated, -self._home(i))):
                home, array = self._home(i), self.values[i].array
                mine = home in new or (home in self.donated and at >= self.safe)
                alone = all(j == i or self._home(j) != home for j in operands)
                whole = i == self.values[i].root and isinstance(array, np.ndarray) and _layout(array) == _layout(result)
                if mine and alone and whole and self.last[home] == at:
                    self.home[call.results[0]] = home
                    self.last[home] = self.last[call.results[0]]
                    break

    def _give(self) -> None:
        """Give donated memory that is not used (again) to results."""
        results = {self._home(i) for i in indices(self.result)}
        free = [i for i in self.inputs if i in self.donated and i not in {h for r, h in self.home.items() if r != h}]
        for at, call in enumerate(self.calls[self.safe :], self.safe):
            if call.form != "new" or call.results[0] not in results or not self._placeable(call):
                continue
            result = self.values[call.results[0]].array
            for i in free:
                if _layout(self.values[i].array) == _layout(result) and self.last.get(i, -1) < at:
                    self.last[i] = self.last[call.results[0]]
                    self.home |= {root: i for root, home in self.home.items() if home == call.results[0]}
                    free.remove(i)
                    break

    def _joined(self) -> dict[int, tuple[int, int]]:
        """Find the arrays that can be stored inside the vector that joins them, and their offsets in it."""
        within = {}
        for at, call in enumerate(self.calls):
            if call.f is _JOIN and call.results[0] in self.own:
                vector, start = call.results[0], 0
                for i in indices(call.args[0]):
                    array = self.values[i].array
                    fits = array.flags.c_contiguous and array.dtype == self.values[vector].array.dtype
                    if fits and i in self.own and i not in within and self.last[i] == at:
                        within[i] = vector, start
                    start += array.size
        return within

    def _runs(self) -> dict[int, list[Call]]:
        """Find the runs of calls that can be made block by block, by the identity of their first call."""
        runs: list[list[Call]] = [[]]
        kind: Any = None
        for call in self.calls:
            previous, kind = kind, self._kind_in_blocks(call)
            if kind is not None and kind == previous:
                runs[-1].append(call)
            else:
                runs.append([] if kind is None else [call])
        return {id(run[0]): run for run in runs if len(run) > 1}

    def _kind_in_blocks(self, call: Call) -> Any:
        """Return what the calls of a run share, or None if the call must see whole arrays or makes new ones.

        The vectors of a run have one layout, because some of them share memory, one after the other.
        """
        if not isinstance(call.f, np.ufunc) or call.f.signature or call.f.nout > 1 or call.kwargs or not call.results:
            return None
        vectors = {i for i in (*call.results, *call.operands) if np.ndim(self.values[i].array)}
        kinds = {_layout(self.values[i].array) for i in vectors}
        result = self.values[call.results[0]].array
        fits = (
            np.ndim(result) == 1
            and result.size >= 2 * BLOCK
            and result.flags.c_contiguous
            and (call.form == "into" or call.results[0] in self.own or self._written(call))
            and all(type(arg) is Ref or np.ndim(arg) == 0 for arg in call.args)
            and all(self.values[i].root == i and i not in self.within for i in vectors)
            and len(kinds) == 1
        )
        return (kinds.pop(), call.errors) if fits else None

    def _scratch(self) -> set[int]:
        """List the vectors that only one run uses, so that memory for one block is enough."""
        scratch: set[int] = set()
        for run in self.runs.values():
            mine = {*map(id, run)}
            others = [i for call in self.calls if id(call) not in mine for i in (*call.operands, *call.results)]
            used = {self._home(i) for i in (*others, *indices(self.result))}
            scratch |= {i for call in run for i in call.results if i in self.own} - used
        return scratch

    def _allocate(self) -> None:
        """Allocate memory for the plan's own arrays, and make their views once."""
        free: list[Array] = []
        blocks: dict[int, Array] = {}

        def place(i: int) -> None:
            if i in self.within:
                vector, start = self.within[i]
                if vector not in self.memory:
                    place(vector)
                array = self.values[i].array
                self.memory[i] = self.memory[vector][start : start + array.size].reshape(array.shape)
                return
            if i in self.scratch:
                self.memory[i] = aligned(BLOCK, self.values[i].array.dtype)
                self.nbytes += self.memory[i].nbytes
                return
            size = max(self.values[i].array.nbytes, 1)
            fitting = [block for block in free if size <= block.nbytes <= 4 * size]
            blocks[i] = min(reversed(fitting), key=lambda block: block.nbytes) if fitting else aligned(size, np.uint8)
            if fitting:
                free[:] = [block for block in free if block is not blocks[i]]
            else:
                self.nbytes += size
            array = self.values[i].array
            self.memory[i] = np.ndarray(array.shape, array.dtype, blocks[i], 0, array.strides)

        for at, call in enumerate(self.calls):
            for i in call.results:
                if i in self.own and i not in self.memory:
                    place(i)
                elif call.form == "new" and self.home[i] in self.memory:
                    self.memory[i] = self.memory[self.home[i]]
            if call.form == "view" and all(i in self.memory for i in call.operands):
                args, kwargs = (mapped(lambda ref: self.memory[ref.at], a, Ref) for a in (call.args, call.kwargs))
                result = call.f(*args, **kwargs)
                self.memory |= zip(call.results, result if isinstance(result, tuple | list) else [result], strict=True)
            if "reuse" in self.passes:
                free += [blocks.pop(home) for home in [*blocks] if self.last[home] <= at]

    # ------------------------------------------------------------------------------------- source

    def _source(self) -> str:
        """Write the calls as source; those before `safe` are in a try block, because f itself will raise any error."""
        head, tail = self._block(self.calls[: self.safe]), self._block(self.calls[self.safe :])
        tail.append(f"return {self._text(mapped(_Constant, self.result, np.ndarray))}")
        if not any(self.home[i] in self.donated for i in self.home if self.home[i] != i):
            head, tail = [*head, *tail], []
        lines = ["try:", *_indented(head or ["pass"]), "except Exception:", "    return MISS", *tail]
        return "\n".join([f"def plan({', '.join(self.inputs.values())}):", *_indented(lines), ""])

    def _block(self, calls: list[Call]) -> list[str]:
        lines: list[str] = []
        errors: Any = {}
        done: set[int] = set()
        for call in calls:
            if id(call) in done:
                continue
            run = self.runs.get(id(call), [])
            done |= {*map(id, run)}
            texts = self._loop(run) if run else self._lines(call)
            if not texts:
                continue
            if call.form not in ("view", "guard") and call.errors != errors:
                errors = call.errors
                if errors:
                    lines.append(f"with errstate({', '.join(f'{k}={v!r}' for k, v in errors.items())}):")
            lines += _indented(texts) if errors else texts
        return lines

    def _lines(self, call: Call) -> list[str]:
        """Write a call and where it comes from, and the check of a result that may have another shape."""
        if not (text := self._call(call)):
            return []
        shapes = ", ".join(str(np.shape(self.values[i].array)) for i in call.results)
        lines = [f"{text:<50}  # {call.place} {shapes}".rstrip(" #")]
        for i in () if self._sure(call) else call.results:
            if isinstance(array := self.values[i].array, np.ndarray):
                dtype = self._name(array.dtype.name, array.dtype)
                lines.append(f"if v{i}.shape != {array.shape} or v{i}.dtype != {dtype}: return MISS")
        return lines

    def _loop(self, run: list[Call]) -> list[str]:
        """Write a run as a loop over blocks from a to b."""
        n = self.values[run[0].results[0]].array.size
        blocks = [(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]
        self.cut = {}
        lines = [line for call in run for line in self._lines(call)]
        lines, self.cut = [*(f"{part} = {cut}" for cut, part in self.cut.items()), *lines], None
        return [f"for a_, b_ in {self._name('blocks', blocks)}:", *_indented(lines)]

    def _call(self, call: Call) -> str:
        if call.form == "guard":
            ref, truth = call.args
            return f"if {'not ' if truth else ''}{self._text(ref)}: return MISS"
        if call.form == "view" and all(i in self.memory for i in call.results):
            return ""
        if call.form == "into" or (call.form == "new" and (self._written(call) or call.results[0] in self.memory)):
            return self._write(call, self._text(Ref(call.results[0])))
        several = "," if len(call.results) == 1 and call.f in _SEVERAL else ""
        return f"{', '.join(f'v{i}' for i in call.results)}{several} = {self._expression(call)}"

    def _written(self, call: Call) -> bool:
        """Tell whether a new array uses the memory of another."""
        return any(self.home.get(i, i) != i for i in call.results)

    def _write(self, call: Call, target: str) -> str:
        """Write a call that stores its result in `target`."""
        if call.f is operator.setitem:
            x, at, value = call.args
            return f"{self._text(x)}[{self._index(at)}] = {self._text(value)}"
        if call.f is _JOIN:
            return self._write_joined(call)
        name = name_of(call.f)
        if call.f in _FILLS:
            return f"{target}.fill({_FILLS[call.f]})"
        if name in (".astype()", ".copy()"):
            return f"{self._name('copyto', np.copyto)}({target}, {self._text(call.args[0])}, 'unsafe')"
        return self._expression(call, *([] if name.endswith(".at") else [f"out={target}"]))

    def _write_joined(self, call: Call) -> str:
        """Copy the parts of a vector that are not stored in it already."""
        (vector,), start, copies = call.results, 0, []
        parts = [self._text(part) for part in call.args[0]]
        if not any(i in self.within for i in indices(call.args[0])):
            concatenate = self._name("concatenate", np.concatenate)
            return f"{concatenate}([{', '.join(parts)}], axis=None, out={self._text(Ref(vector))})"
        for i in indices(call.args[0]):
            array = self.values[i].array
            if i not in self.within:
                part = self._name(f"v{vector}_{start}", self.memory[vector][start : start + array.size])
                copies.append(f"{part}[:] = {self._text(Ref(i))}.reshape(-1)")
            start += array.size
        return "; ".join(copies)

    def _expression(self, call: Call, *more: str) -> str:
        """Write a call that returns its result."""
        name = name_of(call.f)
        args, kwargs = self._arguments(call)
        if call.f is operator.getitem:
            return f"{args[0]}[{self._index(call.args[1])}]"
        if (symbol := SYMBOLS.get(call.f, "abs")) != "abs":
            args = [f"({arg})" if arg.startswith("-") else arg for arg in args]
            return f" {symbol} ".join(args) if len(args) == 2 else symbol + args[0]
        if name.startswith("."):
            return args[0] + (name[:-1] + ", ".join([*args[1:], *kwargs, *more]) + ")" if name.endswith(")") else name)
        return f"{self._function(call.f)}({', '.join([*args, *kwargs, *more])})"

    def _arguments(self, call: Call) -> tuple[list[str], list[str]]:
        args = self._converted(call) if "constants" in self.passes else call.args
        return [self._text(a) for a in args], [f"{k}={self._text(v)}" for k, v in call.kwargs.items()]

    def _converted(self, call: Call) -> list[Any]:
        """Convert the numbers among the operands of a ufunc to its dtypes, unless that would change them."""
        operands = [self.values[a.at].array if type(a) is Ref else a for a in call.args]
        if not isinstance(call.f, np.ufunc) or call.f.signature or not any(np.ndim(x) for x in operands):
            return [*call.args]
        kinds = [type(x) if type(x) in (int, float) else getattr(x, "dtype", None) for x in operands]
        # np.minimum and np.maximum use SIMD for two arrays only, and take three times as long with a number.
        result = self.values[call.results[0]].array
        filled = call.f in (np.minimum, np.maximum) and result.nbytes <= FILLED and self.cut is None
        try:
            dtypes = call.f.resolve_dtypes((*kinds, *[None] * call.f.nout))[: len(operands)]
            with np.errstate(over="ignore"):
                return [
                    self._constant(x, dtype, result.shape if filled else ())
                    if type(x) in (int, float) or (isinstance(x, np.generic) and x.dtype == dtype)
                    else x
                    for x, dtype in zip(call.args, dtypes, strict=True)
                ]
        except (TypeError, OverflowError):
            return [*call.args]

    def _constant(self, number: Any, dtype: Any, shape: tuple[int, ...]) -> Any:
        """Return an array of a number, the same for each use, or the number itself if the dtype does not hold it."""
        array = np.asarray(number, dtype)
        if not (np.isfinite(array) if type(number) is float else array == number):
            return number
        key = repr(number), dtype, shape
        if key not in self.constants:
            self.constants[key] = np.full(shape, array)
            self.nbytes += self.constants[key].nbytes
        return self.constants[key]

    def _function(self, f: Any) -> str:
        owner = getattr(f, "__self__", None)
        if isinstance(owner, np.ufunc):
            return f"{self._function(owner)}.{f.__name__}"
        name = getattr(f, "__name__", "")
        return self._name(name if name.isidentifier() else "f", f)

    def _name(self, name: str, value: Any) -> str:
        """Give a value a name in the scope of the source."""
        while self.scope.setdefault(name, value) is not value:
            name += "_"
        return name

    def _index(self, value: Any) -> str:
        if isinstance(value, tuple) and value and type(value) is not Ref:
            return ", ".join(map(self._index, value)) + ("," if len(value) == 1 else "")
        if isinstance(value, slice):
            parts = ["" if part is None else self._text(part) for part in (value.start, value.stop, value.step)]
            return ":".join(parts[:2] if value.step is None else parts)
        return self._text(value)

    def _text(self, value: Any) -> str:
        """Write an argument or a result; its containers are built anew."""
        if type(value) is Ref:
            i = self._home(value.at) if value.at == self.values[value.at].root else value.at
            name = self._name(f"v{i}", self.memory[i]) if i in self.memory else self.inputs.get(i, f"v{i}")
            if self.cut is None or not np.ndim(self.values[i].array):
                return name
            cut = f"{name}[:b_ - a_]" if i in self.scratch else f"{name}[a_:b_]"
            return self.cut.setdefault(cut, f"{name}_{len(self.cut)}")
        if type(value) is dict:
            return "{" + ", ".join(f"{key!r}: {self._text(child)}" for key, child in value.items()) + "}"
        if isinstance(value, tuple | list):
            inside = ", ".join(map(self._text, value))
            if hasattr(value, "_fields"):
                return f"{self._function(type(value))}({inside})"
            return f"[{inside}]" if type(value) is list else f"({inside}{',' * (len(value) == 1)})"
        if type(value) is _Constant:
            return self._text(value.array) + ".copy('K')"
        if value is Ellipsis:
            return "..."
        if value is None or type(value) in (bool, int, str) or (type(value) is float and np.isfinite(value)):
            return repr(value)
        return self._name(f"c{len(self.scope)}", value)


_SURE = {"all", "any", "argmax", "argmin", "max", "mean", "min", "prod", "sum"}
_SURE |= {"asarray", "ones_like", "where", "zeros_like"}
"""Functions and methods, besides ufuncs, that cannot fail if shapes and dtypes are the same."""

_FILLS = {np.zeros_like: 0, np.ones_like: 1}
"""Functions that need only the shape and the dtype of their argument."""

_SEVERAL = {np.split, np.array_split, np.atleast_1d, np.broadcast_arrays}
"""Functions that return a list even for a single array."""


def _is_reduce(f: Any) -> bool:
    return isinstance(getattr(f, "__self__", None), np.ufunc) and f.__name__ == "reduce"


def _layout(array: Any) -> tuple[Any, ...]:
    return array.shape, array.strides, array.dtype


def _indented(lines: list[str]) -> list[str]:
    return ["    " + line for line in lines]
