"""Makes digits.npz and diabetes.npz from scikit-learn's copies: the same bytes every time."""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_diabetes, load_digits

from fmlp.data import train_test_split


def main(folder: Path = Path(__file__).parent) -> None:
    """Write both files into `folder`."""
    x, y = load_digits(return_X_y=True)
    digits = train_test_split(x.astype(np.uint8), y.astype(np.uint8))
    np.savez_compressed(folder / "digits.npz", **digits._asdict())

    x, y = load_diabetes(return_X_y=True, scaled=False)
    diabetes = train_test_split(x.astype(np.float32), y.astype(np.float32))
    np.savez_compressed(folder / "diabetes.npz", **diabetes._asdict())


if __name__ == "__main__":
    main()
