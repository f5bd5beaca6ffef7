"""IDX, the format of MNIST: read one array from a file, and find the four files of a data set by their names."""

from __future__ import annotations

import gzip
import os
import re
import struct
from math import prod
from pathlib import Path

import numpy as np

from fmlp.arguments import StrPath
from fmlp.arguments import path as checked_path
from fmlp.files import Array, FileFormatError, listed, opened, reading, shown, unpacked_limit

__all__ = ["idx_files", "magic", "read_idx"]

_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_NAME = re.compile(r"(.+-)?(train|t10k|test)-(images|labels)[-.]idx\d-[a-z]+(\.gz)?")
_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: "i2", 0x0C: "i4", 0x0D: "f4", 0x0E: "f8"}


def read_idx(path: StrPath) -> Array:
    """Read an IDX file, the format of MNIST, compressed with gzip if the name ends in `.gz`.

    The file starts with the bytes 0, 0, a code for the element type, and the number of dimensions. Each dimension
    follows as a big-endian uint32, then the values, big-endian. Returns the values as uint8 (code 8), int8 (9), int16
    (11), int32 (12), float32 (13) or float64 (14), of shape (images, rows, columns) or (labels,).

    Raises FileFormatError when the file does not start like this, holds no values, is longer or shorter than its
    dimensions say, or unpacks to more than 64 MiB and 100 times its size.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "labels-idx1-ubyte"
    ...     _ = path.write_bytes(bytes([0, 0, 8, 1]) + bytes([0, 0, 0, 3]) + bytes([7, 2, 1]))
    ...     read_idx(path)
    array([7, 2, 1], dtype=uint8)
    """
    path = Path(checked_path("path", path))
    with reading(path, "IDX"), opened(path) as file, gzip.open(file) if path.suffix == ".gz" else file as stream:
        magic = stream.read(4)
        if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES or magic[3] == 0:
            raise FileFormatError(
                f"{path}: expected IDX, whose first bytes are 00 00, 08, 09 or 0b to 0e, and the number of dimensions, "
                f"got {magic.hex(' ') or 'an empty file'}"
            )
        sizes = stream.read(4 * magic[3])
        if len(sizes) < 4 * magic[3]:
            raise FileFormatError(f"{path}: expected {magic[3]} dimensions, but the file ends within them")
        dtype, shape = np.dtype(_TYPES[magic[2]]), struct.unpack(f">{magic[3]}I", sizes)
        promised, limit = prod(shape) * dtype.itemsize, unpacked_limit(os.fstat(file.fileno()).st_size)
        if promised > limit:
            most, found = limit // dtype.itemsize, shown(f"{prod(shape)} for {shape}", 200)
            raise FileFormatError(f"{path}: expected at most {most} values, got {found}")
        values = bytearray()  # grows with the data that is read, so a false size in the header allocates nothing
        while chunk := stream.read(min(1 << 20, promised + 1 - len(values))):
            values += chunk
        if len(values) != promised or not promised:
            found = "more" if len(values) > promised else f"{len(values) / dtype.itemsize:.10g}"
            raise FileFormatError(
                f"{path}: expected {prod(shape)} values for the shape {shown(str(shape))}, at least 1, got {found}"
            )
        return np.frombuffer(values, dtype.newbyteorder(">")).reshape(shape).astype(dtype, copy=False)


def magic(values: Array) -> int:
    """Return the magic number of these values' IDX file, its first four bytes."""
    return 256 * next(code for code, kind in _TYPES.items() if np.dtype(kind) == values.dtype) + values.ndim


def idx_files(folder: Path, names: list[str]) -> list[str]:
    """Choose the four files of a data set from the names in a folder, in the order of `Dataset`, or none."""
    matches = [match for match in map(_NAME.fullmatch, reversed(names)) if match]  # a plain file wins over its .gz
    prefix, *others = {match[1] or "" for match in matches} or {""}
    found = {(match[2] == "train", match[3]): match[0] for match in matches}
    if others or len({match[0].removesuffix(".gz") for match in matches}) > len(found):
        raise FileFormatError(f"{folder}: expected the files of one data set, found {listed(names)}")
    slots = [(part, kind) for part in (True, False) for kind in ("images", "labels")]
    missing = [
        f"{prefix}{name} or {prefix}{name}.gz" for name, slot in zip(_FILES, slots, strict=True) if slot not in found
    ]
    if missing and found:
        raise FileFormatError(f"{folder}: expected {', '.join(missing)} too, found {listed(names)}")
    return [found[slot] for slot in slots if slot in found]
