"""House style: distinguishable without colour."""

import itertools

import pytest
from matplotlib.colors import to_rgb

from experiments.harness import figures


def luminance(color):
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), to_rgb(color), strict=True))


def test_neighbouring_lines_differ_in_grey():
    for first, second in itertools.pairwise(figures.COLORS):
        assert abs(luminance(first) - luminance(second)) > 0.08, (first, second)


def test_all_lines_differ_in_dash_and_marker():
    styles = list(itertools.islice(figures.styles(), len(figures.COLORS)))
    assert len({str(s["linestyle"]) for s in styles}) == len(styles)
    assert len({s["marker"] for s in styles}) == len(styles)


def test_the_same_drawing_gives_the_same_bytes(tmp_path):
    def draw():
        figure, axes = figures.new(columns=2)
        axes[0, 0].plot([1, 2, 3], [3, 1, 2], label="line", **next(figures.styles()))
        axes[0, 0].legend()
        return figure

    one, two = (figures.render(draw, tmp_path / name) for name in ("one.png", "two.png"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("ends", [(1.1e-3, 1.9e-3), (0.2, 40.0), (3.1, 3.3)])
def test_logarithmic_axes_have_two_numbers_at_least(ends):
    figure, axes = figures.new()
    axes[0, 0].plot([0, 1], ends)
    figures.logarithmic(axes[0, 0], "y")
    figure.draw_without_rendering()
    low, high = axes[0, 0].get_ylim()
    assert sum(low <= tick <= high for tick in axes[0, 0].get_yticks()) >= 2


def test_text_without_glyphs_is_shown_by_question_marks():
    assert figures.printable("a\x00\x85b\u4e2d\n\u00e9") == "a??b?\n\u00e9"
