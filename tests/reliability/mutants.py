"""Break fmlp on purpose, one small edit at a time, and see whether the tests notice.

python tests/reliability/mutants.py [--only optim] [--only losses.huber] [--jobs 2]

Each edit is made to a copy of the tree, where the module's tests then run until the first failure. A *survivor* is an
edit that no test notices: the tests lack an assertion. Nothing is ever edited in the tree itself.

An edit is a row ``(function, old text, new text)`` in the table of its module. The function may also be a method
``Class.method``, a class, or a constant of the module. The old text occurs exactly once in its code, docstring aside.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import functools
import gc
import importlib.util
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

TESTS = {
    "checks": ["bad_input"],
    "tree": ["tree", "bad_input"],
    "random": ["random", "determinism", "bad_input"],
    "files": ["hostile_files", "serialization", "data"],
    "autodiff": ["losses", "training", "autodiff", "bad_input"],
    "activations": ["activations", "numbers", "bad_input"],
    "initializers": ["initializers", "determinism", "bad_input"],
    "losses": ["losses", "numbers", "autodiff", "bad_input"],
    "metrics": ["metrics", "numbers", "bad_input"],
    "modes": ["layers", "numbers", "training", "distributed"],
    "layers": ["layers", "bad_input", "numbers", "training", "autodiff"],
    "optim": ["optim", "bad_input", "numbers", "training"],
    "schedules": ["schedules", "bad_input"],
    "serialization": ["serialization", "hostile_files", "bad_input"],
    "data": ["data", "determinism", "bad_input"],
    "checkpoint": ["checkpoint", "bad_input"],
    "batching": ["larger_than_memory", "training", "checkpoint", "bad_input"],
    "training": ["training", "checkpoint", "numbers", "bad_input"],
    "estimators": ["estimators", "autodiff"],
    "summary": ["summary"],
}
"""The test files that should notice an edit of a module, the likeliest first."""

PYTEST = ["-x", "-q", "-p", "no:cacheprovider", "--assert=plain", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
PRELOADED = ["hypothesis", "scipy.stats", "sklearn.neural_network", "torch"]
"""What the tests import; loaded once, before the processes that run them are forked."""

TIMEOUT = 600
"""After so many seconds a test that does not come back has noticed an edit."""

# ---------------------------------------------------------------------------------------- the tables

CHECKS = [
    ("given", "len(text) <= 80", "True"),
    ("number", "isinstance(value, bool) or ", ""),
    ("number", "low <= (number", "low < (number"),
    ("number", 'number == low and interval[0] == "("', "False"),
    ("number", 'number == high and interval[-1] == ")"', "False"),
    ("integer", "isinstance(value, bool) or ", ""),
    ("integer", "value < low", "value <= low"),
    ("choice", "value not in choices", "False"),
    ("function", "not callable(value)", "False"),
    ("schedule", 'number(f"{name}(0)", first, interval)', "pass"),
    ("path", "not isinstance(value, str | os.PathLike)", "False"),
    ("array_of_numbers", 'not in "fiub"', 'in "O"'),
    ("finite", "not np.isfinite(array).all()", "False"),
    ("finite", "~np.isfinite(array)", "np.isfinite(array)"),
    ("shape_of_one", "any(n < 0 for n in value)", "False"),
]

TREE = [
    ("_map", "other.keys() != tree.keys()", "False"),
    ("_map", "type(other) is not type(tree)", "False"),
    ("_map", "len(other) != len(tree)", "False"),
    ("_map", "(other is None) != (tree is None)", "False"),
    ("_map", "len(rest) == 1", "rest"),
    ("_map", "mate := other[key]", "mate := tree[key]"),
    ("_map", " and type(child) is np.ndarray", ""),
    ("_map", "type(mate := other[key]) is np.ndarray", "(mate := other[key]) is not None"),
    ("_map", "f(child, mate)", "f(mate, child)"),
    ("_map", "_at(key, f, child, mate)", "_at(key, f, mate, child)"),
    ("ravel", "vector.shape != (ends[-1],)", "False"),
    ("ravel", "np.result_type(*dtypes)", "np.float64"),
    ("ravel", "np.dtype(np.float32)", "np.dtype(np.float64)"),
    ("ravel", "vector[start:end].reshape", "vector[start:end].copy().reshape"),
    ("ravel", "axis=None", "axis=0"),
    ("aligned", "dtype.hasobject", "False"),
    ("unflatten", "next(values, end := object()) is not end", "False"),
    ("cast", 'array.dtype.kind == "f"', 'array.dtype.kind in "fi"'),
    ("cast", 'np.dtype(dtype).kind == "f"', 'np.dtype(dtype).kind in "fi"'),
    ("size", "np.size(leaf)", "1"),
    ("_collect", "sorted(tree)", "tree"),
    ("_paths", "in sorted(tree)", "in tree"),
    ("_paths", "not key or ", ""),
    ("_paths", 'or "/" in key', ""),
    ("_fill", "sorted(tree)", "tree"),
    ("_fill", "dict(tree)", "{}"),
    ("_rebuild", "type(like)(*children)", "tuple(children)"),
    ("_at", '{key}/{error.path}"', '{key}"'),
]

RANDOM = [
    ("_GOLDEN", "0x9E3779B97F4A7C15", "0x9E3779B97F4A7C14"),
    ("_SHIFTS", "30", "29"),
    ("_FACTORS", "0x94D049BB133111EB", "0x94D049BB133111E9"),
    ("_FOLD", "0xA54FF53A5F1D36F1", "0xA54FF53A5F1D36F0"),
    ("key", 'integer("seed", seed, 0)', 'integer("seed", seed, 0) % 2**64'),
    ("key", 'integer("seed", seed, 0)', 'integer("seed", seed, None)'),
    ("split", "key + _GOLDEN", "key[0] + _GOLDEN"),
    ("split", "np.arange(1, n + 1", "np.arange(0, n"),
    ("fold_in", "word ^ fold", "word"),
    ("fold_in", "+ i", ""),
    ("bernoulli", "< round", "<= round"),
    ("bernoulli", "round(p * 65536)", "round(p * 65535)"),
    ("bernoulli", "round(p * 65536)", "65536 - round(p * 65536)"),
    ("bernoulli", "0 <= p <= 1", "0 <= p"),
    ("_stream_types", "np.ascontiguousarray(self.words)", "self.words"),
    ("_mix", "(z ^ z >> _SHIFTS[1])", "z"),
    ("_mix", "return z ^ z >> _SHIFTS[2]", "return z"),
    ("_check", "key.dtype != _UINT64", "False"),
    ("_check", "key.shape != (3,)", "False"),
    ("_check_integer", "0 <= value", "-1 <= value"),
]

FILES = [
    ("KINDS", '"biufcmMSU"', '"biufcmMSUO"'),
    ("reading", "error.errno is not None", "False"),
    ("shown", "repr(text)[1:-1]", "text"),
    ("replacing", "os.fsync(file.fileno())", "pass"),
    ("replacing", 'draft.open("xb")', 'open(draft, "xb", opener=lambda *to: os.open(*to, 0o600))'),
    ("replacing", "draft.unlink()", "pass"),
    ("replacing", "_sync_folder(whole.parent)", "pass"),
    ("replacing", "whole.with_name(", "Path("),
    ("unpacked_limit", "64 << 20", "64 << 30"),
    ("unpacked_limit", "100 * size", "size"),
    ("_member_names", "name in names", "False"),
    ("_member_names", "member.compress_type not in (ZIP_STORED, ZIP_DEFLATED)", "False"),
    ("_member_names", "packed > size or", ""),
    ("_member_names", 'file.read(4) != b"PK\\5\\6"', "False"),
    ("_member_names", "m.header_offset for m", "0 for m"),
    ("_npy_array", "order=order", 'order="C"'),
    ("_npy_array", 'dtype.newbyteorder("=")', "dtype"),
    ("_npy_array", "if not chunk", "if False"),
    ("_npy_header", "length > room", "False"),
    ("_npy_header", "promised != found", "promised > found"),
    ("_npy_header", '"F" if', '"C" if'),
    ("_npy_header", "> sys.maxsize", "> sys.maxsize**2"),
]

AUTODIFF = [
    ("Differentiable.__call__", "if self.value:", "if False:"),
    ("Differentiable.__reduce_ex__", "return self.__name__", "pass"),
    ("rule_of", "**f.keywords", ""),
    ("rule_of", "_without_first(len(f.args), rule) if f.args else rule", "rule"),
    ("_without_first", "n, None", "None"),
    ("value_and_grad", "np.ndim(y) != 0", "False"),
    ("value_and_grad", "y.dtype.type(1)", "y.dtype.type(2)"),
    ("value_and_grad", "y.dtype.type(1)", "np.float64(1)"),
    ("grad", "[1]", "[0]"),
    ("objective", "train: Any = True", "train: Any = False"),
    ("objective", "key=key", "key=None"),
    ("objective", '{"weight": weight}', "{}"),
    ("objective", "np.asarray(cotangent, prediction.dtype)", "cotangent"),
    ("objective", "loss_pullback(d)", "loss_pullback(1.0)"),
    ("check_vjp", "8 * (a - b)", "7 * (a - b)"),
    ("check_vjp", "not abs(exact - numeric) <= atol + rtol * scale", "False"),
    ("check_vjp", "np.shape(derivative) != np.shape(leaf)", "False"),
    ("check_vjp", "len(cotangents) != len(args)", "False"),
    ("check_vjp", "if k == j else v", "if k == 0 else v"),
]

ACTIVATIONS = [
    ("elementwise", "x = floating(x)", "x = np.asarray(x)"),
    ("elementwise", "setting.item() if isinstance(setting, np.generic) else", ""),
    ("elementwise", " or setting != setting", ""),
    ("identity", "lambda: 1", "lambda: 2"),
    ("tanh", "1 - y * y", "1 - y"),
    ("tanhshrink", "x - t", "x + t"),
    ("tanhshrink", "t * t", "t"),
    ("hardtanh", "clip(x, min_val, max_val)", "clip(x, -1, 1)"),
    ("hardtanh", "x > min_val", "x >= min_val"),
    ("hardtanh", "x < max_val", "x <= max_val"),
    ("hardtanh", "min_val: float = -1.0", "min_val: float = -2.0"),
    ("sigmoid", "(1 + e) ** 2", "(1 + e)"),
    ("_sigmoid", "np.minimum(x, 0)", "np.minimum(-x, 0)"),
    ("_sigmoid", "/ (1 + e), e", "/ (2 + e), e"),
    ("log_sigmoid", "np.minimum(x, 0) -", "np.minimum(x, 0) +"),
    ("log_sigmoid", "np.log1p(e)", "np.log(1 + e)"),
    ("log_sigmoid", "np.minimum(-x, 0)", "np.minimum(x, 0)"),
    ("hardsigmoid", "0, 6) / 6", "0, 6) / 5"),
    ("hardsigmoid", "1 / 6", "1 / 5"),
    ("hardsigmoid", "np.abs(x) < 3", "np.abs(x) <= 3"),
    ("relu", "np.maximum(", "np.minimum("),
    ("relu", "x > 0", "x >= 0"),
    ("relu6", "clip(x, 0, 6)", "clip(x, 0, 5)"),
    ("relu6", "x > 0", "x >= 0"),
    ("relu6", "x < 6", "x <= 6"),
    ("leaky_relu", "negative_slope * ", ""),
    ("leaky_relu", "1, negative_slope", "1, 0"),
    ("leaky_relu", "x > 0", "x >= 0"),
    ("leaky_relu", "= 0.01", "= 0.02"),
    ("elu", "np.maximum(x, e - 1)", "np.maximum(x, e)"),
    ("elu", "lambda: e", "lambda: e - 1"),
    ("elu", "alpha * (e - 1)", "(e - 1)"),
    ("elu", "alpha * e)", "e)"),
    ("elu", "x > 0, e", "x >= 0, e"),
    ("celu", "alpha * np.expm1", "np.expm1"),
    ("celu", "lambda: e", "lambda: alpha * e"),
    ("celu", "np.expm1(clip(x, -FAR * alpha, 0) / alpha)", "(e - 1)"),
    ("celu", "0 < alpha < inf", "True"),
    ("SELU_ALPHA", "1.6732632423543772", "1.6732632423543"),
    ("SELU_ALPHA", "1.0507009873554805", "1.0507009873554"),
    ("selu", "SELU_ALPHA * (e - 1)", "(e - 1)"),
    ("selu", "lambda: SELU_SCALE *", "lambda:"),
    ("selu", "SELU_ALPHA * e)", "e)"),
    ("selu", "x > 0", "x >= 0"),
    ("gelu", "ndtr(z)", "ndtr(-z)"),
    ("gelu", "cdf + z * np.exp", "cdf - z * np.exp"),
    ("gelu", "-0.5 * z", "-z"),
    ("gelu", "sqrt(2 * pi)", "sqrt(pi)"),
    ("gelu", "0.044715", "0.04471"),
    ("gelu", "0.134145", "0.13414"),
    ("gelu", "du = sqrt(8 / pi)", "du = sqrt(2 / pi)"),
    ("gelu", "e / (1 + e) ** 2", "e"),
    ("gelu", "clip(x, -22, 22)", "clip(x, -21, 21)"),
    ("gelu", "np.maximum(x, -22)", "x"),
    ("gelu", 'str = "none"', 'str = "tanh"'),
    ("mish", "e * (e + 2)", "e * (e + 1)"),
    ("mish", "n / (n + 2)", "n / (n + 1)"),
    ("mish", "t + z *", "t - z *"),
    ("mish", "(2 / (n + 2))", "(1 / (n + 2))"),
    ("mish", "(1 + t)", "(1 - t)"),
    ("mish", "* e / (1 + e)", ""),
    ("mish", "-FAR, 20", "-FAR, 5"),
    ("silu", "x, -FAR) * s", "x, -FAR) * s * s"),
    ("silu", "s + z * e", "s - z * e"),
    ("silu", "(1 + e) ** 2", "(1 + e)"),
    ("hardswish", "np.maximum(x, -3)", "np.maximum(x, 0)"),
    ("hardswish", "0, 6) / 6", "0, 6) / 5"),
    ("hardswish", "np.abs(x) < 3", "np.abs(x) <= 3"),
    ("hardswish", "x / 3 + 0.5", "x / 3"),
    ("hardswish", "x >= 3", "x > 3"),
    ("softplus", "z = beta *", "z ="),
    ("softplus", "z > threshold", "z >= threshold"),
    ("softplus", "z > threshold", "x > threshold"),
    ("softplus", "/ beta)\n    return", ")\n    return"),
    ("softplus", "np.maximum(s, linear)", "s"),
    ("softplus", "= 20.0", "= 10.0"),
    ("softsign", "1 / (1 + np.abs(x))", "1 / (2 + np.abs(x))"),
    ("softsign", "r * r", "r"),
    ("softsign", "clip(x, -largest, largest)", "np.abs(x)"),
    ("softshrink", "x - clip", "x + clip"),
    ("softshrink", "np.abs(x) > lambd", "np.abs(x) >= lambd"),
    ("softshrink", "= 0.5", "= 0.25"),
    ("hardshrink", "x * (np.abs(x) > lambd)", "x * (np.abs(x) >= lambd)"),
    ("hardshrink", "lambda: np.abs(x) > lambd", "lambda: np.abs(x) >= lambd"),
    ("hardshrink", "= 0.5", "= 0.25"),
    ("threshold", "x <= threshold", "x < threshold"),
    ("threshold", "lambda: x > threshold", "lambda: x >= threshold"),
    ("softmax", "e.sum(axis, keepdims=True)", "e.sum()"),
    ("softmax", "yield y *", "yield"),
    ("softmax", "dy - (dy * y)", "dy + (dy * y)"),
    ("softmax", "axis: int = -1", "axis: int = 0"),
    ("log_softmax", "z - np.log", "z + np.log"),
    ("log_softmax", "np.exp(y) *", "y *"),
    ("log_softmax", "dy - np", "dy + np"),
    ("_shifted", "x.max(axis", "x.min(axis"),
    ("_shifted", "np.minimum(x, np.finfo(x.dtype).max)", "x"),
    ("floating", "np.float64)", "np.float32)"),
]

INITIALIZERS = [
    ("_GAINS", "5 / 3", "4 / 3"),
    ("_GAINS", "sqrt(2)", "2"),
    ("_GAINS", "3 / 4", "1"),
    ("gain", '"(-inf, inf)") ** 2', '"(-inf, inf)")'),
    ("gain", "= 0.01", "= 0.02"),
    ("gain", "_UNIT_GAINS, 1.0", "_UNIT_GAINS, 2.0"),
    ("uniform", "uniform(a, b, shape", "uniform(-b, b, shape"),
    ("uniform", "uniform(a, b, shape", "uniform(a, 2 * b, shape"),
    ("normal", "normal(mean, std", "normal(0, std"),
    ("normal", "mean, std, shape", "mean, std**2, shape"),
    ("zeros", "0.0", "1.0"),
    ("ones", "1.0", "0.0"),
    ("xavier_uniform", "6 / sum", "3 / sum"),
    ("xavier_uniform", "gain * sqrt", "sqrt"),
    ("xavier_normal", "2 / sum", "1 / sum"),
    ("xavier_normal", "gain * sqrt", "sqrt"),
    ("kaiming_uniform", "sqrt(3)", "sqrt(6)"),
    ("kaiming_uniform", "a: float = 0.0", "a: float = 1.0"),
    ("kaiming_normal", "std(shape)", "2 * std(shape)"),
    ("lecun_normal", "[0]", "[1]"),
    ("lecun_normal", "sqrt(1 /", "sqrt(2 /"),
    ("orthogonal", "-1.0, 1.0", "1.0, 1.0"),
    ("orthogonal", "gain * (", "("),
    ("orthogonal", "(max(n, m), min(n, m))", "(n, m)"),
    ("_kaiming_std", '0 if mode == "fan_in"', '1 if mode == "fan_in"'),
    ("_kaiming_std", "else 1]", "else 0]"),
    ("_kaiming_std", "gain(nonlinearity, number", "gain(nonlinearity, 0 * number"),
]

LOSSES = [
    ("argmax", "argmax(-1)", "argmin(-1)"),
    ("positive", "output > 0", "output >= 0"),
    ("mse", "d * d", "np.abs(d)"),
    ("mse", "lambda: d, 2", "lambda: d, 1"),
    ("mae", "np.abs(d)", "d"),
    ("mae", "np.sign(d)", "np.where(d >= 0, 1.0, -1.0)"),
    ("huber", "0.5 * c", "c"),
    ("huber", "lambda: c", "lambda: d"),
    ("huber", "-delta", "-1.0"),
    ("huber", "= 1.0", "= 2.0"),
    ("poisson", "e - y * z", "e + y * z"),
    ("poisson", "y * np.log(", "np.log("),
    ("poisson", "- y, weight, lambda", ", weight, lambda"),
    ("poisson", "lambda: e - y", "lambda: e"),
    ("poisson", "predict=rate", "predict=as_is"),
    ("_counted", "!= 0", "== 0"),
    ("_counted", "y.dtype.type(filling)", "y"),
    ("_within", "y.max() <= high", "True"),
    ("binary_cross_entropy", "np.maximum(z, 0)", "z"),
    ("binary_cross_entropy", "- z * y", "+ z * y"),
    ("binary_cross_entropy", "np.log1p(np.exp(-np.abs(z)))", "np.log1p(np.exp(-z))"),
    ("binary_cross_entropy", "sigmoid(z) - y", "sigmoid(z)"),
    ("binary_cross_entropy", "not _within(y, 0, 1)", "False"),
    ("binary_cross_entropy", "predict=positive", "predict=as_is"),
    ("cross_entropy", "z -= z.max(0)", "z -= z.min(0)"),
    ("cross_entropy", "np.maximum(z, np.finfo(z.dtype).min, out=z)", "pass"),
    ("cross_entropy", "keep * z.take(at)", "z.take(at)"),
    ("cross_entropy", "keep * (q * z)", "(q * z)"),
    ("cross_entropy", "label_smoothing * z.mean(0)", "label_smoothing * z.sum(0)"),
    ("cross_entropy", "e / total", "e"),
    ("cross_entropy", "[at] -= keep", "[at] -= 1"),
    ("cross_entropy", "d -= keep * q", "d -= q"),
    ("cross_entropy", "label_smoothing / k", "label_smoothing"),
    ("cross_entropy", "predict=argmax", "predict=as_is"),
    ("cross_entropy", "0 <= label_smoothing <= 1", "True"),
    ("_mean", "1 / values.size", "1 / n"),
    ("_mean", "dy * (factor * share)", "factor * share"),
    ("_mean", "* (values.size // n)", ""),
    ("_mean", "or 1.0", ""),
    ("_mean", ".astype(values.dtype)", ""),
    ("_mean", "dy * factor * shares", "dy * shares"),
    ("_mean", "where=by != 0", "where=True"),
    ("_aligned", "astype(prediction.dtype, copy=False)", "astype(np.float64)"),
    ("_aligned", "given.size == prediction.size", "True"),
    ("_label_index", "not _within(y, 0, k - 1)", "False"),
    ("_label_index", "not _within(y := _counted(y, weight), 0, k - 1)", "False"),
    ("_are_probabilities", "q.min(initial=0) >= 0", "True"),
    ("_are_probabilities", "< 1e-3", "< 2"),
]

METRICS = [
    ("accuracy", "t == p", "t != p"),
    ("accuracy", "_weight(weight, t.size)", "None"),
    ("precision", "_ratio(hits, predicted)", "_ratio(hits, actual)"),
    ("precision", 'None = "macro"', 'None = "weighted"'),
    ("precision", "pos_label: Any = 1", "pos_label: Any = 0"),
    ("recall", "_ratio(hits, actual)", "_ratio(hits, hits)"),
    ("recall", 'None = "macro"', 'None = "weighted"'),
    ("f1", "2 * hits", "hits"),
    ("f1", "actual + predicted", "2 * actual"),
    ("confusion_matrix", "k * t + p", "k * p + t"),
    ("mse", "np.square(t - p)", "np.abs(t - p)"),
    ("mse", ", weight)", ", None)"),
    ("mae", "np.abs(t - p)", "t - p"),
    ("mae", ", weight)", ", None)"),
    ("r2", "1 - error", "error"),
    ("r2", "len(t) < 2", "False"),
    ("r2", "t[w > 0], p[w > 0], w[w > 0]", "t, p, w"),
    ("r2", "> 1e300", "> 1e400"),
    ("r2", "t / 1e4, p / 1e4", "t / 1e4, p"),
    ("r2", "t - t[np.argmax(w)]", "t"),
    ("r2", "np.average(centred, axis=0, weights=w)", "centred.mean(axis=0)"),
    ("r2", "w @ np.square((t - p) / scale)", "np.square((t - p) / scale).sum(0)"),
    ("r2", "w @ np.square(centred / scale)", "np.square(centred / scale).sum(0)"),
    ("r2", "(error > 0)] = 0", "(error > 0)] = 1"),
    ("r2", "score.mean()", "score.max()"),
    ("_columns", "y[:, None] if y.ndim == 1 else y", "y"),
    ("_label", "not np.array_equal(whole, y)", "False"),
    ("_encode", "np.flatnonzero(occurs) + low", "np.flatnonzero(occurs)"),
    ("_encode", "np.cumsum(occurs) - 1", "np.cumsum(occurs)"),
    ("_counts", "w * (t == p)", "(t == p)"),
    ("_counts", "np.bincount(t, weights=w, ", "np.bincount(t, "),
    ("_counts", "np.bincount(p, weights=w, ", "np.bincount(p, "),
    ("_ratio", "np.zeros_like(a)", "np.ones_like(a)"),
    ("_average", "score.mean()", "score.sum()"),
    ("_average", "weights=actual", "weights=None"),
    ("_average", "labels.index(pos_label)", "0"),
    ("_average", "len(labels) > 2", "False"),
    ("_average", "return 0.0", "return 1.0"),
    ("_mean", "errors.mean(axis=1)[w > 0]", "errors.max(axis=1)[w > 0]"),
    ("_mean", "weights=w[w > 0]", "weights=None"),
    ("_weight", "w.min() < 0", "False"),
    ("_weight", "np.ldexp(w.ravel(), -np.frexp(w.max())[1])", "w.ravel()"),
]

MODES = [
    ("Calibration.record", "mean, var, rows))", "var, mean, rows))"),
    ("pooled", "rows @ (means - base) / rows.sum()", "(means - base).mean(0)"),
    ("pooled", "variances + (means - mean) ** 2", "variances"),
    ("of_batch", "len(x) < 2", "False"),
    ("of_batch", "standardized(x, 0, eps)", "standardized(x, 0, 2 * eps)"),
    ("standardized", "eps / s / s", "eps"),
    ("standardized", "r / s", "r"),
    ("standardized", "mean * s", "mean"),
    ("standardized", "var * s * s", "var * s"),
    ("_in_range", "z = x - first", "z, first = x.copy(), 0 * first"),
    ("_in_range", "np.square(z)", "np.abs(z)"),
    ("_in_range", "var + eps", "var"),
    ("_in_range", "first + shift", "shift"),
    ("mean_of", "x.shape[axis]", "(x.shape[axis] - 1 or 1)"),
]

LAYERS = [
    ("Dense", "xavier_uniform() if", "normal() if"),
    ("Dense", "zeros() if", "ones() if"),
    ("Dense", "w_key, b_key = random.split(key)", "w_key = b_key = key"),
    ("Dense", "y += b", "y -= b"),
    ("Dense", "_rows(x).T.dot(dy)", "_rows(x).T.dot(2 * dy)"),
    ("Dense", "_ones(len(dy), dy.dtype).dot(dy)", "dy.mean(0)"),
    ("Dense", "yield dy.dot(w.T)", "yield -dy.dot(w.T)"),
    ("Dense", "b.shape != (features,)", "False"),
    ("Embedding", "np.add.at(dw, x, dy)", "dw[x] = dy"),
    ("Embedding", "normal() if", "ones() if"),
    ("Embedding", "x.min() >= 0", "True"),
    ("Embedding", "x.max() < len(w)", "x.max() <= len(w)"),
    ("BatchNorm", "eps: float = 1e-5", "eps: float = 1e-4"),
    ("BatchNorm", 'max(number("eps", eps), TINY)', "eps"),
    ("BatchNorm", '{"scale": one(key, n)', '{"scale": zero(key, n)'),
    ("BatchNorm", '"bias": zero(key, n)', '"bias": one(key, n)'),
    ("BatchNorm", '"var": one(key, n)', '"var": zero(key, n)'),
    ("BatchNorm", "mean, var, n)", "mean, var, 1)"),
    ("BatchNorm", 'params["count"] == 0', "False"),
    ("BatchNorm", "1 / np.sqrt(var + eps)", "1 / np.sqrt(var)"),
    ("BatchNorm", "(x - mean) * r", "x * r"),
    ("BatchNorm", 'z + params["bias"]', "z"),
    ("BatchNorm", "y = scale * z", "y = z"),
    ("BatchNorm", "_rows(dy).sum(0)", "_rows(dy).mean(0)"),
    ("BatchNorm", "_rows(dy * z).sum(0)", "_rows(dy * x).sum(0)"),
    ("BatchNorm", "np.zeros_like(mean), np", "np.ones_like(mean), np"),
    ("BatchNorm", "-scale * r * dbias", "scale * r * dbias"),
    ("BatchNorm", "-0.5 * scale", "-scale"),
    ("BatchNorm", "r * r * dscale", "r * dscale"),
    ("BatchNorm", 'np.zeros_like(params["count"])', 'np.ones_like(params["count"])'),
    ("BatchNorm", "dbias + z * dscale", "z * dscale"),
    ("BatchNorm", "dbias + z * dscale", "dbias"),
    ("BatchNorm", "yield scale * r * (dy -", "yield r * (dy -"),
    ("BatchNorm", "yield scale * r * dy", "yield r * dy"),
    ("LayerNorm", "eps: float = 1e-5", "eps: float = 1e-4"),
    ("LayerNorm", 'max(number("eps", eps), TINY)', "eps"),
    ("LayerNorm", '"scale": ones()', '"scale": zeros()'),
    ("LayerNorm", '"bias": zeros()', '"bias": ones()'),
    ("LayerNorm", "_rows(dy * z).sum(0)", "_rows(dy).sum(0)"),
    ("LayerNorm", '"bias": _rows(dy).sum(0)', '"bias": _rows(dy).mean(0)'),
    ("LayerNorm", "dz = dy * scale", "dz = dy"),
    ("LayerNorm", "dz - mean_of(dz, -1) -", "dz -"),
    ("LayerNorm", "z * mean_of(dz * z, -1)", "mean_of(dz * z, -1)"),
    ("LayerNorm", "yield r *", "yield"),
    ("LayerNorm", 'z + params["bias"]', "z"),
    ("Dropout", "round((1 - rate) * 65536)", "round(rate * 65536)"),
    ("Dropout", "not train or", ""),
    ("Dropout", "or isinstance(train, Calibration)", ""),
    ("Dropout", "mask *= 1 / keep", "pass"),
    ("Dropout", "dy * mask", "dy"),
    ("Dropout", '"[0, 1)"', '"[0, 1]"'),
    ("Flatten", "dy.reshape(x.shape)", "dy"),
    ("Flatten", '(prod(shape_of_one("shape", shape)),)', "shape"),
    ("Activation", "rule(x, **settings)", "rule(x)"),
    ("Prelu", "init: float = 0.25", "init: float = 0.5"),
    ("Prelu", "dy * negative", "dy"),
    ("Prelu", "d.sum(keepdims=True)", "d[:1]"),
    ("Prelu", "x > 0", "x >= 0"),
    ("Prelu", "slope * dy", "dy"),
    ("Prelu", "slope * negative", "negative"),
    ("serial", "random.split(key, len(children))", "[key] * len(children)"),
    ("serial", "_keys(key, train, len(children))", "[key] * len(children)"),
    ("serial", "x = _in_dtype_of(params, x)", "pass"),
    ("serial", "_check_children(params, children)", "pass"),
    ("serial", "reversed(below[:first])", "below[:first]"),
    ("serial", "_with_leaves(params)", "params"),
    ("parallel", "random.split(key, len(children))", "[key] * len(children)"),
    ("parallel", "_keys(key, train, len(children))", "[key] * len(children)"),
    ("parallel", "zip(pullbacks, dy, ", "zip(pullbacks, dy[::-1], "),
    ("residual", '_sum((_next(cotangents, "residual"), dy))', '_next(cotangents, "residual")'),
    ("residual", "_sum((y, x if isinstance(y, tuple) else np.asarray(x)))", "y"),
    ("residual", "out != shape", "False"),
    ("fan_out", "_sum(dy)", "dy[0]"),
    ("fan_in_sum", "_sum(x)", "x[0]"),
    ("fan_in_sum", "(dy,) *", "(2 * dy,) *"),
    ("fan_in_concat", "axis: int = -1", "axis: int = 1"),
    ("fan_in_concat", "np.split(dy, ends, axis)", "np.split(dy, ends, axis)[::-1]"),
    ("fan_in_concat", "sum(s[at] for s in shape)", "shape[0][at]"),
    ("_features", "array.astype(dtype)", "array.astype(np.float64)"),
    ("_features", "array.shape[-1] != n", "False"),
    ("_common_dtype", "min(floating", "max(floating"),
    ("_common_dtype", 'dtype.kind == "f"', "True"),
    ("_add", "np.shape(x) != np.shape(y)", "False"),
    ("_named", "_{i}", "_{len(layers) - i}"),
]

OPTIM = [
    ("_moved", "p + update", "p - update"),
    ("_moved", "np.shape(moved) != np.shape(p)", "False"),
    ("_moved", "np.asarray(moved, np.asarray(p).dtype)", "np.asarray(moved)"),
    ("sgd", "= 1e-3", "= 1e-2"),
    ("sgd", "(-lr * g, {})", "(-g, {})"),
    ("sgd", "{}), weight_decay=weight_decay", "{})"),
    ("sgd", "0.0}, weight_decay=weight_decay", "0.0}"),
    ("sgd", "momentum * momentum_buffer", "momentum_buffer"),
    ("sgd", "(1 - dampening) *", ""),
    ("sgd", "g if t == 1 else", ""),
    ("sgd", "g + momentum * b if", "g + b if"),
    ("sgd", "if nesterov else b", "if nesterov else g"),
    ("sgd", '"momentum_buffer": b}', '"momentum_buffer": g}'),
    ("sgd", "dampening != 0", "False"),
    ("adagrad", "eps: float = 1e-10", "eps: float = 1e-8"),
    ("adagrad", "sum + g * g", "sum + np.abs(g)"),
    ("adagrad", "sum + g * g", "g * g"),
    ("adagrad", "-lr * g", "-g"),
    ("adagrad", "np.sqrt(s) + eps", "np.sqrt(s + eps)"),
    ("adagrad", '"sum": start', '"sum": 0.0'),
    ("adagrad", "weight_decay=weight_decay", "weight_decay=0.0"),
    ("adagrad", "squares=True", "squares=False"),
    ("adadelta", "rho: float = 0.9", "rho: float = 0.95"),
    ("adadelta", "rho * square_avg", "square_avg"),
    ("adadelta", "(1 - rho) * g * g", "g * g"),
    ("adadelta", "acc_delta + eps", "acc_delta"),
    ("adadelta", "np.sqrt(v + eps)", "(np.sqrt(v) + eps)"),
    ("adadelta", "-lr * d", "-d"),
    ("adadelta", "rho * acc_delta", "acc_delta"),
    ("adadelta", "(1 - rho) * d * d", "d * d"),
    ("adadelta", "weight_decay=weight_decay", "weight_decay=0.0"),
    ("adadelta", ", 1e-37)", ", 0)"),
    ("rmsprop", "alpha: float = 0.99", "alpha: float = 0.9"),
    ("rmsprop", 'alpha * slots["square_avg"]', 'slots["square_avg"]'),
    ("rmsprop", "(1 - alpha) * g * g", "g * g"),
    ("rmsprop", 'alpha * slots["grad_avg"]', 'slots["grad_avg"]'),
    ("rmsprop", '["grad_avg"] + (1 - alpha) * g', '["grad_avg"] + g'),
    ("rmsprop", 'new["grad_avg"] ** 2', 'new["grad_avg"]'),
    ("rmsprop", 'np.maximum(v - new["grad_avg"] ** 2, 0)', 'v - new["grad_avg"] ** 2'),
    ("rmsprop", "np.sqrt(v) + eps", "np.sqrt(v + eps)"),
    ("rmsprop", 'momentum * slots["momentum_buffer"]', 'slots["momentum_buffer"]'),
    ("rmsprop", "-lr * d", "-d"),
    ("rmsprop", "weight_decay=weight_decay", "weight_decay=0.0"),
    ("rmsprop", "squares=True", "squares=False"),
    ("adam", "b1: float = 0.9", "b1: float = 0.8"),
    ("adam", "b2: float = 0.999", "b2: float = 0.99"),
    ("adam", "eps: float = 1e-8", "eps: float = 1e-7"),
    ("adam", "_adam(b1, b2, eps)", "_adam(b2, b1, eps)"),
    ("adam", "weight_decay=weight_decay", "decoupled_decay=weight_decay"),
    ("_adam", "np.multiply(mu, b1", "np.multiply(mu, b2"),
    ("_adam", "np.multiply(nu, b2", "np.multiply(nu, b1"),
    ("_adam", "(1 - b**t) / (1 - b)", "1 / (1 - b)"),
    ("_adam", "m += g", "m -= g"),
    ("_adam", "np.multiply(g, g, out=g)", "np.abs(g, out=g)"),
    ("_adam", "np.sqrt(v, out=g)", "np.abs(v, out=g)"),
    ("_adam", "eps * sqrt(weights_v)", "eps"),
    ("_adam", "update *= -lr * sqrt(weights_v)", "update *= -lr"),
    ("_adam", "sqrt(weights_v) / weights_m", "sqrt(weights_v)"),
    ("_adam", '"nu": v', '"nu": m'),
    ("adamw", "decoupled_decay=weight_decay", "weight_decay=weight_decay"),
    ("adamw", "weight_decay: float = 1e-2", "weight_decay: float = 0.0"),
    ("adamw", "mask=mask", "mask=None"),
    ("nadam", "b1 * mu", "b2 * mu"),
    ("nadam", "(1 - b1) * g", "g"),
    ("nadam", "b2 * nu", "b1 * nu"),
    ("nadam", "(1 - b2) * g * g", "g * g"),
    ("nadam", "0.96", "0.95"),
    ("nadam", "1 - 0.5 *", "1 - 0.4 *"),
    ("nadam", "momentum(t + 1)", "momentum(t)"),
    ("nadam", "float(mu_product) * now", "now"),
    ("nadam", "1 - product * following", "1 - product"),
    ("nadam", "(1 - now) / (1 - product)", "(1 - now)"),
    ("nadam", "v / (1 - b2**t)", "v"),
    ("nadam", "+ eps", ""),
    ("nadam", "-lr *", "-"),
    ("nadam", '"mu_product": 1.0', '"mu_product": 0.5'),
    ("nadam", "weight_decay=weight_decay", "weight_decay=0.0"),
    ("lion", "b1 * mu", "b2 * mu"),
    ("lion", "(1 - b1) * g", "g"),
    ("lion", "b2 * mu", "b1 * mu"),
    ("lion", "(1 - b2) * g", "g"),
    ("lion", "+ 0 * g", ""),
    ("lion", "-lr *", "-"),
    ("lion", "decoupled_decay=weight_decay", "weight_decay=weight_decay"),
    ("lion", "mask=mask", "mask=None"),
    ("chain", "zip(optimizers, state", "zip(reversed(optimizers), state"),
    ("chain", "grads, s = optimizer.update", "_, s = optimizer.update"),
    ("scale", "factor * g", "g"),
    ("scale_by_schedule", "schedule(int(state))", "schedule(int(state) + 1)"),
    ("scale_by_schedule", "int(state) + 1", "int(state)"),
    ("clip", "-max_delta, max_delta", "0, max_delta"),
    ("clip", "+ 0 * g", ""),
    ("global_norm", "np.square(leaf, dtype=np.float64)", "np.square(leaf)"),
    ("global_norm", "np.square(leaf, dtype=np.float64)", "np.abs(leaf)"),
    ("clip_by_global_norm", "norm > max_norm / largest", "norm < max_norm / largest"),
    ("clip_by_global_norm", "max_norm / largest / norm", "max_norm / norm"),
    ("add_decayed_weights", "g + weight_decay * p", "g - weight_decay * p"),
    ("add_decayed_weights", "_learned if mask is None else mask", "_learned"),
    ("_learned", "path not in population", "True"),
    ("_learned", "if leaves <= {*paths}", ""),
    ("masked", "v if m else None", "v"),
    ("with_learning_rate", "learning_rate=value", "learning_rate=0.0"),
    ("_descent", "np.full_like(p, value)", "np.zeros_like(p)"),
    ("_descent", "learning_rate(0)", "learning_rate(1)"),
    ("_descent", "learning_rate(count)", "learning_rate(count + 1)"),
    ("_descent", "p *= decay\n", "pass\n"),
    ("_descent", "g += decayed(weight_decay)\n        try", "pass\n        try"),
    ("_descent", "checked(g, lr, count + 1", "checked(g, lr, count + 2"),
    ("_descent", "g += decayed(weight_decay)\n            with", "pass\n            with"),
    ("_descent", "_clipped_to_square(g), lr, count + 1", "_clipped_to_square(g), lr, count + 2"),
    ("_descent", "decayed(lr * decoupled_decay)", "decayed(decoupled_decay)"),
    ("_descent", "p *= decays", "pass"),
    ("_descent", "_learned if mask is None else mask", "_learned"),
    ("_descent", 'slots["decays"] = decays', "pass"),
    ("_descent", "OptimizerState(count + 1, lr", "OptimizerState(count, lr"),
    ("_descent", "OptimizerState(count + 1, lr", "OptimizerState(count + 1, state.learning_rate"),
    ("_clipped_to_square", "1e-3 *", "1e3 *"),
    ("_clipped_to_square", "np.where(np.isfinite(g), np.clip(g, -limit, limit), g)", "np.clip(g, -limit, limit)"),
    ("_eps", "1e-19", "0.0"),
]

SCHEDULES = [
    ("constant", "count: lr", "count: 2 * lr"),
    ("step_lr", "count // step_size", "(count + 1) // step_size"),
    ("step_lr", "gamma: float = 0.1", "gamma: float = 0.5"),
    ("multi_step_lr", "counts, count)", "counts, count - 1)"),
    ("multi_step_lr", "lr * gamma", "gamma"),
    ("constant_lr", "count < total_iters", "count <= total_iters"),
    ("constant_lr", "lr * factor", "factor"),
    ("constant_lr", "1 / 3", "1 / 2"),
    ("exponential_lr", "gamma**count", "gamma ** (count + 1)"),
    ("cosine_lr", "eta_min + (lr", "(lr"),
    ("cosine_lr", "(lr - eta_min)", "lr"),
    ("cosine_lr", "pi * count", "2 * pi * count"),
    ("cosine_lr", "/ T_max)) / 2", "/ T_max))"),
    ("linear", "(end - start)", "end"),
    ("linear", "min(count / total_iters, 1)", "count / total_iters"),
    ("linear", "end_factor: float = 1.0", "end_factor: float = 0.5"),
    ("polynomial", ") ** power", ")"),
    ("polynomial", "min(count / total_iters, 1)", "count / total_iters"),
    ("one_cycle_lr", "pct_start: float = 0.3", "pct_start: float = 0.25"),
    ("one_cycle_lr", "max_lr / number", "max_lr * number"),
    ("one_cycle_lr", "initial / number", "max_lr / number"),
    ("one_cycle_lr", "(1 + cos(pi * x)) / 2", "cos(pi * x / 2)"),
    ("one_cycle_lr", "1 - x", "1 - x * x"),
    ("one_cycle_lr", "2 * pct_start * total_steps - 2", "2 * pct_start * total_steps - 1"),
    ("one_cycle_lr", "total_steps - 1, max_lr", "total_steps, max_lr"),
    ("one_cycle_lr", "total_steps - 1, final", "total_steps, final"),
    ("one_cycle_lr", "min(count, total_steps - 1)", "count"),
    ("one_cycle_lr", "(a - b) * left", "a * left"),
    ("one_cycle_lr", "if begin < end else b", ""),
    ("warmup", "schedule(0)", "schedule(1)"),
    ("warmup", "start_factor, total", "1.0, total"),
    ("warmup", "[steps]", "[steps + 1]"),
    ("join", "count - starts[i]", "count"),
    ("join", "(starts, count)", "(starts, count + 1)"),
    ("per_epoch", "count // steps_per_epoch", "count"),
    ("reduce_on_plateau", "factor: float = 0.1", "factor: float = 0.5"),
    ("reduce_on_plateau", "else -1", "else 1"),
    ("reduce_on_plateau", "1 + sign * threshold", "1 - sign * threshold"),
    ("reduce_on_plateau", "best + sign * threshold", "best"),
    ("reduce_on_plateau", "sign * metric > sign * bar", "sign * metric >= sign * bar"),
    ("reduce_on_plateau", "(best, bad + 1)", "(metric, bad + 1)"),
    ("reduce_on_plateau", "best, 0, cooling - 1", "best, bad, cooling - 1"),
    ("reduce_on_plateau", "cooling - 1", "cooling"),
    ("reduce_on_plateau", "bad <= patience", "bad < patience"),
    ("reduce_on_plateau", "max(lr * factor, min_lr)", "lr * factor"),
    ("reduce_on_plateau", "lr - reduced > eps", "True"),
    ("reduce_on_plateau", "best, 0, cooldown)", "best, 0, 0)"),
    ("_schedule", "float(formula(count))", "formula(count)"),
    ("_schedule", "count < 0", "False"),
]

SERIALIZATION = [
    ("save", "metadata or {}", "{}"),
    ("named", "not in KINDS", 'in ""'),
    ("named", ' or "" in arrays', ""),
    ("named", "_METADATA in arrays", "False"),
    ("named", "_nested(arrays)", "pass"),
    ("load", "arrays.pop(_METADATA, None)", "pass"),
    ("unnamed", "want.shape != got.shape", "False"),
    ("unnamed", '"same_kind"', '"unsafe"'),
    ("unnamed", ".astype(np.asarray(e).dtype, copy=False)", ""),
    ("unnamed", 'over="raise"', 'over="ignore"'),
    ("unnamed", "if name not in arrays", "if False"),
    ("unnamed", "if name not in expected", "if False"),
    ("load_metadata", "not isinstance(metadata, dict)", "False"),
    ("_nested", "> 100", "> 10000"),
    ("_nested", '"", ".", ".."', '"", "."'),
    ("_nested", "last in node", "False"),
]

DATA = [
    ("_RADIUS", "4.5", "5.5"),
    ("_RADIUS", "0.44", "0.34"),
    ("load", 'label is not None and suffix != ".csv"', "False"),
    ("read_idx", 'f">{', 'f"<{'),
    ("read_idx", "promised > limit", "False"),
    ("read_idx", "len(values) != promised", "len(values) < promised"),
    ("read_idx", "or not promised", ""),
    ("read_csv", "[] if any(map(_is_number, first)) else first", "first"),
    ("read_csv", "[] if any(map(_is_number, first)) else first", "[]"),
    ("read_csv", "len(row) != len(first)", "False"),
    ("read_csv", "whole and row[column].strip()", "row[column].strip()"),
    ("read_csv", "< 1 << 53", "< 1 << 63"),
    ("read_csv", "np.delete(table, column, axis=1)", "table"),
    ("_is_number", '"_" not in cell', "True"),
    ("train_test_split", "round(n * test_fraction)", "int(n * test_fraction)"),
    ("train_test_split", ", 1), n - 1)", ", 0), n - 1)"),
    ("train_test_split", ", 1), n - 1)", ", 1), n)"),
    ("train_test_split", 'order[np.argsort(y[order], kind="stable")]', "order"),
    ("train_test_split", "rng.permutation(n)", "np.arange(n)"),
    ("train_test_split", "rng.integers(n)", "0"),
    ("train_test_split", "x[~test], y[~test]", "x, y"),
    ("moments", "x.mean(0, dtype=np.float64)", "x.mean(0)"),
    ("moments", "x.std(0, dtype=np.float64)", "x.var(0, dtype=np.float64)"),
    ("moments", "(x.min(0) == x.max(0)) |", ""),
    ("moments", "| (std == 0)", ""),
    ("moments", "| ~np.isfinite(std)", ""),
    ("standardize", "np.subtract", "np.add"),
    ("standardize", "z /= std", "z *= std"),
    ("standardize", "np.float32)", "np.float64)"),
    ("label_balance", "not float(label).is_integer()", "False"),
    ("gaussian_classes", "rng.permutation(rows) % classes", "rng.integers(classes, size=rows)"),
    ("gaussian_classes", "rng.integers(2, size=rows)", "0"),
    ("gaussian_classes", "_NOISE / classes", "_NOISE"),
    ("gaussian_classes", "reshape(-1, classes, 2).sum(-1)", "reshape(-1, classes, 2).max(-1)"),
    ("gaussian_classes", 'not np.array_equal(stored.get("recipe", ()), recipe)', "False"),
    ("_load_folder", "np.float32(255)", "np.float32(256)"),
    ("_load_folder", "arrays[-1].ndim != dimensions", "False"),
    ("_dataset", "y_train.dtype != y_test.dtype", "False"),
    ("_examples", "y = y[:, 0]", "pass"),
    ("_examples", "len(x) != len(y)", "False"),
    ("_cast", "np.isfinite(cast.max(initial=0))", "True"),
    ("_label_column", "-1 if label is None", "0 if label is None"),
]

CHECKPOINT = [
    ("_clear_drafts", "draft.unlink()", "pass"),
    ("Saver._read", 'list(differences(metadata["settings"], self.settings))', "[]"),
    ("Saver._read", "tree.map(_as_given, like, unnamed(", "(unnamed("),
    ("Saver._read", "**arrays, **metadata", "**like, **metadata"),
    ("Saver.__enter__", "self.write()", "pass"),
    ("Saver.__enter__", "if self.listens:", "if False:"),
    ("Saver.__exit__", "if kind is None:", "if False:"),
    ("Saver.__exit__", "signal.signal(signal.SIGTERM, self.handler)", "pass"),
    ("Saver.__exit__", "if self.terminated:", "if False:"),
    ("Saver.after_step", "raise KeyboardInterrupt", "pass"),
    ("Saver.after_step", ">= seconds", "< seconds"),
    ("Saver.after_step", "self.latest = progress", "pass"),
    ("Saver.after_epoch", "% self.checkpoint.epochs == 0", "% 1 == 0"),
    ("Saver.after_epoch", "% self.checkpoint.epochs == 0", "== -1"),
    ("Saver.write", "self.latest is self.written", "False"),
    ("Saver.write", "self.latest.seconds + time", "time"),
    ("Saver.write", "except OSError", "except EOFError"),
    ("Saver.write", "self.written, self.written_at = self.latest, time.monotonic()", "pass"),
    ("describe", "value.item()", "str(value)"),
    ("describe", "if mapped else", "if True else"),
    ("describe", '"args": inside(value.args), ', ""),
    ("describe", "**inside(value.keywords)", ""),
    ("describe", "inside(value.rule)", "repr(value)"),
    ("describe", "found[variable] = inside(cell.cell_contents)", "pass"),
    ("describe", "for name, child in attributes.items()", "for name, child in ()"),
    ("differences", "was != was and now != now", "False"),
    ("differences", "for name in now if name not in was", "for name in ()"),
    ("differences", "len(was) == len(now)", "True"),
]

BATCHING = [
    ("_of_arrays", "random.generator(key) if shuffle else None", "random.generator(key)"),
    ("_of_arrays", "random.generator(key) if shuffle else None", "None"),
    ("_windows", "generator.permutation(size)", "generator.integers(size, size=size)"),
    ("_windows", "generator.permutation(-(-n // block))", "np.arange(-(-n // block))"),
    ("_of_arrays", "take(y, of_all)", "take(y, own)"),
    ("_of_arrays", "w[of_all]", "w[own]"),
    ("_of_arrays", "take(held, own)", "take(held, own[::-1])"),
    ("_checked", "batch[2] if len(batch) == 3 else None", "None"),
    ("slices", "== 1 < batch_size", "== 0"),
    ("slices", "== 1 < batch_size", "== 1"),
    ("slices", "del ends[-2]", "del ends[-1]"),
    ("row_weights", "n / (len(labels) * counts)", "n / counts"),
    ("row_weights", "w * per_class[index]", "per_class[index]"),
    ("row_weights", "w.min() >= 0", "True"),
    ("row_weights", "w.sum() > 0", "True"),
    ("set_aside", "order[held:]", "order"),
    ("set_aside", "random.generator(key).permutation(n)", "np.arange(n)"),
    ("set_aside", "np.asarray(weight)[parts[0]]", "np.asarray(weight)[: len(parts[0])]"),
    ("check_rows", 'check_finite(f"{name}: x", x)', "pass"),
    ("check_rows", 'check_finite(f"{name}: y", np.asanyarray(y))', "pass"),
    ("check_finite", "not isinstance(a, np.memmap | _Subset)", "True"),
]

TRAINING = [
    ("EarlyStopping.best", "1 if self.mode", "-1 if self.mode"),
    ("EarlyStopping.best", "inf if isnan(value)", "-inf if isnan(value)"),
    ("EarlyStopping.best", "range(self.start_from_epoch", "range(0"),
    ("EarlyStopping.best", "costs[best] - self.min_delta", "costs[best]"),
    ("EarlyStopping.best", "costs[epoch] < costs", "costs[epoch] <= costs"),
    ("EarlyStopping.best", ">= max(", "> max("),
    ("EarlyStopping.best", "max(self.patience, 1)", "self.patience"),
    ("fit", "split_key, epochs_key = random.split(key)", "split_key = epochs_key = key"),
    ("fit", "data, held_out, weight = batching.set_aside", "_, held_out, weight = batching.set_aside"),
    ("fit", "random.fold_in(epochs_key, epoch)", "epochs_key"),
    ("fit", "shuffle_key, steps_key = random.split", "steps_key, shuffle_key = random.split"),
    ("fit", "islice(todo, first, None)", "islice(todo, 0, None)"),
    ("fit", "enumerate(islice(todo, first, None), first)", "enumerate(islice(todo, first, None), 0)"),
    ("fit", "*batch, step_key)", "*batch, steps_key)"),
    ("_step", "x, y, key=key, weight=w)\n", "x, y, key=key)\n"),
    ("fit", "not isfinite(value)", "False"),
    ("fit", "updates, state = optimizer.update", "updates, _ = optimizer.update"),
    ("fit", "params = optim.apply_updates", "_ = optim.apply_updates"),
    ("fit", "rows * float(value)", "float(value)"),
    ("_step", "batching.count_rows(y) if w is None else np.sum(w)", "batching.count_rows(y)"),
    ("fit", "best, epoch, i + 1, total", "best, epoch, i, total"),
    ("fit", "i + 1, total, total_weight", "i + 1, 0.0, 0.0"),
    ("fit", "total / total_weight}", "total}"),
    ("fit", "if _first_non_finite(params):", "if False:"),
    ("fit", "measured or callbacks", "measured"),
    ("fit", "measured or callbacks", "callbacks"),
    ("fit", 'record["lr"] = lr', "pass"),
    ("fit", "*history.get(name, ()), score", "score"),
    ("fit", "best = params if best_epoch == epoch else best", "best = params"),
    ("fit", "reached = reached._replace(params=params, best=best, history=history)", "pass"),
    ("fit", "_, params, state, history, stop = now", "*_, stop = now"),
    ("fit", '"early" if stop_early', '"done" if stop_early'),
    ("fit", '"callback" if stop', '"done" if stop'),
    ("fit", "history=history, stopped=stopped", "history=history"),
    ("fit", "params if best_epoch is None else reached.best", "params"),
    ("fit", "params if best_epoch is None else reached.best", "reached.best"),
    (
        "fit",
        "params = _calibrated(net, params, source.inputs(), comm, parts=shared)\n        except",
        "pass\n        except",
    ),
    ("fit", "seconds + time", "time"),
    ("fit", "not reached.stopped", "True"),
    ("fit", '"weight": describe(weight)', '"weight": None'),
    ("fit", "describe(early_stopping)", "None"),
    ("fit", '("validation", held_out)', '("validation", None)'),
    ("fit", "describe(np.asarray(leaf)) for path", "None for path"),
    ("predict", "batching.slices(n, batch_size)", "batching.slices(n, batch_size)[::-1]"),
    ("_evaluated", '{"weight": weight}', "{}"),
    ("_evaluated", "losses.prediction_of(loss) if loss is not None", "losses.as_is if loss is not None"),
    ("_evaluated", "y_pred = y_pred.reshape(y_true.shape)", "pass"),
    ("_evaluated", "y_true = read(y_true)", "pass"),
    ("calibrate", "batching.slices(n, batch_size)", "batching.slices(n, batch_size)[:1]"),
    ("_calibrated", "tree.map(np.array, params)", "params"),
    ("_calibrated", "(mean, var, n.sum())", "(mean, var, float(len(n)))"),
    ("_calibrated", "np.minimum(var, np.finfo(leaves[places[1]].dtype).max)", "var"),
    ("_OnPlateau", "state.learning_rate", "optim.learning_rate(epoch.state)"),
    ("_keys", "random.fold_in(key, block)", "key"),
    ("_check_params", "not np.isfinite(array).all()", "False"),
    ("_check_targets", "for part in batching.slices(len(y), 1 << 16):", "for part in [slice(0, 1)]:"),
    ("_check_settings", 'name in ("loss", "lr") or', ""),
    ("_non_finite", "{step - 1}: the gradient", "{step}: the gradient"),
    ("_non_finite", 'is not finite", before)', 'is not finite", params)'),
]

ESTIMATORS = [
    ("_MLP._fit", "factor, float(self.alpha)", "1.0, float(self.alpha)"),
    ("_MLP._fit", "not (self.warm_start or incremental)", "True"),
    ("_MLP._fit", "random.fold_in(key, self.t_)", "key"),
    ("_MLP._fit", "self.early_stopping == (self.validation_scores_ is None)", "False"),
    ("_MLP._descend", " and len(self.classes_) <= 2", ""),
    ("_MLP._descend", "not incremental or self._state is None", "True"),
    ("_MLP._set_dense", "got != expected", "False"),
    ("_MLP._descend", "self.best_loss_ - self.tol", "self.best_loss_"),
    ("_MLP._descend", "self.best_validation_score_ + self.tol", "self.best_validation_score_"),
    ("_MLP._descend", "> self.n_iter_no_change", ">= self.n_iter_no_change"),
    ("_MLP._descend", "(self.t_ + 1) ** by.power_t", "self.t_**by.power_t"),
    ("_MLP._descend", "state.learning_rate / 5", "state.learning_rate / 2"),
    ("_MLP._descend", "training.calibrate(net, best, X)", "result.params"),
    ("_MLP._descend", "shuffle=self.shuffle and", "shuffle="),
    ("_MLP._minimize", '"gtol": self.tol', '"gtol": 0.1'),
    ("_MLP._minimize", "X, y, weight=weight)", "X, y)"),
    ("_MLP._network", "*[Dropout(rate)] * (rate != 0)", ""),
    ("_MLP._network", "*[BatchNorm()] * bool(batch_norm)", ""),
    ("_optimizer", "nesterov=by.nesterovs_momentum and by.momentum > 0", "nesterov=False"),
    ("_optimizer", "by.beta_1, by.beta_2", "by.beta_2, by.beta_1"),
    ("_MLP._row_weights", "* (1.0 if weight is None else weight)", ""),
    ("MLPClassifier._encoded", "self.warm_start and", "False and"),
    ("MLPClassifier._probabilities", "sigmoid(-z), sigmoid(z)", "sigmoid(z), sigmoid(-z)"),
    ("MLPClassifier._metric", "weights=weight", "weights=None"),
    ("MLPClassifier._loss", "float(self.n_outputs_)", "1.0"),
    ("MLPRegressor._loss", "self.n_outputs_ / 2", "1.0"),
    ("MLPRegressor._read", "losses.prediction_of(self._loss()[0])(output)", "output"),
    ("_all_or_none", "attributes.clear()", "pass"),
    ("_dense", 'key=lambda name: int(name[len("dense_") :])', "key=str"),
    ("_glorot", "2 if activation is activations.sigmoid else 6", "6"),
    ("_glorot", "uniform(-r, r), uniform(-r, r)", "uniform(-r, r), uniform(0, r)"),
    ("_regularized", '["w"] += dw', '["w"] -= dw'),
    ("_regularized", "pullback(factor * d)", "pullback(d)"),
    ("_regularized", "factor * value", "value"),
    ("_regularized", "decay / 2", "decay"),
    ("_regularized", "d * decay * w", "decay * w"),
    ("_regularized", "float(np.sum(weight))", "len(output)"),
]

SUMMARY = [
    ("_rows", "tree.size(params)", "len(params)"),
    ("_rows", "shape[i] if side_by_side else shape", "shape"),
    ("_rows", "shape, _ = child.init", "_, _ = child.init"),
]

TABLES = {module: globals()[module.upper()] for module in TESTS}

# ------------------------------------------------------------------------------------------ the tool


class Mutant(NamedTuple):
    """One edit: in the code of a function of a module, the old text becomes the new one."""

    module: str
    function: str
    old: str
    new: str

    def __str__(self) -> str:
        """Name the place and the edit, in one line."""
        return f"{self.module}.{self.function}: {self.old} → {self.new or 'nothing'}".replace("\n", "⏎")

    def word(self) -> str:
        """Return the word in the names of the tests that are likeliest to notice: ``batch_norm``."""
        *_, name = (part for part in self.function.split(".") if not part.startswith("__"))
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).strip("_").lower()

    def source(self) -> str:
        """Return the module's source with the edit made; raises ValueError unless its place is exactly one."""
        source = (ROOT / "fmlp" / f"{self.module}.py").read_text(encoding="utf-8")
        code = only(source, self.function)
        if (found := code.count(self.old)) != 1:
            raise ValueError(f"{self}: expected the old text once in the function, found it {found} times")
        at = code.index(self.old)
        return source[:at] + self.new + source[at + len(self.old) :]


MUTANTS = [Mutant(module, *edit) for module, table in TABLES.items() for edit in table]


@functools.cache
def only(source: str, function: str) -> str:
    """Return the source with everything but the code of one function, method, class or constant blanked out."""
    body = _parsed(source).body
    node: ast.AST | None = None
    for name in function.split("."):
        # The last: before it come the overloads.
        node = next((node for node in reversed(body) if name in _names(node)), None)
        if node is None:
            raise ValueError(f"{function}: not found")
        body = getattr(node, "body", [])
    first = min(part.lineno for part in [node, *getattr(node, "decorator_list", [])])
    kept = set(range(first, node.end_lineno + 1))
    if body and ast.get_docstring(node) is not None:
        kept -= set(range(body[0].lineno, body[0].end_lineno + 1))
    lines = source.splitlines(keepends=True)
    return "".join(line if i in kept else "\0" * len(line) for i, line in enumerate(lines, 1))


@functools.cache
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


def _names(node: ast.AST) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else []
    targets = [part for target in targets for part in getattr(target, "elts", [target])]
    return [getattr(node, "name", ""), *(target.id for target in targets if isinstance(target, ast.Name))]


def select(names: Sequence[str]) -> list[Mutant]:
    """Return the mutants of the modules or functions named, all of them without names."""
    unknown = set(names) - {m.module for m in MUTANTS} - {f"{m.module}.{m.function}" for m in MUTANTS}
    if unknown:
        raise ValueError(f"no mutants are called {', '.join(sorted(unknown))}")
    return [m for m in MUTANTS if not names or {m.module, f"{m.module}.{m.function}"} & {*names}]


def run(mutants: Sequence[Mutant], jobs: int) -> Iterator[tuple[Mutant, str, str]]:
    """Yield each mutant with what became of it, "caught", "survived" or "error", and the output of its tests."""
    waiting, running = [*mutants], dict[int, tuple[Mutant, tempfile.TemporaryDirectory[str]]]()
    while waiting or running:
        if waiting and len(running) < jobs:
            mutant, folder = waiting.pop(0), tempfile.TemporaryDirectory()
            running[start(Path(folder.name), TESTS[mutant.module], mutant)] = mutant, folder
            continue
        pid, status = os.wait()
        mutant, folder = running.pop(pid)
        with folder:
            output = (Path(folder.name) / "out.txt").read_text(errors="replace")
        yield mutant, became(status), output


def became(status: int) -> str:
    """Tell the status of a process; one that was killed by a signal crashed, or took too long."""
    code = os.waitstatus_to_exitcode(status)
    return "survived" if code == 0 else "caught" if code <= 1 else "error"


def start(folder: Path, tests: Sequence[str], mutant: Mutant | None = None) -> int:
    """Run test files on a copy of the tree with the edit made, in a process that is forked; return its id."""
    shutil.copy(ROOT / "pyproject.toml", folder)
    stale = f"{mutant.module}.*.pyc" if mutant else ""
    for name in ("fmlp", "tests", "data"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("cache", stale))
    if mutant:
        (folder / "fmlp" / f"{mutant.module}.py").write_text(mutant.source(), encoding="utf-8")
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    status = 2
    try:
        os.chdir(folder)
        out = os.open("out.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.environ["PYTHONPATH"] = str(folder)
        sys.path.insert(0, str(folder))
        assert Path(importlib.util.find_spec("fmlp").origin).is_relative_to(folder)
        signal.alarm(TIMEOUT)
        files = [f"tests/test_{name}.py" for name in tests]
        likely = [[files[0], "-k", mutant.word()]] if mutant else []
        for arguments in [*likely, *([file] for file in files)]:
            status = int(pytest.main([*PYTEST, *arguments]))
            if status not in (0, pytest.ExitCode.NO_TESTS_COLLECTED):
                break
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def main() -> int:
    """Run mutants and print what became of them; return 0 if all were caught."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a module, or module.function")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--unchecked", action="store_true", help="do not first see the tests pass without an edit")
    options = parser.parse_args()
    mutants = select(options.only)
    for mutant in mutants:
        mutant.source()
    os.environ |= {"HYPOTHESIS_PROFILE": "mutants", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    for name in PRELOADED:
        with suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()  # a collection in a process that is forked would copy the memory of all that is loaded
    for name in ("fmlp", "tests"):
        compileall.compile_dir(ROOT / name, quiet=2)  # once, not in each copy

    started = time.monotonic()
    modules = list(dict.fromkeys(mutant.module for mutant in mutants))
    files = list(dict.fromkeys(name for module in modules for name in TESTS[module]))
    if not options.unchecked:
        with tempfile.TemporaryDirectory() as folder:
            _, status = os.waitpid(start(Path(folder), files), 0)
            if status:  # then nothing would be proved
                print(
                    (Path(folder) / "out.txt").read_text(errors="replace"), "The tests fail without any edit.", sep="\n"
                )
                return 1
    counts = {module: {"caught": 0, "survived": 0, "error": 0} for module in modules}
    for mutant, outcome, output in run(mutants, options.jobs):
        counts[mutant.module][outcome] += 1
        print(f"{outcome:9}{mutant}", flush=True)
        if outcome == "error":
            print(output[-2000:])

    print(f"\n| module | mutants | caught |\n|{'-' * 12}|---:|---:|")
    for module, count in counts.items():
        print(f"| {module} | {sum(count.values())} | {count['caught']} |")
    caught = sum(count["caught"] for count in counts.values())
    print(f"\n{caught} of {len(mutants)} mutants caught, in {time.monotonic() - started:.0f} s")
    return 0 if caught == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
