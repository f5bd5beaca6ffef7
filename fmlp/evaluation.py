"""Networks at work: `predict`, `evaluate`, and `calibrate`, which works out BatchNorm's statistics."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from math import prod
from typing import Any

import numpy as np

from fmlp import losses, random, tree
from fmlp.arguments import function, given, hinting, inside, integer, is_number
from fmlp.autodiff import batch_weight, call_loss, check_output, row_weights_of
from fmlp.batches import Examples, check_finite, count_rows, examples, in_turn, inputs, is_pair, kind, slices, take
from fmlp.distributed import Alone, group_of
from fmlp.jit import AFTER, Jitted, kept
from fmlp.layers import Layer, check_net
from fmlp.metrics import has_a_name, wants_output, wants_scores, weight_keyword
from fmlp.statistics import Calibration, pooled
from fmlp.threads import in_threads
from fmlp.tree import Array, Tree

__all__ = ["calibrate", "evaluate", "predict"]

Metric = Callable[[Any, Any], float]

ON_OUTPUT = "fmlp.metrics.on_output(f) gives a metric the probabilities"


def predict(net: Layer, params: Tree, x: Any, *, batch_size: int = 1024) -> Any:
    """Return ``net.apply(params, x)``, worked out in batches that fit the cache; x may be a tree of arrays.

    Batches of a network that is not small are worked on in one thread for each core (`fmlp.threads`). The result shares
    no memory with `x`. A row of `x` with a NaN gives a NaN: `x` is not searched for them. Raises
    ValueError or TypeError for what does not fit.

    >>> from fmlp.layers import Dense
    >>> predict(Dense(1), {"w": np.array([[2.0]]), "b": np.zeros(1)}, np.array([[1.0], [2.0]]))
    array([[2.],
           [4.]])
    """
    if not isinstance(net, Layer):
        check_net(net)
    if type(batch_size) is not int or batch_size < 1:
        batch_size = integer("batch_size", batch_size)
    tree.check_unmasked("params", params)
    x = inputs("x", x)
    n = count_rows(x)
    apply = kept(net.apply, (), lambda: Jitted(net.apply, after=AFTER))
    if n <= batch_size:
        return tree.map(np.array, apply(params, take(x, slice(None))))  # Identity() returns x itself
    parts = in_turn(x, slices(n, batch_size))
    outputs = in_threads(lambda part: apply(params, part), parts, batch_size * tree.size(params))
    return tree.map(lambda *parts: np.concatenate(parts), *outputs)


@hinting
def evaluate(
    net: Layer,
    params: Tree,
    data: tuple[Any, Any],
    *,
    loss: Callable[..., Any] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    weight: Any = None,
    batch_size: int = 1024,
    comm: Any = None,
) -> dict[str, float]:
    """Return the loss, under "loss", and the metrics of the network's predictions at inference.

    `metrics` get ``(y_true, y_pred)`` with y_pred read off the network's output as the loss says (`losses.Loss`): the
    prediction, the probabilities for functions marked by `metrics.on_output`, or without a loss the output itself.
    `weight` gives each row a weight, in the loss and in metrics that have an argument ``weight`` or ``sample_weight``;
    rows of weight 0 are left out, whatever they hold. With `comm`, as in `fit`, the data are those of all ranks: each
    predicts its own, rank 0 works out the metrics, and all return the same.

    Raises ValueError or TypeError before any work for arguments that do not fit, and for a NaN or an infinity in arrays
    that are not memory-mapped.

    >>> from fmlp import metrics
    >>> from fmlp.layers import Dense
    >>> params = {"w": np.eye(2), "b": np.zeros(2)}
    >>> data = np.array([[2.0, 0.0], [0.0, 2.0]]), np.array([0, 0])
    >>> scores = evaluate(Dense(2), params, data, loss=losses.cross_entropy, metrics={"accuracy": metrics.accuracy})
    >>> round(scores["loss"], 6), scores["accuracy"]
    (1.126928, 0.5)
    """
    check_net(net)
    if not is_pair(data):
        raise TypeError(f"data: expected a pair (x, y) of arrays, got {kind(data)}")
    if loss is None and not metrics:
        raise ValueError("loss, metrics: expected at least one of them, got neither")
    if loss is not None:
        function("loss", loss, "a function (prediction, y) -> number, such as losses.mse")
        check_output(net.apply, loss)
    check_metrics(metrics, loss)
    group = group_of(comm)
    group.same(lambda: {"called": "evaluate"})
    rows = examples("data", data, weight, None, group)
    return evaluated(net, params, rows, loss, metrics or {}, group, batch_size=batch_size)


def evaluated(
    net: Layer,
    params: Tree,
    rows: Examples,
    loss: Any,
    metrics: Mapping[str, Metric],
    group: Alone,
    only_metrics: bool = False,
    batch_size: int = 1024,
) -> dict[str, float]:
    """Work out the loss, if there is one and it is wanted, and the metrics of rows that were checked."""
    output = predict(net, params, rows.x, batch_size=batch_size)
    scores = {}
    if loss is not None and not only_metrics:
        weight = rows.loss_weight
        value = _number("loss", call_loss(loss, output, rows.y, weight)) if len(rows.y) else 0.0
        scores["loss"] = group.mean(value, batch_weight(loss, rows.y, weight))
    if metrics:
        scores |= group.share(_measured(output, rows, loss, metrics, group))
    return scores


def calibrate(net: Layer, params: Tree, x: Any, *, batch_size: int = 1024, comm: Any = None) -> Tree:
    """Return `params` with the population statistics of every BatchNorm worked out from `x`.

    The moments of training-mode batches, with dropout off, are averaged by rows: mean = Σ n m / Σ n, var =
    Σ n (v + (m - mean)²) / Σ n. They are a pure function of the parameters and the data: call it again after more
    training. Without a BatchNorm in `net` the parameters come back as they are. With `comm`, as in `fit`, the data are
    those of all ranks, and the statistics the very ones that one process works out from all the rows.

    Raises ValueError for a NaN or an infinity in arrays that are not memory-mapped, and for batches of one row.

    Wu and Johnson 2021, arXiv 2105.07576.

    >>> from fmlp.layers import BatchNorm
    >>> net = BatchNorm()
    >>> _, params = net.init(random.key(0), (1,))
    >>> calibrate(net, params, np.array([[1.0], [2.0], [6.0]]))["mean"]
    array([3.], dtype=float32)
    """
    check_net(net)
    batch_size = integer("batch_size", batch_size)
    group = group_of(comm)
    group.same(lambda: {"called": "calibrate"})
    tree.check_unmasked("params", params)
    x = inputs("x", x)
    here = group.rows(count_rows(x))
    check_finite("x", x)
    return calibrated(net, params, here.whole(x, slices(here.total, batch_size), in_turn), group)


def calibrated(net: Layer, params: Tree, inputs: Iterable[Any], group: Alone, *, parts: bool = False) -> Tree:
    """Put the moments of inputs into the parameters. Each is one process's own, or of `parts` that all have of it."""
    # Copies, so that each leaf is an object of its own and can be told by its identity; in float32 instead of float16,
    # because layers would compute with copies.
    leaves = [np.array(leaf) for leaf in tree.leaves(params)]
    wide = tree.unflatten(params, [leaf.astype(np.float32) if leaf.dtype == np.float16 else leaf for leaf in leaves])
    moments_of = _moments_of(net, group.shard() if parts else None)
    found: list[tuple[tuple[int, ...], tuple[Any, ...]]] = []
    for x in inputs:
        if not (of_batch := moments_of(wide, x)):
            break
        found += of_batch
    if not parts:
        found = [moments for own in group.collect(found) for moments in own]
    gathered: dict[tuple[int, ...], list[tuple[Any, ...]]] = {}
    for places, moments in found:
        gathered.setdefault(places, []).append(moments)
    for places, layer in gathered.items():
        means, variances, n = (np.array(m, np.float64) for m in zip(*layer, strict=True))
        mean, var = pooled(means, variances, n)
        for i, statistic in zip(places, (mean, var, n.sum()), strict=True):
            leaves[i] = np.asarray(np.minimum(statistic, np.finfo(leaves[i].dtype).max), leaves[i].dtype)
    return tree.unflatten(params, leaves)


def _moments_of(net: Layer, shard: Any) -> Callable[[Tree, Any], list[tuple[tuple[int, ...], tuple[Any, ...]]]]:
    """Plan the function from parameters and rows to the moments of each BatchNorm, and where its statistics are."""
    key = random.key(0)  # for layers that insist on one in training

    def moments(params: Tree, x: Any) -> list[tuple[tuple[int, ...], tuple[Any, ...]]]:
        index = {id(leaf): i for i, leaf in enumerate(tree.leaves(params))}
        calibration = Calibration(shard)
        net.apply(params, x, train=calibration, key=key)
        found: list[tuple[tuple[int, ...], tuple[Any, ...]]] = []
        for node, *numbers in calibration.moments:
            places = tuple(index.get(id(node[name]), -1) for name in ("mean", "var", "count"))
            if -1 in places:
                raise ValueError(
                    "calibrate: a layer hands copies of its parameters to BatchNorm; expected the very arrays"
                )
            found.append((places, tuple(numbers)))
        return found

    return kept(net.apply, (shard and shard.comm,), lambda: Jitted(moments, after=AFTER))


def _measured(
    output: Array, rows: Examples, loss: Any, metrics: Mapping[str, Metric], group: Alone
) -> dict[str, float]:
    """Work out metrics of predictions, or of probabilities where they want the output, on the first process."""
    if not hasattr(output, "shape"):
        raise TypeError(
            f"metrics: expected a network with one output, got {kind(output)}; join the outputs with "
            "fan_in_concat(), or measure in a callback"
        )
    w = row_weights_of(loss)(rows.y, None)
    if w is not None and not np.all(w):  # ignored, or of a class of weight 0
        rows, output = rows.take(np.flatnonzero(w)), output[w != 0]
    predict, y_true, weight = losses.prediction_of(loss), np.asarray(rows.y), rows.weight
    y_pred = y_score = predict(output)
    if any(map(wants_output, metrics.values())):
        y_score = losses.probabilities_of(loss)(output)
    if y_true.shape == np.shape(output) and not _same_width(y_true, y_pred):  # rows of probabilities
        y_true = predict(y_true)
    y_pred, y_score = (p.reshape(y_true.shape) if _same_width(y_true, p) else p for p in (y_pred, y_score))
    y_true, y_pred, y_score, weight = group.joined(y_true, y_pred, y_score, weight)
    scores = {}
    for name, metric in metrics.items() if group.first else ():
        on_output = wants_output(metric)
        try:
            keyword = weight_keyword(metric) if weight is not None else None
            score = metric(y_true, y_score if on_output else y_pred, **({keyword: weight} if keyword else {}))
        except (TypeError, ValueError, IndexError) as error:
            advice = ""
            if loss is None:
                advice = "; pass loss=, which says how predictions are read off the output"
            elif not on_output and predict is not losses.as_is:
                advice = f"; it got predictions, y_pred of shape {y_pred.shape} and {y_pred.dtype}; {ON_OUTPUT}"
            raise inside(f"metrics: {name}", error, advice) from error
        scores[name] = _number(f"metrics: {name}", score)
    return scores


def _same_width(a: Array, b: Array) -> bool:
    """Tell whether rows of both hold as many numbers; of no rows, which a rank may have, the shapes tell."""
    return a.size == b.size and prod(a.shape[1:]) == prod(b.shape[1:])


def try_metrics(net: Layer, params: Tree, rows: Examples, loss: Any, metrics: Mapping[str, Metric]) -> None:
    """Try metrics on all targets before the training starts, next to the network's first two outputs, repeated.

    A lambda or a function within a function may count its calls: they are not tried.
    """
    if not metrics:
        return
    two = np.arange(2) % len(rows.y)
    first = net.apply(params, take(rows.x, two), train=Calibration(), key=random.key(0))
    many = np.resize(first, (len(rows.y), *first.shape[1:])) if hasattr(first, "shape") else first
    tried = {name: metric for name, metric in metrics.items() if has_a_name(metric)}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        _measured(many, rows, loss, tried, Alone())


def check_metrics(metrics: Any, loss: Any) -> None:
    if not isinstance(metrics, Mapping | None):
        raise TypeError(
            "metrics: expected a dict from names to functions (y_true, y_pred) -> float, such as "
            f"{{'accuracy': fmlp.metrics.accuracy}}, got {given(metrics)}"
        )
    for name, metric in (metrics or {}).items():
        if not isinstance(name, str):
            raise TypeError(f"metrics: expected names as keys, got {given(name)}")
        function(f"metrics: {name}", metric, "a function (y_true, y_pred) -> float")
        if losses.prediction_of(loss) is not losses.as_is and (wanted := wants_scores(metric)):
            raise ValueError(f"metrics: {name}: it takes {wanted}, but would get predictions; {ON_OUTPUT}")


def _number(name: str, value: Any) -> float:
    if not is_number(value):
        raise TypeError(f"{name}: expected it to return a number, got {given(value)}")
    return float(value)
