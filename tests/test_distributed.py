"""Training over MPI: the answer of one process, on any number of ranks, and an end to the job whatever goes wrong."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import fmlp
from fmlp import distributed, losses, random
from fmlp.batches import in_turn, slices
from fmlp.layers import BatchNorm, Dense, Dropout, serial
from fmlp.statistics import Shard

pytest.importorskip("mpi4py", reason="fmlp.distributed is for mpi4py: pip install 'fmlp[mpi]'")
HERE = Path(__file__).parent
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
ENVIRONMENT = os.environ | {"OPENBLAS_NUM_THREADS": "1"}


def command(ranks, task, out, *arguments):
    return [
        MPIEXEC,
        "-n",
        str(ranks),
        sys.executable,
        "-W",
        "error",
        str(HERE / "ranks.py"),
        task,
        str(out),
        *arguments,
    ]


def run(ranks, task, out, *arguments):
    """Run a task of `ranks.py`; one that hangs is an error."""
    words = command(ranks, task, out, *map(str, arguments))
    return subprocess.run(words, capture_output=True, text=True, timeout=120, env=ENVIRONMENT)


def succeed(*arguments):
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ------------------------------------------------------------------------------------ same answer

BOUND = {"float32": 1e-5, "float64": 1e-9}
"""Of a gradient relative to its largest number; and of a whole training's curve and parameters."""


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_gradients_of_drawn_networks_are_those_of_all_rows_at_once(tmp_path, ranks):
    succeed(ranks, "gradients", tmp_path / "worst.txt", 40)
    assert float((tmp_path / "worst.txt").read_text()) < BOUND["float32"]


def test_trainings_of_drawn_networks_are_the_same_on_any_number_of_ranks(tmp_path):
    outcomes = {}
    for ranks in (1, 2, 4):
        succeed(ranks, "same", tmp_path / f"{ranks}.npz", 15)
        outcomes[ranks] = dict(np.load(tmp_path / f"{ranks}.npz"))
    for outcome in outcomes.values():
        names = [name.removeprefix("alone/") for name in outcome if name.startswith("alone/")]
        assert len(names) > 15 * 4
        for name in names:
            expected = outcomes[1][f"alone/{name}"]
            largest = max(1.0, float(np.abs(expected).max()))
            assert np.abs(outcome[f"ranks/{name}"] - expected).max() < BOUND["float64"] * largest, name


@pytest.mark.parametrize("rows", [[5, 4, 7], [9, 0, 3], [0, 2, 1], [1, 1, 30]])
@pytest.mark.parametrize("size", [1, 3, 7, 40])
def test_parts_that_ranks_share_are_made_whole_by_the_first_of_them(rows, size):
    ends, n, barrier, sent = np.cumsum(rows), sum(rows), threading.Barrier(len(rows)), {}

    class Group:
        def __init__(self, rank):
            self.rank = rank

        def collect(self, own):
            return rows

        def exchange(self, pieces):
            sent[self.rank] = pieces
            barrier.wait(10)
            return [sent[rank][self.rank] for rank in range(len(rows))]

    def of_rank(rank):
        x = np.arange(n)[ends[rank] - rows[rank] : ends[rank]]
        parts = distributed.Rows(Group(rank), rows[rank]).whole(x, slices(n, size), in_turn)
        return [part.tolist() for part in parts]

    with ThreadPoolExecutor(len(rows)) as pool:
        got = [part for parts in pool.map(of_rank, range(len(rows))) for part in parts]
    assert got == [list(range(n))[part] for part in slices(n, size)]


def test_masks_are_cut_from_those_of_the_whole_batch():
    class Comm:
        rank, size = 1, 2

    key = random.key(0)
    for rows in (10, 1024, 5000):
        whole = Shard(Comm, 0).bernoulli(key, 0.3, (rows, 3))
        if rows <= 1024:
            assert np.array_equal(whole, random.bernoulli(key, 0.3, (rows, 3)))
        assert abs(whole.mean() - 0.3) < 4 / rows**0.5
        assert rows <= 1024 or not np.array_equal(whole[:100], whole[1024:1124])
        for start, stop in [(0, 0), (0, rows // 2), (rows // 2, rows), (rows - 1, rows), (rows, rows)]:
            part = Shard(Comm, start).bernoulli(key, 0.3, (stop - start, 3))
            assert np.array_equal(part, whole[start:stop])


def test_a_constant_feature_gives_the_bias_however_it_is_cut():
    class Comm:
        rank, size = 0, 2

        def Allgather(self, own, stacked):  # noqa: N802 - MPI's name
            stacked[0] = own
            stacked[1] = own
            stacked[1, -1] = 5  # rows there

    x = np.full((3, 2), [1e30, 7.3], np.float32)
    layer = BatchNorm()
    _, params = layer.init(random.key(0), (2,))
    assert np.array_equal(layer.apply(params, x, train=Shard(Comm(), 0)), np.zeros((3, 2)))


def test_batches_of_ones_own(tmp_path):
    succeed(4, "batches", tmp_path / "out", "")


@pytest.mark.parametrize("ranks", [2, 4])
def test_mapped_files_of_each_ranks_own(tmp_path, ranks):
    succeed(ranks, "mapped", tmp_path / "out", "")


def test_a_loop_of_ones_own_needs_one_allreduce_a_step():
    calls = []

    class Comm:
        rank, size = 0, 1

        def Allreduce(self, values, total):  # noqa: N802 - MPI's name
            calls.append(values.size)
            total[...] = values

    net = serial(Dense(4), Dropout(0.5), Dense(2))
    _, params = net.init(random.key(0), (3,))
    x, y, key = np.ones((6, 3), np.float32), np.arange(6) % 2, random.key(1)
    step = distributed.value_and_grad(distributed.objective(net.apply, losses.cross_entropy), Comm())
    value, grads = step(params, x, y, key=key, start=0)
    expected, gradient = fmlp.value_and_grad(fmlp.objective(net.apply, losses.cross_entropy))(params, x, y, key=key)
    assert calls == [fmlp.tree.size(params) + 3]
    assert abs(value - expected) < 1e-6
    for a, b in zip(fmlp.tree.leaves(grads), fmlp.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_what_rank_0_decides_all_do(tmp_path, ranks):
    succeed(ranks, "agree", tmp_path / "out", "")


# --------------------------------------------------------------------------------------- manners


@pytest.mark.parametrize(
    ("ranks", "task", "message"),
    [
        (2, "raise", "fmlp: rank 1 of 2 failed: OSError: the disk of this rank is gone"),
        (4, "raise", "fmlp: rank 3 of 4 failed: OSError: the disk of this rank is gone"),
        (
            2,
            "before",
            "fmlp: rank 1 of 2 failed: FileNotFoundError: [Errno 2] No such file or directory: 'missing.npy'",
        ),
        (2, "caught", "fmlp: rank 1 of 2 failed: OSError: the disk of this rank is gone"),
        (2, "exit", "fmlp: rank 1 of 2 failed: SystemExit: 0"),
        (2, "leaving", "called: 'fit' on rank 0, 'the end of the program' on rank 1"),
        (3, "leaving with a message", "called: 'fit' on rank 0, 'the end of the program' on rank 1"),
        (2, "leaving one that evaluates", "called: 'evaluate' on rank 0, 'the end of the program' on rank 1"),
        (2, "leaving one that calibrates", "called: 'calibrate' on rank 0, 'the end of the program' on rank 1"),
        (2, "widths", "data/0: 'float32 (rows, 4)' on rank 0, 'float32 (rows, 3)' on rank 1"),
        (2, "different", "batch_size: 16 on rank 0, 17 on rank 1"),
        (2, "kinds", "data: 'batches' on rank 0, {'0': 'float32 (rows, 4)'"),
        (2, "empty", "ValueError: data: expected at least one row"),
        (2, "callback interrupt", "fmlp: rank 0 of 2 failed: KeyboardInterrupt"),
        (2, "callback nested", "fmlp: rank 0 of 2 failed: NonFiniteError: one rank only"),
        (2, "diverging", "fmlp: rank 0 of 2 failed: NonFiniteError: epoch 0"),
        (2, "trees", "data/0/a: 'float32 (rows, 4)' on rank 0, 'absent' on rank 1"),
        (2, "fractions", "validation: 0.4 on rank 0, 0.2 on rank 1"),
        (2, "parameters", "params/dense_0/w: 'float32 (4, 8)"),
    ],
)
def test_what_goes_wrong_on_one_rank_ends_all_of_them(tmp_path, ranks, task, message):
    done = run(ranks, task, tmp_path / "out", "")
    assert done.returncode != 0
    assert message in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs signals as Unix has them")
@pytest.mark.parametrize("task", ["callback twice", "twice"])
def test_a_second_signal_ends_all_ranks_at_once(tmp_path, task):
    done = run(2, task, tmp_path / "out", "")
    assert done.returncode != 0


@pytest.mark.skipif(os.name == "nt", reason="needs signals as Unix has them")
def test_a_second_signal_ends_a_rank_that_waits(tmp_path):
    words = command(2, "waiting", tmp_path / "out", "")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT) as job:
        try:
            os.kill(int(job.stdout.readline()), signal.SIGTERM)
            assert job.wait(30) != 0
        finally:
            job.kill()


@pytest.mark.skipif(os.name == "nt", reason="needs signals as Unix has them")
def test_a_rank_that_is_terminated_leaves_rank_0_the_time_to_write(tmp_path):
    assert run(2, "terminated", tmp_path / "out", "").returncode != 0
    progress = fmlp.load_metadata(tmp_path / "out.npz")["progress"]
    assert (progress["epoch"], progress["step"]) == (0, 20)


@pytest.mark.parametrize("task", ["calibrating", "leaving together", "lists", "one_hot"])
def test_two_ranks_do_what_one_does(tmp_path, task):
    succeed(2, task, tmp_path / "out", "")


def test_one_rank_goes_on_with_what_none_began_and_the_reverse(tmp_path):
    succeed(1, "alone", tmp_path / "out", "")


def test_a_rank_that_is_killed_ends_all_of_them(tmp_path):
    done = run(2, "kill", tmp_path / "out", "")
    assert done.returncode != 0
    assert "KILLED" in (done.stdout + done.stderr).upper() or "TERMINATION" in (done.stdout + done.stderr).upper()


def test_training_that_diverges_is_the_same_error_on_all_ranks(tmp_path):
    done = run(2, "diverges", tmp_path / "out", "")
    assert done.returncode != 0
    assert done.stdout.count("caught") == 2
    assert done.stderr.count("NonFiniteError: epoch 0, step") == 2


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_to_one_rank_stops_all_after_the_same_step(tmp_path, name):
    assert succeed(2, "interrupted", tmp_path / "out", name).count("stopped") == 2


def test_a_training_goes_on_with_another_number_of_ranks(tmp_path):
    for name, steps in {"whole": [(1, 8)], "other": [(2, 3), (4, 5), (1, 6), (2, 8)]}.items():
        for ranks, epochs in steps:
            assert succeed(ranks, "checkpointed", tmp_path / f"{name}.npz", epochs) == f"done {epochs}\n"
    whole, other = (np.load(tmp_path / f"{name}.npz") for name in ("whole", "other"))
    assert whole.files == other.files
    for name in whole.files:
        np.testing.assert_allclose(whole[name], other[name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_job_that_is_killed_goes_on_from_its_checkpoint(tmp_path):
    out = tmp_path / "out.npz"
    job = subprocess.Popen(
        command(2, "checkpointed", out, "100000"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=ENVIRONMENT, start_new_session=True,
    )  # fmt: skip
    checkpoint, until = Path(f"{out}.run.npz"), time.monotonic() + 60
    while time.monotonic() < until and not (
        checkpoint.exists() and fmlp.load_metadata(checkpoint)["progress"]["epoch"] >= 3
    ):
        time.sleep(0.1)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait(30)
    reached = fmlp.load_metadata(checkpoint)["progress"]["epoch"]
    assert reached >= 3
    assert succeed(3, "checkpointed", out, reached + 2) == f"done {reached + 2}\n"
