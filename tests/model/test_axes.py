"""The principal axes: the rows turned, and what does not vary left out."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from npddpm import DDPM, Schedule, data
from npddpm.model import axes
from npddpm.model.axes import PrincipalAxes, standardization, tell_columns

S = Schedule.linear(50)


@st.composite
def tables(draw):
    """Rows with correlations, more of them than columns, and columns that do not vary or are sums of others."""
    d, n = draw(st.integers(1, 5)), draw(st.integers(70, 120))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) * 10.0 ** rng.integers(-3, 4, d) + rng.normal(size=d)
    extra = [np.full(n, 0.1)] if draw(st.booleans()) else []
    extra += [x[:, 0] - 3 * x[:, -1]] if draw(st.booleans()) else []
    return np.column_stack([x, *extra])


# ---- the units of the columns


def test_standardization_by_column_and_by_image():
    tenths = np.column_stack([np.arange(3.0), np.full(3, 0.1)])
    mean, variance, scale = standardization(tenths)
    assert tenths[:, 1].mean() != 0.1 == mean[1] and scale[1] == 0 and variance[0] == approx(2 / 3)        # a mean is rounded
    pixels = np.random.default_rng(0).integers(0, 17, (20, 64)).astype(float)
    pixels[:, 5] = 3
    expected = np.full(64, np.sqrt(pixels.var(0).mean()))
    expected[5] = 0
    assert standardization(pixels, images=True)[2] == approx(expected, rel=1e-14)
    assert standardization(pixels)[2] == approx(np.where(expected > 0, pixels.std(0), 0), rel=1e-14)


def test_scaling_is_learned_and_undone():
    moons = data.load("moons", 500)
    x = np.column_stack([1e6 + 1e3 * moons[:, 0], 1e-9 * moons[:, 1], np.full(500, 7.25)])
    samples = DDPM(S, hidden=16, depth=1).fit(x, steps=20, rng=0).sample(200, rng=0)
    assert (samples[:, 2] == 7.25).all() and np.abs(samples - x.mean(0))[:, :2].mean(0) == approx([1e3, 5e-10], rel=0.8)


# ---- the turn


@given(tables())
def test_turned_rows_have_the_variances_and_no_correlation(x):
    a = PrincipalAxes.of(x)
    z = a.standardize(x)
    top = a.variances[0]
    assert z.T @ z / len(z) == approx(np.diag(a.variances), abs=1e-12 * top)
    assert a.V.T @ a.V == approx(np.eye(a.V.shape[1]), abs=1e-13)
    assert (np.diff(a.variances) <= 0).all() and all(v[np.abs(v) >= np.abs(v).max() / 2][0] > 0 for v in a.V.T)
    assert np.abs(a.restore(z) - x).max(0) == approx(0, abs=1e-6 * np.abs(x).max())


@pytest.mark.parametrize("offset", [0.0, 1.7e9, 3e12, 1e14, 1e16])
def test_a_column_with_a_large_offset_takes_no_axis_from_the_others(offset):
    """Two columns differ by 3e-5 of their deviation. Beside a mean of 1e14 a deviation of 1 is rounding, as of 1.0 and 1.0 - 1e-16."""
    rng = np.random.default_rng(0)
    a, b, c = rng.standard_normal((3, 500))
    x = np.column_stack([a, a + 3e-5 * b, offset + c])
    found = PrincipalAxes.of(x)
    assert len(found.variances) == (3 if offset < 1e14 else 2)
    assert found.variances[-1] == approx((3e-5 * b).var() / 2, rel=0.05)
    assert found.contain(x).all()
    sums = PrincipalAxes.of(np.column_stack([a, b, offset + c, a + b]))
    off = np.column_stack([a, b, offset + c, a + b + 1e-3 + 1e-13 * offset])
    assert offset > 1e14 or not sums.contain(off).any()
    assert len(PrincipalAxes.of(np.column_stack([x, x[:, 2] - 2 * x[:, 0]])).variances) == len(found.variances)     # no more


@pytest.mark.parametrize("n", [20, 32, 59, 60])
def test_few_rows_leave_doubt_everywhere(n):
    """Ledoit and Wolf's shrinkage, from their sums over the rows; scikit-learn's `ledoit_wolf` has the same numbers. None from two rows a column on."""
    x = np.random.default_rng(0).standard_normal((n, 30)) * np.linspace(0.1, 2, 30)
    a = PrincipalAxes.of(x)
    z = (x - x.mean(0)) / x.std(0)
    S_ = z.T @ z / n
    m = np.trace(S_) / 30
    error = sum(((np.outer(row, row) - S_) ** 2).sum() for row in z) / n**2
    delta = error / ((S_ - m * np.eye(30)) ** 2).sum() if n < 60 else 0
    assert a.V @ np.diag(a.variances) @ a.V.T == approx((1 - delta) * S_ + delta * m * np.eye(30), abs=1e-12)
    assert delta < 1 and a.variances.min() > 0.1 * delta and len(a.variances) == 30


def test_few_rows_of_a_plane():
    """It is the plane that is sampled; two rows are a line, in which shrinking finds no doubt."""
    x = np.tile(np.random.default_rng(0).standard_normal((50, 4)), 30)
    a = PrincipalAxes.of(x)
    assert len(a.variances) == 4 and a.restore(a.standardize(x)) == approx(x, abs=1e-9)
    for d in range(2, 5):
        assert PrincipalAxes.of(x[:2, :d]).variances == approx(d)


def test_a_thin_axis_is_no_rounding_error():
    """Start and end of something, 1.7e9 with a difference of 10."""
    rng = np.random.default_rng(0)
    start = 1.7e9 + 1e7 * rng.random(5000)
    assert len(PrincipalAxes.of(np.column_stack([start, start + rng.exponential(10, 5000)])).variances) == 2


@given(st.integers(0, 2**32), st.integers(2, 12), st.integers(1, 4), st.floats(0, 7))
def test_linear_columns_are_found_beside_axes_of_any_width(seed, d, dependent, decades):
    """Variances over up to fourteen decades: those that are 0 but for rounding are not mistaken for thin axes."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((100, d)) * 10.0 ** -(decades * rng.random(d)) @ np.linalg.qr(rng.standard_normal((d, d)))[0]
    x = np.column_stack([x, x @ rng.standard_normal((d, dependent))])
    a = PrincipalAxes.of(x)
    z = (x - x.mean(0)) / x.std(0)
    expected = np.linalg.svd(z, compute_uv=False)[:d] ** 2 / 100
    assert len(a.variances) == d and a.variances == approx(expected, rel=1e-3)


def test_too_many_columns_are_not_turned(monkeypatch):
    monkeypatch.setattr(axes, "MOST_TURNED", 3)
    x = np.column_stack([data.load("moons", 300), np.full(300, 2.0), np.arange(300.0)])
    a = PrincipalAxes.of(x)
    assert a.V is None and a.variances == approx([1, 1, 1]) and a.restore(a.standardize(x)) == approx(x)
    model = DDPM(S, 8, 1).fit(x, steps=20, rng=0)
    assert (model.sample(9, rng=0)[:, 2] == 2).all()


# ---- the volume, and the plane of the rows


def test_the_volume_of_scales_far_apart():
    """The bound of a model whose columns have scales 1e9 and 1e-9 is that of the scaled columns, less log 1e9 1e-9 = 0."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((500, 2)) @ np.array([[1, 0.6], [0, 0.8]])
    near, far = (PrincipalAxes.of(z * scale) for scale in ([1, 1], [1e9, 1e-9]))
    assert far.log_volume() == approx(near.log_volume(), abs=1e-9)
    plane = PrincipalAxes.of(z @ np.array([[1, 0, 2], [0, 1e-3, 1]]) * [1e3, 1, 1])
    B = np.array([[1e3, 0, 2], [0, 1e-3, 1]])
    expected = np.log(np.linalg.det(B @ B.T)) / 2 + np.linalg.slogdet(np.cov(z.T, bias=True))[1] / 2
    assert plane.log_volume() + np.log(plane.variances).sum() / 2 == approx(expected, abs=1e-8)


def test_a_column_that_varies_as_little_as_by_rounding_is_told(capsys):
    x = np.stack([1.7e15 + np.arange(40) % 7, np.arange(40) % 5, np.full(40, 0.1), 1e6 + np.arange(40) % 2 / 1e4], 1)
    with pytest.warns(UserWarning, match=r"x: column 0 \(from 0\) varies by 2 about 1.7e\+15, as little as by rounding, .* subtract 1700000000000000 from it") as told:
        model = DDPM(Schedule.linear(10), 8, 1).fit(x, 5, rng=0)
    assert len(told) == 1 and (model.axes.scale > 0).tolist() == [False, True, False, True]


@pytest.mark.parametrize(("spread", "told"), [(1, []), (1.5, []), (3, [1, 3, 4])])
def test_a_heavy_tail_is_told(spread, told):
    """Beside it, half of the column is so narrow a part that samples are wider there."""
    normal, lines = np.random.default_rng(0).standard_normal((2000, 3)), []
    heavy = np.exp(spread * normal[:, 1])
    tell_columns(np.column_stack([normal[:, 0], heavy, np.where(normal[:, 2] > 2, 1, 0), heavy * (normal[:, 0] > 1), heavy * np.sign(normal[:, 0])]), lines.append)
    found = [re.search(r"^x: column (\d) .* if that is a heavy tail, a model of its (\S+) is better$", line).groups() for line in lines]
    assert found == [(str(i), how) for i, how in ((1, "logarithm"), (3, "root"), (4, "np.arcsinh")) if i in told]
