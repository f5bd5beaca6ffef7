"""Networks from PyTorch and back: the same layers, the same numbers, the same outputs."""

from collections import OrderedDict

import numpy as np
import pytest
from derivatives import settings_of
from drawn import chains, drawn, inputs, networks, simple_layers
from hypothesis import given, settings
from hypothesis import strategies as st

import fmlp
from fmlp import activations, layers, losses, optim, random, tree
from fmlp.layers import Activation, BatchNorm, Dense, Dropout, Elu, Embedding, Flatten, LayerNorm, Prelu, serial

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402 - after the question whether PyTorch is there
from torch.nn.utils import prune  # noqa: E402

from fmlp.torch import from_module, from_state_dict, to_module, to_state_dict  # noqa: E402


def assert_equal(a, b):
    assert tree.paths(a) == tree.paths(b)
    for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True):
        assert np.asarray(x).dtype == np.asarray(y).dtype
        np.testing.assert_array_equal(x, y)


def assert_same(net, params, x, module):
    """Compare the outputs: no less accurate than float32 makes fmlp itself."""
    with torch.no_grad():
        theirs = module(torch.from_numpy(x)).numpy()
    ours, exact = net.apply(params, x), net.apply(tree.cast(params, np.float64), x.astype(np.float64))
    assert theirs.dtype == ours.dtype
    limit = 1e-5 * max(1, np.abs(exact).max(initial=0)) + 20 * np.abs(ours - exact).max(initial=0)
    np.testing.assert_allclose(theirs, exact, rtol=0, atol=limit)


def nested(width):
    return simple_layers(width) | chains((width,), most=3).map(lambda found: serial(*found))


@settings(max_examples=100)
@given(networks(inner=nested))
def test_drawn_networks_there_and_back(network):
    net, params, _, x = network
    module = to_module(net, params)
    assert not module.training
    assert_same(net, params, x, module)
    assert_equal(from_state_dict(net, module.state_dict()), params)
    again, back = from_module(module)
    assert_equal(back, params)
    np.testing.assert_array_equal(again.apply(back, x), net.apply(params, x))
    state = to_state_dict(net, params)
    assert list(state) == list(module.state_dict())
    nn.Sequential(*module).load_state_dict(state)


@pytest.mark.parametrize("name", activations.table)
@settings(max_examples=5)
@given(st.data())
def test_every_activation(name, data):
    net = Activation(activations.table[name], **data.draw(settings_of(name)))
    module = to_module(net, {})
    again, params = from_module(module)
    x = inputs((4,), random.key(0), 5)
    assert_same(net, {}, x, module)
    np.testing.assert_array_equal(again.apply(params, x), net.apply({}, x))


LAYERS = [
    (Dense(3), (4,)),
    (Dense(3, bias=False), (5, 4)),
    (BatchNorm(eps=0.5), (4,)),
    (LayerNorm(eps=0.5), (3, 4)),
    (layers.RMSNorm(), (3, 4)),
    (layers.RMSNorm(eps=0.5), (4,)),
    (layers.GLU(), (3, 4)),
    (Dropout(0.5), (4,)),
    (Flatten(), (2, 3)),
    (Prelu(), (4,)),
    (Prelu(4), (4,)),
    (serial(), (4,)),
    (serial(serial(Dense(2), Elu()), Flatten(), BatchNorm()), (4,)),
]


@pytest.mark.parametrize(("net", "shape"), LAYERS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_layer(net, shape, dtype):
    _, params, _, x = drawn(net, shape, 0)
    params, x = tree.cast(params, dtype), x.astype(dtype)
    module = to_module(net, params)
    assert_same(net, params, x, module)
    again, back = from_module(module)
    assert_equal(back, params)
    np.testing.assert_array_equal(again.apply(back, x), net.apply(params, x))


def test_embedding():
    net = serial(Embedding(10, 4), Flatten(), Dense(2))
    params, x = drawn(net, (3,), 0).params, np.array([[1, 2, 9], [0, 0, 5]])
    module = to_module(net, params)
    np.testing.assert_allclose(module(torch.from_numpy(x)).detach(), net.apply(params, x), atol=1e-5)
    assert_equal(from_module(module)[1], params)


class Deep(nn.Sequential):
    """A subclass that only says which layers there are."""


@pytest.mark.parametrize("affine", [True, False])
def test_a_trained_module_computes_the_same_in_fmlp(affine):
    torch.manual_seed(0)
    act = nn.LeakyReLU(0.2)  # one module in two places
    module = nn.Sequential(
        OrderedDict(
            first=nn.Linear(6, 8), act=act, norm=nn.BatchNorm1d(8, eps=1e-3, affine=affine), drop=nn.Dropout(0.3),
            inner=Deep(nn.LayerNorm(8, elementwise_affine=affine), nn.Linear(8, 3, bias=False), act),
            out=nn.Softmax(dim=1),
        )
    )  # fmt: skip
    x = inputs((6,), random.key(0), 32)
    for _ in range(3):
        module(torch.from_numpy(x))
    net, params = from_module(module)
    assert_same(net, params, x, module.eval())
    assert list(params) == ["dense_0", "batch_norm_2", "serial_4"]
    assert params["batch_norm_2"]["count"] == 3


def test_training_goes_on_in_either():
    x = inputs((6,), random.key(0), 64)
    y = (x[:, 0] > 0).astype(np.int64)
    net = serial(Dense(8), BatchNorm(), Elu(), Dense(2))
    fit = {"loss": losses.cross_entropy, "optimizer": optim.adam(1e-2), "epochs": 5, "key": random.key(1)}
    params = fmlp.fit(net, net.init(random.key(0), (6,))[1], (x, y), **fit, progress=False).params
    module = to_module(net, params).train()
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    before = nn.functional.cross_entropy(module(torch.from_numpy(x)), torch.from_numpy(y)).item()
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(torch.from_numpy(x)), torch.from_numpy(y)).backward()
        optimizer.step()
    back = from_state_dict(net, module.state_dict())
    assert fmlp.evaluate(net, back, (x, y), loss=losses.cross_entropy)["loss"] < before
    assert fmlp.fit(net, back, (x, y), **fit, progress=False).history["loss"][-1] < before


def test_nothing_is_shared():
    net = serial(Dense(3), BatchNorm())
    params = drawn(net, (4,), 0).params
    kept = tree.map(np.copy, params)
    module = to_module(net, params)
    _, back = from_module(module)
    for tensor in [*module.state_dict().values(), *to_state_dict(net, params).values()]:
        tensor.zero_()
    assert_equal(params, kept)
    assert_equal(back, kept)


def test_statistics_that_pytorch_never_computed_are_none_in_fmlp():
    net, params = from_module(nn.Sequential(nn.BatchNorm1d(6)))
    x = inputs((6,), random.key(0), 5)
    with pytest.raises(ValueError, match=r"^batch_norm_0/mean: never computed; call params = fmlp.calibrate"):
        net.apply(params, x)
    net.apply(fmlp.calibrate(net, params, x), x)


def test_an_activation_that_pytorch_has_not(monkeypatch):
    monkeypatch.delitem(fmlp.torch._ACTIVATIONS, "mish")
    with pytest.raises(TypeError, match=r"^mish_0: torch.nn has no such layer"):
        to_module(serial(Activation(activations.mish)), {})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_what_a_module_has_switched_off_is_of_its_dtype(dtype):
    module = nn.Sequential(
        nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 3), nn.BatchNorm1d(3, affine=False), nn.LayerNorm(3)
    ).to(dtype)
    net, params = from_module(module)
    expected = np.float32 if dtype == torch.bfloat16 else torch.empty(0, dtype=dtype).numpy().dtype
    assert {leaf.dtype for leaf in tree.leaves(params)} == {np.dtype(expected)}
    if dtype in (torch.float32, torch.float64):
        module(torch.randn(8, 4, dtype=dtype))
        net, params = from_module(module)
        x = inputs((4,), random.key(0), 5).astype(expected)
        for theirs in (module.eval(), to_module(net, params)):
            assert_same(net, params, x, theirs)
    _, params = from_module(nn.LayerNorm(4, elementwise_affine=False))
    assert params["scale"].dtype == np.float32


@pytest.mark.parametrize("first", [nn.Flatten(), nn.ReLU(), nn.PReLU(), nn.Embedding(9, 4), nn.Linear(2, 4)], ids=str)
def test_layers_of_any_width_in_between(first):
    for width in (1, 4):
        if hasattr(first, "weight") and width == 1 and not isinstance(first, nn.PReLU):
            continue
        module = nn.Sequential(first, nn.PReLU(), nn.Dropout(), nn.PReLU(width), nn.Sequential(nn.LayerNorm(width)))
        net, params = from_module(module)
        assert_equal(from_module(to_module(net, params))[1], params)


def test_statistics_that_fmlp_never_computed_become_no_module():
    net = serial(Dense(3), serial(BatchNorm()))
    params = net.init(random.key(0), (6,))[1]
    with pytest.raises(ValueError, match=r"^serial_1/batch_norm_0/mean: never computed; call params = fmlp.calibrate"):
        to_module(net, params)
    assert_equal(from_state_dict(net, to_state_dict(net, params)), params)
    to_module(net, fmlp.calibrate(net, params, inputs((6,), random.key(0), 5)))


def test_bfloat16_becomes_float32():
    _, params = from_module(nn.Sequential(nn.Linear(2, 3, dtype=torch.bfloat16)))
    assert params["dense_0"]["w"].dtype == np.float32


class Mine(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def double(module, inputs, output=None):
    return 2 * output


def hooked(module):
    module.register_forward_hook(double)
    return module


def changed(change):
    """Return a Sequential whose Linear layer was changed after it was made."""
    linear = nn.Linear(2, 2)
    change(linear)
    return nn.Sequential(nn.ReLU(), linear)


def test_a_hook_of_all_modules_is_refused():
    handle = nn.modules.module.register_module_forward_hook(double)
    with handle, pytest.raises(TypeError, match=r"^module: has a forward hook, double, which fmlp cannot keep"):
        from_module(nn.Sequential(nn.ReLU()))
    from_module(nn.Sequential(nn.ReLU()))


def test_parametrizations_that_were_removed_leave_a_plain_module():
    module = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)).eval()
    x = inputs((4,), random.key(0), 5)
    expected = module(torch.from_numpy(x)).detach()
    nn.utils.parametrize.remove_parametrizations(module, "weight")
    net, params = from_module(module)
    np.testing.assert_allclose(net.apply(params, x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8"])
def test_numbers_in_another_byte_order(dtype):
    net = serial(Dense(3), BatchNorm())
    params = tree.map(lambda leaf: np.asarray(leaf, dtype), drawn(net, (4,), 0).params)
    _, back = from_module(to_module(net, params))
    assert_equal(back, tree.map(lambda leaf: leaf.astype(dtype.replace(">", "=")), params))


@pytest.mark.parametrize(
    ("module", "error", "message"),
    [
        (nn.Sequential(nn.ReLU(), nn.Sequential(nn.Conv1d(1, 1, 1))), TypeError, "^1.0: fmlp has no layer .* Conv1d"),
        (nn.Conv1d(1, 1, 1), TypeError, "^module: fmlp has no layer that is a Conv1d"),
        (Mine(2, 2), TypeError, "^module: fmlp has no layer that is a Mine with a forward of its own"),
        (changed(lambda m: setattr(m, "forward", abs)), TypeError, "^1: fmlp has no layer that is a Linear with"),
        (changed(lambda m: m.register_forward_hook(double)), TypeError, "^1: has a forward hook, double, "),
        (changed(lambda m: m.register_forward_pre_hook(double)), TypeError, "^1: has a forward pre-hook, double, "),
        (changed(lambda m: m.register_full_backward_hook(double)), TypeError, "^1: has a backward hook, double, "),
        (changed(lambda m: m.register_full_backward_pre_hook(double)), TypeError, "^1: has a backward pre-hook, "),
        (changed(nn.utils.parametrizations.spectral_norm), TypeError,
         r"^1.weight: computed by a parametrization, _SpectralNorm; .*remove_parametrizations\(module, 'weight'\)"),
        (changed(nn.utils.parametrizations.weight_norm), TypeError, "^1.weight: computed by a parametrization, _Wei"),
        (changed(nn.utils.spectral_norm), TypeError, "^1: has a forward pre-hook, SpectralNorm, "),
        (changed(lambda m: prune.l1_unstructured(m, "weight", 0.5)), TypeError, "^1: has a forward pre-hook, L1U"),
        (hooked(nn.Sequential(nn.Linear(2, 2))), TypeError, "^module: has a forward hook, double, "),
        (nn.Linear(2, 2).to(torch.float8_e4m3fn), TypeError, "^weight: .*Float8"),
        (nn.Sequential(nn.Linear(2, 2, device="meta")), TypeError, "^0.weight: .*meta"),
        (nn.Sequential(nn.Softmax(dim=None)), ValueError, "^0.dim: expected a number, got None"),
        (nn.Sequential(nn.Dropout(1.0)), ValueError, r"^0.p: expected a number in \[0, 1\), got 1.0"),
        (nn.Sequential(nn.Flatten(0)), ValueError, r"^0.start_dim, end_dim: expected 1 and -1, got \(0, -1\)"),
        (nn.LayerNorm((2, 3)), ValueError, r"^normalized_shape: expected one axis, the last, got \(2, 3\)"),
        (nn.BatchNorm1d(3, track_running_stats=False), ValueError, "^track_running_stats: expected True"),
        (nn.Embedding(3, 2, max_norm=1.0), ValueError, "^max_norm: expected None, got 1.0"),
        (Dense(3), TypeError, "^module: expected a torch.nn.Module, got Layer"),
    ],
    ids=str,
)  # fmt: skip
def test_modules_that_do_not_fit_are_named(module, error, message):
    with pytest.raises(error, match=message):
        from_module(module)


@activations.elementwise
def relu(x):
    return 3 * x, lambda: 3


def dense(inputs, outputs, place=1):
    return {f"dense_{place}": {"w": np.ones((inputs, outputs)), "b": np.ones(outputs)}}


def norm(width):
    return {
        "batch_norm_0": {name: np.ones(width) for name in ("scale", "bias", "mean", "var")} | {"count": np.ones(())}
    }


TWO = serial(Dense(3), Dense(2))
NET = serial(Dense(3), Elu(), serial(BatchNorm()))
PARAMS = drawn(NET, (4,), 0).params


@pytest.mark.parametrize(
    ("net", "params", "error", "message"),
    [
        (serial(Elu(), layers.residual(Dense(2))), {}, TypeError, "^residual_1: torch.nn has no such layer"),
        (serial(Activation(relu)), {}, TypeError, "^relu_0: expected an activation of fmlp.activations"),
        (NET, {}, ValueError, "^dense_0/w: missing from the parameters"),
        (NET, [], TypeError, "^params: expected a dict, got list"),
        (NET, dense(4, 3, 0) | {"dense_0": {"w": np.ma.ones((4, 3))}}, TypeError, "^dense_0/w: .*mask"),
        (NET, {**PARAMS, "dense_9": {}}, ValueError, "^dense_9: not expected"),
        (NET, {**PARAMS, "dense_0": {"w": np.ones((4, 2))}}, ValueError, r"^dense_0/w: expected shape \(4, 3\)"),
        (NET, {**PARAMS, "dense_0": {"w": np.ones((4, 3)), "c": 0}}, ValueError, r"^dense_0/c: not expected"),
        (Dense(1), {"w": np.ones((2, 1), "g"), "b": np.ones(1)}, TypeError, "^w: can't convert .*longdouble"),
        (Dense, {}, TypeError, "^net: expected a layer, .* call the constructor: Dense"),
        (TWO, drawn(TWO, (4,), 0).params | dense(4, 2), ValueError, r"^dense_1/w: expected shape \(3, 2\), got"),
        (NET, PARAMS | {"serial_2": norm(4)}, ValueError, r"^serial_2/batch_norm_0/scale: expected shape \(3,\), got"),
        (serial(Dense(3), Prelu(4)), {**dense(4, 3, 0), "prelu_1": {"slope": np.ones(4)}}, ValueError,
         "^prelu_1/num_parameters: expected 1 or the width, 3, got 4"),
    ],
)  # fmt: skip
def test_networks_that_do_not_fit_are_named(net, params, error, message):
    if net is Dense:
        with pytest.raises(error, match=message):
            from_state_dict(net, {})
    for convert in (to_module, to_state_dict):
        with pytest.raises(error, match=message):
            convert(net, params)


STATE = to_state_dict(NET, PARAMS)


@pytest.mark.parametrize(
    ("net", "change", "message"),
    [
        (NET, {"0.weight": None}, "^0.weight: missing from the state dict, needed for dense_0/w"),
        (NET, {"2.0.running_var": None}, "^2.0.running_var: missing from the state dict, needed for serial_2/batch_n"),
        (NET, {"0.bias": torch.ones(2)}, r"^0.bias: expected shape \(3,\) for dense_0/b, got \(2,\)"),
        (NET, {"0.weight": torch.ones(2, 4)}, r"^0.weight: expected shape \(4, 3\) for dense_0/w, got \(4, 2\)"),
        (NET, {"0.weight": torch.ones(())}, r"^0.weight: expected shape \(3, 3\) for dense_0/w, got \(\)"),
        (NET, {"3.weight": torch.ones(2)}, "^3.weight: in the state dict, not expected"),
        (serial(Dense(3, bias=False), Elu(), NET), {}, "^0.bias|^2.0.weight: "),
        (
            NET,
            dict.fromkeys(["2.0.weight", "2.0.bias", "2.0.running_mean", "2.0.running_var"], torch.ones(4)),
            r"^2.0.weight: expected shape \(3,\) for serial_2/batch_norm_0/scale, got \(4,\)",
        ),
    ],
)
def test_state_dicts_that_do_not_fit_are_named(net, change, message):
    state = {name: value for name, value in {**STATE, **change}.items() if value is not None}
    kept = dict(state)
    with pytest.raises(ValueError, match=message):
        from_state_dict(net, state)
    assert state == kept


def test_a_module_is_no_state_dict():
    module = to_module(NET, PARAMS)
    with pytest.raises(
        TypeError, match=r"^state: expected a state dict, as module.state_dict\(\) gives it, got Sequential"
    ):
        from_state_dict(NET, module)
