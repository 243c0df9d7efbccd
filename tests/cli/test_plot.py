"""plot: pictures of images, of points in the plane, of numbers and of few rows."""

import numpy as np
import pytest
from commands import train

from npddpm import DDPM, Schedule
from npddpm.cli.main import main

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


@pytest.mark.parametrize("source", ["digits", "own.csv", "few.csv"])
def test_plot(source):
    pytest.importorskip("matplotlib")
    np.savetxt("own.csv", np.random.default_rng(0).standard_normal((50, 1)), delimiter=",")
    np.savetxt("few.csv", np.random.default_rng(0).standard_normal((4, 2)), delimiter=",")
    train(source, "--holdout", "0" if source == "few.csv" else "0.2")
    assert main(["plot", "m.npz"]) == 0
    with open("m.png", "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"


def test_columns_of_two_units_fill_the_picture():
    plot = pytest.importorskip("npddpm.cli.plot")
    x = np.random.default_rng(0).uniform(size=(200, 2))
    assert [plot.aspect(x * units) for units in ((1, 1), (1, 5), (1, 1e3), (1e-7, 1e14), (0, 1))] == ["equal"] * 2 + ["auto"] * 3
    assert plot.aspect(x[:, :1]) == "auto"
    model = DDPM(Schedule.linear(4), 4, 1).fit(x * [1e-7, 1e14], 2, rng=0)
    page = plot.overview(model, x * [1e-7, 1e14], np.ones((2, 3)))
    page.canvas.draw()
    assert min(page.subfigs[0].axes[0].get_window_extent().size) > 100 and page.subfigs[3].axes[0].get_aspect() == "auto"


@pytest.mark.parametrize("image", [(4, 6), (4, 6, 3), (3, 4, 6), (5, 4, 6)])
def test_pixels_of_any_image(image):
    plot = pytest.importorskip("npddpm.cli.plot")
    rows = np.arange(2.0 * np.prod(image)).reshape(2, -1)
    shown = plot.pixels(rows, image)
    first = rows[0].reshape(image)
    expected = first[..., None] if len(image) == 2 else first if image[-1] == 3 else np.moveaxis(first, 0, -1) if image[0] == 3 else first[..., :1]
    assert (shown[0] == expected).all()
