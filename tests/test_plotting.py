"""Pictures: what is drawn, not how it looks."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from fmlp import activations, schedules
from fmlp.plotting import plot_activation, plot_decision_boundary, plot_history, plot_schedule


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def test_history_has_a_panel_for_each_quantity_and_lr_last():
    history = {
        "loss": [2.0, 1.0],
        "lr": [0.1, 0.1],
        "accuracy": [0.5, 0.9],
        "val_loss": [3.0, 2.0],
        "val_accuracy": [0.4, 0.6],
    }
    figure = plot_history(history, best_epoch=1)
    assert [ax.get_title() for ax in figure.axes] == ["loss", "accuracy", "lr"]
    assert lines(figure.axes[1])["validation"].get_xydata().tolist() == [[1, 0.4], [2, 0.6]]
    assert lines(figure.axes[0])["best"].get_xdata()[0] == 2


def test_a_quantity_only_of_validation_has_a_panel():
    assert [ax.get_title() for ax in plot_history({"loss": [1.0], "val_f1": [0.5]}).axes] == ["loss", "f1"]


def test_empty_history_is_an_error():
    with pytest.raises(ValueError, match="history: expected at least one recorded quantity"):
        plot_history({})


def test_boundary_asks_for_the_plane_around_the_points():
    x, y = np.array([[-1.0, 0.0], [1.0, 2.0]]), np.array([[3], [7]])
    asked = []

    def predict(points):
        asked.append(points)
        return np.where(points[:, 0] > 0, 7, 3)

    figure = plot_decision_boundary(predict, x, y, resolution=11)
    (points,) = asked
    assert points.shape == (121, 2)
    assert (points.min(0) < x.min(0)).all()
    assert (points.max(0) > x.max(0)).all()
    region = figure.axes[0].get_images()[0].get_array()
    assert (region[:, :5] == 0).all()
    assert (region[:, 6:] == 1).all()


@pytest.mark.parametrize(("x", "y"), [(np.zeros((3, 3)), np.zeros(3)), (np.zeros((3, 2)), np.zeros(2))])
def test_boundary_of_other_shapes_is_an_error(x, y):
    with pytest.raises(ValueError, match=r"x, y: expected shapes \(rows, 2\) and \(rows,\), rows > 0, got"):
        plot_decision_boundary(lambda points: points[:, 0], x, y)


def test_schedule_and_activation_draw_their_values():
    (line,) = plot_schedule(schedules.step_lr(1.0, 2, 0.5), 4).axes[0].get_lines()
    assert list(line.get_ydata()) == [1.0, 1.0, 0.5, 0.5]
    drawn = lines(plot_activation(activations.leaky_relu, negative_slope=0.5).axes[0])
    assert drawn["f"].get_ydata()[0] == -2.0
    assert drawn["f′"].get_ydata()[0] == 0.5


@pytest.mark.parametrize("f", activations.table.values(), ids=activations.table)
def test_every_activation_has_its_picture(f):
    settings = {"threshold": 0.5, "value": 0.0} if f is activations.threshold else {}
    plot_activation(f, **settings)


def test_the_picture_of_softmax_is_that_of_one_component():
    (value, slope), x = plot_activation(activations.softmax).axes[0].lines, np.linspace(-4, 4, 801)
    sigmoid = activations.sigmoid(x)
    assert np.allclose(value.get_ydata(), sigmoid)
    assert np.allclose(slope.get_ydata(), sigmoid * (1 - sigmoid))


def test_a_boundary_shows_what_is_said_even_where_no_point_has_that_label():
    x = np.array([[0.0, 0.0], [1.0, 1.0]])
    figure = plot_decision_boundary(lambda points: [1] * len(points), x, np.array([0, 2]), resolution=5)
    (image,) = figure.axes[0].images
    assert (image.get_array() == 1).all()
    assert image.get_clim() == (0, 2)


def test_draws_on_the_axes_given():
    figure = Figure()
    assert plot_schedule(schedules.constant(0.1), 3, label="constant", ax=figure.add_subplot()) is figure
    assert "constant" in lines(figure.axes[0])


def test_pyplot_is_left_alone():
    code = (
        "import fmlp.plotting as p, sys; p.plot_history({'loss': [1.0]}); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def boundary(predict, y, **settings):
    x = np.stack([np.linspace(-1, 1, len(y)), np.linspace(-1, 1, len(y))], 1)
    return plot_decision_boundary(predict, x, np.asarray(y), **settings)


@pytest.mark.parametrize(
    ("low", "high", "line"),
    [(0, 1, True), (-1, 1, True), (-8, 8, False), (0, 0.4, False)],
    ids=["probability", "tanh", "logit", "only one label"],
)
def test_numbers_that_are_no_labels_are_shaded(low, high, line):
    labels = [0, 1] * 10 if low == 0 or high == 8 else [-1, 1] * 10
    figure = boundary(lambda points: low + (high - low) * (1 + np.tanh(3 * points[:, 0])) / 2, labels)
    ax, bar = figure.axes
    assert not ax.images
    assert bar.get_ylim() == pytest.approx((min(low, labels[0]), max(high, labels[1])), abs=0.05)
    shades, *lines, first, second = ax.collections  # each label is one collection of points
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [str(labels[0]), str(labels[1])]
    assert [len(points.get_offsets()) for points in (first, second)] == [10, 10]
    assert len(lines) == line
    if line:
        path = lines[0].get_paths()[0]
        assert path.vertices[:, 0] == pytest.approx(0, abs=0.02)
        assert lines[0].levels == (low + high) / 2
    assert (shades.levels[0], shades.levels[-1]) == bar.get_ylim()


def test_targets_are_drawn_on_the_scale_of_the_shades():
    y = np.linspace(-1.5, 1.5, 40)
    figure = boundary(lambda points: points[:, 0], y, resolution=20)
    ax, _ = figure.axes
    (shades, points) = ax.collections
    assert ax.get_legend() is None
    assert np.allclose(points.get_facecolors()[::13], shades.cmap((y[::13] + 1.5) / 3))


@pytest.mark.parametrize(
    ("predict", "y", "legend"),
    [
        (lambda p: np.where(p[:, 0] > 0, "cat", "dog"), ["cat", "dog"] * 4, ["cat", "dog"]),
        (lambda p: p[:, 0] > 0, [True, False] * 4, ["False", "True"]),
        (lambda p: np.where(p[:, 0] > 0, 0.5, 1.5), [0.5, 1.5] * 4, ["0.5", "1.5"]),
        (lambda p: np.sign(p[:, 0]), [-1, 1] * 4, ["-1", "0", "1"]),
        (lambda p: np.full(len(p), 2), [2] * 4, ["2"]),
        (lambda p: np.round(1e4 * p[:, 0]), np.arange(700), None),
        (lambda p: np.floor(5 + 6 * p[:, 0]), np.arange(12), None),
    ],
    ids=["text", "booleans", "fractions", "signs", "one", "counts", "twelve"],
)
def test_labels_are_drawn_as_labels(predict, y, legend):
    figure = boundary(predict, y, resolution=51)
    (ax,) = figure.axes
    assert len(ax.images) == 1
    found = ax.get_legend()
    assert (found and [text.get_text() for text in found.get_texts()]) == legend
    assert len(ax.collections) == (len(legend) if legend else 1)  # however many there are
    assert sum(len(points.get_offsets()) for points in ax.collections) == len(y)


@pytest.mark.parametrize(
    ("predict", "y", "error", "message"),
    [
        (lambda p: p[:, 0], ["a", "b"], TypeError, "predict: expected labels like those in y, an array of <U1"),
        (lambda p: np.full(len(p), "a"), [0, 1], TypeError, "predict: expected labels like those in y"),
        (lambda p: np.log(np.where(p[:, 0] > 0, 1, np.nan)), [0, 1], ValueError, "predict: expected finite numbers"),
        (lambda p: p, [0, 1], ValueError, "predict: expected it to return 25 labels"),
    ],
)
def test_what_predict_must_not_give(predict, y, error, message):
    with pytest.raises(error, match=message):
        boundary(predict, y, resolution=5)
