"""The walk in the angle: down, up, and the density that it carries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx
from strategies import WIDE, Knowing

from npddpm import MLP, GaussianMixture, Schedule, encode, log_likelihood, sample, trajectory
from npddpm.cli.evaluate import energy_distance
from npddpm.flow import few_times
from npddpm.model.gates import GatedMLP

S = Schedule.linear(1000)
LINEAR_AND_COSINE = pytest.mark.parametrize("schedule", [S, Schedule.cosine(1000)], ids=["linear", "cosine"])

# ---- what is exact

lambdas = st.lists(st.floats(-8, 0.95).map(lambda e: 10**e), min_size=1, max_size=3)


@given(lambdas, st.integers(1, 300), st.sampled_from([Schedule.linear, Schedule.cosine]), st.data())
@settings(max_examples=60)
def test_a_gaussian_stays_as_it_is_down_and_up(lam, T, make, draw):
    """F = 0, of a network without weights and of a denoiser that knows lambda: x_0 = sqrt(lambda / v_T) x_T, whatever the steps."""
    s, d, steps = make(T), len(lam), draw.draw(st.integers(1, min(T, 30)))
    sd_T, u = s.rotation(np.array(lam)).sd[T], np.random.default_rng(T).standard_normal((5, d))
    nets = [(MLP(d, 3, 1, schedule=s, variances=lam, dtype=dtype), rel) for dtype, rel in (("float32", 1e-5), ("float64", 1e-12))]
    for net, rel in (*nets, (Knowing(s, lam), 1e-6)):
        x_0 = sample(net, s, 5, d, x_T=u * sd_T, steps=steps)
        assert x_0 == approx(u * np.sqrt(lam), rel=rel) and encode(net, s, x_0, steps) == approx(u * sd_T, rel=rel)


@LINEAR_AND_COSINE
@pytest.mark.parametrize("steps, error", [(2, 5e-3), (5, 1e-6), (10, 1e-12)])
def test_a_single_point_is_met(schedule, steps, error):
    """F = p cos(theta) + q sin(theta): after the first step every one is exact, and the way from any x_T leads there."""
    point = GaussianMixture([1], [[1.0, -0.7]], [1e-20])
    x_0 = sample(point.denoiser(schedule), schedule, 100, 2, 0, steps=steps)
    assert np.abs(x_0 - [1.0, -0.7]).max() < error


@pytest.mark.parametrize("steps", [20, 100, 1000])
def test_a_last_step_that_sees_nothing_below_it_ends_at_x_0_hat(steps):
    """Far from 0, in units of sqrt(lambda), and the last step turns by nearly pi/2: x_0_hat, and noise of N(0, lambda)."""
    denoiser = Knowing(S, [1e-8], 0.7)
    x_0 = sample(denoiser, S, 2000, 1, 0, steps=steps)
    assert x_0.mean() == approx(0.7, rel=0.02) and x_0.std() == approx(1e-4, rel=0.05)


# ---- what is of second order


@LINEAR_AND_COSINE
def test_the_error_is_of_second_order(schedule):
    """Fourfold and more from 10 to 20 to 40 steps, beside the whole flow; DDIM's error halves."""
    x_T = np.random.default_rng(0).standard_normal((300, 2))
    best = WIDE.denoiser(schedule)
    flow = sample(best, schedule, 300, 2, x_T=x_T, steps=1000)
    errors = [np.sqrt(((sample(best, schedule, 300, 2, x_T=x_T, steps=n) - flow) ** 2).mean()) for n in (20, 40, 80)]
    ddim = [np.sqrt(((sample(best, schedule, 300, 2, x_T=x_T, steps=few_times(1000, n, 2.0), eta=0.0) - flow) ** 2).mean())
            for n in (20, 40, 80)]
    assert errors[0] > 3.2 * errors[1] > 3.2**2 * errors[2]
    assert ddim[0] < 2.5 * ddim[1] < 2.5**2 * ddim[2] and errors[2] < 0.1 * ddim[2]


@LINEAR_AND_COSINE
def test_encoding_is_undone_by_sampling(schedule):
    """The way up and down again, whose error falls fourfold and more when the steps double."""
    x, best = WIDE.sample(200, 0), WIDE.denoiser(schedule)
    errors = []
    for n in (20, 40, 80):
        x_T = encode(best, schedule, x, steps=n)
        errors.append(np.sqrt(((sample(best, schedule, 200, 2, x_T=x_T, steps=n) - x) ** 2).mean()))
    assert errors[0] > 3.2 * errors[1] > 3.2**2 * errors[2] and errors[2] < 2e-3
    assert energy_distance(encode(best, schedule, WIDE.sample(2000, 1), 50), np.random.default_rng(0).standard_normal((2000, 2))) < 0.003


@given(st.integers(1, 3000), st.data())
def test_times_fall_from_the_start_to_one(start, draw):
    n = draw.draw(st.integers(1, start))
    power = draw.draw(st.sampled_from([1.0, 2.0]))
    times = few_times(start, n, power)
    assert len(times) == n and times[0] == start and times[-1] >= 1 and (np.diff(times) < 0).all()
    if n == start:
        assert times == list(range(start, 0, -1))


def test_schedules_whose_signal_is_lost():
    """sqrt(abar_T) is 0, so that theta_T is pi/2, twice: no NaN, and the noise is carried on."""
    s = Schedule(np.full(1000, 0.9))
    whole = list(trajectory(lambda x, t: s.sqrt_one_minus_alpha_bars[t] * x, s, 500, 1, 0, steps=30))
    assert s.alpha_bars[-1] == 0 and all(np.isfinite(x).all() for _, x in whole) and whole[3][1].std() == approx(1, abs=0.1)


@pytest.mark.parametrize("s", [Schedule.linear(1000, 1e-4, 0.2), Schedule.linear(1000, 1e-4, 0.5), Schedule([0.5] * 200)],
                         ids=["to 0.2", "to 0.5", "all 0.5"])
@pytest.mark.parametrize("steps", [10, 20, 50])
def test_few_steps_where_all_signal_is_lost_long_before_T(s, steps):
    """There the angles of the first steps differ by rounding alone, and a line through them leads anywhere."""
    deviations = sample(WIDE.denoiser(s), s, 2000, 2, 0, steps=steps).std(0)
    assert deviations == approx(WIDE.sample(2000, 1).std(0), rel=0.35)


# ---- the density


def samples_density(law, s):
    """Of x_0 = sqrt(lambda / v_T) x_T, lambda = law's."""
    return lambda x: GaussianMixture([1], np.zeros((1, len(law))), [law / s.rotation(law).sd[s.T] ** 2]).log_density(x)


@given(lambdas, st.integers(1, 200), st.sampled_from([Schedule.linear, Schedule.cosine]), st.data())
@settings(max_examples=40)
def test_the_density_of_one_gaussian_is_exact(lam, T, make, draw):
    """That of the samples, whose variance is lambda / v_T: log p(x_0) up to what N(0, I) in the place of q(x_T) changes."""
    s, lam, steps = make(T), np.array(lam), draw.draw(st.integers(1, min(T, 20)))
    x = np.random.default_rng(T).standard_normal((4, len(lam))) * np.sqrt(lam)
    expected = samples_density(lam, s)(x)
    for denoiser in Knowing(s, lam), MLP(len(lam), 3, 1, schedule=s, variances=lam):
        assert log_likelihood(denoiser, s, x, steps) == approx(expected, rel=1e-9, abs=1e-9)
        assert log_likelihood(denoiser, s, x, steps, probes=2, rng=0)[0] == approx(expected, rel=1e-9, abs=1e-9)


@LINEAR_AND_COSINE
def test_the_density_is_of_second_order(schedule):
    """Of a mixture in the plane, against its own: 0.03 nats with 50 steps, and less than a third of it with 100."""
    x, exact = WIDE.sample(300, 0), WIDE.log_density(WIDE.sample(300, 0))
    errors = [np.sqrt(((log_likelihood(WIDE.denoiser(schedule), schedule, x, n) - exact) ** 2).mean()) for n in (25, 50, 100)]
    assert errors[1] < 0.03 and errors[0] > 3 * errors[1] > 9 * errors[2]


def test_the_density_of_all_samples_is_1():
    """A network with weights that knows nothing of t: the integral of p over the line, and over parts of it, against samples."""
    s = Schedule.linear(200)
    net = MLP(1, 6, 2, schedule=s, variances=[0.5], rng=0, dtype="float64")
    net.parameters[...] = 0.5 * np.random.default_rng(3).standard_normal(net.parameters.shape)
    net.weights[0][:64] = 0
    x = np.linspace(-12, 12, 4001)
    p = np.exp(log_likelihood(net, s, x[:, None], 100))
    assert p.sum() * (x[1] - x[0]) == approx(1, abs=0.005)
    drawn = sample(net, s, 20_000, 1, 0, steps=100)[:, 0]
    shares = np.array([[(drawn < edge).mean(), p[x < edge].sum() * (x[1] - x[0])] for edge in np.quantile(drawn, [0.1, 0.3, 0.5, 0.7, 0.9])])
    assert shares[:, 0] == approx(shares[:, 1], abs=0.01)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_probes_estimate_the_density(gated, dtype):
    """Within five of its standard errors, which are what the estimates of other seeds differ by."""
    s, lam, rng = Schedule.linear(50), np.geomspace(0.01, 2, 6), np.random.default_rng(0)
    make, options = (GatedMLP, {"directions": np.eye(6)}) if gated else (MLP, {})
    net = make(6, 8, 2, schedule=s, variances=lam, rng=0, dtype=dtype, **options)
    net.parameters[...] = 0.2 * rng.standard_normal(net.parameters.shape)
    x = rng.standard_normal((5, 6)) * np.sqrt(lam)
    exact = log_likelihood(net, s, x, 20)
    nats, error = log_likelihood(net, s, x, 20, probes=64, rng=0)
    assert nats.shape == error.shape == (5,) and (error > 1e-3).all() and (np.abs(nats - exact) < 5 * error).all()
    others = np.array([log_likelihood(net, s, x, 20, probes=16, rng=seed)[0] for seed in range(1, 20)])
    assert others.std(0) == approx(2 * error, rel=0.5)
    again = log_likelihood(net, s, x, 20, probes=64, rng=0)
    assert (again[0] == nats).all() and (again[1] == error).all() and net.dtype == dtype


@pytest.mark.parametrize("T, steps", [(30, 30), (1000, 100)])
def test_a_hundred_steps_or_all(T, steps):
    s, x = Schedule.linear(T), WIDE.sample(3, 0)
    for use in encode, log_likelihood:
        assert (use(WIDE.denoiser(s), s, x) == use(WIDE.denoiser(s), s, x, steps)).all()


def test_a_function_that_says_its_precision_has_a_density_too():
    def denoiser(x, t):
        return 0 * x
    denoiser.dtype = "float32"
    plain = log_likelihood(lambda x, t: 0 * x, S, np.ones((2, 1)))
    assert log_likelihood(denoiser, S, np.ones((2, 1))) == approx(plain)
