"""Metrics: against scikit-learn over drawn data, and by hand."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmlp import metrics

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


@pytest.mark.parametrize("average", ["macro", "weighted", None])
@DRAWN
@given(data=labelled())
def test_scores_equal_scikit_learn(sklearn, average, data):
    y_true, y_pred, weight = data
    for ours, theirs in zip(SCORES, [sklearn.precision_score, sklearn.recall_score, sklearn.f1_score], strict=True):
        value = ours(y_true, y_pred, average=average, weight=weight)
        expected = theirs(y_true, y_pred.ravel(), average=average, sample_weight=weight, zero_division=0)
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
        (np.zeros((3, 2)), np.zeros((3, 2)), ValueError, r"\(n, 1\), n > 0, got \(3, 2\) and \(3, 2\)"),
        ([0, 1], [0.5, 1.0], ValueError, r"y_pred: .* not whole, such as 0\.5"),
        ([0, 1], [0.0, math.nan], ValueError, "y_pred: .* not whole, such as nan"),
        ([0, math.inf], [0, 1], ValueError, "y_true: .* not whole, such as inf"),
        (np.array([0, 2**63], np.uint64), [0, 1], ValueError, "y_true: .* not whole"),
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
    with pytest.raises(ValueError, match="average: expected 'macro', 'weighted', 'binary' or None, got 'micro'"):
        metric([0, 1], [0, 1], average="micro")
    with pytest.raises(ValueError, match="average: expected two classes at most for 'binary', got 3"):
        metric([0, 1, 2], [0, 1, 2], average="binary")
    with pytest.raises(ValueError, match=r"pos_label: expected one of \['no', 'yes'\], got 1"):
        metric(["no", "yes"], ["no", "yes"], average="binary")
