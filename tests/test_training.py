"""`fit` and its relatives: against loops written by hand, and what they promise when things go wrong."""

import functools
import io
import pickle
from itertools import count
from math import inf, isnan, nan

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import sparse
from tqdm import tqdm

import fmlp
from fmlp import (
    EarlyStopping,
    NonFiniteError,
    callbacks,
    losses,
    metrics,
    optim,
    random,
    schedules,
    tree,
)
from fmlp.batches import is_pair
from fmlp.layers import (
    BatchNorm,
    Dense,
    Dropout,
    Elu,
    Embedding,
    Flatten,
    Layer,
    fan_in_concat,
    fan_in_sum,
    fan_out,
    parallel,
    serial,
)

DRAWN = settings(deadline=None, max_examples=60)
KEY = random.key(7)
MLP = serial(Dense(6), Elu(), Dense(1))
CLASSIFIER = serial(Dense(8), BatchNorm(), Elu(), Dropout(0.2), Dense(3))


def numbers(n=40, width=4, seed=0):
    generator = random.generator(random.key(seed))
    x = generator.normal(size=(n, width)).astype(np.float32)
    return x, np.sin(x.sum(1)) + x[:, 0]


def classes(n=60, seed=0):
    x, _ = numbers(n, seed=seed)
    return x, x[:, :3].argmax(1)


def params_of(net, width=4, dtype=np.float32):
    return tree.cast(net.init(random.key(1), (width,))[1], dtype)


NUMBERS = numbers()


def fit(net=MLP, data=NUMBERS, params=None, **settings):
    params = params_of(net) if params is None else params
    given = {"loss": losses.mse, "optimizer": optim.adam(0.01), "epochs": 3, "key": KEY, "batch_size": 8}
    return fmlp.fit(net, params, data, **({"progress": False} | given | settings))


def fit_classes(**settings):
    return fit(**({"net": CLASSIFIER, "data": classes(), "loss": losses.cross_entropy} | settings))


def assert_same_bits(a, b):
    assert tree.paths(a) == tree.paths(b)
    for path, x, y in zip(tree.paths(a), tree.leaves(a), tree.leaves(b), strict=True):
        assert np.asarray(x).dtype == np.asarray(y).dtype, path
        assert np.array_equal(x, y), path


def seeing(seen):
    """Make a loss that notes the targets it gets."""

    @fmlp.differentiable
    def loss(prediction, y, *, weight=None):
        seen.append(y)
        return losses.mse.rule(prediction, y, weight=weight)

    return loss


def differ(a, b):
    return any(not np.array_equal(x, y) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True))


# ------------------------------------------------------------------------------------- the engine


def test_the_same_key_gives_the_same_result_and_another_key_another():
    settings = {"validation": 0.25, "metrics": {"accuracy": metrics.accuracy}}
    once, again = fit_classes(**settings), fit_classes(**settings)
    other = fit_classes(**settings, key=random.key(8))
    assert_same_bits(once[:3], again[:3])
    assert differ(once.params, other.params)


def by_hand(net, params, x, y, loss, optimizer, epochs, key, batch_size, weight=None):
    """Train as `fit` does, with the keys that it derives: split off one for the validation rows, one an epoch."""
    step = fmlp.value_and_grad(fmlp.objective(net.apply, loss))
    state, history = optimizer.init(params), []
    _, epochs_key = random.split(key)
    for epoch in range(epochs):
        shuffle_key, steps_key = random.split(random.fold_in(epochs_key, epoch))
        order = random.generator(shuffle_key).permutation(len(y))
        keys = (k for block in count() for k in random.split(random.fold_in(steps_key, block), 256))
        total = total_weight = 0.0
        for start, k in zip(range(0, len(y), batch_size), keys, strict=False):
            rows = np.sort(order[start : start + batch_size])
            w = None if weight is None else weight[rows]
            value, grads = step(params, x[rows], y[rows], key=k, weight=w)
            updates, state = optimizer.update(grads, state, params)
            params = optim.apply_updates(params, updates)
            share = float(len(rows) if w is None else w.sum())
            total, total_weight = total + share * float(value), total_weight + share
        history.append(total / total_weight)
    return fmlp.calibrate(net, params, x), state, history


def by_pieces(net, params, x, y, loss, optimizer, epochs, key, batch_size, weight=None):
    """Train as `fit` does, with the public generators that it is built from."""
    f, batches = fmlp.objective(net.apply, loss), fmlp.batches((x, y), batch_size=batch_size, weight=weight)
    state, history = optimizer.init(params), []
    _, epochs_key = random.split(key)
    for epoch in range(epochs):
        shuffle_key, steps_key = random.split(random.fold_in(epochs_key, epoch))
        seen = []
        for step in fmlp.descent(f, optimizer, params, state, batches.shuffled(shuffle_key), steps_key):
            params, state = step.params, step.state
            seen.append((step.weight * step.loss, step.weight))
        total, total_weight = map(sum, zip(*seen, strict=True))
        history.append(total / total_weight)
    return fmlp.calibrate(net, params, x), state, history


@pytest.mark.parametrize("loop", [by_hand, by_pieces])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("batch_size", [1, 8, 60])
def test_fit_equals_the_loop_by_hand_bit_for_bit(batch_size, weighted, loop):
    net = CLASSIFIER if batch_size > 1 else serial(Dense(8), Dropout(0.2), Dense(3))
    x, y = classes(600 if batch_size == 1 else 60)  # more steps than a block of 256 keys
    weight = random.generator(KEY).uniform(size=len(y)) if weighted else None
    optimizer = optim.adam(schedules.exponential_lr(0.01, 0.99), weight_decay=0.01)
    params = params_of(net)
    settings = {"loss": losses.cross_entropy, "optimizer": optimizer, "epochs": 2, "key": KEY}
    settings |= {"batch_size": batch_size, "weight": weight}
    result = fit(net, (x, y), params, **settings)
    hand, state, history = loop(net, params, x, y, **settings)
    assert_same_bits(result.params, hand)
    assert_same_bits(result.state, state)
    assert result.history["loss"] == history
    assert result.stopped == "done"
    assert result.seconds > 0


def test_without_shuffling_the_rows_come_in_their_order():
    x, y = numbers(20)
    seen = []
    loss = seeing(seen)
    fit(data=(x, y), loss=loss, shuffle=False, epochs=2, batch_size=8)
    assert np.array_equal(np.concatenate(seen), np.concatenate([y, y]))
    assert [len(part) for part in seen] == [8, 8, 4] * 2
    seen.clear()
    fit(data=(x, y), loss=loss, epochs=2, batch_size=8)
    first, second = np.concatenate(seen[:3]), np.concatenate(seen[3:])
    assert np.array_equal(np.sort(first), np.sort(y))
    assert np.array_equal(np.sort(second), np.sort(y))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(("n", "batch_size", "sizes"), [(17, 8, [8, 9]), (16, 8, [8, 8]), (1, 1, [1]), (9, 8, [9])])
def test_a_last_batch_of_one_row_joins_the_one_before(n, batch_size, sizes):
    seen = []
    x, y = numbers(n)
    fit(data=(x, y), loss=seeing(seen), epochs=1, batch_size=batch_size)
    assert [len(part) for part in seen] == sizes


def test_so_batch_norm_trains_on_any_number_of_rows_but_one():
    for n in (2, 3, 17, 33):
        x, y = classes(n)
        assert fit_classes(data=(x, y), batch_size=min(n, 16)).params["batch_norm_1"]["count"] == n
    with pytest.raises(ValueError, match=r"^batch_norm_1/x: .* at least 2 rows, got shape \(1, 8\)"):
        fit_classes(data=classes(1), batch_size=1)


@pytest.mark.parametrize("make", [optim.adam, optim.sgd, optim.rmsprop, optim.nadam])
def test_training_makes_the_loss_smaller(make):
    result = fit(optimizer=make(0.01), epochs=30)
    assert result.history["loss"][-1] < 0.7 * result.history["loss"][0]


def test_nothing_passed_in_is_written_to():
    x, y = classes()
    weight = np.ones(len(y))
    params = params_of(CLASSIFIER)
    for array in [x, y, weight, *tree.leaves(params)]:
        array.flags.writeable = False
    before = tree.map(np.copy, params)
    fit_classes(
        data=(x, y),
        params=params,
        weight=weight,
        class_weight="balanced",
        validation=(x, y),
        metrics={"accuracy": metrics.accuracy},
        early_stopping=EarlyStopping("val_loss", restore_best=True),
    )
    fmlp.evaluate(CLASSIFIER, fmlp.calibrate(CLASSIFIER, params, x), (x, y), loss=losses.cross_entropy, weight=weight)
    assert_same_bits(params, before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parameters_and_state_keep_their_dtype(dtype):
    result = fit_classes(params=params_of(CLASSIFIER, dtype=dtype), weight=np.ones(60))
    assert {leaf.dtype for leaf in tree.leaves(result.params)} == {np.dtype(dtype)}
    assert {slot.dtype for slot in result.state.slots.values()} == {np.dtype(dtype)}


def test_x_may_be_a_tree_of_arrays():
    (a, y), (b, _) = numbers(), numbers(width=2, seed=1)
    net = serial(parallel(Dense(5), Dense(5)), fan_in_sum(), Elu(), Dense(1))
    _, params = net.init(KEY, ((4,), (2,)))
    result = fit(net, ((a, b), y), params, validation=((a, b), y), epochs=20)
    assert result.history["val_loss"][-1] < result.history["val_loss"][0]
    assert fmlp.predict(net, result.params, (a, b)).shape == (40, 1)
    assert fit(net, ((a, b), y), params, validation=0.5).params["dense_3"]["w"].shape == (5, 1)


def test_memory_mapped_arrays_are_as_good_as_arrays(tmp_path):
    x, y = numbers()
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert_same_bits(fit(data=(mapped, y), validation=0.2)[:3], fit(data=(x, y), validation=0.2)[:3])


def test_memory_mapped_arrays_are_not_read_to_look_for_nan(tmp_path):
    np.save(tmp_path / "x.npy", np.full((4, 4), nan))
    mapped, params = np.load(tmp_path / "x.npy", mmap_mode="r"), params_of(Dense(1))
    fmlp.calibrate(Dense(1), params, mapped)
    with pytest.raises(ValueError, match=r"^x: expected finite numbers"):
        fmlp.calibrate(Dense(1), params, np.array(mapped))


def test_lists_of_labels_are_as_good_as_arrays():
    x, y = classes()
    assert_same_bits(fit_classes(data=(x, y.tolist()))[:3], fit_classes(data=(x, y))[:3])
    batches = [(x[:30], y[:30].tolist()), (x[30:], y[30:].tolist())]
    assert_same_bits(fit_classes(data=batches)[:3], fit_classes(data=[(x[:30], y[:30]), (x[30:], y[30:])])[:3])


def test_batches_of_ones_own_are_the_same_as_arrays_cut_without_shuffling():
    x, y = classes()
    parts = [slice(a, a + 20) for a in (0, 20, 40)]
    plain = fit_classes(data=(x, y), batch_size=20, shuffle=False)
    batches = fit_classes(data=[(x[p], y[p]) for p in parts])
    assert plain.history == batches.history
    assert_same_bits(plain.state, batches.state)
    weight = np.linspace(0.1, 1, 60)
    weighted = fit_classes(data=(x, y), batch_size=20, shuffle=False, weight=weight)
    assert weighted.history == fit_classes(data=[(x[p], y[p], weight[p]) for p in parts]).history

    class Endless:
        def __iter__(self):
            return ((x[p], y[p]) for p in parts)

    assert plain.history == fit_classes(data=Endless()).history


# ------------------------------------------------------------------------------ scores and metrics


def test_history_has_one_number_an_epoch_for_everything():
    scored = {"accuracy": metrics.accuracy}
    train = ["loss", "lr", "accuracy"]
    validation = ["val_loss", "val_accuracy"]
    for more, names in [
        ({}, train[:2]),
        ({"metrics": scored}, train),
        ({"validation": classes(9)}, [*train[:2], "val_loss"]),
        ({"validation": classes(9), "metrics": scored}, train + validation),
        ({"validation": 0.2, "metrics": scored}, train + validation),
        ({"optimizer": optim.scale(-0.01)}, ["loss"]),
    ]:
        history = fit_classes(**more).history
        assert sorted(history) == sorted(names)
        assert all(len(values) == 3 and all(type(v) is float for v in values) for values in history.values())
    steps = fit(optimizer=optim.adam(schedules.exponential_lr(1.0, 0.5)), epochs=2, batch_size=10).history["lr"]
    assert steps == [0.5**3, 0.5**7]  # the last of four steps an epoch


def test_history_is_what_evaluate_says():
    data, held_out = classes(), classes(50, seed=1)
    scored = {"accuracy": metrics.accuracy, "f1": metrics.f1}
    result = fit_classes(data=data, validation=held_out, metrics=scored)
    on_held_out = fmlp.evaluate(CLASSIFIER, result.params, held_out, loss=losses.cross_entropy, metrics=scored)
    assert {name: result.history[f"val_{name}"][-1] for name in on_held_out} == on_held_out
    on_train = fmlp.evaluate(CLASSIFIER, result.params, data, metrics=scored, loss=losses.cross_entropy)
    assert all(result.history[name][-1] == on_train[name] for name in scored)


def test_a_fraction_sets_rows_aside_at_random_that_are_never_trained_on():
    n, trained, scored = 40, [], []
    x = np.arange(n, dtype=np.float32)[:, None]
    y = np.arange(n, dtype=np.float32)
    keep = {"rows": lambda y_true, y_pred: scored.append(y_true) or 0.0}
    settings = {
        "optimizer": optim.sgd(1e-6),
        "loss": seeing(trained),
        "metrics": keep,
        "epochs": 1,
        "weight": np.ones(n),
    }
    fit(Dense(1), (x, y), params_of(Dense(1), 1), validation=0.25, **settings)
    train, held = scored
    assert (len(train), len(held)) == (30, 10)
    assert sorted([*train, *held]) == y.tolist()
    assert sorted(np.concatenate(trained[:4])) == sorted(train)
    assert held.tolist() != y[:10].tolist()
    assert held.tolist() != y[30:].tolist()


@pytest.mark.parametrize(
    ("loss", "width", "y", "true", "predicted"),
    [
        (losses.cross_entropy, 3, np.array([0, 2, 1, 1]), [0, 2, 1, 1], (4,)),
        (losses.cross_entropy, 3, np.eye(3)[[0, 2, 1, 1]], [0, 2, 1, 1], (4,)),
        (functools.partial(losses.cross_entropy, label_smoothing=0.1), 3, np.eye(3)[[0, 1, 2, 2]], [0, 1, 2, 2], (4,)),
        (losses.binary_cross_entropy, 1, np.array([0, 1, 1, 0]), [0, 1, 1, 0], (4,)),
        (losses.binary_cross_entropy, 1, np.array([[0], [1], [1], [0]]), [[0], [1], [1], [0]], (4, 1)),
        (losses.mse, 1, np.arange(4.0), [0, 1, 2, 3], (4,)),
        (losses.mse, 1, np.arange(4.0)[:, None], [[0], [1], [2], [3]], (4, 1)),
        (losses.mse, 2, np.arange(8.0).reshape(4, 2), [[0, 1], [2, 3], [4, 5], [6, 7]], (4, 2)),
        (None, 2, np.arange(8.0).reshape(4, 2), [[0, 1], [2, 3], [4, 5], [6, 7]], (4, 2)),
    ],
)
def test_metrics_get_what_those_of_scikit_learn_expect(loss, width, y, true, predicted):
    net, (x, _) = Dense(width), numbers(4)
    params = params_of(net)
    got = []
    scores = {"m": lambda y_true, y_pred: got.append((y_true, y_pred)) or 0.5}
    assert fmlp.evaluate(net, params, (x, y), loss=loss, metrics=scores)["m"] == 0.5
    ((y_true, y_pred),) = got
    assert y_true.tolist() == true
    assert y_pred.shape == predicted
    output = net.apply(params, x)
    read = {losses.binary_cross_entropy: output > 0}.get(loss, output.argmax(-1) if width == 3 else output)
    assert np.array_equal(y_pred.ravel(), read.ravel())


@pytest.mark.parametrize("batch_size", [1, 7, 40, 1000])
def test_predict_and_evaluate_do_not_depend_on_the_batch_size(batch_size):
    """To 1e-12: products of other shapes add in another order, each sum of at most 6 float64 terms."""
    params, (x, y) = params_of(MLP, dtype=np.float64), numbers()
    predicted = fmlp.predict(MLP, params, x, batch_size=batch_size)
    np.testing.assert_allclose(predicted, MLP.apply(params, x), rtol=1e-12, atol=1e-14)
    scored = {"loss": losses.mse, "metrics": {"r2": metrics.r2}}
    scores = fmlp.evaluate(MLP, params, (x, y), batch_size=batch_size, **scored)
    assert scores == pytest.approx(fmlp.evaluate(MLP, params, (x, y), **scored), rel=1e-12)


def test_evaluate_weighs_the_rows_of_the_loss():
    params, (x, y) = params_of(MLP), numbers()
    weight = np.linspace(0, 1, len(y))
    score = fmlp.evaluate(MLP, params, (x, y), loss=losses.mse, weight=weight)["loss"]
    assert score == losses.mse(MLP.apply(params, x), y, weight=weight)


def test_predict_takes_trees_and_returns_trees():
    net, (x, _) = parallel(Dense(2), Dense(3)), numbers(9)
    _, params = net.init(KEY, ((4,), (4,)))
    whole, parts = (fmlp.predict(net, params, (x, x), batch_size=b) for b in (9, 4))
    assert [y.shape for y in parts] == [(9, 2), (9, 3)]
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)  # float32, four terms


# ------------------------------------------------------------------------------------- BatchNorm


def test_the_result_is_calibrated_on_the_training_data():
    x, y = classes(1500)  # two batches of calibration
    for result in (fit_classes(data=(x, y)), fit_classes(data=(x, y), validation=classes(9), early_stopping=best())):
        assert_same_bits(result.params, fmlp.calibrate(CLASSIFIER, result.params, x))
        assert result.params["batch_norm_1"]["count"] == 1500
    h = np.float64(x) @ result.params["dense_0"]["w"] + result.params["dense_0"]["b"]
    np.testing.assert_allclose(result.params["batch_norm_1"]["mean"], h.mean(0), rtol=1e-4, atol=1e-5)  # float32
    np.testing.assert_allclose(result.params["batch_norm_1"]["var"], h.var(0), rtol=1e-4)


def test_calibration_needs_no_key_has_no_noise_and_is_idempotent():
    net = serial(Dropout(0.9), BatchNorm(), Dropout(0.5), Dense(3), BatchNorm())
    x, _ = classes()
    params = fmlp.calibrate(net, params_of(net), x)
    np.testing.assert_allclose(params["batch_norm_1"]["mean"], x.mean(0), rtol=1e-5, atol=1e-6)
    assert_same_bits(fmlp.calibrate(net, params, x), params)
    in_parts = fmlp.calibrate(net, params, x, batch_size=7)["batch_norm_1"]
    np.testing.assert_allclose(in_parts["var"], x.var(0), rtol=1e-5)  # between the parts as well as within
    assert_same_bits(fmlp.calibrate(MLP, params_of(MLP), x), params_of(MLP))


def test_statistics_that_share_their_arrays_are_calibrated_each_for_itself():
    net, (x, _) = serial(BatchNorm(), Elu(), BatchNorm()), classes()
    _, own = net.init(KEY, (4,))
    shared = dict.fromkeys(own, own["batch_norm_0"])
    assert_same_bits(fmlp.calibrate(net, shared, x), fmlp.calibrate(net, own, x))
    assert own["batch_norm_0"]["count"] == 0


def test_a_layer_of_a_users_own_that_insists_on_a_key_can_be_trained():
    @fmlp.differentiable
    def noise(params, x, *, train=False, key=None):
        if train:
            x = x + random.generator(random.fold_in(key, 0)).normal(size=x.shape).astype(x.dtype)
        return x, lambda dy: ({}, dy)

    net = serial(Layer(lambda key, shape: (shape, {}), noise), Dense(3), BatchNorm())
    result = fit(net, classes(), loss=losses.cross_entropy, validation=classes(9))
    assert_same_bits(result.params, fmlp.calibrate(net, result.params, classes()[0]))


# --------------------------------------------------------------------------------- early stopping


def best(**settings):
    return EarlyStopping("val_loss", restore_best=True, **settings)


def reference(scores, mode, patience, min_delta, start, baseline):
    """Return the last epoch, the best one, None before `start`, and whether it stopped, as Keras counts them."""
    sign = 1 if mode == "min" else -1
    record, best, wait = inf, None, 0
    for epoch, score in enumerate(scores):
        if epoch < start:
            continue
        cost = sign * score
        wait += 1
        if best is None or cost < record - min_delta:
            record, best = inf if isnan(cost) else cost, epoch
            if baseline is None or cost < sign * baseline - min_delta:
                wait = 0
                continue
        if wait >= patience and epoch > 0:
            return epoch, best, True
    return len(scores) - 1, best, False


@DRAWN
@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0, -1.0, nan, inf]), min_size=1, max_size=12),
    st.sampled_from(["min", "max"]),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.15]),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from([None, 0.0, 0.3]),
)
@example([0.2, 0.1, 0.1], "min", 2, 0.15, 0, True, None)
@example([0.5, 0.4, 0.3, 0.2], "min", 1, 0.0, 0, True, 0.1)
def test_early_stopping_equals_the_reference(scores, mode, patience, min_delta, start, restore, baseline):
    stop = EarlyStopping("score", mode, patience, min_delta, restore, start, baseline)
    last, best_epoch, stopped = reference(scores, mode, patience, min_delta, start, baseline)
    given, seen = iter(scores), []
    result = fit(
        Dense(1),
        params=params_of(Dense(1)),
        epochs=len(scores),
        batch_size=40,
        metrics={"score": lambda y_true, y_pred: next(given)},
        early_stopping=stop,
        callbacks=[lambda epoch: seen.append(epoch.params)],
    )
    assert len(result.history["score"]) == last + 1
    assert result.best_epoch == best_epoch
    assert result.stopped == ("early" if stopped else "done")
    assert stop.best(scores[: last + 1]) == (best_epoch, stopped)
    if restore and best_epoch is not None:
        assert_same_bits(result.params, seen[best_epoch])
    elif not stopped:
        assert_same_bits(result.params, seen[-1])


def test_the_best_parameters_have_the_best_score():
    x, y = numbers(20)
    settings = {"data": (x, y), "validation": numbers(20, seed=1), "epochs": 60, "optimizer": optim.adam(0.1)}
    result = fit(**settings, early_stopping=best(patience=5))
    values = result.history["val_loss"]
    assert result.stopped == "early"
    assert len(values) == values.index(min(values)) + 6
    again = fmlp.evaluate(MLP, result.params, settings["validation"], loss=losses.mse)
    assert again["loss"] == min(values)
    last = fit(**settings, early_stopping=EarlyStopping("val_loss", patience=5))
    assert fmlp.evaluate(MLP, last.params, settings["validation"], loss=losses.mse)["loss"] == values[-1]
    assert last.history == result.history


def test_patience_zero_stops_at_the_first_epoch_that_is_no_better():
    assert EarlyStopping("val_accuracy", patience=1).best([0.5, 0.9, 0.7]) == (1, True)  # the names of scores say "max"
    assert EarlyStopping("val_accuracy", "min", patience=1).best([0.5, 0.9]) == (0, True)
    assert EarlyStopping("loss", patience=0).best([1.0]) == (0, False)
    assert EarlyStopping("loss", patience=0).best([1.0, 1.0]) == (0, True)


def rises(t, p):
    return metrics.accuracy(t, p)


@metrics.on_output
@metrics.lower_is_better
def falls(t, p):
    return 1 - metrics.accuracy(t, p)


@pytest.mark.parametrize(
    ("name", "metric", "mode"),
    [
        ("wrong", falls, "min"),
        ("accuracy", functools.partial(falls), "min"),
        ("acc", metrics.accuracy, "max"),
        ("a", functools.partial(metrics.f1, average="weighted"), "max"),
        ("area", metrics.roc_auc, "max"),
        ("accuracy", rises, "max"),
        ("mae", lambda t, p: 0.0, "min"),
        ("huber", lambda t, p: 0.0, "min"),
        ("r2", metrics.mse, "min"),
        ("e", functools.partial(losses.cross_entropy, label_smoothing=0.1), "min"),
        ("nll", metrics.log_loss, "min"),
        ("acc", rises, None),
        ("accuracy_loss", rises, None),
    ],
)
@pytest.mark.parametrize("prefix", ["", "val_"])
def test_which_way_is_better_is_known_or_asked_for(name, metric, mode, prefix):
    """In early stopping and in on_plateau alike; the bigger score wins where a high one is better."""
    monitor, plateau = prefix + name, schedules.reduce_on_plateau(0.1, patience=5)
    watchers = [
        {"early_stopping": EarlyStopping(monitor, patience=2)},
        {"callbacks": [fmlp.on_plateau(monitor, plateau)]},
    ]
    for watcher in watchers:
        net = UNTOUCHED if mode is None else Dense(1)
        settings = {"net": net, "params": params_of(Dense(1)), "metrics": {name: metric}, "validation": 0.5, **watcher}
        if mode is None:
            with pytest.raises(ValueError, match=f"^mode: expected 'min' or 'max' of .*not for '{monitor}'"):
                fit(**settings)
        else:
            assert callbacks._direction(monitor, {name: metric}) == mode


def test_every_metric_says_which_way_is_better():
    low = {"mse", "mae", "log_loss"}
    for name in {*metrics.__all__} - {"ClassScore", "confusion_matrix", "on_output"}:
        assert getattr(metrics, name).higher_is_better is (name not in low)


def test_a_score_that_rises_is_not_stopped_and_does_not_lower_the_rate():
    scores = [0.56, 0.72, 0.78, 0.79, 0.83, 0.87, 0.88, 0.88, 0.88, 0.88]
    given = iter(scores * 2)
    settings = {"metrics": {"accuracy": lambda t, p: next(given)}, "epochs": len(scores), "optimizer": optim.sgd(5e-3)}
    result = fit(**settings, early_stopping=EarlyStopping("accuracy", patience=2, restore_best=True))
    assert (result.stopped, len(result.history["loss"])) == ("early", 9)
    given = iter(scores)
    plateau = schedules.reduce_on_plateau(5e-3, patience=1, factor=0.5, threshold=0)
    rates = fit(**settings, callbacks=[fmlp.on_plateau("accuracy", plateau)]).history["lr"]
    assert rates == [5e-3] * 9 + [2.5e-3]


# -------------------------------------------------------------------------------------- callbacks


def test_on_plateau_sets_the_rate_that_the_plateau_says():
    plateau = schedules.reduce_on_plateau(0.1, factor=0.5, patience=1, mode="min")
    scores = [1.0, 0.5, 0.6, 0.6, 0.6, 0.6, 0.4]
    given, state, expected = iter(scores), plateau.init(), []
    for score in scores:
        expected.append(state.learning_rate)
        state = plateau.update(score, state)
    result = fit(
        optimizer=optim.chain(optim.clip(1.0), optim.sgd(0.1)),
        epochs=len(scores),
        metrics={"score": lambda y_true, y_pred: next(given)},
        callbacks=[fmlp.on_plateau("score", plateau)],
    )
    assert result.history["lr"] == expected == [0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.025]
    assert optim.learning_rate(result.state) == state.learning_rate
    with pytest.raises(ValueError, match=r"^on_plateau: expected to monitor one of loss; got 'val_loss'"):
        fit(callbacks=[fmlp.on_plateau("val_loss", plateau)])


@pytest.mark.parametrize("replacing", [False, True])
def test_a_long_history_is_looked_at_once_and_what_was_handed_out_does_not_change(replacing):
    """A history that a callback replaces is looked at anew."""
    inner, seen, handed = schedules.reduce_on_plateau(0.1, factor=0.5, patience=0), [], []

    def count(value, state):
        seen.append(value)
        return inner.update(value, state)

    def hand_out(epoch):
        handed.append((epoch.history, {name: [*values] for name, values in epoch.history.items()}))
        loss = [99.0 - epoch.epoch] * (epoch.epoch + 1)
        return epoch._replace(history=epoch.history | {"loss": loss}) if replacing else None

    callbacks = [hand_out, fmlp.on_plateau("loss", inner._replace(update=count))]
    rates = fit(epochs=30, optimizer=optim.sgd(0.1), callbacks=callbacks).history["lr"]
    assert len(seen) == (30 * 31 / 2 if replacing else 30)
    assert all(history == copied for history, copied in handed)
    if replacing:  # a constant history never improves
        assert rates[:4] == [0.1, 0.1, 0.05, 0.025]


def counting_by_itself(learning_rate):
    """Make an optimizer of one's own, which keeps the state of another in a list and sets its rate at each step."""
    inner = optim.sgd(learning_rate)

    def update(grads, state, params=None):
        updates, within = inner.update(grads, optim.with_learning_rate(state["inner"][0], learning_rate), params)
        return updates, {"inner": [within]}

    return optim.Optimizer(lambda params: {"inner": [inner.init(params)]}, update)


SCHEDULED = optim.sgd(schedules.constant(0.1))
SCHEDULED_BY_EPOCHS = optim.sgd(schedules.per_epoch(schedules.constant(0.1)))


@pytest.mark.parametrize(
    ("optimizer", "got"),
    [
        (optim.sgd(1e-3), "0.001"),
        (optim.chain(optim.clip(1.0), optim.masked(optim.adam(0.2), True)), "0.2"),
        (
            optim.partition({0: optim.sgd(0.1), 1: optim.sgd(0.01)}, {"dense_0": 0, "dense_2": 1}),
            "0.1 and 0.01",
        ),
        (optim.chain(optim.masked(optim.adam(0.1), True), optim.masked(optim.sgd(0.0), False)), "0.1 and 0.0"),
        (optim.chain(optim.clip(1.0), optim.scale(-0.1)), "one without a rate"),
        (SCHEDULED, "a schedule, which sets its own"),
        (SCHEDULED_BY_EPOCHS, "a schedule, which sets its own"),
        (optim.chain(optim.sgd(0.1), optim.masked(SCHEDULED, True)), "a schedule, which sets its own"),
        (counting_by_itself(0.1), "a schedule, which sets its own"),
    ],
)
def test_on_plateau_refuses_an_optimizer_whose_rate_it_cannot_lower(optimizer, got):
    net = serial(Dense(2), Elu(), Dense(1))
    plateau = fmlp.on_plateau("loss", schedules.reduce_on_plateau(0.1))
    with pytest.raises(ValueError, match=rf"^on_plateau: expected an optimizer of learning rate 0.1, .* got {got}$"):
        fit(net, optimizer=optimizer, callbacks=[lambda epoch: pytest.fail("training began"), plateau])


def test_on_plateau_within_another_callback_looks_at_the_rate():
    plateau = fmlp.on_plateau("loss", schedules.reduce_on_plateau(0.1, factor=0.5, patience=0, threshold=0.5))
    rates, expected = (
        fit(epochs=9, optimizer=optim.sgd(0.1), callbacks=[callback]).history["lr"]
        for callback in (lambda epoch: plateau(epoch), plateau)
    )
    assert rates == expected
    assert rates[-1] < 0.1
    for optimizer, got in ((optim.sgd(0.001), "0.001"), (optim.chain(optim.scale(-0.1)), "one without a rate")):
        with pytest.raises(ValueError, match=f"^on_plateau: expected an optimizer of learning rate 0.1, got {got}"):
            fit(optimizer=optimizer, callbacks=[lambda epoch: plateau(epoch)])


# ------------------------------------------------------------------------------ schedules of epochs

BY_EPOCH = schedules.exponential_lr(0.1, 0.5)  # 0.1, 0.05, 0.025, …
WARM = schedules.warmup(schedules.per_epoch(BY_EPOCH), 5)


@pytest.mark.parametrize(
    ("data", "settings", "steps"),
    [
        (NUMBERS, {}, 5),
        (NUMBERS, {"validation": 0.2}, 4),
        (NUMBERS, {"batch_size": 13}, 3),  # the last row joins the batch before it
        ([(NUMBERS[0][i : i + 8], NUMBERS[1][i : i + 8]) for i in (0, 8, 16)], {"batch_size": None}, 3),
    ],
)
def test_a_schedule_of_epochs_knows_the_steps_of_an_epoch(data, settings, steps):
    def make(schedule):
        return optim.chain(optim.clip_by_global_norm(1.0), optim.adam(schedule))

    by_itself = fit(data=data, optimizer=make(schedules.per_epoch(BY_EPOCH)), **settings)
    by_hand = fit(data=data, optimizer=make(schedules.per_epoch(BY_EPOCH, steps)), **settings)
    assert by_itself.history["lr"] == [0.1, 0.05, 0.025]
    assert_same_bits(by_itself.params, by_hand.params)


def test_a_schedule_of_epochs_needs_batches_that_can_be_counted():
    class Uncounted:
        def __iter__(self):
            pytest.fail("training began")

    class Refusing(Uncounted):
        def __len__(self):
            raise TypeError("it has no len()")

    for data in (Uncounted(), Refusing()):
        with pytest.raises(
            ValueError, match=r"^steps_per_epoch: a schedule counts epochs, but the number of steps .* __len__"
        ):
            fit(data=data, optimizer=optim.sgd(WARM), batch_size=None)


def test_a_schedule_of_epochs_goes_on_from_a_checkpoint(tmp_path):
    settings = {"optimizer": optim.sgd(WARM), "validation": 0.2}
    straight = fit(epochs=5, **settings)
    assert straight.history["lr"] == [pytest.approx(0.1 / 3 + 0.2 / 5), 0.1, 0.05, 0.025, 0.0125]
    fit(epochs=2, checkpoint=tmp_path / "run.npz", **settings)
    later = fit(epochs=5, checkpoint=tmp_path / "run.npz", **settings)
    assert_same_bits([later.params, later.state], [straight.params, straight.state])
    other = optim.sgd(schedules.warmup(schedules.per_epoch(schedules.exponential_lr(0.1, 0.6)), 5))
    with pytest.raises(ValueError, match=r"another training.*\n.*gamma: 0.5 in the file, 0.6 now"):
        fit(epochs=6, checkpoint=tmp_path / "run.npz", **settings | {"optimizer": other})


def test_callbacks_may_replace_params_and_state_and_stop():
    zeros = tree.map(np.zeros_like, params_of(MLP))
    epochs = []

    def look(epoch):
        epochs.append(epoch)

    def replace(epoch):
        state = optim.with_learning_rate(epoch.state, 0.25)
        return epoch._replace(params=zeros, state=state, stop=epoch.epoch == 1)

    result = fit(epochs=5, callbacks=[look, replace, look])
    assert [e.epoch for e in epochs] == [0, 0, 1, 1]
    assert result.stopped == "callback"
    assert result.params["dense_0"]["w"].any() == 0
    assert result.history["lr"] == [0.01, 0.25]
    assert optim.learning_rate(result.state) == 0.25
    assert epochs[3].params is zeros
    own = fit(callbacks=[lambda e: e._replace(history=e.history | {"mine": [1.0] * (e.epoch + 1)})]).history
    assert own["mine"] == [1.0] * 3
    assert len(own["loss"]) == 3


def interrupt(*args):
    raise KeyboardInterrupt


def test_an_interrupt_returns_what_was_reached():
    three = fit(epochs=3)
    in_callback = fit(epochs=9, callbacks=[lambda e: interrupt() if e.epoch == 2 else None])
    assert_same_bits(in_callback[:3], three[:3])
    assert in_callback.stopped == "interrupted"
    late = iter([0.0, 0.0])
    in_metric = fit(epochs=9, metrics={"m": lambda y_true, y_pred: next(late, None) is None and interrupt()})
    assert in_metric.stopped == "interrupted"
    assert_same_bits(in_metric[:2], three[:2])  # the third epoch's steps were made, its scores were not
    assert [len(values) for values in in_metric.history.values()] == [2] * 3


def test_an_interrupt_of_the_last_calibration_returns_what_was_reached(monkeypatch):
    whole = fit_classes()
    with monkeypatch.context() as patched:
        patched.setattr(fmlp.training, "calibrated", lambda *args, **settings: interrupt())
        result = fit_classes()
    assert result.stopped == "interrupted"
    assert result.history == whole.history
    assert_same_bits(fmlp.calibrate(CLASSIFIER, result.params, classes()[0]), whole.params)
    with pytest.raises(ValueError, match="calibrate"):  # never a silent wrong answer
        fmlp.predict(CLASSIFIER, result.params, classes()[0])


def test_a_nan_in_mapped_data_is_thought_of(tmp_path):
    x = np.array(NUMBERS[0], np.float32)
    x[0] = nan
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(NonFiniteError, match=r"the loss is nan .* or is there a NaN, .* or a number too large in the"):
        fit(data=(np.load(tmp_path / "x.npy", mmap_mode="r"), NUMBERS[1]))


def test_an_interrupt_within_an_epoch_keeps_its_steps_and_restores_the_best():
    steps = count()

    @fmlp.differentiable
    def interrupted(prediction, y, *, weight=None):
        if next(steps) == 7:
            raise KeyboardInterrupt
        return losses.mse.rule(prediction, y, weight=weight)

    result = fit(loss=interrupted, epochs=9, batch_size=8)
    assert result.stopped == "interrupted"
    assert result.state.steps == 7
    assert len(result.history["loss"]) == 1
    one = fit(epochs=1)
    steps = count()
    restored = fit(loss=interrupted, epochs=9, early_stopping=EarlyStopping("loss", restore_best=True))
    assert_same_bits(restored.params, one.params)
    steps = count(7)
    assert_same_bits(fit(loss=interrupted).params, params_of(MLP))


# ---------------------------------------------------------------------------------------- weights


def test_a_weight_of_k_is_a_row_repeated_k_times():
    """In full batches and float64; to 1e-9, because sums in another order differ by 1e-16 a step."""
    x, y = numbers(12)
    repeats = np.array([0, 1, 2, 3] * 3)
    params = params_of(MLP, dtype=np.float64)
    settings = {"params": params, "epochs": 20, "optimizer": optim.sgd(0.05, 0.9)}
    weighted = fit(data=(x, y), weight=repeats, batch_size=12, **settings)
    repeated = fit(data=(x.repeat(repeats, 0), y.repeat(repeats)), batch_size=18, **settings)
    for a, b in zip(tree.leaves(weighted.params), tree.leaves(repeated.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(weighted.history["loss"], repeated.history["loss"], rtol=1e-9)


def test_class_weights_are_row_weights_and_multiply_them():
    x, y = classes()
    by_class, weight = {0: 1.0, 1: 2.0, 2: 0.5, 9: 4.0}, np.linspace(0.5, 1, 60)
    rows = np.array([by_class[label] for label in y.tolist()])
    assert_same_bits(fit_classes(class_weight=by_class)[:3], fit_classes(weight=rows)[:3])
    assert_same_bits(fit_classes(class_weight=by_class, weight=weight)[:3], fit_classes(weight=rows * weight)[:3])
    balanced = 60 / (3 * np.bincount(y)[y])
    assert_same_bits(fit_classes(class_weight="balanced")[:3], fit_classes(weight=balanced)[:3])
    with pytest.raises(ValueError, match=r"^class_weight: no weight for the label 1"):
        fit_classes(class_weight={0: 1.0, 2: 1.0})
    with pytest.raises(ValueError, match=r"^class_weight: expected y to hold one label per row, got"):
        fit_classes(data=(x, np.full((60, 3), 1 / 3)), class_weight="balanced")


@pytest.mark.parametrize("form", ["array", "list", "series", "one-hot", "column"])
def test_class_weights_come_in_every_form(form):
    x, y = classes()
    weights, targets = {0: 1.0, 1: 2.0, 2: 0.5}, {"one-hot": np.eye(3)[y], "column": y[:, None]}.get(form, y)
    given = {"array": np.array([1.0, 2.0, 0.5]), "list": [1.0, 2.0, 0.5]}.get(form, weights)
    if form == "series":
        given = pytest.importorskip("pandas").Series(weights)
    expected = fit_classes(weight=np.array([weights[label] for label in y.tolist()]))
    assert_same_bits(
        fit_classes(data=(x, targets), class_weight=given, weight=np.ones((60, 1))).params, expected.params
    ) if form != "one-hot" else np.testing.assert_allclose(
        fit_classes(data=(x, targets), class_weight=given).history["loss"], expected.history["loss"], rtol=1e-5
    )
    if form == "array":
        with pytest.raises(ValueError, match=r"^class_weight: no weight for the label 2"):
            fit_classes(class_weight=given[:2])


def test_an_array_of_class_weights_takes_labels_as_floats():
    x, y = classes()
    settings = {"data": (x, y > 1), "net": Dense(1), "loss": losses.binary_cross_entropy, "class_weight": [1.0, 2.0]}
    expected = fit(**settings)
    assert_same_bits(fit(**settings | {"data": (x, (y > 1).astype(np.float32))}).params, expected.params)
    with pytest.raises(TypeError, match=r"^class_weight: an array holds the weights of the labels 0, 1, …, but"):
        fit(class_weight=[1.0, 2.0])


def test_metrics_leave_out_the_rows_that_the_loss_ignores():
    x, y = classes()
    odd, loss = np.where(np.arange(60) % 3, y, -1), functools.partial(losses.cross_entropy, ignore_index=-1)
    weight, scored = np.linspace(0, 1, 60), {"accuracy": metrics.accuracy, "auc": metrics.roc_auc}
    result = fit_classes(data=(x, odd), loss=loss, validation=(x, odd, weight), metrics=scored, weight=weight)
    kept, settings = odd >= 0, {"loss": losses.cross_entropy, "metrics": scored}
    expected = fmlp.evaluate(CLASSIFIER, result.params, (x[kept], y[kept]), weight=weight[kept], **settings)
    for prefix in ("", "val_"):
        assert [result.history[prefix + name][-1] for name in scored] == [expected[name] for name in scored]
    assert result.history["val_loss"][-1] == pytest.approx(expected["loss"], rel=1e-6)


def test_several_targets_and_metrics_of_several_outputs_are_refused_before_any_work():
    x, y = numbers()
    two = serial(fan_out(2), parallel(Dense(1), Dense(1)))

    @losses.loss()
    def sum_of_both(prediction, y, *, weight=None):
        (first, back_first), (second, back_second) = (losses.mse.rule(p, y, weight=weight) for p in prediction)
        return first + second, lambda dy: ((next(iter(back_first(dy))), next(iter(back_second(dy)))), None)

    settings = {"net": two, "params": params_of(two), "loss": sum_of_both}
    assert fit(**settings).history["loss"]
    with pytest.raises(TypeError, match=r"^metrics: expected a network with one output, got tuple of 2; join"):
        fit(**settings, metrics={"r2": lambda y_true, y_pred: 0.0})
    with pytest.raises(TypeError, match=r"^metrics: expected a network with one output, got tuple of 2; join"):
        fmlp.evaluate(two, params_of(two), (x, y), metrics={"r2": metrics.r2})
    for data in ((x, (y, y)), [(x, (y, y))], (x, {"a": y})):
        with pytest.raises(TypeError, match=r"^data: expected y to be one array, got (tuple|dict)"):
            fit(data=data)


@DRAWN
@given(st.integers(2, 5), st.integers(0, 1000), st.sampled_from(["vector", "column", "floats", "one-hot"]))
def test_a_fraction_set_aside_has_rows_of_every_label(rows, seed, form):
    x, y = np.zeros((100, 1), np.float32), (np.arange(100) < rows).astype(int)
    y = {"vector": y, "column": y[:, None], "floats": y.astype(float), "one-hot": np.eye(2)[y]}[form]
    loss, net = (losses.cross_entropy, Dense(2)) if form == "one-hot" else (losses.binary_cross_entropy, Dense(1))
    seen = []

    def note(y_true, y_pred):
        seen.append(np.ravel(y_true).sum())
        return 0.0

    fit(net, (x, y), params_of(net, 1), loss=loss, epochs=1, key=random.key(seed), validation=0.1, metrics={"a": note})
    assert sum(seen) == rows
    assert min(seen) >= 1


def test_a_label_that_cannot_be_in_both_parts_is_told():
    x, y = classes()
    y = np.where(np.arange(60) == 5, 2, y % 2)
    with pytest.warns(UserWarning, match="^validation: only one row has the label 2, and it stays in training"):
        fit_classes(data=(x, y), validation=0.2)
    with pytest.warns(UserWarning, match="^validation: 2 rows cannot hold all 3 labels; drawn at random") as told:
        fit_classes(data=(x, y), validation=0.03)
    assert told[0].filename == __file__


def test_weights_follow_their_rows_when_a_fraction_is_set_aside():
    x, y = numbers()
    weight = (y > 0).astype(float)
    bad = np.where(weight, y, 1e6)  # rows of weight 0 must not matter
    a, b = (fit(data=(x, target), weight=weight, validation=0.25) for target in (np.where(weight, y, 0), bad))
    assert_same_bits(a.params, b.params)


ZEROS = np.arange(60) % 3 == 0
"""Rows of weight 0, which hold what no training could bear."""


def with_zeros(weight):
    x, y = classes()
    return np.where(ZEROS[:, None], nan, x), np.where(ZEROS, -1, y), np.where(ZEROS, 0, weight)


def mapped(tmp_path, x):
    np.save(tmp_path / "x.npy", x)
    return np.load(tmp_path / "x.npy", mmap_mode="r")


@pytest.mark.parametrize("weight", [1, np.linspace(1, 2, 60)], ids=["ones", "weights"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"validation": 0.25},
        {"validation": classes(9)},
        {"validation": 0.25, "class_weight": "balanced"},
        {"class_weight": {0: 1.0, 1: 2.0, 2: 3.0}, "batch_size": 50},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "as_x", [lambda _, x: x, mapped, lambda _, x: sparse.csr_array(x)], ids=["array", "map", "csr"]
)
def test_rows_of_weight_zero_are_left_out_whatever_they_hold(tmp_path, as_x, settings, weight):
    """The network has a BatchNorm and a Dropout: their statistics and masks do not see them either."""
    x, y, w = with_zeros(weight)
    settings = {"metrics": {"f1": metrics.f1}, **settings}
    if as_x(tmp_path, x) is not x:
        net = serial(Dense(8), BatchNorm(), Dropout(0.2), Dense(3))
        settings |= {"net": net, "params": params_of(net)}
    result = fit_classes(data=(as_x(tmp_path, x), y), weight=w, **settings)
    kept = (x[~ZEROS], y[~ZEROS])
    settings["batch_size"] = min(settings.get("batch_size", 8), len(kept[1]))
    without = fit_classes(data=(as_x(tmp_path, kept[0]), kept[1]), weight=w[~ZEROS], **settings)
    assert_same_bits(result[:3], without[:3])


def test_rows_of_weight_zero_within_batches_are_left_out_and_batches_of_only_such():
    x, y, w = with_zeros(1.0)
    parts = [slice(a, a + 20) for a in (0, 20, 40)]
    result = fit_classes(data=[*((x[p], y[p], w[p]) for p in parts), (x[:5] * nan, y[:5] - 9, w[:5] * 0)])
    kept = [np.flatnonzero(~ZEROS[p]) + p.start for p in parts]
    assert_same_bits(result[:3], fit_classes(data=[(x[k], y[k], w[k]) for k in kept])[:3])


def test_weights_and_class_weights_belong_to_the_rows_that_are_set_aside():
    x, _ = numbers()
    odd = np.arange(40) % 2
    settings = {"net": Dense(1, bias=False), "params": {"w": np.zeros((4, 1))}, "optimizer": optim.sgd(1e-9)}
    scores = fit(data=(x, np.where(odd, 0.0, 50.0)), weight=odd, validation=0.5, **settings).history
    assert max(scores["val_loss"] + scores["loss"]) < 1e-6
    by_class = fit(data=(x, odd), class_weight={0: 1, 1: 3}, validation=0.5, loss=losses.mse, **settings)
    by_row = fit(data=(x, odd), weight=1 + 2 * odd, validation=0.5, loss=losses.mse, **settings)
    assert by_class.history == by_row.history


def test_a_validation_pair_may_bring_weights_and_evaluate_and_history_agree():
    x, y, w = with_zeros(np.linspace(1, 2, 60))
    seen = []

    def like_scikit_learn(y_true, y_pred, sample_weight=None):
        seen.append(sample_weight)
        return metrics.accuracy(y_true, y_pred, weight=sample_weight)

    scored = {"accuracy": metrics.accuracy, "same": like_scikit_learn, "plain": lambda t, p: np.mean(t == p)}
    result = fit_classes(validation=(x, y, w), metrics=scored, class_weight={0: 1, 1: 2, 2: 9})
    kept = x[~ZEROS], y[~ZEROS]
    for data, weight in (((x, y), w), (kept, w[~ZEROS])):
        scores = fmlp.evaluate(
            CLASSIFIER, result.params, data, loss=losses.cross_entropy, metrics=scored, weight=weight
        )
        assert {name: result.history[f"val_{name}"][-1] for name in scores} == scores
    output = fmlp.predict(CLASSIFIER, result.params, kept[0])
    assert scores["loss"] == losses.cross_entropy(output, kept[1], weight=w[~ZEROS])
    assert scores["accuracy"] == metrics.accuracy(kept[1], output.argmax(1), weight=w[~ZEROS])
    assert scores["accuracy"] == scores["same"]
    assert scores["plain"] == np.mean(kept[1] == output.argmax(1)) != scores["accuracy"]
    assert seen[0] is None  # of classes, which only the loss weighs


# ------------------------------------------------------------------------------- what is not finite


@fmlp.differentiable
def poisoned_rule(params, x, *, train=False, key=None):
    return x * params["s"], lambda dy: iter([{"s": np.float32(nan) * params["s"]}, dy * params["s"]])


POISONED = Layer(lambda key, shape: (shape, {"s": np.ones(shape, np.float32)}), poisoned_rule)


def nan_at(step):
    steps = count()

    @fmlp.differentiable
    def loss(prediction, y, *, weight=None):
        value, pullback = losses.mse.rule(prediction, y, weight=weight)
        return (np.float32(nan) if next(steps) == step else value), pullback

    return loss


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": nan_at(0)}, "^epoch 0, step 0: the loss is nan .* the largest is 0.774, in dense_0/w"),
        ({"loss": nan_at(7)}, "^epoch 1, step 2: the loss is nan though all parameters are finite"),
        ({"optimizer": optim.sgd(1e39)}, r"^epoch 0, step 0: the update made dense_\d/\w infinite; .*learning rate"),
        ({"optimizer": optim.sgd(1e25)}, r"^epoch 0, step [0-4]: the .* learning rate|^epoch 0, step \d: the loss is"),
        ({"net": serial(Dense(3), POISONED, Dense(1))}, "^epoch 0, step 0: the gradient of poisoned_rule_1/s is not"),
        (
            {"net": serial(Dense(3), POISONED, Dense(1)), "batch_size": 40},  # found when the epoch ends
            "^epoch 0, step 0: the gradient of poisoned_rule_1/s is not finite",
        ),
    ],
)
def test_what_is_not_finite_is_named_and_the_last_good_parameters_are_kept(settings, message):
    with pytest.raises(NonFiniteError, match=message) as error:
        fit(**settings)
    assert all(np.isfinite(leaf).all() for leaf in tree.leaves(error.value.params))
    start = params_of(settings.get("net", MLP))
    if "step 0: the gradient" in str(error.value) or "step 0: the update" in str(error.value):
        assert_same_bits(error.value.params, start)


def test_the_last_good_parameters_are_those_before_the_bad_gradient():
    def bad_at(step, worse):
        rows = NUMBERS[1][8 * step : 8 * step + 8]

        @fmlp.differentiable
        def loss(prediction, y, *, weight=None):
            value, pullback = losses.mse.rule(prediction, y, weight=weight)
            return worse(value, pullback) if np.array_equal(y, rows) else (value, pullback)

        return loss

    reached = fit(loss=bad_at(3, interrupt), shuffle=False).params
    bad = bad_at(3, lambda value, pullback: (value, lambda dy: pullback(np.float32(nan))))
    with pytest.raises(NonFiniteError, match=r"^epoch 0, step 3: the gradient of") as error:
        fit(loss=bad, shuffle=False)
    assert_same_bits(error.value.params, reached)


# -------------------------------------------------------------------------------------- progress


def test_the_bar_shows_epoch_loss_and_scores_or_nothing(capsys):
    fit(progress=True, metrics={"r2": metrics.r2}, validation=0.2)
    out, err = capsys.readouterr()
    assert out == ""
    for text in ("epoch 3/3", "loss=", "lr=0.01", "val_r2=", "12/12"):
        assert text in err
    fit(progress=False)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("columns", "behind"),
    [
        (None, "loss=0.1250, r2=0.5000, val_loss=0.2500, val_r2=0.3000, lr=0.001"),
        (110, "loss=0.1250, r2=0.5000, val_loss=0.2500, val_r2=0.3000, lr=0.001"),
        (80, "loss=0.125/0.25, r2=0.5/0.3, lr=0.001"),
    ],
)
def test_the_bar_keeps_all_scores_in_a_narrow_terminal(columns, behind):
    with tqdm(total=10, ncols=columns, file=io.StringIO()) as bar:
        bar.set_description("epoch 12/40")
        fmlp.progress._show(bar, {"loss": 0.125, "r2": 0.5, "val_loss": 0.25, "val_r2": 0.3, "lr": 0.001})
        assert behind in str(bar)
        assert len(str(bar)) <= (columns or 200)
        fmlp.progress._show(bar, {"val_r2": 0.3} | {f"metric_{i}": 0.1 for i in range(9)})
        assert "val_r2=0.3" in str(bar)
    with tqdm(ncols=columns, file=io.StringIO()) as bar:  # how long it takes is not known: no percentage
        fmlp.progress._show(bar, {f"metric_{i}": 0.1 for i in range(9)})
        assert "metric_0=0.1000" in str(bar)


@pytest.mark.parametrize("error", [NonFiniteError("diverged", {}), tree._MismatchError("a/b", "expected a leaf")])
def test_errors_come_back_from_other_processes(error):
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back)) == (type(error), str(error))


def test_a_layer_that_copies_its_batch_norms_parameters_cannot_be_calibrated():
    norm = BatchNorm()

    @fmlp.differentiable
    def copying(params, x, *, train=False, key=None):
        return norm.apply.rule(tree.map(np.copy, params), x, train=train, key=key)

    net = serial(Dense(2), Layer(norm.init, copying))
    with pytest.raises(ValueError, match="calibrate: a layer hands copies of its parameters to BatchNorm"):
        fmlp.calibrate(net, net.init(random.key(0), (4,))[1], NUMBERS[0])


def test_the_bar_works_for_batches_of_unknown_number(capsys):
    x, y = numbers()

    class Batches:
        def __iter__(self):
            return iter([(x, y), (x, y)])

    fit(data=Batches(), progress=True)
    assert "epoch 3/3" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------- errors


@fmlp.differentiable
def untouchable(params, x, *, train=False, key=None):
    raise AssertionError("apply was called")


UNTOUCHED = Layer(Dense(1).init, untouchable)
X, Y = numbers()
HOLED = np.where(X > 1, nan, X)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"net": Dense},
            TypeError,
            r"^net: expected a layer, .* got the function Dense; call the constructor: Dense\(\)",
        ),
        ({"net": None}, TypeError, "^net: expected a layer, .* got None"),
        (
            {"optimizer": optim.adam},
            TypeError,
            "^optimizer: expected an optimizer, .* got the function adam; call it",
        ),
        ({"loss": np.mean}, TypeError, "^loss: mean has no vjp"),
        ({"key": 0}, TypeError, "^key: expected a key, .* got 0"),
        ({"epochs": 0}, ValueError, "^epochs: expected an integer of at least 1, got 0"),
        ({"epochs": 1.5}, TypeError, "^epochs: expected an integer of at least 1, got 1.5"),
        ({"batch_size": 0}, ValueError, "^batch_size: expected an integer of at least 1, got 0"),
        ({"batch_size": 41}, ValueError, "^batch_size: expected at most 40, the number of rows to train on, got 41"),
        ({"batch_size": True}, TypeError, "^batch_size: .* got True"),
        ({"params": {"w": HOLED}}, ValueError, "^params: expected finite numbers, got NaN or infinity in w"),
        ({"data": X}, TypeError, r"^data: expected batches \(x, y\) or \(x, y, weight\), .* got ndarray whose"),
        ({"data": None}, TypeError, r"^data: expected a pair \(x, y\) of arrays or an iterable .*, got NoneType"),
        ({"data": ((x, Y) for x in X)}, TypeError, "^data: .* that starts again in each epoch, got generator"),
        ({"data": (X, Y, Y)}, TypeError, "^data: expected batches .* got tuple of 3 whose first item is ndarray"),
        ({"data": []}, ValueError, "^data: expected at least one batch in every epoch"),
        ({"data": (X, Y[1:])}, ValueError, r"^data: expected x and y with the same number .* \(40, 4\), \(39,\)"),
        ({"data": (X[:0], Y[:0])}, ValueError, r"^data: expected at least one row, got shapes \(0, 4\), \(0,\)"),
        ({"data": (X.tolist(), Y)}, ValueError, "^data: expected arrays .* got numbers in list of 40"),
        ({"data": (X, 3.0)}, ValueError, "^data: expected arrays with the examples along the first axis"),
        ({"data": (HOLED, Y)}, ValueError, r"^data: x: expected finite numbers, got nan at index .* \(40, 4\)"),
        (
            {"data": (X, np.full(40, inf))},
            ValueError,
            r"^data: y: expected finite .* got inf at index .* \(40,\)",
        ),
        ({"validation": (X[:, :3], Y)}, ValueError, r"^validation: expected .* \[\(4,\)\], .* got \[\(3,\)\]"),
        ({"validation": (X, Y[1:])}, ValueError, "^validation: expected x and y with the same number of rows"),
        ({"validation": (HOLED, Y)}, ValueError, "^validation: x: expected finite numbers"),
        ({"validation": X}, TypeError, r"^validation: expected a pair \(x, y\) or a fraction .* got an array"),
        ({"validation": 1}, TypeError, "^validation: .* got 1"),
        ({"validation": 1.5}, ValueError, r"^validation: expected a fraction in \(0, 1\) or a pair .*, got 1.5"),
        ({"validation": 0.0}, ValueError, r"^validation: expected a fraction in \(0, 1\) .* got 0.0"),
        ({"validation": 0.001}, ValueError, "^validation: 0.001 of 40 rows leaves one side empty"),
        ({"validation": 0.5, "data": [(X, Y)]}, TypeError, "^data: expected a pair"),
        ({"weight": np.ones(39)}, ValueError, r"^weight: expected shape \(40,\), one per row, got \(39,\)"),
        ({"weight": np.ones(41), "validation": 0.5}, ValueError, r"^weight: expected shape \(40,\), .* got \(41,\)"),
        ({"weight": np.ones(39), "validation": 0.5}, ValueError, r"^weight: expected shape \(40,\), .* got \(39,\)"),
        ({"weight": -np.ones(40)}, ValueError, "^weight: expected finite numbers of at least 0, .* got -1.0 to -1.0"),
        (
            {"weight": np.linspace(-1, 2, 40)},
            ValueError,
            "^weight: expected finite numbers of at least 0, .* got -1.0 to 2",
        ),
        ({"weight": np.zeros(40)}, ValueError, "^weight: .* not all 0, got 0.0 to 0.0"),
        ({"validation": (X, Y, np.ones(3))}, ValueError, r"^validation: weight: expected shape \(40,\), .* got \(3,\)"),
        ({"validation": (X, Y, -np.ones(40))}, ValueError, "^validation: weight: .* at least 0, .* got -1.0 to -1.0"),
        ({"validation": (X, Y, Y, Y)}, TypeError, r"^validation: expected a pair \(x, y\) .* got a tuple of 4"),
        ({"weight": np.full(40, nan)}, ValueError, "^weight: expected finite .* got nan"),
        ({"weight": np.ones(40), "data": [(X, Y)]}, ValueError, "^weight, class_weight: batches bring their own w"),
        ({"class_weight": "balance"}, TypeError, "^class_weight: expected a dict .* or 'balanced', got 'balance'"),
        ({"class_weight": 1.0}, TypeError, r"^class_weight: expected a dict .* got 1.0"),
        ({"class_weight": [1.0]}, TypeError, r"^class_weight: an array .* but the labels are float32; pass dict\(zip"),
        (
            {"class_weight": dict.fromkeys(Y.tolist(), -1)},
            ValueError,
            r"^class_weight\[-2\.07.* got -1",
        ),
        ({"metrics": {"f": 1}}, TypeError, "^metrics: f: expected a function .* got 1"),
        ({"metrics": {"loss": metrics.r2}}, ValueError, "^metrics: the name 'loss' is taken"),
        ({"metrics": {"val_r2": metrics.r2}}, ValueError, "^metrics: the name 'val_r2' is taken"),
        ({"callbacks": print}, TypeError, "^callbacks: expected a list of functions"),
        ({"callbacks": [None]}, TypeError, r"^callbacks: .* got \[None\]"),
        ({"early_stopping": 5}, TypeError, "^early_stopping: expected an EarlyStopping, got 5"),
        (
            {"early_stopping": EarlyStopping("val_loss"), "metrics": {"r2": metrics.r2}},
            ValueError,
            "^early_stopping: expected to monitor one of loss, r2; got 'val_loss'",
        ),
        (
            {"early_stopping": EarlyStopping("accuracy"), "validation": 0.5},
            ValueError,
            "^early_stopping: expected to monitor one of loss, val_loss; got 'accuracy'",
        ),
        (
            {"early_stopping": EarlyStopping("r2"), "data": [(X, Y)], "metrics": {"r2": metrics.r2}},
            ValueError,
            "^early_stopping: expected to monitor one of loss; got 'r2'",
        ),
        ({"metrics": metrics.r2}, TypeError, "^metrics: expected a dict from names to functions"),
        ({"metrics": [metrics.r2]}, TypeError, "^metrics: expected a dict from names to functions"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(settings, error, message, capsys):
    given = {"net": UNTOUCHED, "params": params_of(Dense(1)), "progress": True} | settings
    with pytest.raises(error, match=message):
        fit(**given)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: EarlyStopping("loss", mode="low"), ValueError, "^mode: expected one of 'min', 'max', got 'low'"),
        (lambda: EarlyStopping("loss", patience=-1), ValueError, "^patience: .* at least 0, got -1"),
        (lambda: EarlyStopping("loss", patience=1.5), TypeError, "^patience: expected an integer .* got 1.5"),
        (lambda: EarlyStopping("loss", min_delta=nan), ValueError, "^min_delta: .* got nan"),
        (lambda: EarlyStopping("loss", start_from_epoch=0.5), TypeError, "^start_from_epoch: .* got 0.5"),
        (lambda: fmlp.predict(MLP, params_of(MLP), X, batch_size=0), ValueError, "^batch_size: .* got 0"),
        (
            lambda: fmlp.predict(MLP, params_of(MLP), [1.0, 2.0]),
            TypeError,
            "^x: expected an array.* got a list of float",
        ),
        (lambda: fmlp.predict(MLP, params_of(MLP), ()), TypeError, "^x: expected an array.* got a tuple of NoneType"),
        (lambda: fmlp.calibrate(MLP, params_of(MLP), X, batch_size=0), ValueError, "^batch_size: .* got 0"),
        (lambda: fmlp.evaluate(MLP, params_of(MLP), X), TypeError, r"^data: expected a pair .* got ndarray"),
        (
            lambda: fmlp.evaluate(MLP, params_of(MLP), (X, Y[1:]), loss=losses.mse),
            ValueError,
            r"^data: expected x and y with the same number of rows, got shapes \(40, 4\), \(39,\)",
        ),
        (
            lambda: fmlp.evaluate(CLASSIFIER, params_of(CLASSIFIER), classes(), loss=losses.cross_entropy),
            ValueError,
            "^batch_norm_1/mean: never computed; call params = fmlp.calibrate",
        ),
    ],
)
def test_the_relatives_refuse_as_well(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_sparse_data_train_as_dense_data_do():
    x, y = classes()
    x = np.where(x > 0.3, x, 0)
    settings = {"loss": losses.cross_entropy, "metrics": {"accuracy": metrics.accuracy}, "validation": 0.25}
    dense, by_csr, by_coo = (
        fit(CLASSIFIER, (f(x), y), **settings) for f in (np.array, sparse.csr_matrix, sparse.coo_array)
    )
    for name, values in dense.history.items():
        np.testing.assert_allclose(by_csr.history[name], values, rtol=1e-4)
        assert by_csr.history[name] == by_coo.history[name]
    predicted = fmlp.predict(CLASSIFIER, dense.params, sparse.csr_array(x), batch_size=7)
    np.testing.assert_allclose(predicted, fmlp.predict(CLASSIFIER, dense.params, x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="expected x and y with the same number of rows"):
        fit(CLASSIFIER, (sparse.csr_array(x), y[:-1]), **settings)


def masked(a):
    return np.ma.masked_array(a, np.zeros(np.shape(a), bool))


FIVE = np.ones((40, 4), np.float32), np.zeros(40, int), np.ones(40)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("data: x", lambda x, y, w: fit(data=(x, y))),
        ("data: x/1", lambda x, y, w: fit(data=((FIVE[0], x), y))),
        ("data: y", lambda x, y, w: fit(data=(FIVE[0], y))),
        ("weight", lambda x, y, w: fit(weight=w)),
        ("class_weight", lambda x, y, w: fit(data=FIVE[:2], class_weight=w)),
        ("validation: x", lambda x, y, w: fit(validation=(x, y))),
        ("validation: weight", lambda x, y, w: fit(validation=(*FIVE[:2], w))),
        ("data: x", lambda x, y, w: fit(data=[(x, y)])),
        ("data: y", lambda x, y, w: fit(data=[(FIVE[0], y)])),
        ("params: w", lambda x, y, w: fit(Dense(1), params={"w": w[:4, None], "b": np.zeros(1)})),
        ("x", lambda x, y, w: fmlp.predict(MLP, params_of(MLP), x)),
        ("x/a", lambda x, y, w: fmlp.predict(MLP, params_of(MLP), {"a": x}, batch_size=7)),
        ("params: b", lambda x, y, w: fmlp.predict(Dense(1), {"w": np.ones((4, 1)), "b": w[:1]}, FIVE[0])),
        ("params: b", lambda x, y, w: fmlp.calibrate(Dense(1), {"w": np.ones((4, 1)), "b": w[:1]}, FIVE[0])),
        ("data: x", lambda x, y, w: fmlp.evaluate(MLP, params_of(MLP), (x, y), loss=losses.mse)),
        ("x", lambda x, y, w: fmlp.calibrate(MLP, params_of(MLP), x)),
        ("dense_0/x", lambda x, y, w: MLP.apply(params_of(MLP), x)),
        ("x", lambda x, y, w: Flatten().apply({}, x)),
        ("x", lambda x, y, w: Embedding(2, 2).apply({"w": np.ones((2, 2))}, y)),
        ("x", lambda x, y, w: fan_in_concat().apply({}, (x, x))),
        ("w", lambda x, y, w: fmlp.save("/dev/null", {"w": w})),
        ("tree", lambda x, y, w: tree.ravel({"w": w})),
        ("tree", lambda x, y, w: tree.cast({"w": w}, np.float32)),
        ("x", lambda x, y, w: fmlp.data.train_test_split(x, y)),
        ("y", lambda x, y, w: fmlp.data.train_test_split(FIVE[0], y)),
    ],
)
def test_masked_arrays_are_refused_by_name(name, call):
    with pytest.raises(TypeError, match=f"^{name}: expected an array without a mask, .* leave out"):
        call(*map(masked, FIVE))


@pytest.mark.parametrize("kind", ["dok_matrix", "dok_array", "lil_array"])
def test_every_kind_of_sparse_matrix_is_one_array(kind):
    x, y = classes()
    x = np.where(x > 0.3, x, 0)
    odd, csr = getattr(sparse, kind)(x), sparse.csr_array(x)
    settings = {"net": CLASSIFIER, "loss": losses.cross_entropy, "validation": 0.25, "metrics": {"a": metrics.accuracy}}
    result = fit(data=(odd, y), **settings)
    assert_same_bits(result[:3], fit(data=(csr, y), **settings)[:3])
    assert_same_bits(fit(CLASSIFIER, [(odd, y)], loss=losses.cross_entropy).params,
                     fit(CLASSIFIER, [(csr, y)], loss=losses.cross_entropy).params)  # fmt: skip
    for f in (lambda a: fmlp.predict(CLASSIFIER, result.params, a, batch_size=7),
              lambda a: fmlp.calibrate(CLASSIFIER, result.params, a),
              lambda a: fmlp.evaluate(CLASSIFIER, result.params, (a, y), loss=losses.cross_entropy)):  # fmt: skip
        assert_same_bits(f(odd), f(csr))
    assert tree.leaves({"a": odd}) == [odd]
    assert tree.paths([odd]) == ["0"]
    assert tree.unflatten(odd, [1]) == tree.map(lambda leaf: 1, odd) == 1


def test_a_table_of_numbers_and_booleans_is_an_array():
    pandas = pytest.importorskip("pandas")
    x, y = classes()
    whole = pandas.array((x[:, 1] * 9).astype(int), dtype="Int64")
    table = pandas.DataFrame({"a": x[:, 0], "b": whole, "c": x[:, 2] > 0, "d": pandas.arrays.SparseArray(x[:, 3])})
    array = np.stack([x[:, 0], whole.to_numpy(np.float64), x[:, 2] > 0, x[:, 3]], 1)
    settings = {"validation": 0.25, "epochs": 1}
    result = fit_classes(data=(table, pandas.Series(y, dtype="Int64")), **settings)
    assert_same_bits(result[:3], fit_classes(data=(array, y), **settings)[:3])
    for size in (7, 100):
        expected = fmlp.predict(CLASSIFIER, result.params, array, batch_size=size)
        assert_same_bits(fmlp.predict(CLASSIFIER, result.params, table, batch_size=size), expected)
    assert_same_bits(fmlp.data.moments(table), fmlp.data.moments(array))
    assert_same_bits(fmlp.data.train_test_split(table, y), fmlp.data.train_test_split(array, y))
    with pytest.raises(ValueError, match=r"^data: x: expected finite numbers, got nan at index \(0, 1\)"):
        fit_classes(data=(table.assign(b=pandas.array([None, *whole[1:]], dtype="Int64")), y))
    with pytest.raises(TypeError, match=r"^data: x: expected numbers in column 'c', got dtype (str|object)"):
        fit_classes(data=(table.assign(c="text"), y))


@pytest.mark.parametrize("kind", [tuple, list])
def test_a_tuple_of_two_batches_is_a_list_of_two(kind):
    x, y = classes()
    batches = [kind((x[:20], y[:20])), kind((x[20:], y[20:], np.ones(40)))]
    assert_same_bits(fit_classes(data=tuple(batches))[:3], fit_classes(data=batches)[:3])
    assert not is_pair(tuple(batches))
    for pair in [
        (x, y),
        ((x, x), y),
        ((x, x), y.tolist()),
        ((x[:2], x[:2]), [[0], [1]]),
        ((x, x), (y, y)),
        ([x, x], y),
    ]:
        assert is_pair(pair)


def test_targets_are_looked_at_before_the_first_step():
    """All of them: a bad label may stand in the last batch only, or among the validation data."""
    x, y = classes()
    seen = []

    @fmlp.differentiable
    def recording(params, x, *, train=False, key=None):
        if train is True:
            seen.append(x)
        return x, lambda dy: ({}, dy)

    net = serial(Dense(3), Layer(lambda key, shape: (shape, {}), recording))
    bad = y.copy()
    bad[-1] = 3
    for data, validation, name in (((x, bad), None, "data"), ((x, y), (x, bad), "validation")):
        with pytest.raises(ValueError, match=f"^{name}: y: expected labels from 0 to 2, got values from 0 to 3"):
            fit(net=net, params=params_of(net), data=data, validation=validation, loss=losses.cross_entropy)
    assert not seen


def test_callbacks_get_calibrated_parameters_and_the_last_epoch_too():
    seen = []

    def score(epoch):
        seen.append(fmlp.evaluate(CLASSIFIER, epoch.params, classes(), loss=losses.cross_entropy)["loss"])

    result = fit(
        net=CLASSIFIER,
        params=params_of(CLASSIFIER),
        data=classes(),
        loss=losses.cross_entropy,
        epochs=6,
        callbacks=[score],
        early_stopping=EarlyStopping("loss", mode="max", patience=2),
    )
    assert result.stopped == "early"
    assert len(seen) == len(result.history["loss"])
    assert seen[-1] == fmlp.evaluate(CLASSIFIER, result.params, classes(), loss=losses.cross_entropy)["loss"]


def test_a_callback_that_returns_something_else_is_named():
    with pytest.raises(TypeError, match=r"^callbacks: expected an Epoch or None from .* got True"):
        fit(callbacks=[lambda epoch: True])


@pytest.mark.parametrize(
    ("callback", "got"),
    [
        (lambda epoch: epoch._replace(history=None), "None"),
        (lambda epoch: epoch._replace(history={**epoch.history, "note": ["x"]}), r"\['x'\] as 'note'"),
        (lambda epoch: epoch._replace(history={**epoch.history, "note": [1.0, None]}), r"\[1.0, None\] as 'note'"),
        (lambda epoch: epoch._replace(history={**epoch.history, 1: [0.0]}), r"\[0.0\] as 1"),
        (lambda epoch: epoch.history.update(mine=1.0), "1.0 as 'mine'"),
        (lambda epoch: epoch.history.update(mine="1"), "'1' as 'mine'"),
    ],
)
def test_a_callback_that_breaks_the_history_is_named(callback, got):
    names = r"^callbacks: expected <function .*lambda.*> to leave a history of names and lists of numbers, got"
    with pytest.raises(TypeError, match=f"{names} {got}"):
        fit(callbacks=[callback])


def test_a_callback_may_add_numbers_of_numpy(tmp_path):
    def add(epoch):
        numbers = {"one": np.float32(0.5), "two": np.array(2), "three": np.True_}
        return epoch._replace(history=epoch.history | {name: [value] for name, value in numbers.items()})

    history = fit(callbacks=[add], checkpoint=tmp_path / "run.npz").history
    assert history["one"] == [0.5]


@pytest.mark.parametrize("optimizer", [optim.chain(optim.clip(1.0), optim.sgd(0.1)), optim.lion(0.1)])
def test_an_infinite_gradient_is_not_squashed(optimizer):
    @fmlp.differentiable
    def exploding(params, x, *, train=False, key=None):
        return x * params["s"], lambda dy: ({"s": np.full_like(params["s"], inf)}, dy)

    net = serial(Dense(1), Layer(lambda key, shape: (shape, {"s": np.ones(1, np.float32)}), exploding))
    with pytest.raises(NonFiniteError, match=r"^epoch 0, step 0: the gradient of exploding_1/s is not finite"):
        fit(net=net, params=params_of(net), optimizer=optimizer)


@pytest.mark.parametrize("rate", [1e3, 1e6, 1e10, 1e20, 1e30])
def test_divergence_is_an_error_that_names_a_leaf_and_no_warning(rate):
    with pytest.raises(NonFiniteError, match=r"dense_\d/[wb].*learning rate"):
        fit(optimizer=optim.sgd(rate), epochs=50)


def test_a_loss_without_weights_and_in_float64_trains_float32():
    @fmlp.differentiable
    def squares(prediction, y):
        d = prediction - y
        return (d * d).mean(), lambda dy: (dy * 2 * d / d.size, None)

    x, y = numbers()
    y = y[:, None].astype(np.float64)
    _, grads = fmlp.value_and_grad(fmlp.objective(MLP.apply, squares))(params_of(MLP), x, y)
    assert {leaf.dtype for leaf in tree.leaves(grads)} == {np.dtype(np.float32)}
    result = fit(data=(x, y), loss=squares)
    assert {leaf.dtype for leaf in tree.leaves(result.params)} == {np.dtype(np.float32)}
    assert fmlp.evaluate(MLP, result.params, (x, y), loss=squares)["loss"] > 0
