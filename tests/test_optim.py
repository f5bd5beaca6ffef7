"""Optimizers: against PyTorch, against the papers' formulas leaf by leaf, and by what they promise."""

import functools
import inspect
from math import sqrt
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fmlp
from fmlp import optim, random, schedules, tree

DRAWN = settings(deadline=None, max_examples=25)
FEW = settings(deadline=None, max_examples=3)
STEPS = 200

# Every optimizer in every mode, without weight decay, which all of them have.
MODES = {
    "sgd": functools.partial(optim.sgd, 0.05),
    "sgd momentum": functools.partial(optim.sgd, 0.02, 0.9),
    "sgd dampening": functools.partial(optim.sgd, 0.02, 0.8, dampening=0.3),
    "sgd nesterov": functools.partial(optim.sgd, 0.02, 0.9, nesterov=True),
    "adagrad": functools.partial(optim.adagrad, 0.1),
    "adagrad started": functools.partial(optim.adagrad, 0.1, initial_accumulator_value=0.5, eps=1e-4),
    "adadelta": functools.partial(optim.adadelta, 0.5),
    "adadelta rho": functools.partial(optim.adadelta, 1.0, rho=0.7, eps=1e-4),
    "rmsprop": functools.partial(optim.rmsprop, 0.01),
    "rmsprop centered": functools.partial(optim.rmsprop, 0.01, alpha=0.9, centered=True),
    "rmsprop momentum": functools.partial(optim.rmsprop, 0.01, momentum=0.9, eps=1e-4),
    "rmsprop both": functools.partial(optim.rmsprop, 0.01, momentum=0.5, centered=True),
    "adam": functools.partial(optim.adam, 0.02),
    "adam betas": functools.partial(optim.adam, 0.02, 0.8, 0.95, 1e-4),
    "adam amsgrad": functools.partial(optim.adam, 0.02, 0.8, 0.95, amsgrad=True),
    "adamw": functools.partial(optim.adamw, 0.02),
    "adamw amsgrad": functools.partial(optim.adamw, 0.02, 0.8, 0.95, amsgrad=True),
    "radam": functools.partial(optim.radam, 0.02),
    "radam betas": functools.partial(optim.radam, 0.02, 0.8, 0.95, 1e-4),
    "adamax": functools.partial(optim.adamax, 0.02),
    "adamax betas": functools.partial(optim.adamax, 0.02, 0.8, 0.95, 1e-4),
    "nadam": functools.partial(optim.nadam, 0.02),
    "nadam decay": functools.partial(optim.nadam, 0.02, 0.8, 0.95, momentum_decay=0.1),
    "lion": functools.partial(optim.lion, 0.01),
}
EVERY = pytest.mark.parametrize("mode", MODES)
DECAY = pytest.mark.parametrize("weight_decay", [0.0, 0.1])


def problem(seed, dtype=np.float64):
    """Draw parameters of several leaves and the gradient of a smooth function of them, whose minimum swings to and fro.

    At a minimum that stood still the gradients would vanish, and adaptive methods blow up their rounding errors.
    """
    generator = random.generator(random.key(seed))
    params = {"b": generator.normal(size=3), "a": [generator.normal(size=(2, 3)), (generator.normal(size=()),)]}
    swing = tree.map(lambda p: generator.uniform(1, 2, p.shape), params)
    phase = tree.map(lambda p: generator.uniform(0, 6, p.shape), params)

    def gradient(params, t=0):
        return tree.map(lambda p, s, ph: (p - s * np.cos(t / 10 + ph)).astype(dtype), params, swing, phase)

    return tree.cast(params, dtype), gradient


def run(optimizer, params, gradient, steps=STEPS, state=None):
    state = optimizer.init(params) if state is None else state
    for t in range(steps):
        updates, state = optimizer.update(gradient(params, t), state, params)
        params = optim.apply_updates(params, updates)
    return params, state


def assert_close(a, b):
    """Compare to 1e-9: 200 steps of some 20 roundings of 1e-16 each, and room for cancellation, as in √(v - ḡ²)."""
    for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12)


def assert_same_bits(a, b):
    assert tree.paths(a) == tree.paths(b)
    for path, x, y in zip(tree.paths(a), tree.leaves(a), tree.leaves(b), strict=True):
        assert np.asarray(x).dtype == np.asarray(y).dtype, path
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), path


def frozen(t):
    """Copy a tree into arrays that refuse to be written to."""
    t = tree.map(np.array, t)
    for leaf in tree.leaves(t):
        leaf.flags.writeable = False
    return t


@EVERY
def test_vectors_begin_at_zero(mode):
    start = MODES[mode].keywords.get("initial_accumulator_value", 0)
    state = MODES[mode]().init(problem(0)[0])
    assert all((slot == start).all() for slot in state.slots.values() if np.ndim(slot))


def test_every_optimizer_has_a_mode():
    functions = {name: getattr(optim, name) for name in optim.__all__ if inspect.isfunction(getattr(optim, name))}
    optimizers = {name for name, f in functions.items() if "learning_rate" in inspect.signature(f).parameters}
    assert {mode.split()[0] for mode in MODES} == optimizers


# ----------------------------------------------------------------------------------------- PyTorch

TORCH = {"sgd": "SGD", "adagrad": "Adagrad", "adadelta": "Adadelta", "rmsprop": "RMSprop"}
TORCH |= {"adam": "Adam", "adamw": "AdamW", "nadam": "NAdam", "radam": "RAdam", "adamax": "Adamax"}


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch")
    torch.set_default_dtype(torch.float64)  # in which NAdam keeps its product of momenta
    yield torch
    torch.set_default_dtype(torch.float32)


def torch_settings(torch, mode, **more):
    """Return PyTorch's optimizer and its settings for one of ours."""
    make = MODES[mode]
    given = inspect.signature(make.func).bind_partial(*make.args, **make.keywords).arguments | more
    settings = {{"learning_rate": "lr"}.get(name, name): value for name, value in given.items()}
    if "b1" in settings:
        settings["betas"] = (settings.pop("b1"), settings.pop("b2"))
    return getattr(torch.optim, TORCH[mode.split()[0]]), settings


def torch_run(torch, make, params, gradient, schedule=lambda optimizer: None):
    tensors = [torch.tensor(leaf, dtype=torch.float64) for leaf in tree.leaves(params)]
    optimizer = make(tensors)
    scheduler = schedule(optimizer)
    for t in range(STEPS):
        now = tree.unflatten(params, [tensor.numpy() for tensor in tensors])
        for tensor, g in zip(tensors, tree.leaves(gradient(now, t)), strict=True):
            tensor.grad = torch.tensor(np.asarray(g))
        optimizer.step()
        if scheduler:
            scheduler.step()
    return tree.unflatten(params, [tensor.numpy() for tensor in tensors])


@DECAY
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "lion"])
@FEW
@given(seed=st.integers(0, 2**32))
def test_two_hundred_steps_equal_pytorch(torch, mode, weight_decay, seed):
    params, gradient = problem(seed)
    theirs, settings = torch_settings(torch, mode, weight_decay=weight_decay)
    expected = torch_run(torch, lambda tensors: theirs(tensors, **settings), params, gradient)
    assert_close(run(MODES[mode](weight_decay=weight_decay), params, gradient)[0], expected)


@pytest.mark.parametrize("name", TORCH)
def test_defaults_equal_pytorch(torch, name):
    theirs = {n: p.default for n, p in inspect.signature(getattr(torch.optim, TORCH[name])).parameters.items()}
    theirs["learning_rate"], (theirs["b1"], theirs["b2"]) = theirs["lr"], theirs.get("betas", (None, None))
    if name == "adagrad":
        theirs["learning_rate"] = 1.0  # as the design has it
    ours = {n: p.default for n, p in inspect.signature(getattr(optim, name)).parameters.items() if n != "mask"}
    assert ours == {n: theirs[n] for n in ours}


@pytest.mark.parametrize("mode", ["sgd momentum", "adam", "adamw", "rmsprop"])
def test_a_schedule_equals_pytorch_stepping_a_scheduler(torch, mode):
    params, gradient = problem(1)
    make = MODES[mode]
    ours = make.func(schedules.multi_step_lr(0.05, [20, 50, 51], gamma=0.5), *make.args[1:], **make.keywords)
    theirs, settings = torch_settings(torch, mode, lr=0.05)
    scheduler = functools.partial(torch.optim.lr_scheduler.MultiStepLR, milestones=[20, 50, 51], gamma=0.5)
    expected = torch_run(torch, lambda tensors: theirs(tensors, **settings), params, gradient, scheduler)
    assert_close(run(ours, params, gradient)[0], expected)


# ---------------------------------------------------------------------- the papers, leaf by leaf


def sgd(p, g, s, t, lr=0.05, momentum=0.0, dampening=0.0, nesterov=False):
    s["b"] = g if t == 1 else momentum * s["b"] + (1 - dampening) * g
    return p - lr * (g + momentum * s["b"] if nesterov else s["b"] if momentum else g)


def adagrad(p, g, s, t, lr=0.1, start=0.0, eps=1e-10):
    s["sum"] = s.get("sum", start) + g**2
    return p - lr * g / (s["sum"] ** 0.5 + eps)


def adadelta(p, g, s, t, lr=0.5, rho=0.9, eps=1e-6):
    s["v"] = rho * s.get("v", 0) + (1 - rho) * g**2
    step = (s.get("a", 0) + eps) ** 0.5 / (s["v"] + eps) ** 0.5 * g
    s["a"] = rho * s.get("a", 0) + (1 - rho) * step**2
    return p - lr * step


def rmsprop(p, g, s, t, lr=0.01, alpha=0.99, eps=1e-8, momentum=0.0, centered=False):
    s["v"] = alpha * s.get("v", 0) + (1 - alpha) * g**2
    s["m"] = alpha * s.get("m", 0) + (1 - alpha) * g
    s["b"] = momentum * s.get("b", 0) + g / ((s["v"] - centered * s["m"] ** 2) ** 0.5 + eps)
    return p - lr * s["b"]


def adam(p, g, s, t, lr=0.02, b1=0.9, b2=0.999, eps=1e-8, decay=0.0, amsgrad=False):
    s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0) + (1 - b2) * g**2
    s["most"] = np.maximum(s.get("most", 0), s["v"]) if amsgrad else s["v"]
    return p - lr * (s["m"] / (1 - b1**t) / ((s["most"] / (1 - b2**t)) ** 0.5 + eps) + decay * p)


def radam(p, g, s, t, lr=0.02, b1=0.9, b2=0.999, eps=1e-8):
    s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0) + (1 - b2) * g**2
    m, most = s["m"] / (1 - b1**t), 2 / (1 - b2) - 1
    rho = most - 2 * t * b2**t / (1 - b2**t)
    if rho <= 5:
        return p - lr * m
    r = ((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho)) ** 0.5
    return p - lr * m * r * (1 - b2**t) ** 0.5 / (s["v"] ** 0.5 + eps)


def adamax(p, g, s, t, lr=0.02, b1=0.9, b2=0.999, eps=1e-8):
    s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
    s["u"] = np.maximum(b2 * s.get("u", 0), abs(g) + eps)
    return p - lr * s["m"] / (1 - b1**t) / s["u"]


def nadam(p, g, s, t, lr=0.02, b1=0.9, b2=0.999, eps=1e-8, psi=0.004):
    now, following = (b1 * (1 - 0.5 * 0.96 ** (step * psi)) for step in (t, t + 1))
    s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0) + (1 - b2) * g**2
    s["product"] = s.get("product", 1) * now
    m = following * s["m"] / (1 - s["product"] * following) + (1 - now) * g / (1 - s["product"])
    return p - lr * m / ((s["v"] / (1 - b2**t)) ** 0.5 + eps)


def lion(p, g, s, t, lr=0.01, b1=0.9, b2=0.99, decay=0.0):
    c = b1 * s.get("m", 0) + (1 - b1) * g
    s["m"] = b2 * s.get("m", 0) + (1 - b2) * g
    return p - lr * (np.sign(c) + decay * p)


PAPERS = {
    "sgd": sgd,
    "sgd momentum": functools.partial(sgd, lr=0.02, momentum=0.9),
    "sgd dampening": functools.partial(sgd, lr=0.02, momentum=0.8, dampening=0.3),
    "sgd nesterov": functools.partial(sgd, lr=0.02, momentum=0.9, nesterov=True),
    "adagrad": adagrad,
    "adagrad started": functools.partial(adagrad, start=0.5, eps=1e-4),
    "adadelta": adadelta,
    "adadelta rho": functools.partial(adadelta, lr=1.0, rho=0.7, eps=1e-4),
    "rmsprop": rmsprop,
    "rmsprop centered": functools.partial(rmsprop, alpha=0.9, centered=True),
    "rmsprop momentum": functools.partial(rmsprop, momentum=0.9, eps=1e-4),
    "rmsprop both": functools.partial(rmsprop, momentum=0.5, centered=True),
    "adam": adam,
    "adam betas": functools.partial(adam, b1=0.8, b2=0.95, eps=1e-4),
    "adam amsgrad": functools.partial(adam, b1=0.8, b2=0.95, amsgrad=True),
    "adamw": adam,
    "adamw amsgrad": functools.partial(adam, b1=0.8, b2=0.95, amsgrad=True),
    "radam": radam,
    "radam betas": functools.partial(radam, b1=0.8, b2=0.95, eps=1e-4),
    "adamax": adamax,
    "adamax betas": functools.partial(adamax, b1=0.8, b2=0.95, eps=1e-4),
    "nadam": nadam,
    "nadam decay": functools.partial(nadam, b1=0.8, b2=0.95, psi=0.1),
    "lion": lion,
}


@EVERY
@DECAY
@FEW
@given(seed=st.integers(0, 2**32))
def test_two_hundred_steps_equal_the_paper(mode, weight_decay, seed):
    params, gradient = problem(seed)
    decoupled = mode.split()[0] in ("adamw", "lion")
    step = functools.partial(PAPERS[mode], decay=weight_decay) if decoupled else PAPERS[mode]
    expected, slots = params, [{} for _ in tree.leaves(params)]
    for t in range(STEPS):
        parts = zip(tree.leaves(expected), tree.leaves(gradient(expected, t)), slots, strict=True)
        moved = [step(p, g if decoupled else g + weight_decay * p, s, t + 1) for p, g, s in parts]
        expected = tree.unflatten(params, moved)
    assert_close(run(MODES[mode](weight_decay=weight_decay), params, gradient)[0], expected)


NAMES = {"mu": "m", "nu": "v", "nu_max": "most", "inf_norm": "u", "mu_product": "product"}
NAMES |= {"momentum_buffer": "b", "sum": "sum", "square_avg": "v", "acc_delta": "a", "grad_avg": "m"}


@EVERY
def test_the_state_holds_what_the_paper_names(mode):
    params, gradient = problem(13)
    p, expected, optimizer = params["b"], {}, MODES[mode](weight_decay=0.0)
    state = optimizer.init(p)
    for t in range(5):
        g = gradient(params | {"b": p}, t)["b"]
        _, state = optimizer.update(g, state, p)
        p = PAPERS[mode](p, g, expected, t + 1)
        for name, slot in state.slots.items():
            np.testing.assert_allclose(slot, expected[NAMES[name]], rtol=1e-12, err_msg=name)


# ----------------------------------------------------------------------------- what all promise


@EVERY
def test_no_gradient_and_no_decay_is_no_update_at_first_and_shapes_stay(mode):
    params, _ = problem(0, np.float32)
    optimizer = MODES[mode](weight_decay=0.0)
    updates, state = optimizer.update(tree.map(np.zeros_like, params), optimizer.init(params), params)
    assert tree.map(np.shape, updates) == tree.map(np.shape, params)
    assert not any(np.any(update) for update in tree.leaves(updates))
    assert tree.paths(state) == tree.paths(optimizer.init(params))


@EVERY
def test_numpy_settings_upcast_nothing_and_change_nothing(mode):
    params, gradient = problem(2, np.float32)
    make = MODES[mode]
    bound = inspect.signature(make.func).bind(*make.args, **make.keywords)
    bound.apply_defaults()
    python = bound.arguments | {"weight_decay": 0.1}
    numpy = {name: np.float64(v) if isinstance(v, float) else v for name, v in python.items()}
    (plain, plain_state), (params, state) = (run(make.func(**s), params, gradient, 3) for s in (python, numpy))
    assert {leaf.dtype for leaf in tree.leaves(params)} == {np.dtype(np.float32)}
    assert {s.dtype for s in state.slots.values() if np.ndim(s)} <= {np.dtype(np.float32)}
    assert_same_bits(params, plain)
    assert_same_bits(state, plain_state)


PIECES = {
    "clip": lambda: optim.clip(np.float64(0.5)),
    "clip_by_global_norm": lambda: optim.clip_by_global_norm(np.float64(0.5)),
    "add_decayed_weights": lambda: optim.add_decayed_weights(np.float64(0.1)),
    "scale": lambda: optim.scale(np.float64(0.1)),
    "scale_by_schedule": lambda: optim.scale_by_schedule(lambda count: np.float64(0.1)),
    "masked": lambda: optim.masked(optim.scale(np.float64(0.1)), {"a": [True, (False,)], "b": True}),
}


@pytest.mark.parametrize("name", PIECES)
def test_transformations_keep_float32_and_write_to_nothing(name):
    params, gradient = problem(2, np.float32)
    params, grads = frozen(params), frozen(gradient(params))
    piece = PIECES[name]()
    updates, _ = piece.update(grads, piece.init(params), params)
    assert {np.asarray(leaf).dtype for leaf in tree.leaves(updates)} == {np.dtype(np.float32)}
    assert tree.map(np.shape, updates) == tree.map(np.shape, params)


@EVERY
@DECAY
def test_nothing_passed_in_is_written_to_or_kept(mode, weight_decay):
    params, gradient = problem(3)
    optimizer = MODES[mode](weight_decay=weight_decay)
    params, state = run(optimizer, params, gradient, 2)
    args = [frozen(t) for t in (gradient(params), state, params)]
    assert_same_bits(optimizer.update(*args), optimizer.update(*args))
    vector = np.ones(4)  # needs no raveling, and might be kept as it is
    _, state = optimizer.update(vector, optimizer.init(vector), vector)
    assert not any(np.shares_memory(vector, slot) for slot in tree.leaves(state))


@EVERY
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_saved_state_goes_on_bit_for_bit(mode, dtype, tmp_path):
    params, gradient = problem(4, dtype)
    optimizer = optim.chain(
        optim.clip_by_global_norm(2.0), MODES[mode](weight_decay=0.1), optim.scale_by_schedule(sqrt)
    )
    params, state = run(optimizer, params, gradient, 5)
    fmlp.save(tmp_path / "state.npz", state)
    loaded = fmlp.load(tmp_path / "state.npz", like=optimizer.init(params))
    assert type(loaded[1]) is optim.OptimizerState
    assert_same_bits(loaded, state)
    assert_same_bits(*(run(optimizer, params, gradient, 5, s) for s in (state, loaded)))


@EVERY
@DECAY
def test_names_and_the_order_of_leaves_do_not_matter(mode, weight_decay):
    params, gradient = problem(5)
    optimizer = MODES[mode](weight_decay=weight_decay)

    def renamed(p):
        return {"1": p["b"], "2": {"x": p["a"][1][0], "y": p["a"][0]}}

    def named(r):
        return {"b": r["1"], "a": [r["2"]["y"], (r["2"]["x"],)]}

    there, _ = run(optimizer, renamed(params), lambda r, t: renamed(gradient(named(r), t)), 20)
    assert_same_bits(named(there), run(optimizer, params, gradient, 20)[0])


# ------------------------------------------------------------------------------- transformations


def apply(piece, grads, params=None):
    return piece.update(grads, piece.init(grads if params is None else params), params)[0]


def norm(grads):
    return sqrt(sum(float(np.square(g, dtype=np.float64).sum()) for g in tree.leaves(grads)))


@DRAWN
@given(st.integers(0, 2**32), st.sampled_from([1e-20, 1e-3, 1.0, 1e30]), st.sampled_from([1e-6, 0.5, 3.0]))
def test_the_global_norm_is_bounded_and_the_direction_kept(seed, size, bound):
    grads = tree.map(lambda g: np.float32(size) * g, problem(seed, np.float32)[0])
    clipped = apply(optim.clip_by_global_norm(bound), grads)
    if norm(grads) <= bound:
        assert_same_bits(clipped, grads)
    else:  # each number is rounded twice in float32, 6e-8 each time
        assert norm(clipped) == pytest.approx(bound, rel=2e-7)
        for c, g in zip(tree.leaves(clipped), tree.leaves(grads), strict=True):
            np.testing.assert_allclose(c, np.float64(g) * (bound / norm(grads)), rtol=2e-7)


def test_clip_scale_and_schedule_by_hand():
    grads = {"w": np.array([-3.0, 0.5, 2.0]), "b": np.array([0.0])}
    assert apply(optim.clip(1.0), grads)["w"].tolist() == [-1, 0.5, 1]
    assert apply(optim.scale(-2.0), grads)["w"].tolist() == [6, -1, -4]
    assert not np.any(apply(optim.clip_by_global_norm(0.0), grads)["w"])
    piece = optim.scale_by_schedule(lambda count: 10.0**count)
    state, factors = piece.init(grads), []
    for _ in range(3):
        updates, state = piece.update(grads, state)
        factors.append(updates["w"][2] / 2)
    assert factors == [1, 10, 100]


MASK = {"a": [True, (False,)], "b": False}


@pytest.mark.parametrize("mask", [MASK, lambda params: tree.map(lambda p: np.ndim(p) > 1, params)])
def test_masks_reach_the_leaves_they_name(mask):
    params, gradient = problem(6)
    grads = gradient(params)
    decayed = apply(optim.add_decayed_weights(0.5, mask), grads, params)
    scaled = apply(optim.masked(optim.scale(2.0), mask), grads, params)
    assert_same_bits(decayed["a"][0], grads["a"][0] + 0.5 * params["a"][0])
    assert_same_bits(scaled["a"][0], 2 * grads["a"][0])
    for updates in (decayed, scaled):
        assert_same_bits([updates["b"], updates["a"][1]], [grads["b"], grads["a"][1]])
    assert_same_bits(apply(optim.add_decayed_weights(0.5), grads, params)["b"], grads["b"] + 0.5 * params["b"])


@pytest.mark.parametrize("mask", [MASK, {"a": [True, False], "b": False}, {"a": [True, (False,)], "b": np.False_}])
def test_a_mask_may_end_early(mask):
    params, gradient = problem(6)
    grads = gradient(params)
    for make in (functools.partial(optim.adamw, weight_decay=0.5), optim.add_decayed_weights):
        piece = make(mask=mask) if make is not optim.add_decayed_weights else make(0.5, mask)
        full = make(mask=MASK) if make is not optim.add_decayed_weights else make(0.5, MASK)
        assert_same_bits(apply(piece, grads, params), apply(full, grads, params))
    assert_same_bits(apply(optim.masked(optim.scale(2.0), mask), grads, params)["b"], grads["b"])
    assert_same_bits(apply(optim.masked(optim.scale(2.0), True), grads), apply(optim.scale(2.0), grads))


OUTER = {"a": [True, (True,)], "b": False}


@pytest.mark.parametrize(
    "make",
    [
        functools.partial(optim.adamw, 0.1),
        functools.partial(optim.lion, 0.1),
        functools.partial(optim.add_decayed_weights, 0.5),
        lambda mask: optim.masked(optim.scale(3.0), mask),
        lambda mask: optim.chain(optim.clip(1.0), optim.masked(optim.adam(0.1), mask)),
        lambda mask: optim.partition({True: optim.adam(0.1), False: optim.scale(0.0)}, mask),
    ],
)
@pytest.mark.parametrize("inner", [MASK, {"a": [True, False], "b": True}, {"a": [False, (True,)], "b": None}])
def test_where_a_mask_is_false_the_masks_within_do_not_matter(make, inner):
    params, gradient = problem(6)
    grads = gradient(params)
    updates = apply(optim.masked(make(mask=inner), OUTER), grads, params)
    assert_same_bits(updates["b"], grads["b"])
    assert_same_bits(updates["a"], apply(make(mask=inner["a"]), grads["a"], params["a"]))


LABELS = {"a": ["slow", ("fast",)], "b": "slow"}


@pytest.mark.parametrize("labels", [LABELS, {"a": ["slow", "fast"], "b": "slow"}, lambda params: LABELS])
def test_a_partition_is_each_optimizer_on_its_leaves(labels):
    params, gradient = problem(7)
    fast, slow = optim.adam(0.5, weight_decay=0.1), optim.sgd(0.01, 0.9)
    both, state = run(optim.partition({"fast": fast, "slow": slow}, labels), params, gradient, 5)

    def alone(optimizer, pick, back):
        return run(optimizer, pick(params), lambda p, t: pick(gradient(back(p), t)), 5)[0]

    expected_fast = alone(fast, lambda p: p["a"][1], lambda p: {"b": params["b"], "a": [params["a"][0], p]})
    expected_slow = alone(
        slow, lambda p: {"b": p["b"], "a": p["a"][0]}, lambda p: {"b": p["b"], "a": [p["a"], params["a"][1]]}
    )
    assert_same_bits(both["a"][1], expected_fast)
    assert_same_bits({"b": both["b"], "a": both["a"][0]}, expected_slow)
    assert optim.learning_rates(state) == [0.5, 0.01]


def test_what_a_mask_leaves_of_batch_norm_still_has_statistics():
    norm = {name: np.full(3, 2.0) for name in ("scale", "mean", "var")} | {"count": np.array(60_000.0)}
    params = [{"norm": norm, "nets": {"mean": norm | {}, "var": {"w": np.ones(2)}, "count": {"w": np.ones(2)}}}]
    optimizer = optim.masked(optim.adamw(0.1), lambda params: tree.map(lambda p: np.ndim(p) > 0, params))
    (updates,) = apply(optimizer, tree.map(np.zeros_like, params), params)
    assert [path for path, u in zip(tree.paths(updates), tree.leaves(updates), strict=True) if u.any()] == [
        "nets/count/w",
        "nets/mean/scale",
        "nets/var/w",
        "norm/scale",
    ]


@pytest.mark.parametrize(
    "optimizer",
    [
        optim.chain(optim.add_decayed_weights(0.1), optim.sgd(0.1)),
        *(MODES[mode](weight_decay=0.1) for mode in MODES),
    ],
)
def test_weight_decay_leaves_the_statistics_of_batch_norm_alone(optimizer):
    norm = {name: np.full(3, 2.0) for name in ("scale", "bias", "mean", "var")} | {"count": np.array(60_000.0)}
    params = {"batch_norm_1": norm, "other": {"mean": np.ones(2), "count": np.ones(())}, "count": np.ones(2)}
    grads = tree.map(np.zeros_like, params)
    updates = apply(optimizer, grads, params)
    for name in ("mean", "var", "count"):
        assert not updates["batch_norm_1"].pop(name).any()
    assert all(np.all(update) for update in tree.leaves(updates))


def test_updates_keep_the_dtype_of_the_parameters():
    params = {"single": np.ones(2, np.float32), "double": np.ones(2), "number": np.float32(1.0)}
    optimizer = optim.adam(0.1)
    updates, _ = optimizer.update(tree.cast(params, np.float64), optimizer.init(params), params)
    moved = optim.apply_updates(params, updates)
    assert [leaf.dtype for leaf in tree.leaves(moved)] == [np.float64, np.float32, np.float32]
    assert all(isinstance(leaf, np.ndarray) for leaf in tree.leaves(moved))


@EVERY
@DECAY
def test_half_precision_is_worked_on_in_single(mode, weight_decay):
    """eps, usual rates and the squares of most of its numbers are 0 in float16, or infinite."""
    params, gradient = problem(12, np.float16)
    optimizer = MODES[mode](weight_decay=weight_decay)
    zeros = tree.map(np.zeros_like, params)
    for grads in (zeros, tree.map(lambda g: np.float16(6e-8) * np.sign(g), gradient(params)), gradient(params)):
        updates, state = optimizer.update(grads, optimizer.init(params), params)
        single = [tree.cast(t, np.float32) for t in (grads, params)]
        expected, _ = optimizer.update(single[0], optimizer.init(single[1]), single[1])
        assert_same_bits(updates, tree.cast(expected, np.float16))
        assert {s.dtype for s in state.slots.values() if np.ndim(s)} <= {np.dtype(np.float32)}
    assert all(np.isfinite(leaf).all() for leaf in tree.leaves(run(optimizer, params, gradient, 50)))


@pytest.mark.parametrize(
    ("piece", "g", "expected"),
    [
        (optim.scale(1e-8), np.float16(6e4), np.float16(6e-4)),
        (optim.scale(1e5), np.float16(1e-3), np.float16(100)),
        (optim.scale(1e-46), np.float32(1e30), np.float32(1e-16)),
        (optim.scale_by_schedule(lambda count: 1e-8), np.float16(6e4), np.float16(6e-4)),
        (optim.clip_by_global_norm(1e-4), np.full(9, 6e4, np.float16), np.full(9, 1e-4 / 3, np.float16)),
        (optim.clip_by_global_norm(1e-8), np.float32(1e38), np.float32(1e-8)),
        (optim.clip(1e6), np.full(9, 6e4, np.float16), np.full(9, 6e4, np.float16)),
    ],
)
def test_factors_out_of_the_range_of_the_dtype(piece, g, expected):
    updates = apply(piece, g)
    assert np.asarray(updates).dtype == g.dtype
    np.testing.assert_allclose(updates, expected, rtol=2e-3 if g.dtype == np.float16 else 2e-7)


def test_a_decay_out_of_the_range_of_the_dtype():
    updates = apply(optim.add_decayed_weights(1e-8), np.zeros(2, np.float16), np.full(2, 6e4, np.float16))
    np.testing.assert_allclose(updates, 6e-4, rtol=2e-3)


def test_the_global_norm_is_that_of_one_vector():
    params, _ = problem(3, np.float32)
    assert optim.global_norm(params) == pytest.approx(np.linalg.norm(tree.ravel(tree.cast(params, np.float64))[0]))


@EVERY
def test_a_masked_optimizer_is_the_optimizer_of_the_leaves_it_has(mode):
    params, gradient = problem(7)
    params = {"b": params["b"], "a": params["a"]}  # inserted in another order than the leaves'
    optimizer = MODES[mode](weight_decay=0.1)
    masked = optim.masked(optimizer, {"a": [True, (False,)], "b": True})
    state, part_state = masked.init(params), optimizer.init([params["a"][0], params["b"]])
    for _ in range(3):
        grads = gradient(params)
        updates, state = masked.update(grads, state, params)
        part = [params["a"][0], params["b"]]
        part_updates, part_state = optimizer.update([grads["a"][0], grads["b"]], part_state, part)
        assert_same_bits([updates["a"][0], updates["b"]], part_updates)
        assert_same_bits(updates["a"][1], grads["a"][1])
        params = optim.apply_updates(params, tree.map(lambda u: 0.01 * u, updates))
    none = optim.masked(optimizer, tree.map(lambda p: False, params))
    assert_same_bits(apply(none, grads, params), grads)


@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize(("whole", "direction"), [(optim.adamw, optim.adam), (optim.lion, optim.lion)])
def test_decoupled_decay_is_a_chain_of_pieces(whole, direction, mask):
    params, gradient = problem(8)
    pieces = optim.chain(direction(1.0), optim.scale(-1), optim.add_decayed_weights(0.3, mask), optim.scale(-0.02))
    assert_close(run(whole(0.02, weight_decay=0.3, mask=mask), params, gradient)[0], run(pieces, params, gradient)[0])


def test_chain_is_associative_and_empty_is_the_identity():
    params, gradient = problem(9)
    a, b, c = optim.clip_by_global_norm(1.0), optim.add_decayed_weights(0.1), optim.adam(0.02)
    expected = run(optim.chain(a, b, c), params, gradient, 9)[0]
    for same in (
        optim.chain(optim.chain(a, b), c),
        optim.chain(a, optim.chain(b, c)),
        optim.chain(a, optim.chain(), b, c),
    ):
        assert_same_bits(run(same, params, gradient, 9)[0], expected)
    swapped = run(optim.chain(b, a, c), params, gradient, 9)[0]
    assert not np.array_equal(swapped["b"], expected["b"])


# --------------------------------------------------------------------------------- learning rates


def test_an_optimizer_counts_its_steps_for_the_schedule():
    asked = []
    optimizer = optim.sgd(lambda count: asked.append(count) or np.float32(1 / (count + 1)))
    params, gradient = problem(10, np.float32)
    state = optimizer.init(params)
    assert optim.learning_rate(state) == 1
    for step in range(4):
        updates, state = optimizer.update(gradient(params), state, params)
        rate = 1 / (step + 1)
        assert optim.learning_rate(state) == np.float32(rate)
        assert_same_bits(updates["b"], -np.float32(rate) * gradient(params)["b"])
        assert state.steps == step + 1
    assert asked == [0, 0, 0, 1, 2, 3]  # when it is made, when it starts, and at each step


def test_learning_rates_are_read_and_set_wherever_they_are():
    params, gradient = problem(11)
    nest = optim.chain(optim.clip(1.0), optim.chain(optim.scale(2.0), optim.masked(optim.adam(0.01), MASK)))
    state = nest.init(params)
    assert optim.learning_rate(state) == 0.01
    other = optim.with_learning_rate(state, np.float64(0.5))
    assert (optim.learning_rate(other), optim.learning_rate(state)) == (0.5, 0.01)
    assert_same_bits(optim.with_learning_rate(other, 0.01), state)
    faster, slower = (run(optim.adam(rate), params, gradient, 1)[0] for rate in (0.5, 0.01))
    adam = optim.adam(0.01)
    assert_same_bits(run(adam, params, gradient, 1, optim.with_learning_rate(adam.init(params), 0.5))[0], faster)
    assert not np.array_equal(faster["b"], slower["b"])
    assert optim.learning_rate(optim.chain(optim.clip(1.0), optim.scale(2.0)).init(params)) is None
    scheduled = optim.sgd(lambda count: 0.25)
    state = optim.with_learning_rate(scheduled.init(params), 9.0)
    assert optim.learning_rate(scheduled.update(gradient(params), state, params)[1]) == 0.25


class Wrapped(NamedTuple):
    """The state of an optimizer of one's own."""

    inner: dict


def test_a_rate_is_set_within_states_of_ones_own():
    inner = optim.adam(0.1).init(W)
    state = optim.with_learning_rate(Wrapped({"adam": [inner, None]}), 0.5)
    assert type(state) is Wrapped
    assert optim.learning_rates(state) == [0.5]
    assert_same_bits(optim.with_learning_rate(state, 0.1).inner["adam"][0], inner)


HALVED = schedules.per_epoch(schedules.exponential_lr(1.0, 0.5))


@pytest.mark.parametrize(
    "make",
    [
        optim.sgd,
        lambda s: optim.chain(optim.clip(9.0), optim.masked(optim.chain(optim.sgd(s)), True)),
        lambda s: optim.partition({0: optim.sgd(s), 1: optim.scale(3.0)}, 0),
        lambda s: optim.chain(optim.scale(-1.0), optim.scale_by_schedule(s)),
    ],
)
def test_a_schedule_of_epochs_is_followed_once_the_steps_of_an_epoch_are_told(make, tmp_path):
    optimizer, grads = make(schedules.warmup(HALVED, 1, 0.5)), {"w": np.ones(1)}
    fresh = optimizer.init(grads)
    for wrong in (lambda: optimizer.update(grads, fresh), lambda: optim.with_steps_per_epoch(fresh, None)):
        with pytest.raises(ValueError, match="counts epochs, but the number of steps in an epoch is not known"):
            wrong()
    state, rates = optim.with_steps_per_epoch(optim.with_steps_per_epoch(fresh, 7), 2), []
    for _ in range(6):
        updates, state = optimizer.update(grads, state)
        rates.append(-float(updates["w"][0]))
        fmlp.save(tmp_path / "state.npz", state)
        state = fmlp.load(tmp_path / "state.npz", like=fresh)
    assert rates == [0.5, 1, 1, 0.5, 0.5, 0.25]
    assert_same_bits(optim.with_steps_per_epoch(state, 2), state)
    with pytest.raises(ValueError, match=r"^steps_per_epoch: expected 2, as in the 6 steps made so far, got 3"):
        optim.with_steps_per_epoch(state, 3)
    with pytest.raises(ValueError, match=r"^steps_per_epoch: expected an integer of at least 1, got 0"):
        optim.with_steps_per_epoch(fresh, 0)


def test_what_counts_steps_need_not_know_the_steps_of_an_epoch():
    state = optim.chain(optim.adam(schedules.linear(0.1)), optim.scale_by_schedule(sqrt)).init(W)
    for steps in (None, 3):
        assert_same_bits(optim.with_steps_per_epoch(state, steps), state)


# ----------------------------------------------------------------------------------------- errors

W = {"w": np.ones((2, 3)), "b": np.ones(3)}
WRONG = [
    ({"w": np.ones((3, 2)), "b": np.ones(3)}, r"^w: expected a gradient of shape \(2, 3\), got \(3, 2\)"),
    ({"w": np.ones((2, 3)), "b": np.ones(2)}, r"^b: expected a gradient of shape \(3,\), got \(2,\)"),
    ({"w": np.ones((2, 3)), "b": np.ones((3, 1))}, r"^b: expected a gradient of shape \(3,\), got \(3, 1\)"),
    ({"w": np.ones((2, 3)), "b": [np.ones(3)]}, "^b: expected a leaf, got a list of 1"),
    ({"w": np.ones((2, 3))}, r"^tree: expected a dict with keys \['w', 'b'\], got a dict with keys \['w'\]"),
    (np.ones(1), "^tree: expected a dict"),
]


@pytest.mark.parametrize(("grads", "message"), WRONG)
@EVERY
def test_gradients_that_do_not_fit_are_refused_with_the_path(mode, grads, message):
    optimizer = MODES[mode](weight_decay=0.1)
    with pytest.raises(ValueError, match=message):
        optimizer.update(grads, optimizer.init(W), W)


@pytest.mark.parametrize("mode", ["sgd momentum", "adam", "nadam", "adamw"])
def test_gradients_of_another_size_are_refused_at_any_step_and_without_parameters(mode):
    optimizer = MODES[mode](weight_decay=0.0)
    _, state = optimizer.update(W, optimizer.init(W), W)
    with pytest.raises(ValueError, match=r"^b: expected a gradient of shape \(3,\), got \(1,\)"):
        optimizer.update(W | {"b": np.ones(1)}, state, W)
    for grads in (W | {"b": np.ones(1)}, np.ones(1)):
        with pytest.raises(ValueError, match=r"^state: \w+ holds 9 numbers, but there are \d+ gradients"):
            optimizer.update(grads, state)


def test_updates_that_do_not_fit_are_refused_with_the_path():
    with pytest.raises(ValueError, match=r"^b: expected an update of shape \(3,\), got \(2,\)"):
        optim.apply_updates(W, W | {"b": np.ones(2)})
    with pytest.raises(ValueError, match=r"^b: expected a leaf, got None"):
        optim.apply_updates(W, W | {"b": None})
    with pytest.raises(ValueError, match=r"^b: expected a gradient of shape \(3,\), got \(2,\)"):
        apply(optim.add_decayed_weights(0.1), W | {"b": np.ones(2)}, W)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "sgd"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "0.1", None])
def test_no_optimizer_takes_rates_or_decays_that_make_no_sense(mode, value):
    make = MODES[mode].func
    for name in ("learning_rate", "weight_decay"):
        error = ValueError if isinstance(value, float) else TypeError
        with pytest.raises(error, match=f"^{name}: expected a .*number .*got {value!r}"):
            make(**{name: value})


NO_TREE = {"w": True}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: optim.adam(b1=1.0), ValueError, r"^b1: expected a number in \[0, 1\), got 1.0"),
        (lambda: optim.adamw(b2=-0.1), ValueError, r"^b2: expected a number in \[0, 1\), got -0.1"),
        (lambda: optim.nadam(eps=-1), ValueError, r"^eps: expected a number in \[0, inf\), got -1"),
        (lambda: optim.nadam(momentum_decay=-1), ValueError, "^momentum_decay: .* got -1"),
        (lambda: optim.lion(b1=2), ValueError, "^b1: .* got 2"),
        (lambda: optim.sgd(0.1, 1.5), ValueError, "^momentum: .* got 1.5"),
        (lambda: optim.sgd(0.1, 0.9, dampening=-1), ValueError, "^dampening: .* got -1"),
        (lambda: optim.sgd(0.1, nesterov=True), ValueError, "^nesterov: needs a momentum above 0 and a dampening of 0"),
        (lambda: optim.sgd(0.1, 0.9, dampening=0.1, nesterov=True), ValueError, "^nesterov: needs"),
        (lambda: optim.adagrad(initial_accumulator_value=-1), ValueError, "^initial_accumulator_value: .* got -1"),
        (lambda: optim.adadelta(rho=1.1), ValueError, r"^rho: expected a number in \[0, 1\], got 1.1"),
        (lambda: optim.rmsprop(alpha=1.1), ValueError, r"^alpha: expected a number in \[0, 1\], got 1.1"),
        (lambda: optim.clip(-1), ValueError, "^max_delta: .* got -1"),
        (lambda: optim.clip_by_global_norm(float("inf")), ValueError, "^max_norm: .* got inf"),
        (lambda: optim.add_decayed_weights("x"), TypeError, "^weight_decay: .* got 'x'"),
        (lambda: optim.scale(None), TypeError, "^factor: .* got None"),
        (lambda: optim.scale_by_schedule(0.1), TypeError, "^schedule: expected a schedule or a number, got 0.1"),
        (lambda: optim.with_learning_rate((), -1), ValueError, "^value: .* got -1"),
        (
            lambda: optim.chain(optim.clip(1.0), optim.adam),
            TypeError,
            r"^chain: position 1: expected an optimizer, such as .*, got the function adam; call it: adam\(\.\.\.\)",
        ),
        (
            lambda: optim.masked(optim.sgd, True),
            TypeError,
            "^inner: expected an optimizer, .* got the function sgd",
        ),
        (lambda: optim.adamax(b1=1), ValueError, "^b1: .* got 1"),
        (lambda: optim.radam(b2=1), ValueError, "^b2: .* got 1"),
        (
            lambda: optim.partition([optim.sgd()], 0),
            TypeError,
            "^optimizers: expected a dict from labels to optimizers",
        ),
        (
            lambda: optim.partition({"w": optim.sgd}, "w"),
            TypeError,
            r"^optimizers\['w'\]: expected an optimizer, .* sgd",
        ),
        (
            lambda: apply(optim.partition({"w": optim.sgd(), "v": optim.sgd()}, {"w": "w", "b": "x"}), W),
            ValueError,
            "^labels: expected one of 'w', 'v' for each leaf, got 'x' in b",
        ),
        (lambda: apply(optim.masked(optim.clip(1), {"w": True, "b": 1}), W), TypeError, "^mask: .* got 1 in b"),
        (lambda: apply(optim.masked(optim.clip(1), {"w": True, "b": None}), W), ValueError, "^mask: b: .* got None"),
        (lambda: apply(optim.adamw(), W), ValueError, "^params: weight decay needs the parameters"),
        (lambda: apply(optim.sgd(weight_decay=0.1), W), ValueError, "^params: weight decay needs the parameters"),
        (lambda: apply(optim.add_decayed_weights(0.1), W), ValueError, "^params: weight decay needs the parameters"),
        (lambda: apply(optim.adamw(mask=NO_TREE), W, W), ValueError, r"^mask: tree: .* \['w', 'b'\], got .* \['w'\]"),
        (lambda: apply(optim.masked(optim.clip(1), NO_TREE), W), ValueError, r"^mask: tree: .* got .* \['w'\]"),
        (lambda: optim.chain(optim.clip(1)).update(W, ()), ValueError, r"^state: expected a tuple of 1, .* got \(\)"),
    ],
)
def test_what_makes_no_sense_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
