"""Data sets: readers for npy, npz, IDX, CSV and Parquet, and a generated set whose best possible accuracy is known.

`load` reads any of these formats except Parquet, which `Batches` reads. A reader never unpickles, and it checks a
file's size against its header before it allocates memory. A bad file raises `FileFormatError`, which names the file,
what was found and what was expected (see `fmlp.files`).
"""

from fmlp.data.batches import Batches
from fmlp.data.dataset import Dataset, load, train_test_split
from fmlp.data.generated import gaussian_classes
from fmlp.data.idx import read_idx
from fmlp.data.statistics import label_balance, moments, standardize
from fmlp.data.tables import read_csv
from fmlp.files import read_npy, read_npz

__all__ = [
    "Batches",
    "Dataset",
    "gaussian_classes",
    "label_balance",
    "load",
    "moments",
    "read_csv",
    "read_idx",
    "read_npy",
    "read_npz",
    "standardize",
    "train_test_split",
]
