"""Fuzz every reader of files: ``python tests/reliability/fuzz.py --inputs 1000000``.

Valid files are damaged at random, in their bytes and, as they are rebuilt, below the checksums of zip and gzip. Each
read must end, within 5 seconds of CPU time and 256 MiB and without a warning, in a sound value or in a FileFormatError
that names the file in a short, printable message. An input that fails is kept, and the error says where.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

import fmlp
from fmlp import data, tree

Files = dict[str, bytes]

# --- Damage to bytes of any kind.

EDGES = [0, 1, 2, 22, 127, 128, 255, 256, 32767, 65535, 1 << 16, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 2]
EDGES += [(1 << 32) - 1, 1 << 32, (1 << 62) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]


def integer(random: Random, size: int) -> bytes:
    value = random.choice(EDGES) if random.random() < 0.7 else random.getrandbits(8 * size)
    return (value % (1 << 8 * size)).to_bytes(size, random.choice(["little", "big"]))


def damaged(random: Random, contents: bytes) -> bytes:
    out = bytearray(contents)
    for _ in range(random.choice([1, 1, 1, 2, 4, 16])):
        at, n = random.randint(0, len(out)), random.choice([1, 1, 2, 4, 8, 16, 64, 512])
        match random.randrange(8):
            case 0 if at < len(out):
                out[at] ^= 1 << random.randrange(8)
            case 1:
                out[at : at + n] = random.randbytes(len(out[at : at + n]))
            case 2:
                size = random.choice([1, 2, 4, 8])
                out[at : at + size] = integer(random, size)
            case 3:
                del out[at : at + n]
            case 4:
                del out[at:]
            case 5:  # a block, once more or elsewhere
                out[at:at] = out[(start := random.randint(0, len(out))) : start + n] * random.choice([1, 1, 3])
            case 6:
                out[at:at] = random.randbytes(n)
            case 7:
                out += random.choice([b"\0", bytes(out), random.randbytes(n)])
    return bytes(out)


def sometimes(random: Random, chance: float, change: Callable[[Random, bytes], bytes], contents: bytes) -> bytes:
    return change(random, contents) if random.random() < chance else contents


# --- npy: headers of sound and of hostile parts.

DESCR = ["<f4", "<f8", ">f4", ">i8", "<i8", "|u1", "|b1", "<U3", "|S2", "<c8", "<f2", "<M8[ns]", "=f4", "<f16"]
DESCR_BAD = ["|O", "O", "|V4", "<U0", "|S0", "V0", "<i3", "<f999999999999", "<U536870912", "<U4294967295"]
DESCR_BAD += ["f4,i4", "(9,9)f4"]
DESCR_BAD += ["<M8[9999999999s]", "<m8[x]", "a5", "T", "<f4\\x00", "f4'*9+'", "\xff", "", "<f", "é", "__import__('os')"]
HEADERS_BAD = ["(" * 5000, "[" * 5000 + "]" * 5000, "-" * 9000 + "1", "{" * 200, "'" * 99, "1e999", "\0", "{}", "None"]
HEADERS_BAD += ["{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,), }", "lambda: 0", "9" * 9000, "'\\d'"]
HEADERS_BAD += ["{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'x': 1}", "{'shape': (1,), " * 3 + "}", "0L"]
SIZES_BAD = ["-1", "0", "True", "1.0", "3L", "9" * 5000, "1_0", "０", str(1 << 31), str(1 << 32)]
SIZES_BAD += [str(1 << 62), str(1 << 64)]


def npy(random: Random, change: float = 1.0) -> bytes:
    """Draw an npy file, each of whose parts is hostile now and then."""

    def pick(good: list[Any], bad: list[Any]) -> Any:
        return random.choice(bad if random.random() < 0.1 * change else good)

    descr, order = pick(DESCR, DESCR_BAD), pick(["False", "True"], ["0", "", "None", "'True'"])
    shape = [str(pick([1, 2, 3, 4], SIZES_BAD)) for _ in range(pick([0, 1, 2, 2, 2, 3], [32, 33, 64, 65, 3000]))]
    header = (
        f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({', '.join(shape)}{',' * (len(shape) == 1)}), }}"
    )
    header = pick([header], HEADERS_BAD).encode("utf-8") + b" " * pick([3, 60], [0, 9000, 70000]) + b"\n"
    try:
        count = int(np.prod([int(n) for n in shape]) * np.dtype(descr).itemsize)
    except (ValueError, TypeError, OverflowError):
        count = 24
    version = pick([1, 1, 2, 3], [0, 4, 255])
    length = integer(random, 4) if random.random() < 0.02 * change else len(header).to_bytes(4, "little")
    values = random.randbytes(pick([count], [0, count + 1, 4096]) if 0 <= count < 4096 else 64)
    start = b"\x93NUMPY" + bytes([version, 0]) + length[: 2 if version == 1 else 4]
    return sometimes(random, 0.15 * change, damaged, start + header + values)


def plain(values: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asarray(values))
    return stream.getvalue()


# --- npz: a zip rebuilt around its members, so that its checksums hold; then its records are edited.

NAMES_BAD = ["../x", "/x", "a//b", "", ".", "..", "a/", "w", "w.npy", "w/b", "w/b/c", "C:\\x", "a\0b"]
NAMES_BAD += ["\x1b[2J", "é", "x" * 5000]
NAMES_BAD += ["/".join("a" * 99), "/".join("a" * 4000), "__metadata__", "a/../b", "file", "\u202e", "\ud7ff"]
FIELDS = {  # of the records of a zip: where each holds numbers, by how many bytes they have
    b"PK\1\2": {2: [4, 6, 8, 10, 28, 30, 32, 34], 4: [16, 20, 24, 42]},
    b"PK\3\4": {2: [4, 6, 8, 26, 28], 4: [14, 18, 22]},
    b"PK\5\6": {2: [4, 6, 8, 10, 20], 4: [12, 16]},
    b"PK\6\6": {8: [4, 24, 32, 40, 48]},
    b"PK\6\7": {4: [4, 16], 8: [8]},
}
METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]


def archive(random: Random, members: list[tuple[str, bytes]]) -> bytes:
    stream = io.BytesIO()
    zip64 = random.random() < 0.1
    with (
        mock.patch.object(zipfile, "ZIP_FILECOUNT_LIMIT", 0 if zip64 else zipfile.ZIP_FILECOUNT_LIMIT),
        zipfile.ZipFile(stream, "w") as file,
    ):
        for name, contents in members:
            methods = METHODS if random.random() < 0.98 else [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
            file.writestr(f"{name}.npy", contents, random.choice(methods), compresslevel=1)
    return stream.getvalue()


def records_edited(random: Random, contents: bytes) -> bytes:
    out = bytearray(contents)
    for _ in range(random.choice([1, 1, 2, 3])):
        signature = random.choice(list(FIELDS))
        places = [found.start() for found in re.finditer(signature, out)]
        if places:
            size = random.choice(list(FIELDS[signature]))
            at = random.choice(places) + random.choice(FIELDS[signature][size])
            nudged = int.from_bytes(out[at : at + size], "little") + random.choice([-1, 1, 30, -30, len(out)])
            nudged_bytes = (nudged % (1 << 8 * size)).to_bytes(size, "little")
            out[at : at + size] = random.choice([nudged_bytes, integer(random, size)])
    return bytes(out)


def npz(random: Random, members: Files) -> bytes:
    chosen = [(name, npy(random) if random.random() < 0.3 else contents) for name, contents in members.items()]
    for _ in range(random.choice([0, 0, 0, 1, 2])):
        chosen.insert(random.randint(0, len(chosen)), (random.choice([*NAMES_BAD, *members]), npy(random, 0.2)))
    if random.random() < 0.1:
        del chosen[random.randrange(len(chosen))]
    return sometimes(random, 0.25, damaged, sometimes(random, 0.35, records_edited, archive(random, chosen)))


# --- The files of each reader.

WEIGHTS = {"a/w": plain(np.ones((3, 2), np.float32)), "a/b": plain(np.zeros(2)), "c": plain(np.arange(4))}
LIKE = {"a": {"w": np.ones((3, 2), np.float32), "b": np.zeros(2)}, "c": np.arange(4)}
ROWS, LABELS = np.arange(24.0).reshape(6, 4), np.arange(6) % 2
SPLIT = {"x_train": plain(ROWS), "y_train": plain(LABELS), "x_test": plain(ROWS[:3]), "y_test": plain(LABELS[:3])}
JSON = ['{"classes": "0-9"}', '{"a": [1, 2.5, null, true], "b": {"c": "\\u00e9"}}', "{}"]
JSON_BAD = ["[" * 9000, "9" * 9000, "NaN", "[1]", '"a"', "", "{", '{"a": 1e999}', '{"a":' * 5000, "\ud7ff", '{"\0": 1}']


def model(random: Random) -> Files:
    return {"m.npz": npz(random, WEIGHTS | {"__metadata__": plain(random.choice(JSON))})}


def metadata(random: Random) -> Files:
    text = random.choice(JSON if random.random() < 0.5 else JSON_BAD)
    if random.random() < 0.5:
        text = damaged(random, text.encode()).decode(random.choice(["latin-1", "utf-8"]), "replace")
    array = np.array(text if random.random() < 0.9 else [text] * random.choice([0, 1, 2]))
    member = sometimes(random, 0.2, damaged, plain(array))
    return {"m.npz": npz(random, {"w": plain(1.0), "__metadata__": member})}


def array(random: Random) -> Files:
    return {"x.npy": npy(random)}


def arrays(random: Random) -> Files:
    return {"x.npz": npz(random, WEIGHTS)}


def idx_bytes(random: Random, shape: tuple[int, ...], chance: float = 1.0) -> bytes:
    if random.random() < 0.2 * chance:
        shape = tuple(
            random.choice([1, 1, 2, 3, *EDGES]) % (1 << 32) for _ in range(random.choice([1, 2, 3, 64, 65, 255]))
        )
    code = 8 if random.random() < 0.5 else random.choice([9, 11, 12, 13, 14, 10])
    count = int(np.prod(shape, dtype=object)) * {11: 2, 12: 4, 13: 4, 14: 8}.get(code, 1)
    values = random.randbytes(count if count < 4096 and random.random() < 0.9 else 99)
    start = bytes([0, 0, code, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
    return sometimes(random, 0.3 * chance, damaged, start + values)


def gzipped(random: Random, contents: bytes) -> bytes:
    packed = gzip.compress(contents, 1)
    if random.random() < 0.1:
        packed += random.choice(
            [b"\0" * 9, packed, gzip.compress(b"", 1) * 9, b"garbage", gzip.compress(bytes(1 << 16), 1)]
        )
    return sometimes(random, 0.3, damaged, packed)


def idx(random: Random) -> Files:
    return {"images-idx3-ubyte": idx_bytes(random, (4, 3, 2))}


def idx_gz(random: Random) -> Files:
    return {"images-idx3-ubyte.gz": gzipped(random, idx_bytes(random, (4, 3, 2)))}


CELLS = ["1", "0", "-2.5", "1e30", " 3 ", "+4", "True"]
CELLS_BAD = ["", "nan", "-inf", "1e999", "1_0", "x", '"', '"1,2"', "0x1", "\0", "٣", "²", "9" * 5000, "é"]
CELLS_BAD += ["\x1b[2J", "1" * 140000, "9007199254740993", '"4"5', '"4']
LINES = ["\n"] * 6 + ["\r\n", "\r", "\n\n", "\x0b", "\u2028"]


def table(random: Random) -> Files:
    width, line, bad = random.choice([1, 2, 3, 3, 4]), random.choice(LINES), random.choice([0, 0, 0, 0.02, 0.2])
    header = [["a", '"b,c"', "\ufefflabel", "z" * 300][:width]] if random.random() < 0.5 else []
    rows = header + [
        [random.choice(CELLS_BAD if random.random() < bad else CELLS) for _ in range(width)]
        for _ in range(random.choice([0, 1, 3, 8, 8]))
    ]
    text = line.join(",".join(row) for row in rows).encode(random.choice(["utf-8"] * 6 + ["utf-8-sig", "utf-16"]))
    return {"t.csv": sometimes(random, 0.4, damaged, text)}


def data_npz(random: Random) -> Files:
    return {"d.npz": npz(random, random.choice([SPLIT, {"x": plain(ROWS), "y": plain(LABELS)}]))}


def folder(random: Random) -> Files:
    """Draw a folder of npy or IDX files, one of which is damaged, missing or misplaced."""
    if random.random() < 0.5:
        names = ["train_data.npy", "train_label.npy", "test_data.npy", "test_label.npy"]
        files = dict(zip(names, SPLIT.values(), strict=True))
        changed = random.choice(names)
        change = random.randrange(3)
        files[changed] = (
            npy(random) if change == 0 else damaged(random, files[changed]) if change == 1 else SPLIT["y_test"]
        )
    else:
        names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
        shapes = [(6, 2, 2), (6,), (3, 2, 2), (3,)]
        chosen, gz = random.randrange(4), random.random() < 0.5
        files = {}
        for i, (name, shape) in enumerate(zip(names, shapes, strict=True)):
            contents = idx_bytes(random, shape, float(i == chosen))
            files[name + ".gz" * gz] = (
                gzipped(random, contents) if gz and i == chosen else gzip.compress(contents, 1) if gz else contents
            )
        changed = names[chosen] + ".gz" * gz
    if random.random() < 0.05:
        files[random.choice(["other", "train_data.npy", "t10k-labels-idx1-ubyte"])] = files.pop(changed)
    return files


DTYPES = {"F32": 4, "F64": 8, "F16": 2, "I64": 8, "U8": 1, "BOOL": 1}
DTYPES_BAD = {"BF16": 2, "F8_E4M3": 1, "F4": 1, "C64": 8, "O": 8, "": 1}
SHAPES_BAD = [[-1], [1 << 62, 0], [1 << 40, 1 << 40, 0], [1] * 65, [2.5], "2", [1 << 64], None, [True]]


def safetensors(random: Random) -> Files:
    """Draw a safetensors file, whose parts are hostile now and then."""

    def pick(good: list[Any], bad: list[Any]) -> Any:
        return random.choice(bad if random.random() < 0.05 else good)

    entries, end = [], 0
    for name in random.choice([["w"], ["dense_0/w", "dense_0/b"], ["a", "b", "c/d"]]):
        dtype, shape = pick([*DTYPES], [*DTYPES_BAD]), [random.randint(0, 3) for _ in range(random.randint(0, 3))]
        start, end = end, end + int(np.prod(shape)) * {**DTYPES, **DTYPES_BAD}[dtype]
        offsets = pick([[start, end]], [[end, start], [0, end], [start, end + 1], [start, 1 << 63], [start], "0"])
        entry = {"dtype": dtype, "shape": pick([shape], SHAPES_BAD), "data_offsets": offsets}
        entries.append(f"{json.dumps(pick([name], NAMES_BAD))}: {json.dumps(pick([entry], [None, [], 1, {}]))}")
    entries += pick([[], ['"__metadata__": {"a": "b"}']], [['"__metadata__": {"a": 1}'], [entries[0]], ["[" * 9000]])
    header = f"{{{', '.join(entries)}}}".encode("utf-8", "surrogatepass") + b" " * random.randint(0, 9)
    length = integer(random, 8) if random.random() < 0.03 else len(header).to_bytes(8, "little")
    values = random.randbytes(pick([end], [0, end + 1, 4096]))
    return {"m.safetensors": sometimes(random, 0.3, damaged, length + header + values)}


class Reader(NamedTuple):
    draw: Callable[[Random], Files]
    read: Callable[[Path, Files], Any]


def only(read: Callable[[Path], Any]) -> Callable[[Path, Files], Any]:
    return lambda folder, files: read(folder / next(iter(files)))


READERS = {
    "load": Reader(model, only(fmlp.load)),
    "load_like": Reader(model, only(lambda path: fmlp.load(path, like=LIKE))),
    "load_metadata": Reader(metadata, only(fmlp.load_metadata)),
    "read_npy": Reader(array, only(data.read_npy)),
    "read_npz": Reader(arrays, only(data.read_npz)),
    "read_idx": Reader(idx, only(data.read_idx)),
    "read_idx_gz": Reader(idx_gz, only(data.read_idx)),
    "read_csv": Reader(table, only(data.read_csv)),
    "batches": Reader(table, only(lambda path: [x for pair in data.Batches(path, -1) for x in pair])),
    "data_load_npz": Reader(data_npz, only(data.load)),
    "data_load_csv": Reader(table, only(data.load)),
    "data_load_folder": Reader(folder, lambda path, files: data.load(path)),
    "safetensors": Reader(safetensors, only(lambda path: fmlp.safetensors.load(path))),
    "safetensors_metadata": Reader(safetensors, only(lambda path: fmlp.safetensors.load_metadata(path))),
}

# --- What every read is held to.


class TooSlowError(BaseException):
    """Passes through ``except Exception``."""


class Tally(NamedTuple):
    tried: int
    accepted: int
    refused: int
    slowest: float


@contextmanager
def bounded(memory: int) -> Iterator[None]:
    """Bound the address space to what it is now and `memory` bytes more, and turn warnings into errors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()

    def alarm(*_: Any) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGPROF, alarm)
    resource.setrlimit(resource.RLIMIT_AS, (now + memory, hard))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def check_value(value: Any) -> None:
    """Touch all of a value, and see that it is what a tree or a data set may be."""
    if isinstance(value, dict) and all(isinstance(leaf, np.ndarray) for leaf in tree.leaves(value)):
        value = tree.leaves(value)
    for leaf in value if isinstance(value, (tuple, list)) else [value]:
        if isinstance(leaf, np.ndarray):
            assert leaf.dtype.kind in "biufcmMSU", leaf.dtype
            assert leaf.dtype.isnative or isinstance(leaf, np.memmap), leaf.dtype
            assert len(leaf.tobytes()) == leaf.nbytes <= 64 << 20
        else:
            assert isinstance(leaf, dict)


def check_error(error: fmlp.FileFormatError, folder: Path) -> None:
    assert not isinstance(error.__cause__, (MemoryError, Warning)), repr(error.__cause__)
    message = str(error)
    assert message.startswith(str(folder)), message
    assert message.replace("\n", "").isprintable(), message
    assert len(message) < 2000, message


def fuzz(name: str, inputs: int, seed: int = 0) -> Tally:
    """Try `inputs` damaged files on a reader; raises AssertionError at the first that it does not bear."""
    draw, read = READERS[name]
    random, accepted, slowest = Random(f"{name} {seed}"), 0, 0.0
    base = tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    place = Path(base) / "files"
    place.mkdir()
    with bounded(256 << 20):
        for i in range(inputs):
            with warnings.catch_warnings(action="ignore"):
                files = draw(random)
            for file, contents in files.items():
                (place / file).write_bytes(contents)
            signal.setitimer(signal.ITIMER_PROF, 5)
            start = time.process_time()
            try:
                check_value(read(place, files))
                accepted += 1
            except fmlp.FileFormatError as error:
                try:
                    check_error(error, place)
                except AssertionError as wrong:
                    raise AssertionError(f"{name}, seed {seed}, input {i}, kept in {place}: {wrong}") from error
            except BaseException as error:
                raise AssertionError(f"{name}, seed {seed}, input {i}, kept in {place}: {error!r}") from error
            signal.setitimer(signal.ITIMER_PROF, 0)
            slowest = max(slowest, time.process_time() - start)
            for file in files:
                (place / file).unlink()
    shutil.rmtree(base)
    return Tally(inputs, accepted, inputs - accepted, slowest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reader", choices=READERS, help="one reader; all without")
    parser.add_argument("--inputs", type=int, default=10_000, help="files for each reader")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"{'reader':16} {'tried':>9} {'accepted':>9} {'refused':>9} {'slowest':>10} {'files/s':>8} {'peak RSS':>9}")
    for name in [options.reader] if options.reader else READERS:
        start = time.perf_counter()
        tally = fuzz(name, options.inputs, options.seed)
        rate, peak = (
            tally.tried / (time.perf_counter() - start),
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        )
        print(
            f"{name:16} {tally.tried:9} {tally.accepted:9} {tally.refused:9} {1000 * tally.slowest:7.1f} ms"
            f" {rate:8.0f} {peak:5.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
