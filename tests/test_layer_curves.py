"""Curves over layers: which features are on them, and where."""

from granted.eval_metric.layer_curves import layer_points, layers_csv, layers_figure


def rows(encoder, features, panel="all"):
    return [
        {"encoder": encoder, "feature": name, "panel": panel, "accuracy": value, "ci95": (value, value), "guess": 0.25}
        for name, value in features.items()
    ]


SINGLE = {"layer_0": 0.3, "layer_2": 0.5, "layer_10": 0.4}
CUMULATIVE = {"norm_avg_first_1": 0.3, "norm_avg_first_2": 0.6, "norm_avg_first_3": 0.7}


def test_single_layers_and_the_mean_up_to_them_are_two_curves_over_one_axis():
    points = layer_points(rows("a", SINGLE | CUMULATIVE | {"norm_avg": 0.7, "avg": 0.1, "frozen_run": 0.2}))
    found = {(one.curve, one.layer): one.accuracy for one in points}
    assert found == {
        ("one layer", 0): 0.3,
        ("one layer", 2): 0.5,
        ("one layer", 10): 0.4,
        ("Norm-Avg up to it", 0): 0.3,
        ("Norm-Avg up to it", 1): 0.6,
        ("Norm-Avg up to it", 2): 0.7,
        ("norm_avg", None): 0.7,
    }


def test_two_layers_are_no_curve():
    few = rows("few", {"layer_0": 0.1, "layer_1": 0.2, "norm_avg_first_1": 0.1, "last": 0.3})
    assert layer_points(few) == []
    assert {one.encoder for one in layer_points(few + rows("a", SINGLE))} == {"a"}


def test_a_chart_has_a_panel_for_all_that_was_scored_and_a_line_for_each_curve():
    points = layer_points(
        [*rows("a $x$", SINGLE | CUMULATIVE | {"last": 0.4}), *rows("b", SINGLE), *rows("a $x$", SINGLE, "colour")]
    )
    figure = layers_figure(points)
    panels = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title(loc="left") for ax in panels] == ["all", "colour"]
    single, cumulative, last, other, guess = panels[0].lines
    assert list(single.get_xdata()) == [0, 2, 10] and list(single.get_ydata()) == [30, 50, 40]
    assert list(cumulative.get_xdata()) == [0, 1, 2] and list(cumulative.get_ydata()) == [30, 60, 70]
    assert last.get_ydata()[0] == 40 and guess.get_ydata()[0] == 25
    assert panels[1].lines[0].get_color() == single.get_color() != other.get_color()
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["a $x$, one layer", "a $x$, Norm-Avg up to it", "a $x$, last", "b, one layer"]


def test_the_data_of_the_chart_is_a_table():
    header, lines = layers_csv(layer_points(rows("a", SINGLE)))
    assert dict(zip(header, lines[1])) == {
        "encoder": "a",
        "scored": "all",
        "curve": "one layer",
        "layer": 2,
        "accuracy": 0.5,
        "low": 0.5,
        "high": 0.5,
        "guess": 0.25,
    }
