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
    figure = plot_decision_boundary(lambda points: np.ones(len(points)), x, np.array([0, 2]), resolution=5)
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
