"""The benchmarks can be started: each module is imported, and the smallest figures come out."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from npddpm import data

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "benchmarks").glob("[!_]*.py")))
def test_each_module_can_be_imported(name):
    importlib.import_module(f"benchmarks.{name}")


def test_strays_are_points_far_from_all_real_ones(monkeypatch):
    quality = importlib.import_module("benchmarks.quality")
    x = data.load("moons", 2000, 0)
    load = data.load
    monkeypatch.setattr(data, "load", lambda name, n, rng: load(name, 3000, rng))
    drawn = (np.concatenate([x[:8], [[9, 9], [-9, 0]]]) - x.mean(0)) / x.std(0)
    assert quality.strays(drawn, "moons", 0, x) == 0.2


def test_kernels_of_a_step_are_counted():
    ours = importlib.import_module("benchmarks.ours")
    assert ours.launches(ours.Shape(64, 256, 3, 256)) == 37     # one more is a pass that is no longer fused
