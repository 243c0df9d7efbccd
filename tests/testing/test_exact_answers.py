"""The exact answers agree with other routes to them, and share no code with what they judge."""

import ast
import inspect
import math
import re
from decimal import localcontext
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import npddpm.testing
from npddpm.testing import exact, inputs
from npddpm.testing.contract import ARGUMENTS

FILES = sorted(Path(npddpm.testing.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_the_yardstick_imports_nothing_of_npddpm_but_itself(file):
    own = {f.stem for f in FILES}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not [alias.name for alias in node.names if alias.name.split(".")[0] == "npddpm"]
        if isinstance(node, ast.ImportFrom):
            names = {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
            assert node.level == 1 and names <= own or node.level == 0 and names.isdisjoint({"npddpm"}), ast.unparse(node)


def test_each_module_imports_those_before_it_alone():
    """The order is the one in the docstring of the package; a circle has none."""
    imports = {file.stem: {node.module or alias.name for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
                           if isinstance(node, ast.ImportFrom) and node.level == 1 for alias in node.names} for file in FILES}
    order = re.findall(r"`(\w+)`", npddpm.testing.__doc__.split("The modules")[1]) + ["__init__"]
    assert sorted(order) == sorted(imports)
    for i, module in enumerate(order):
        assert imports[module] <= set(order[:i]), module


def test_the_exact_functions_have_the_arguments_of_the_contract():
    for function in ARGUMENTS.keys() - {"times", "parameters", "loss", "gradient"}:
        assert list(inspect.signature(getattr(exact, function)).parameters) == ARGUMENTS[function]


def test_the_answers_agree_with_bayes_in_rationals():
    roots = [Fraction(1, 2), Fraction(3, 4), Fraction(7, 8)]
    betas = np.array([float(1 - r * r) for r in roots])
    x0, xt = np.array([[0.75, -2.0]]), np.array([[1.5, 0.25]])
    for t in (2, 3):
        before, root = math.prod(roots[:t - 1]), roots[t - 1]
        precision = root**2 / (1 - root**2) + 1 / (1 - before**2)
        mean = [(root / (1 - root**2) * Fraction(b) + before / (1 - before**2) * Fraction(a)) / precision
                for a, b in zip(x0[0], xt[0])]
        with localcontext(exact.CONTEXT):
            found, variance = exact.q_posterior(betas, exact.exact(x0), exact.exact(xt), t)
        assert abs(Fraction(variance) - 1 / precision) < Fraction(1, 10**50)
        assert all(abs(Fraction(a) - b) < Fraction(1, 10**50) for a, b in zip(found[0], mean))


def test_the_exact_bound_lies_below_the_log_density_in_the_mean():
    """Data N(0, v), with its own best denoiser; the mean over x_0 and noise by nodes is exact."""
    d, v = 2, 0.5
    x = math.sqrt(v) * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1.0]])
    log_p = -d / 2 * math.log(2 * math.pi * v) - d / 2
    gaps = []
    for T in (20, 100, 400):
        betas = np.linspace(1e-4, 0.02, T) * 1000 / T * 0.9
        x0, noise = np.repeat(x, 4, axis=0), np.tile(np.tile(np.sign(x), (4, 1)), (T + 1, 1, 1))
        with localcontext(exact.CONTEXT):
            denoiser = inputs.GaussianDenoiser(betas, 0.0, v, d)
            bound = exact.variational_bound(betas, denoiser, exact.exact(x0), exact.exact(noise))
        gaps.append(log_p - float(bound.mean()))
    assert gaps[0] > gaps[1] > gaps[2] > 0 and gaps[2] < 0.05
