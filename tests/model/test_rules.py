"""The rules by which a model is chosen, and that `fit` follows them where nothing else is said."""

import numpy as np
import pytest
from pytest import approx

from npddpm import DDPM, Schedule
from npddpm.model import rules
from npddpm.model.gates import GatedMLP

S = Schedule.linear(50)


@pytest.mark.parametrize("r, hidden, depth, fourier, gated", [
    (1, 128, 3, 4, False), (3, 128, 3, 4, False), (4, 128, 3, 0, False), (32, 128, 3, 0, False), (33, 256, 5, 0, False),
    (128, 256, 5, 0, False), (129, 512, 3, 0, True), (10_000, 512, 3, 0, True)])
def test_the_rules_for_the_network(r, hidden, depth, fourier, gated):
    assert rules.network(r) == {"hidden": hidden, "depth": depth, "fourier": fourier, "gated": gated}
    assert rules.kept_wide(r) == (r > 32)


def test_what_is_given_counts_more_than_a_rule():
    x = np.random.default_rng(0).standard_normal((9, 3))
    for given in (None, 0, 1):
        assert DDPM(S, 4, 1, fourier=given).fit(x, 1, 2, rng=0).net.fourier == (4 if given is None else given)


def test_gates_are_for_many_axes():
    x = np.random.default_rng(0).standard_normal((300, 129))
    for d, given, gated in ((129, None, True), (128, None, False), (129, False, False), (128, True, True)):
        net = DDPM(S, 4, 1, gated=given).fit(x[:, :d], 1, 2, rng=0).net
        assert isinstance(net, GatedMLP) and (net.directions.size > 0) == gated and net.shapes[-1] == (5, d + d * gated)
        assert not gated or net.U @ net.U.T == approx(np.eye(d), abs=1e-5)


@pytest.mark.parametrize("n, d, steps", [
    (2, 1, 1000), (250, 128, 1000), (251, 128, 1004), (2500, 2, 10_000), (10**6, 2, 10_000),
    (2, 129, 500), (500, 129, 500), (4000, 784, 4000), (10_001, 784, 10_000)])
def test_the_rule_for_the_steps(n, d, steps):
    assert rules.steps(n, d) == steps


@pytest.mark.parametrize("n, lr", [(2, 5e-4), (249, 5e-4), (250, 1e-3), (10**6, 1e-3)])
def test_the_rule_for_the_learning_rate(n, lr):
    x = np.random.default_rng(0).standard_normal((min(n, 300), 2))
    by_rule, given = (DDPM(S, 8, 1).fit(x, 3, 8, rng=0, **kw) for kw in ({}, {"lr": lr}))
    assert rules.lr(n) == lr and (by_rule.net.parameters == given.net.parameters).all()


@pytest.mark.parametrize("r, power", [(1, 2), (8, 2), (9, 1), (128, 1)])
def test_small_times_are_drawn_more_often_for_up_to_eight_axes(r, power):
    x = np.random.default_rng(0).standard_normal((400, r))
    by_rule, simple = (DDPM(S, 8, 1).fit(x, 3, 8, rng=0, **kw).net.parameters for kw in ({}, {"weighting": "simple"}))
    assert rules.time_power(r) == power and (by_rule == simple).all() == (power == 1)


def test_images_are_weighted_by_what_the_gaussian_leaves_open():
    """One over the root mean square of sd[eps | x_t], which stops at 1/10, with mean 1; up to 128 axes 1, the simple loss."""
    x = np.random.default_rng(0).standard_normal((400, 140)) * np.arange(1, 141)
    a, by_rule, simple = (DDPM(S, 8, 1, dtype="float64").fit(x, 3, 16, rng=0, **given) for given in ({}, {}, {"weighting": "simple"}))
    s, lam = a.schedule, a.axes.variances
    v = s.alpha_bars[:, None] * lam + s.one_minus_alpha_bars[:, None]
    left_open = (s.alpha_bars[:, None] * lam / v).mean(1)
    w = 1 / np.sqrt(np.maximum(left_open, 0.01))
    assert left_open[-1] < 0.01 < left_open[1]
    assert rules.weighting(a.net.cos) == approx(w / w[1:].mean(), rel=1e-12)
    assert (a.net.parameters == by_rule.net.parameters).all() and (a.net.parameters != simple.net.parameters).any()
    assert rules.weighting(a.net.cos[:, :128]) == "simple"
