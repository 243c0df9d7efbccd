"""Samples that vary too little, and larger variances for E[eps | x_t], which mend it."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx

from npddpm import DDPM, MLP, Schedule, data, sample, spread
from npddpm.axes import PrincipalAxes, typical_size
from npddpm.data import Mapped
from npddpm.features import gaussian_answer
from npddpm.samplers import few_times
from npddpm.spread import stretch, widened_variances

S = Schedule.linear(50)
X = data.load("moons", 300)


@settings(max_examples=15)
@given(st.lists(st.sampled_from([0.0, 1e-9, 1e-3, 0.2, 1.0, 30.0]), min_size=1, max_size=4))
def test_a_network_with_no_correction_needs_none(variances):
    """F = 0: the samples are those of the Gaussian."""
    net = MLP(len(variances), 4, 1, schedule=S, variances=variances, rng=0, dtype="float64")
    for sizes in np.zeros(net.dim), np.full(net.dim, 1e9), 0.5 * net.variances:
        found = widened_variances(net, sizes)
        assert found.widened == approx(variances, rel=1e-9) and found.target == approx(np.minimum(variances, found.target), rel=1e-9)


def too_far(k, variances=(0.5, 1.0, 2.0)):
    """F = k m: a network whose constant gates go towards the middle, k > 0, or away from it."""
    net = MLP(3, 4, 1, schedule=S, variances=variances, gated=True, rng=0, dtype="float64")
    net.weights[-1][-1, 3:] = k
    return net


def draw(net):
    return sample(net, S, 4000, 3, rng=1, steps=20)


@pytest.mark.parametrize("k", [0.1, 0.4])
def test_samples_get_the_spread_that_they_lack(k):
    net, wanted = too_far(k), draw(too_far(0))
    lacking = draw(net).var(0)
    assert (lacking < 0.9 * wanted.var(0)).all()
    net.eps_factor[...] = gaussian_answer(S, widened_variances(net, 1e9 * np.ones(3))[0])[1]
    assert (abs(draw(net).var(0) - wanted.var(0)) < 0.2 * (wanted.var(0) - lacking)).all()      # 80% of the gap


@pytest.mark.parametrize("k, factor", [(3, 10), (-0.4, 1)])
def test_the_correction_is_tenfold_at_most_and_never_narrows(k, factor):
    net = too_far(k)
    assert widened_variances(net, 1e9 * np.ones(3))[0] == approx(factor * net.variances)


def test_a_few_extreme_rows_do_not_widen_the_samples():
    """Their variance falls short, but not their size: the data have the variance from rows that the network does not make."""
    net = too_far(0.4)
    sizes = typical_size(draw(net))
    assert (widened_variances(net, 1e9 * sizes)[0] > 1.5 * net.variances).all()
    assert widened_variances(net, sizes)[0] == approx(net.variances, rel=0.1)


def test_size():
    z = np.random.default_rng(0).standard_normal((1000, 2)) * [1, 100]
    z[0] = 1e3
    assert typical_size(z) == approx([0.676, 67.6], rel=0.12) and typical_size(np.zeros((3, 2))) == approx(0)
    assert typical_size(-3 * z) == approx(3 * typical_size(z))


def test_the_axes_know_the_sizes_of_their_rows(tmp_path):
    x = np.random.default_rng(0).standard_t(3, (20_000, 3)) * [1, 10, 0.1] @ np.linalg.qr(np.arange(9.0).reshape(3, 3) ** 2)[0]
    axes = PrincipalAxes.of(x)
    assert axes.sizes == approx(typical_size(axes.standardize(x)), rel=0.05)
    few = PrincipalAxes.of(x[:500])
    assert few.sizes == approx(typical_size(few.standardize(x[:500])), rel=1e-12)
    x[::10] *= 100      # which every tenth row alone would show
    axes = PrincipalAxes.of(x)
    assert axes.sizes == approx(typical_size(axes.standardize(x)), rel=0.2)
    np.save(tmp_path / "x.npy", x)
    assert PrincipalAxes.of(Mapped(np.load(tmp_path / "x.npy", mmap_mode="r"))).sizes == approx(axes.sizes, rel=1e-6)


def test_many_columns_are_looked_at_in_fewer_rows(monkeypatch):
    rows = []

    def watched(net, s, n, *rest, **options):
        rows.append(n)
        return sample(net, s, n, *rest, **options)

    monkeypatch.setattr(spread, "sample", watched)
    for d in (3, 20_000):
        net = MLP(d, 2, 1, schedule=Schedule.linear(2), rng=0)
        widened_variances(net, np.ones(d))
    assert rows == [1, 2000, 2000, 1, 2**21 // 20_067, 2**21 // 20_067]     # with the columns of t and of ones
    rows.clear()
    widened_variances(MLP(2, 2, 1, schedule=Schedule.linear(2), fourier=2, directions=np.ones((2, 5000))), np.ones(2))
    assert rows == [1, 104, 104]


def test_the_model_samples_with_the_corrected_start(monkeypatch):
    """Found once for the same parameters, and in a copy as in the original."""
    model = DDPM(S, hidden=8, depth=1).fit(X, steps=60, rng=0)
    calls = []
    monkeypatch.setattr("npddpm.train.widened_variances", lambda net, sizes: calls.append(sizes) or spread.Spread(2 * model.axes.variances, sizes, sizes))
    net = model.denoiser()
    assert (net.eps_factor == gaussian_answer(S, 2 * model.axes.variances)[1].astype("float32")).all()
    assert (net.eps_sd == model.net.eps_sd).all() and (net.eps_factor != model.net.eps_factor).any()
    for twin in copy.deepcopy(net), pickle.loads(pickle.dumps(net)), model.denoiser(), copy.deepcopy(model).denoiser():
        assert (twin.eps_factor == net.eps_factor).all()
    assert len(calls) == 1 and calls[0] is model.axes.sizes
    model.average *= 1.01           # other parameters, other samples
    model.denoiser()
    assert len(calls) == 2
    model.fit(X, steps=61, rng=0, resume=True).denoiser()
    model.fit(X, steps=61, rng=1).denoiser()
    assert len(calls) == 4


# ---- thin axes, and what the last step takes from them

OPTIONS = [{}, {"variance": "posterior"}, {"steps": 20}, {"steps": 5}, {"steps": [50, 30, 7, 2]}, {"steps": 20, "eta": 0.0},
           {"steps": 12, "eta": 0.5}, {"eta": 1.0}, {"eta": 0.3}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_samples_of_a_gaussian_have_its_variance_along_thin_axes(options):
    """x_0 is linear in x_T and the noise of each step: a row of samples for each of them, and their squares are added up."""
    lam, s = np.array([1e-9, 1e-5, 1e-3, 0.02, 1.0, 9.0]), Schedule.linear(50)
    eps_factor = gaussian_answer(s, lam)[1]
    noise, x_T = np.zeros((s.T + 1, s.T + 2, len(lam))), np.zeros((s.T + 2, len(lam)))
    noise[:, :-1], x_T[-1] = np.eye(s.T + 1)[:, :, None], 1
    found = (sample(lambda x, t: eps_factor[t] * x, s, s.T + 2, len(lam), x_T=x_T, noise=noise, **options) ** 2).sum(0)
    last = options["steps"][-1] if isinstance(options.get("steps"), list) else few_times(s.T, options.get("steps"), 1 + ("eta" not in options))[-1]
    of_last = 1 + s.one_minus_alpha_bars[last] / (s.alpha_bars[last] * lam)
    k = stretch(s, lam, lam, **options)
    assert k**2 * found == approx(found * (lam / found).clip(1, of_last.clip(1, 1e4)), rel=1e-9)
    assert k[1] > 2 and k[-1] < 1.02
    assert stretch(s, lam, lam, 1.0, **options) == approx(1) and stretch(s, lam, 0 * lam, **options) == approx(1)
    half = found + 0.5 * (lam - found).clip(0)      # F gives half of it back
    assert stretch(s, lam, lam, 0.5, **options) == approx(np.sqrt((lam / half).clip(1, of_last.clip(1, 1e4))), rel=1e-9)


@pytest.mark.parametrize("e", [0.1, 0.01, 0.001])
def test_the_difference_of_two_columns_that_nearly_agree(e):
    """Its samples are as large as its rows, whatever the number of steps, and what is encoded comes back."""
    a, b = np.random.default_rng(0).standard_normal((2, 2000))
    x = np.column_stack([a, a + e * b])
    model = DDPM(Schedule.linear(200)).fit(x, steps=20, rng=0)

    def size(rows):
        return (rows[:, 1] - rows[:, 0]).std()

    for options in {}, {"steps": 50}, {"steps": 20}:
        assert size(model.sample(2000, 1, **options)) == approx(size(x), rel=0.08)
    z = model.encode(x[:200], steps=50)
    assert size(model.sample(200, x_T=z, steps=50) - x[:200]) < 0.2 * size(x)
    near = model.sample(200, 0, x_T=model.schedule.q_sample(model.axes.standardize(x[:200]), 5, np.zeros((200, 2))), start=5)
    assert size(near) < size(x)         # from a noised row comes the mean of what it may have been


def test_a_list_of_times_that_begins_below_T_denoises():
    a, b = np.random.default_rng(0).standard_normal((2, 500))
    model = DDPM(Schedule.linear(200)).fit(np.column_stack([a, a + 0.003 * b]), steps=20, rng=0)
    x_T = np.random.default_rng(1).standard_normal((50, 2))
    assert (model.sample(50, 0, x_T=x_T, steps=[9, 2]) == model.axes.restore(sample(model.denoiser(), model.schedule, 50, 2, 0, x_T=x_T, steps=[9, 2]))).all()
    assert (model.sample(50, 0, x_T=x_T, steps=[200, 2]) != model.axes.restore(sample(model.denoiser(), model.schedule, 50, 2, 0, x_T=x_T, steps=[200, 2]))).all()


def test_what_the_network_has_learned_of_a_thin_axis_is_not_stretched():
    """y = x + 0.03 sin 9x: the second axis follows from the first, and few steps lose less of it than of a Gaussian."""
    u = np.random.default_rng(0).uniform(-1, 1, 2000)
    x = np.column_stack([u, u + 0.03 * np.sin(9 * u)])
    model = DDPM(Schedule.linear(200)).fit(x, steps=1500, rng=0)
    model.denoiser()
    assert model._widened[1].learned.min() > 0.9
    deviation = model.axes.standardize(model.sample(2000, 0, steps=10)).std(0)
    assert (deviation < 1.2 * np.sqrt(model.axes.variances)).all()
    assert model.sample(500, 0, steps=1).std() < x.std()        # one step is a blur, and stays one


def test_outliers_stretch_nothing():
    """Of a + 0.003 e with e of Student's t with two degrees of freedom: the variance is that of a few rows."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal(3000)
    model = DDPM(Schedule.linear(200)).fit(np.column_stack([a, a + 0.003 * rng.standard_t(2, 3000)]), steps=20, rng=0)
    net = model.denoiser()
    assert (model.sample(2000, 0, steps=20) == model.axes.restore(sample(net, model.schedule, 2000, 2, 0, steps=20))).all()
