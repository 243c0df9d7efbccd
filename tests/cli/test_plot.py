"""plot: pictures of images, of points in the plane, of numbers and of few rows."""

import numpy as np
import pytest
from commands import SMALL

from npddpm.cli.main import main

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


@pytest.mark.parametrize("source", ["digits", "moons", "own.csv", "few.csv"])
def test_plot(source):
    pytest.importorskip("matplotlib")
    np.savetxt("own.csv", np.random.default_rng(0).standard_normal((50, 1)), delimiter=",")
    np.savetxt("few.csv", np.random.default_rng(0).standard_normal((4, 2)), delimiter=",")
    assert main(["train", source, *SMALL, "--holdout", "0" if source == "few.csv" else "0.2", "--out", "m.npz"]) == 0
    assert main(["plot", "m.npz"]) == 0
    with open("m.png", "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"
