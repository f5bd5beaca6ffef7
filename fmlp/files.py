"""Read npy and npz files from untrusted sources safely, replace files atomically, and lock them.

Nothing is unpickled or evaluated. A file's header is compared with its size before memory is allocated, and must
account for all of its bytes. A compressed file may unpack to at most 64 MiB, or to 100 times its size if that is more:
real data rarely exceed this, but files made to fill the memory do. Uncompressed files have no limit. Pipes and devices
are refused, because a pipe may block its reader and a device may never end.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from fmlp.arguments import StrPath
from fmlp.arguments import path as checked_path

if TYPE_CHECKING:
    from zipfile import ZipFile

Array: TypeAlias = npt.NDArray[Any]

__all__ = ["FileFormatError", "read_npy", "read_npz"]

KINDS = "biufcmMSU"  # the kinds of dtypes that are read: numbers, booleans, dates and strings of fixed length


class FileFormatError(ValueError):
    """A file is damaged, malicious, or does not hold what was expected.

    The message names the file, what was expected and what was found. For a file that is missing or cannot be opened,
    the system's FileNotFoundError, PermissionError or other OSError is raised instead.
    """


def read_npy(path: StrPath) -> np.memmap[Any, np.dtype[Any]]:
    """Open the array in an npy file, memory-mapped, read-only and in the file's dtype and byte order.

    Raises FileFormatError when the file is not an npy file, is longer or shorter than its header says, or holds
    anything but numbers, booleans, dates and strings. Python objects are never unpickled.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/x.npy", np.zeros((3, 2)))
    ...     read_npy(f"{folder}/x.npy").shape
    (3, 2)
    """
    checked_path("path", path)
    with reading(path, "npy"), opened(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        dtype, shape, order = _npy_header(stream, size, os.fspath(path))
        return np.memmap(stream, dtype, "r", stream.tell(), shape, order)


def read_npz(path: StrPath, *, only: str | None = None) -> dict[str, Array]:
    """Read all arrays in an npz file, or only the array `only`; returns a dict by name, in this machine's byte order.

    Raises FileFormatError when the file is not an npz file, is damaged, has a name twice, holds anything but npy
    members, or unpacks to more than 64 MiB and 100 times its size, and for any array that `read_npy` would refuse.

    >>> sorted(read_npz("data/digits.npz"))
    ['x_test', 'x_train', 'y_test', 'y_train']
    """
    from zipfile import ZipFile

    checked_path("path", path)
    arrays = {}
    with reading(path, "npz"), opened(path) as file, ZipFile(file) as archive:
        names = _member_names(archive, file, os.fspath(path))
        for name, member in zip(names, archive.infolist(), strict=True):
            if only in (None, name):
                with archive.open(member) as stream:
                    arrays[name] = _npy_array(stream, member.file_size, f"{os.fspath(path)}: {shown(member.filename)}")
    return arrays


@contextmanager
def opened(path: StrPath) -> Iterator[IO[bytes]]:
    """Open a regular file for reading; raises FileFormatError for a pipe or a device."""

    def without_waiting(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    with open(path, "rb", opener=without_waiting) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise FileFormatError(f"{os.fspath(path)}: expected a regular file, got a pipe or a device")
        yield stream


def locked(file: IO[bytes] | int) -> bool | None:
    """Lock a file until it is closed or its process ends; False if it is locked already, None if that is impossible."""
    try:
        import fcntl
    except ModuleNotFoundError:  # such as on Windows, where an open file cannot be removed
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # such as on some network file systems
        return None
    return True


_TAKEN = "another training writes to it"
_HELD: dict[Path, int | None] = {}
"""The files that this process holds, each with its open handle, or None if it does not exist yet."""


@contextmanager
def holding(path: Path) -> Iterator[Callable[[], None]]:
    """Lock a file for this process during the block; when `replacing` replaces the file, the lock moves to the new one.

    Yields a function that releases the file. A forked process must call it, or it would hold the file until it ends.
    On systems without such locks, such as Windows, the file is protected only within this process. Raises
    BlockingIOError if the file is held already.
    """
    whole = Path(os.path.realpath(path))
    if whole in _HELD:
        raise BlockingIOError(errno.EAGAIN, _TAKEN)

    def let_go() -> None:
        _keep(whole, None)
        _HELD.pop(whole, None)

    _HELD[whole] = None
    try:
        _hold(whole)
        yield let_go
    finally:
        let_go()


def _hold(whole: Path) -> None:
    """Lock the existing file, unless it is the one held; raises BlockingIOError if another process has locked it."""
    while (handle := _to_be_locked(whole)) is not None:
        held, taken = _HELD[whole], False
        try:
            if held is not None and os.path.samestat(os.fstat(held), os.fstat(handle)):
                return
            if locked(handle) is False:
                raise BlockingIOError(errno.EAGAIN, _TAKEN)
            with suppress(FileNotFoundError):
                taken = os.path.samestat(os.stat(whole), os.fstat(handle))
            if taken:  # the file was not replaced since it was opened
                _keep(whole, handle)
                return
        finally:
            if not taken:
                os.close(handle)


def _to_be_locked(whole: Path) -> int | None:
    """Open the existing file if possible, preferably for writing, because NFS can lock no other files."""
    for mode in (os.O_RDWR, os.O_RDONLY):
        with suppress(FileNotFoundError, PermissionError):
            if os.name != "nt":  # on Windows, an open file cannot be replaced
                return os.open(whole, mode | os.O_NONBLOCK)
    return None


def _keep(whole: Path, handle: int | None) -> None:
    before, _HELD[whole] = _HELD.get(whole), handle
    if before is not None:
        os.close(before)


@contextmanager
def reading(path: StrPath, kind: str) -> Iterator[None]:
    """Turn errors while reading a file into FileFormatError, except for the system's errors and MemoryError."""
    try:
        yield
    except (FileFormatError, MemoryError):
        raise
    except Exception as error:  # zipfile, gzip, zlib, csv, json and NumPy raise many errors and document few
        if isinstance(error, OSError) and error.errno is not None:
            raise
        what = shown(str(error), 200) or type(error).__name__
        raise FileFormatError(f"{os.fspath(path)}: cannot be read as {kind}: {what}") from error


def shown(text: str, most: int = 60) -> str:
    """Make text from a file fit for a message: short, with printable characters only."""
    return repr(text)[1:-1][:most]


def listed(names: list[str]) -> str:
    """List the first few names for a message."""
    return ", ".join(map(shown, names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


@contextmanager
def replacing(path: StrPath) -> Iterator[IO[bytes]]:
    """Open a new file that replaces the file at `path` when the block ends, unless the block raises an error.

    The new file gets the mode of the old one, and its owner and group if permitted. If `path` is a link, its target is
    replaced. Raises ValueError if `path` exists and is not a file, such as a folder; the system's errors name `path`.
    """
    whole = Path(os.path.realpath(path))
    if whole.exists() and not whole.is_file():
        what = "a folder" if whole.is_dir() else "a pipe or a device"
        raise ValueError(f"path: expected the name of a file, got {os.fspath(path)!r}, which is {what}")
    draft, following = whole.with_name(_draft_name(whole, os.urandom(8).hex())), None
    try:
        with draft.open("xb") as file:
            locked(file)
            _take_mode_of(whole, file.fileno())
            yield file
            file.flush()
            os.fsync(file.fileno())
            if whole in _HELD and os.name != "nt":
                _hold(whole)  # another process may have made a file since
                following = os.dup(file.fileno())
        os.replace(draft, whole)
        if following is not None:
            _keep(whole, following)
            following = None
    except OSError as error:
        if error.filename != os.fspath(draft):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    finally:
        if following is not None:
            os.close(following)
        with suppress(OSError):
            draft.unlink()
    with suppress(OSError):  # the new file is in place; at worst its name does not survive a power failure
        _sync_folder(whole.parent)


def drafts(path: Path) -> Iterator[Path]:
    """Find the unfinished files that `replacing` has begun to write next to the file."""
    import glob

    whole = Path(os.path.realpath(path))
    yield from whole.parent.glob(_draft_name(Path(glob.escape(whole.name)), "[0-9a-f]" * 16))


def _draft_name(whole: Path, unique: str) -> str:
    import hashlib

    name = os.fsencode(whole.name)  # the draft's name must not become too long for the file system
    return f".{whole.name if len(name) <= 100 else hashlib.sha256(name).hexdigest()[:32]}.{unique}.tmp"


def _take_mode_of(whole: Path, handle: int) -> None:
    if not hasattr(os, "fchown") or not whole.exists():
        return
    old, new = whole.stat(), os.fstat(handle)
    mode = stat.S_IMODE(old.st_mode)
    if old.st_gid != new.st_gid:
        try:
            os.fchown(handle, -1, old.st_gid)
        except OSError:  # a different group gets no more rights than everybody has
            mode = mode & ~0o070 | (mode & 0o007) << 3
    if old.st_uid != new.st_uid:
        with suppress(OSError):
            os.fchown(handle, old.st_uid, -1)
    if mode != stat.S_IMODE(new.st_mode):
        os.fchmod(handle, mode)


def _sync_folder(folder: Path) -> None:
    """Make a file's new name durable if the system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def unpacked_limit(size: int) -> int:
    """Return the number of bytes to which a compressed file of this size may unpack."""
    return max(64 << 20, 100 * size)


def _member_names(archive: ZipFile, file: IO[bytes], path: str) -> list[str]:
    """Check an archive as a whole, and name its arrays; overlapping members make the sum of sizes too large."""
    from zipfile import ZIP_DEFLATED, ZIP_STORED

    size, members, names = os.fstat(file.fileno()).st_size, archive.infolist(), dict[str, None]()
    for member in members:
        name = member.filename.removesuffix(".npy")
        if name in names:
            raise FileFormatError(f"{path}: expected every name once, got {shown(name)} again")
        if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise FileFormatError(f"{path}: {shown(member.filename)}: expected it stored or deflated, as NumPy does")
        names[name] = None
    packed, unpacked = sum(m.compress_size for m in members), sum(m.file_size for m in members)
    if packed > size or unpacked > unpacked_limit(size):
        raise FileFormatError(
            f"{path}: expected at most {unpacked_limit(size)} bytes out of {size}, got {unpacked} out of {packed}; "
            "data that repetitive can be read when saved uncompressed"
        )
    file.seek(-22 - len(archive.comment), os.SEEK_END)  # the end record, if the archive is the whole file
    if file.read(4) != b"PK\5\6" or min((m.header_offset for m in members), default=0) != 0:
        raise FileFormatError(f"{path}: expected nothing before and after the archive")
    return list(names)


def _npy_array(stream: IO[bytes], size: int, name: str) -> Array:
    dtype, shape, order = _npy_header(stream, size, name)
    values = np.empty(prod(shape) * dtype.itemsize, np.uint8)
    done = 0
    while done < len(values):
        chunk = stream.read(min(1 << 20, len(values) - done))
        if not chunk:
            raise FileFormatError(f"{name}: expected {len(values)} bytes of values, got {done}")
        values[done : done + len(chunk)] = np.frombuffer(chunk, np.uint8)
        done += len(chunk)
    return values.view(dtype).reshape(shape, order=order).astype(dtype.newbyteorder("="), copy=False)


# The header of an npy file is a Python dict. NumPy uses ast.literal_eval, which is slow, recurses and warns.
_MAGIC, _HEADER_LIMIT = b"\x93NUMPY", 10_000  # NumPy's own limit
_VALUES = r"(?<='descr':)'[^']*'|(?<='fortran_order':)(?:True|False)|(?<='shape':)\((?:\d+L?,)*(?:\d+L?)?\)"
_ITEM = rf"'(\w+)':({_VALUES}),?"  # matched without blanks; Python 2 wrote numbers as 3L


def _npy_header(stream: IO[bytes], size: int, name: str) -> tuple[np.dtype[Any], tuple[int, ...], Literal["C", "F"]]:
    """Read a header, and check that the rest of the stream of `size` bytes has the size that it says."""
    start = stream.read(8)
    if start[:6] != _MAGIC or start[6:] not in (b"\1\0", b"\2\0", b"\3\0"):
        raise FileFormatError(
            f"{name}: expected npy of version 1 to 3, whose first bytes are {_MAGIC.hex(' ')}, "
            f"got {start.hex(' ') or 'an empty file'}"
        )
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(stream.read(width), "little")
    room = min(_HEADER_LIMIT, size - 8 - width)
    if length > room:
        raise FileFormatError(f"{name}: expected a header of at most {room} bytes in {size}, got {length}")
    header = stream.read(length).decode("latin-1")
    compact = "".join(header.split())
    items = dict(re.findall(_ITEM, compact))
    if not re.fullmatch(rf"\{{({_ITEM}){{3}}\}}", compact) or items.keys() != {"descr", "fortran_order", "shape"}:
        raise FileFormatError(
            f"{name}: expected descr (of numbers or strings), fortran_order and shape as header, got {shown(header)}"
        )
    descr, shape = items["descr"].strip("'"), tuple(map(int, re.findall(r"\d+", items["shape"])))
    if not re.fullmatch(rf"[<>=|]?[{KINDS}]\d+(\[\w+\])?", descr) or not np.dtype(descr).itemsize:
        what = "Python objects, which are never unpickled" if "O" in descr else f"dtype {shown(descr)}"
        raise FileFormatError(f"{name}: expected numbers or strings, got {what}")
    dtype = np.dtype(descr)
    promised, found = prod(shape) * dtype.itemsize, size - 8 - width - length
    if promised != found:
        expected = f"{promised} bytes for {dtype} of shape {shape}"
        raise FileFormatError(f"{name}: expected {shown(expected, 200)}, got {found}")
    if prod(n for n in shape if n) * dtype.itemsize > sys.maxsize:  # an empty array that NumPy still refuses
        raise FileFormatError(f"{name}: expected dimensions that fit into memory, got {shown(str(shape))}")
    return dtype, shape, "F" if items["fortran_order"] == "True" else "C"
