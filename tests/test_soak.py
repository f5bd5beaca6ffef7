"""The short form of `python tests/reliability/soak.py --minutes 60`: a few equal rounds leave nothing behind."""

import sys
import time
import tracemalloc
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="a soak trains fmlp.estimators too, which need scikit-learn")

sys.path.insert(0, str(Path(__file__).parent / "reliability"))
import soak


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="handles and threads are counted as Linux does")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_round_of_everything_leaves_nothing_behind(tmp_path):
    def measured():
        *_, handles, threads, blocks = soak.measure(time.monotonic())
        return handles, threads, blocks, tracemalloc.get_traced_memory()[0]

    expected = soak.work(tmp_path)
    tracemalloc.start()
    try:
        rounds = [(soak.work(tmp_path), measured()) for _ in range(3)]  # the first of them fills what Python caches
    finally:
        tracemalloc.stop()
    assert {digest for digest, _ in rounds} == {expected}
    handles, threads, blocks, size = (b - a for a, b in zip(rounds[1][1], rounds[2][1], strict=True))
    assert handles <= 0
    assert threads <= 0
    assert blocks < 20  # a round makes about 150 steps
    assert size < 1000
    assert not list(tmp_path.iterdir())
