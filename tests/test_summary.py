"""The table of a network: exact texts, and agreement with what `init` says."""

import pytest

import fmlp
from fmlp import random, tree
from fmlp.layers import (
    BatchNorm,
    Dense,
    Dropout,
    Elu,
    Flatten,
    Layer,
    fan_in_concat,
    fan_out,
    parallel,
    residual,
    serial,
)

DEEP = serial(
    Flatten(),
    Dense(1200),
    residual(BatchNorm(), Elu(), Dropout(0.5)),
    fan_out(2),
    parallel(serial(Dense(3), Elu()), Dense(2)),
    fan_in_concat(),
    Dense(1),
)
TABLE = """\
layer              output shape        parameters
serial             (1,)                    19,212
  flatten_0        (6,)                         0
  dense_1          (1200,)                  8,400
  residual_2       (1200,)                  4,801
    batch_norm_0   (1200,)                  4,801
    elu_1          (1200,)                      0
    dropout_2      (1200,)                      0
  fan_out_3        ((1200,), (1200,))           0
  parallel_4       ((3,), (2,))             6,005
    serial_0       (3,)                     3,603
      dense_0      (3,)                     3,603
      elu_1        (3,)                         0
    dense_1        (2,)                     2,402
  fan_in_concat_5  (5,)                         0
  dense_6          (1,)                         6"""


def test_a_deep_network():
    assert fmlp.summary(DEEP, (2, 3)) == TABLE
    _, params = DEEP.init(random.key(0), (2, 3))
    assert f"{tree.size(params):,}" in TABLE.split("\n")[1]


def test_one_layer_and_one_of_a_users_own():
    assert fmlp.summary(Elu(), (7,)) == "layer  output shape  parameters\nelu    (7,)                   0"
    own = Layer(lambda key, shape: (shape, {"w": 1.0}), fmlp.differentiable(lambda params, x, **_: (x, None)))
    assert [line.split() for line in fmlp.summary(serial(own), (7,)).split("\n")[1:]] == [
        ["serial", "(7,)", "1"],
        ["<lambda>_0", "(7,)", "1"],
    ]


@pytest.mark.parametrize(
    ("net", "shape", "error", "message"),
    [
        (Dense, (4,), TypeError, r"^net: expected a layer, .* got the function Dense; call the constructor: Dense\(\)"),
        (
            serial(Elu(), residual(Dense(3))),
            (4,),
            ValueError,
            "^residual_1/shape: expected a result of the input's shape",
        ),
        (serial(Dense(3)), 4, ValueError, r"^dense_0/shape: expected the shape of one example, .* got 4"),
    ],
)
def test_what_has_no_table(net, shape, error, message):
    with pytest.raises(error, match=message):
        fmlp.summary(net, shape)
