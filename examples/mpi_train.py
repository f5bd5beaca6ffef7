"""Train on several processes: ``mpiexec -n 2 python examples/mpi_train.py``. Each one has a part of the digits."""

from pathlib import Path

import fmlp
from fmlp import data, distributed, losses, metrics, optim, random
from fmlp.layers import BatchNorm, Dense, Dropout, Elu, serial

comm = distributed.world()
x, y, x_test, y_test = data.load(Path(__file__).parents[1] / "data" / "digits.npz")
mine = slice(
    comm.rank * len(x) // comm.size, (comm.rank + 1) * len(x) // comm.size
)  # this rank's rows; ranks may hold different numbers of rows
net = serial(Dense(128), BatchNorm(), Elu(), Dropout(0.2), Dense(64), Elu(), Dense(10))
_, params = net.init(random.key(0), (64,))

result = fmlp.fit(
    net,
    params,
    (x[mine] / 16, y[mine]),
    loss=losses.cross_entropy,
    optimizer=optim.adam(2e-3),
    epochs=20,
    batch_size=128,  # of all ranks together
    key=random.key(1),
    validation=0.1,
    metrics={"accuracy": metrics.accuracy},
    comm=comm,
)
if comm.rank == 0:
    accuracy = metrics.accuracy(y_test, fmlp.predict(net, result.params, x_test / 16).argmax(1))
    loss = result.history["loss"][-1]
    print(f"{comm.size} ranks: loss {loss:.5f}, test accuracy {accuracy:.4f}, {result.seconds:.1f} s")
