"""Metrics: against scikit-learn over drawn data, and by hand."""

import math
import pickle
import warnings
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fmlp
from fmlp import activations, losses, metrics, optim, random
from fmlp.layers import BatchNorm, Dense, Relu, serial

DRAWN = settings(deadline=None, max_examples=100)
SCORES = [metrics.precision, metrics.recall, metrics.f1]
LABEL_METRICS = [metrics.accuracy, *SCORES, metrics.confusion_matrix]
NUMBER_METRICS = [metrics.mse, metrics.mae, metrics.r2]
ALL = LABEL_METRICS + NUMBER_METRICS
WEIGHTED = [metric for metric in ALL if metric is not metrics.confusion_matrix]


def name(metric):
    return metric.__name__


@pytest.fixture(scope="module")
def sklearn():
    return pytest.importorskip("sklearn.metrics")


ALPHABETS = st.sampled_from(
    [
        [0, 1],
        [0, 1, 2, 3, 4],
        [7],
        [-3, 0, 5],
        [-(10**12), 10**12],
        ["no", "yes"],
        ["a", "b", "cc"],
        [False, True],
    ]
)


@st.composite
def labelled(draw, alphabets=ALPHABETS):
    """Draw labels true and predicted, either of which may miss a class, and weights or None."""
    alphabet = draw(alphabets)
    n = draw(st.integers(1, 20))
    rows = st.lists(st.sampled_from(alphabet), min_size=n, max_size=n)
    weights = st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=n, max_size=n).filter(any)
    shape = draw(st.sampled_from([(n,), (n, 1)]))
    return draw(rows), np.reshape(draw(rows), shape), draw(st.none() | weights)


@DRAWN
@given(labelled())
def test_accuracy_and_confusion_matrix_equal_scikit_learn(sklearn, data):
    y_true, y_pred, weight = data
    accuracy = metrics.accuracy(y_true, y_pred, weight=weight)
    assert accuracy == pytest.approx(sklearn.accuracy_score(y_true, y_pred.ravel(), sample_weight=weight))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it warns where there is one class
        expected = sklearn.confusion_matrix(y_true, y_pred.ravel())
    matrix = metrics.confusion_matrix(y_true, y_pred)
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, expected)


@st.composite
def indicators(draw):
    """Draw zeros and ones, true and predicted, for two labels or more, and weights or None."""
    shape = draw(st.integers(1, 10)), draw(st.integers(2, 4))
    bits = st.lists(st.integers(0, 1), min_size=math.prod(shape), max_size=math.prod(shape))
    dtypes = st.sampled_from([np.int64, np.float32, bool])
    weights = st.lists(st.sampled_from([0.0, 0.5, 3.0]), min_size=shape[0], max_size=shape[0]).filter(any)
    y_true, y_pred = (np.reshape(draw(bits), shape).astype(draw(dtypes)) for _ in range(2))
    return y_true, y_pred, draw(st.none() | weights)


@DRAWN
@given(indicators())
def test_the_accuracy_of_several_labels_equals_scikit_learn(sklearn, data):
    y_true, y_pred, weight = data
    expected = sklearn.accuracy_score(y_true.astype(int), y_pred.astype(int), sample_weight=weight)
    assert metrics.accuracy(y_true, y_pred, weight=weight) == pytest.approx(expected)


@pytest.mark.parametrize("average", ["macro", "micro", "weighted", None])
@DRAWN
@given(data=labelled() | indicators())
def test_scores_equal_scikit_learn(sklearn, average, data):
    y_true, y_pred, weight = data
    for ours, theirs in zip(SCORES, [sklearn.precision_score, sklearn.recall_score, sklearn.f1_score], strict=True):
        value = ours(y_true, y_pred, average=average, weight=weight)
        given_as = (y_true, y_pred.ravel()) if isinstance(y_true, list) else (y_true.astype(int), y_pred.astype(int))
        expected = theirs(*given_as, average=average, sample_weight=weight, zero_division=0)
        np.testing.assert_allclose(value, expected, rtol=1e-12, atol=0, strict=True)
        assert average is None or type(value) is float


@DRAWN
@given(
    labelled(st.sampled_from([[0, 1], [-1, 1], [0.0, 1.0], [False, True], ["no", "yes"], [0], [1]])),
    st.integers(0, 1),
)
def test_binary_scores_equal_scikit_learn(sklearn, data, which):
    y_true, y_pred, weight = data
    classes = np.unique([*y_true, *y_pred.ravel()])
    pos_label = classes[-which].item()
    for ours, theirs in zip(SCORES, [sklearn.precision_score, sklearn.recall_score, sklearn.f1_score], strict=True):
        value = ours(y_true, y_pred, average="binary", pos_label=pos_label, weight=weight)
        expected = theirs(y_true, y_pred.ravel(), pos_label=pos_label, sample_weight=weight, zero_division=0)
        assert value == pytest.approx(expected, rel=1e-12, abs=0)


@st.composite
def measured(draw):
    """Draw numbers in steps of 1/8, so that constant columns are exactly constant for scikit-learn too."""
    n, k = draw(st.integers(2, 12)), draw(st.sampled_from([None, 1, 3]))
    shape = (n,) if k is None else (n, k)
    size = math.prod(shape)
    eighths = st.integers(-40, 40) | st.sampled_from([0, 8])
    rows = st.lists(eighths, min_size=size, max_size=size)
    weights = st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=n, max_size=n).filter(any)
    y_true = np.reshape(draw(rows | eighths.map(lambda x: [x] * size)), shape) / 8
    y_pred = y_true if draw(st.booleans()) else np.reshape(draw(rows), shape) / 8
    return y_true, y_pred, draw(st.none() | weights)


@DRAWN
@given(measured())
def test_regression_metrics_equal_scikit_learn(sklearn, data):
    y_true, y_pred, weight = data
    for ours, theirs in [
        (metrics.mse, sklearn.mean_squared_error),
        (metrics.mae, sklearn.mean_absolute_error),
        (metrics.r2, sklearn.r2_score),
    ]:
        value = ours(y_true, y_pred, weight=weight)
        assert type(value) is float
        assert value == pytest.approx(theirs(y_true, y_pred, sample_weight=weight), rel=1e-10, abs=1e-12)


# Worked by hand: class "a" is true 3 times, predicted 2, hit 2; "b" 2, 3, 1; "c" 1, 0, 0; "d" 0, 1, 0.
TRUE, PRED = list("aaabbc"), list("aabbdb")


def test_the_example_worked_by_hand():
    matrix = [[2, 1, 0, 0], [0, 1, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(metrics.confusion_matrix(TRUE, PRED), matrix)
    assert metrics.accuracy(TRUE, PRED) == 3 / 6
    assert metrics.accuracy(TRUE[:3], PRED[:3]) == 2 / 3
    for metric, per_class in [
        (metrics.precision, [1, 1 / 3, 0, 0]),
        (metrics.recall, [2 / 3, 1 / 2, 0, 0]),
        (metrics.f1, [4 / 5, 2 / 5, 0, 0]),
    ]:
        a, b, _, _ = per_class
        np.testing.assert_allclose(metric(TRUE, PRED, average=None), per_class, rtol=1e-15)
        assert metric(TRUE, PRED) == metric(TRUE, PRED, average="macro") == pytest.approx((a + b) / 4)
        assert metric(TRUE, PRED, average="weighted") == pytest.approx((3 * a + 2 * b) / 6)


def test_binary_scores_by_hand():
    y_true, y_pred = [1, 1, 1, 0, 0], [1, 1, 0, 1, 0]
    assert metrics.precision(y_true, y_pred, average="binary") == pytest.approx(2 / 3)
    assert metrics.recall(y_true, y_pred, average="binary", pos_label=0) == pytest.approx(1 / 2)
    assert metrics.f1([-1, 1, 1], [-1, 1, -1], average="binary") == pytest.approx(2 / 3)
    assert metrics.f1([0, 0], [0, 0], average="binary") == 0


def test_regression_metrics_by_hand():
    y_true, y_pred = [[1, 0], [2, 0], [3, 3]], [[1, 0], [2, 1], [5, 3]]
    assert metrics.mse(y_true, y_pred) == pytest.approx((4 + 1) / 6)
    assert metrics.mae(y_true, y_pred) == pytest.approx((2 + 1) / 6)
    assert metrics.r2(y_true, y_pred) == pytest.approx(((1 - 4 / 2) + (1 - 1 / 6)) / 2)


@pytest.mark.parametrize("metric", WEIGHTED, ids=name)
def test_a_weight_counts_a_row_that_many_times(metric):
    y_true, y_pred, weight = [0, 1, 2, 2, 1], [0, 2, 2, 1, 1], [2, 1, 3, 0, 1]
    repeated = metric(np.repeat(y_true, weight), np.repeat(y_pred, weight))
    assert metric(y_true, y_pred, weight=weight) == pytest.approx(repeated)
    assert metric(y_true, y_pred, weight=np.reshape(weight, (5, 1))) == pytest.approx(repeated)


def test_r2_where_the_truth_is_constant():
    thirds = [0.1, 0.1, 0.1]  # whose mean, in floating point, is not 0.1
    assert metrics.r2(thirds, thirds) == 1
    assert metrics.r2(thirds, [0.1, 0.1, 0.2]) == 0
    assert metrics.r2([0.1, 0.1, 0.1, 9], [0.1, 0.1, 0.2, 9], weight=[1, 1, 1, 0]) == 0
    assert metrics.r2([0, 0.1, 0.1, 0.1], [0, 0.1, 0.1, 0.2], weight=[0, 1, 1, 1]) == 0
    assert metrics.r2([[5, 1], [5, 2]], [[5, 1], [5, 2]]) == 1
    assert math.isnan(metrics.r2([1], [1]))


@pytest.mark.parametrize("metric", NUMBER_METRICS, ids=name)
@pytest.mark.parametrize("y_true", [[1.0, 2.0], [2.0, 2.0]])
def test_nan_gives_nan(metric, y_true):
    assert math.isnan(metric(y_true, [math.nan, 2.0]))
    assert math.isnan(metric([math.nan, 2.0], y_true))


@pytest.mark.parametrize("metric", ALL, ids=name)
def test_a_column_is_a_column(metric):
    y_true, y_pred = np.array([0, 1, 2, 2]), np.array([0, 1, 2, 1])
    expected = metric(y_true, y_pred)
    for t in (y_true, y_true[:, None]):
        for p in (y_pred, y_pred[:, None]):
            np.testing.assert_array_equal(metric(t, p), expected, strict=True)


@pytest.mark.parametrize("metric", ALL, ids=name)
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, np.uint64, np.float32, np.float64, object])
def test_dtypes_do_not_matter_and_do_not_overflow(metric, dtype):
    y_true, y_pred = [0, 100, 127, 0], [127, 100, 127, 0]
    given_as = (np.array(y_true, dtype), np.array(y_pred, dtype))
    if dtype is object and metric in NUMBER_METRICS:
        with pytest.raises(TypeError, match="y_true: expected numbers, got dtype object"):
            metric(*given_as)
        return
    np.testing.assert_array_equal(metric(*given_as), metric(y_true, y_pred))


def test_int8_labels_span_their_whole_range():
    y = np.array([-128, 127] * 100, np.int8)
    np.testing.assert_array_equal(metrics.confusion_matrix(y, y), [[100, 0], [0, 100]])


@pytest.mark.parametrize("metric", LABEL_METRICS, ids=name)
def test_dense_and_sparse_labels_agree(metric):
    y_true, y_pred = np.array([0, 1, 2, 2, 4]), np.array([0, 1, 2, 1, 0])
    np.testing.assert_array_equal(metric(10**9 * y_true, 10**9 * y_pred), metric(y_true, y_pred))
    np.testing.assert_array_equal(metric(y_true - 7, y_pred - 7), metric(y_true, y_pred))


@pytest.mark.parametrize("metric", LABEL_METRICS, ids=name)
def test_strings_in_object_arrays_are_strings(metric):
    result = metric(np.array(TRUE, object), np.array(PRED, object))
    np.testing.assert_array_equal(result, metric(TRUE, PRED))


@pytest.mark.parametrize("metric", ALL, ids=name)
def test_the_arguments_are_not_written_to(metric):
    y = np.array([1.0, 2.0, 4.0])
    metric(y, y)
    np.testing.assert_array_equal(y, [1, 2, 4])


@pytest.mark.parametrize("metric", ALL, ids=name)
def test_masked_arrays_are_refused(metric):
    y = np.array([0, 1, 2])
    hidden = np.ma.masked_array(y, [False, True, False])
    refused = [("y_true", (hidden, y), {}), ("y_pred", (y, hidden), {})]
    refused += [("weight", (y, y), {"weight": hidden})] if metric in WEIGHTED else []
    for argument, args, keywords in refused:
        with pytest.raises(
            TypeError, match=rf"^{argument}: expected an array without a mask, .* \(3,\); leave out the"
        ):
            metric(*args, **keywords)


@pytest.mark.parametrize("metric", ALL, ids=name)
@pytest.mark.parametrize(
    ("t", "p"),
    [((3,), (4,)), ((3,), (3, 3)), ((0,), (0,)), ((), ()), ((2, 1, 1), (2, 1, 1)), ((3, 0), (3, 0))],
)
def test_shapes_that_do_not_match_are_refused_by_name(metric, t, p):
    with pytest.raises(ValueError, match="y_true and y_pred") as error:
        metric(np.zeros(t), np.zeros(p))
    assert f"{t} and {p}" in str(error.value)


@pytest.mark.parametrize("metric", LABEL_METRICS, ids=name)
@pytest.mark.parametrize(
    ("y_true", "y_pred", "error", "message"),
    [
        ([0, 1], [0.5, 1.0], ValueError, r"y_pred: .* not whole, such as 0\.5"),
        ([0, 1], [0.0, math.nan], ValueError, "y_pred: .* not whole, such as nan"),
        ([0, math.inf], [0, 1], ValueError, "y_true: .* not whole, such as inf"),
        (
            np.array([0, 2**64 - 1], np.uint64),
            [0, 1],
            ValueError,
            "y_true: .* below 2..63, .* got 1844674407370955161",
        ),
        ([0, 1], [0, 1e19], ValueError, "y_pred: .* below 2..63, .* got 1e.19"),
        ([0, 1], ["0", "1"], TypeError, "labels of one kind, got int64 and <U1"),
        (
            ["a", None],
            ["a", "b"],
            TypeError,
            "y_true: expected integers, booleans or strings .* got dtype object",
        ),
        (np.array([1, "a"], object), [1, 2], TypeError, "y_true: expected .* got dtype object"),
        ([1, 1j], [1, 1], TypeError, "y_true: expected .* got dtype complex128"),
    ],
)
def test_what_is_no_label_is_refused(metric, y_true, y_pred, error, message):
    with pytest.raises(error, match=message):
        metric(y_true, y_pred)


def test_what_is_no_indicator_is_refused():
    with pytest.raises(ValueError, match=r"\(n, 1\), n > 0, got \(3, 2\) and \(3, 2\)"):
        metrics.confusion_matrix(np.zeros((3, 2)), np.zeros((3, 2)))
    for metric in [metrics.accuracy, *SCORES]:
        with pytest.raises(ValueError, match="y_pred: expected zeros and ones, one column for each label"):
            metric(np.zeros((3, 2)), np.full((3, 2), 2))
        with pytest.raises(ValueError, match="y_true: expected zeros and ones, one column for each label"):
            metric(np.ones((3, 2), object), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="average: expected one column of labels for 'binary'"):
        metrics.f1(np.zeros((3, 2)), np.zeros((3, 2)), average="binary")


@pytest.mark.parametrize("metric", NUMBER_METRICS, ids=name)
def test_what_is_no_number_is_refused(metric):
    with pytest.raises(TypeError, match="y_pred: expected numbers, got dtype <U1"):
        metric([1, 2], ["1", "2"])
    with pytest.raises(ValueError, match=r"got \(3, 2\) and \(3, 4\)"):
        metric(np.zeros((3, 2)), np.zeros((3, 4)))


@pytest.mark.parametrize("metric", WEIGHTED, ids=name)
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1], r"weight: expected one number per row, shape \(2,\) or \(2, 1\), got \(1,\)"),
        (2.0, r"weight: expected one number per row, .* got \(\)"),
        ([[1, 1], [1, 1]], r"weight: .* got \(2, 2\)"),
        ([1, -1], "weight: expected finite numbers of at least 0"),
        ([1, math.nan], "weight: expected finite"),
        ([1, math.inf], "weight: expected finite"),
        ([0, 0], "weight: .* not all of them 0"),
    ],
)
def test_weights_that_make_no_sense_are_refused(metric, weight, message):
    with pytest.raises(ValueError, match=message):
        metric([0, 1], [0, 1], weight=weight)


@pytest.mark.parametrize("metric", SCORES, ids=name)
def test_averages_that_make_no_sense_are_refused(metric):
    with pytest.raises(ValueError, match="average: expected 'macro', 'micro', 'weighted', 'binary' or None, got 'all'"):
        metric([0, 1], [0, 1], average="all")
    with pytest.raises(ValueError, match="average: expected two classes at most for 'binary', got 3"):
        metric([0, 1, 2], [0, 1, 2], average="binary")
    with pytest.raises(ValueError, match=r"pos_label: expected one of \['no', 'yes'\], got 1"):
        metric(["no", "yes"], ["no", "yes"], average="binary")


# ------------------------------------------------------------------------------- metrics of scores


EIGHTHS = st.integers(0, 8).map(lambda i: i / 8)  # so that some are equal


@st.composite
def scored(draw, several=False):
    """Draw labels in which every class occurs with a weight, or indicators, scores for them and weights or None."""
    k, n = draw(st.integers(2, 4)), draw(st.integers(4, 15))
    weights = draw(st.lists(st.sampled_from([0.0, 0.5, 3.0]), min_size=n, max_size=n))
    weights[:k] = [1.0] * k
    if several:
        y = np.reshape(draw(st.lists(st.integers(0, 1), min_size=n * k, max_size=n * k)), (n, k))
    else:
        names = draw(st.sampled_from([np.arange(k), np.array(["a", "b", "c", "d"]), np.array([-1, 1, 5, 7])]))
        y = names[[*range(k), *draw(st.lists(st.integers(0, k - 1), min_size=n - k, max_size=n - k))]]
    scores = np.reshape(draw(st.lists(EIGHTHS, min_size=n * k, max_size=n * k)), (n, k))
    return y, scores, draw(st.none() | st.just(weights))


def normalized(scores):
    return (scores + 1e-3) / (scores + 1e-3).sum(1, keepdims=True)


@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
@pytest.mark.filterwarnings("ignore")  # where scikit-learn warns, fmlp does not
@DRAWN
@given(data=scored() | scored(several=True))
def test_areas_equal_scikit_learn(sklearn, average, data):
    y, scores, weight = data
    given_as = {"average": average, "weight": weight}
    expected_as = {"average": average, "sample_weight": weight}
    binary = y.ndim == 1 and scores.shape[1] == 2
    p = scores if y.ndim == 2 else normalized(scores)
    theirs = p[:, 1] if binary else p
    expected = sklearn.roc_auc_score(y, theirs, multi_class="ovr", **expected_as)
    assert metrics.roc_auc(y, p, **given_as) == pytest.approx(expected, nan_ok=True)
    positive = {"pos_label": np.unique(y)[1]} if binary else {}
    expected = sklearn.average_precision_score(y, theirs, **positive, **expected_as)
    assert metrics.average_precision(y, p, **given_as) == pytest.approx(expected)
    if binary:
        for column in (p[:, 1], p[:, 1:]):
            assert metrics.roc_auc(y, column, **given_as) == metrics.roc_auc(y, p, **given_as)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.filterwarnings("ignore")  # where scikit-learn warns, fmlp does not
@DRAWN
@given(data=scored(), logits=st.booleans())
def test_log_loss_and_top_k_accuracy_equal_scikit_learn(sklearn, k, data, logits):
    y, scores, weight = data
    p = normalized(scores)
    columns = [p, p[:, 1], p[:, 1:]] if p.shape[1] == 2 else [p]
    for column in columns:
        expected = sklearn.log_loss(y, column, sample_weight=weight)
        assert metrics.log_loss(y, column, weight=weight) == pytest.approx(expected)
    s = scores - 0.5 if logits else scores
    s = s[:, 1] if s.shape[1] == 2 else s
    expected = sklearn.top_k_accuracy_score(y, s, k=k, sample_weight=weight)
    assert metrics.top_k_accuracy(y, s, k=k, weight=weight) == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_log_loss_clips_by_the_dtype(sklearn, dtype):
    y, p = [0, 1, 1, 0], np.array([0.25, 0.75, 0.0, 1.0], dtype)
    assert metrics.log_loss(y, p) == pytest.approx(sklearn.log_loss(y, p), rel=1e-3 if dtype is np.float16 else 1e-6)


ON_OUTPUT = [metrics.roc_auc, metrics.average_precision, metrics.log_loss, metrics.top_k_accuracy]


def test_scores_by_hand():
    y, s = [0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8]
    assert metrics.roc_auc(y, s) == 3.5 / 4
    assert metrics.average_precision(y, s) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    assert metrics.log_loss([0, 1], [0.5, 0.25]) == pytest.approx(-(math.log(0.5) + math.log(0.25)) / 2)
    assert metrics.top_k_accuracy([1, 0], [[1, 2, 3], [1, 2, 3]]) == 0.5
    assert math.isnan(metrics.roc_auc([1, 1], [0.1, 0.2]))
    assert metrics.average_precision([0, 0], [0.1, 0.2]) == 0
    # A class that does not occur has its column all the same.
    assert metrics.log_loss([0, 1], [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]) == pytest.approx(math.log(2))


@pytest.mark.parametrize("metric", ON_OUTPUT, ids=name)
def test_rows_of_weight_zero_count_nothing_whatever_they_hold(metric):
    y, p, w = np.array([0, 1, 1, 0]), np.array([0.2, 0.9, 0.4, 0.5]), np.array([1, 2, 1, 1])
    more = np.append(y, -1.5), np.append(p, math.nan)
    assert metric(*more, weight=np.append(w, 0)) == metric(y, p, weight=w)
    repeated = metric(np.repeat(y, w), np.repeat(p, w))
    assert metric(y[:, None], p[:, None], weight=w[:, None]) == pytest.approx(repeated)


@pytest.mark.parametrize("metric", ON_OUTPUT, ids=name)
@pytest.mark.parametrize(
    ("y", "scores", "error", "message"),
    [
        ([0, 1, 2], [0, 1], ValueError, r"y_true and y_score: expected labels .* got \(3,\) and \(2,\)"),
        ([], [], ValueError, r"y_true and y_score: .* n > 0, got \(0,\) and \(0,\)"),
        ([[0, 1, 1], [0, 1, 1]], [[0, 1], [0, 1]], ValueError, r"got \(2, 3\) and \(2, 2\)"),
        ([0, 1, 2], [0, 1, 0.5], ValueError, "y_true: expected labels from 0 to 1, or 2 others"),
        (["a", "a"], [0, 1], ValueError, "y_true: expected labels from 0 to 1, .* got 1, such as a"),
        ([0, 3], np.eye(3)[:2], ValueError, "y_true: expected labels from 0 to 2, .* for 3 classes; got 2"),
        ([0.5, 1], [0, 1], ValueError, "y_true: .* not whole, such as 0.5"),
        ([0, 1], ["a", "b"], TypeError, "y_score: expected numbers, got dtype <U1"),
    ],
)
def test_scores_that_do_not_fit_the_labels_are_refused(metric, y, scores, error, message):
    with pytest.raises(error, match=message):
        metric(y, scores)


def test_what_only_one_of_the_scores_refuses():
    for p in ([[0.5, 0.4], [0.5, 0.5]], [[1.5, -0.5], [0.5, 0.5]], [0.5, 2]):
        with pytest.raises(ValueError, match="y_score: expected probabilities"):
            metrics.log_loss([0, 1], p)
    with pytest.raises(ValueError, match="average: expected one of 'macro', 'micro', 'weighted', got 'binary'"):
        metrics.roc_auc([0, 1], [0, 1], average="binary")
    for metric in (metrics.log_loss, metrics.top_k_accuracy):
        with pytest.raises(ValueError, match=r"expected labels \(n,\) with scores \(n,\) or \(n, k\), n > 0"):
            metric(np.eye(2), np.eye(2))
    with pytest.raises(ValueError, match="k: expected an integer of at least 1, got 0"):
        metrics.top_k_accuracy([0, 1], [0, 1], k=0)


@pytest.mark.parametrize("metric", ON_OUTPUT, ids=name)
def test_a_score_that_is_nan_gives_nan(metric):
    assert math.isnan(metric([0, 1], [0.5, math.nan]))
    assert math.isnan(metric([0, 1, 2], np.where(np.eye(3) == 1, math.nan, 0.5)))


def test_on_output_marks_and_leaves_the_function_alone():
    def f(y_true, y_score, *, weight=None):
        """What it is."""
        return 0.5

    marked = metrics.on_output(f)
    assert marked([0], [1]) == 0.5
    assert marked.__doc__ == "What it is."
    assert metrics.wants_output(marked)
    assert metrics.wants_output(partial(partial(marked), weight=None))
    assert not metrics.wants_output(f)
    assert all(map(metrics.wants_output, ON_OUTPUT))
    assert not any(map(metrics.wants_output, ALL))
    assert all(pickle.loads(pickle.dumps(metric)) is metric for metric in [*ON_OUTPUT, *ALL])
    with pytest.raises(TypeError, match=r"f: expected a function \(y_true, y_score\) -> float, got 0.5"):
        metrics.on_output(0.5)


# ------------------------------------------------------------------------------ in fit and evaluate


def classes(k, n=60):
    x = np.random.default_rng(0).normal(size=(n, 4))
    return x, np.digitize(x[:, 0] + x[:, 1] / 2, np.linspace(-1, 1, k + 1)[1:-1])


def trained(data, loss, width, scores, **settings):
    net = serial(Dense(8), BatchNorm(), Relu(), Dense(width))
    _, params = net.init(random.key(0), (4,))
    result = fmlp.fit(
        net, params, data, loss=loss, optimizer=optim.adam(0.01), epochs=2, key=random.key(1), metrics=scores,
        validation=data, progress=False, **settings,
    )  # fmt: skip
    output = fmlp.predict(net, result.params, data[0])
    last = {name: values[-1] for name, values in result.history.items()}
    assert fmlp.evaluate(net, result.params, data, loss=loss, metrics=scores) == {
        name: last[f"val_{name}"] for name in ["loss", *scores]
    }
    return output, last


@pytest.mark.parametrize("column", [False, True])
def test_scores_get_the_sigmoid_of_logits(sklearn, column):
    x, y = classes(2)
    scores = {
        "auc": metrics.roc_auc,
        "theirs": metrics.on_output(sklearn.roc_auc_score),
        "ap": metrics.average_precision,
        "log_loss": metrics.log_loss,
        "brier": metrics.on_output(sklearn.brier_score_loss),
        "accuracy": metrics.accuracy,
        "hard": lambda y_true, y_pred: sklearn.roc_auc_score(y_true, y_pred),
    }
    data = x, y[:, None] if column else y
    logits, last = trained(data, losses.binary_cross_entropy, 1, scores)
    p = activations.sigmoid(logits)[:, 0]
    assert last["auc"] == pytest.approx(sklearn.roc_auc_score(y, p), rel=1e-12)
    assert last["theirs"] == pytest.approx(last["auc"], rel=1e-12)
    assert last["ap"] == pytest.approx(sklearn.average_precision_score(y, p), rel=1e-12)
    assert last["log_loss"] == pytest.approx(last["val_loss"], rel=1e-6) == pytest.approx(sklearn.log_loss(y, p))
    assert last["brier"] == pytest.approx(sklearn.brier_score_loss(y, p), rel=1e-12)
    assert last["hard"] == pytest.approx(sklearn.roc_auc_score(y, p > 0.5)) != last["auc"]
    assert last["accuracy"] == np.mean(y == (p > 0.5))


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("loss", [losses.cross_entropy, partial(losses.cross_entropy, label_smoothing=0.1)])
def test_scores_get_the_softmax_of_logits(sklearn, loss, one_hot):
    x, y = classes(3)
    scores = {
        "auc": metrics.roc_auc,
        "theirs": metrics.on_output(partial(sklearn.roc_auc_score, multi_class="ovr")),
        "partial": partial(metrics.on_output(sklearn.roc_auc_score), multi_class="ovr"),
        "top": partial(metrics.top_k_accuracy, k=2),
        "own": metrics.on_output(lambda y_true, y_score: float(y_score.sum(1).mean() + y_score.shape[1])),
        "f1": metrics.f1,
    }
    logits, last = trained((x, np.eye(3)[y] if one_hot else y), loss, 3, scores)
    p = activations.softmax(logits)
    assert last["auc"] == pytest.approx(sklearn.roc_auc_score(y, p, multi_class="ovr"), rel=1e-12)
    assert last["theirs"] == last["partial"] == pytest.approx(last["auc"], rel=1e-12)
    assert last["top"] == pytest.approx(sklearn.top_k_accuracy_score(y, p, k=2))
    assert last["own"] == pytest.approx(4, rel=1e-6)
    assert last["f1"] == pytest.approx(sklearn.f1_score(y, p.argmax(1), average="macro"))


def test_scores_get_the_output_itself_where_the_loss_has_no_probabilities():
    seen = metrics.on_output(lambda y_true, y_score: float(np.abs(y_score).max()))
    output, last = trained(classes(2), losses.mse, 1, {"largest": seen, "same": lambda y, p: float(np.abs(p).max())})
    assert last["largest"] == last["same"] == np.abs(output).max()


def test_several_labels_a_row(sklearn):
    x, _ = classes(2)
    y = (x[:, :3] > 0).astype(int)
    scores = {"auc": metrics.roc_auc, "accuracy": metrics.accuracy, "f1": partial(metrics.f1, average="micro")}
    logits, last = trained((x, y), losses.binary_cross_entropy, 3, scores)
    assert last["auc"] == pytest.approx(sklearn.roc_auc_score(y, logits))
    assert last["accuracy"] == sklearn.accuracy_score(y, logits > 0)
    assert last["f1"] == pytest.approx(sklearn.f1_score(y, logits > 0, average="micro"))


def of_the_second_column(y_true, p):
    return float(p[:, 1].mean())


@pytest.mark.parametrize("how", [{"data": "arrays"}, {"data": "batches"}])
def test_a_metric_that_fails_does_so_before_the_first_step(sklearn, how):
    x, y = classes(3)
    data = (x, y) if how["data"] == "arrays" else [(x[:30], y[:30]), (x[30:], y[30:])]
    net = serial(Dense(8), BatchNorm(), Dense(3))
    _, params = net.init(random.key(0), (4,))
    steps = []  # the optimizer asks for the rate of step 0 when it is initialized

    def counted(count):
        steps.append(count)
        return 0.1

    def fit(metric):
        optimizer = optim.sgd(counted)
        steps.clear()
        return fmlp.fit(
            net, params, data, loss=losses.cross_entropy, optimizer=optimizer, epochs=1, key=random.key(0),
            validation=(x, y), metrics={"score": metric}, progress=False,
        )  # fmt: skip

    advice = r"fmlp.metrics.on_output\(f\) gives a metric the probabilities"
    unmarked = [sklearn.roc_auc_score, partial(sklearn.roc_auc_score, multi_class="ovr"), sklearn.top_k_accuracy_score]
    for metric in [*unmarked, lambda y_true, y_score: 1.0]:
        with pytest.raises(ValueError, match=f"^metrics: score: it takes y_score, but would get predictions; {advice}"):
            fit(metric)
    assert not steps
    with pytest.raises(ValueError, match=r"^metrics: score: it takes pred_decision"):
        fit(sklearn.hinge_loss)
    assert not steps
    with pytest.raises(
        ValueError, match=rf"(?s)^metrics: score: .*; it got predictions, .* \(60,\) and int64; {advice}"
    ):
        fit(of_the_second_column)
    assert max(steps, default=0) == 0
    for metric in (metrics.confusion_matrix, partial(metrics.f1, average=None)):
        with pytest.raises(TypeError, match=r"^metrics: score: expected it to return a number, got an array"):
            fit(metric)
        assert max(steps, default=0) == 0
    with pytest.raises(ValueError, match=r"^metrics: score: multi_class must be in") as caught:
        fit(metrics.on_output(sklearn.roc_auc_score))
    assert max(steps, default=0) == 0
    assert "metrics.on_output" not in str(caught.value)
    with pytest.raises(ValueError, match=f"(?s)^metrics: score: .*; {advice}"):
        fit(lambda y_true, y_pred: sklearn.roc_auc_score(y_true, y_pred))  # it might count its calls
    assert max(steps) == 1
