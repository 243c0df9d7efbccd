"""Loss, samplers and bound, with denoisers that are known in closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

import npddpm
from npddpm import MLP, Schedule, sample, trajectory, variational_bound
from npddpm.arrays.backend import standard_normal
from npddpm.samplers import reverse_coefficients

S = Schedule.linear(20)


def shrink(x, t):
    """A denoiser that is no better than it looks."""
    return 0.3 * x + 0.01 * np.asarray(t).reshape(-1, 1)


def replay(s, x, noise, variance):
    """Ho et al.'s Algorithm 2, line by line."""
    for t in range(s.T, 0, -1):
        beta, abar, before = s.betas[t], s.alpha_bars[t], s.alpha_bars[t - 1]
        sigma2 = beta if variance == "beta" else beta * (1 - before) / (1 - abar)
        z = noise[t] if t > 1 else 0
        x = (x - beta / np.sqrt(1 - abar) * shrink(x, t)) / np.sqrt(1 - beta) + np.sqrt(sigma2) * z
    return x


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_ancestral_sampling_is_algorithm_2(variance):
    x_T, noise = np.random.default_rng(0).standard_normal((4, 2)), np.random.default_rng(1).standard_normal((21, 4, 2))
    x = sample(shrink, S, 4, 2, x_T=x_T, noise=noise, variance=variance)
    assert x == approx(replay(S, x_T, noise, variance), rel=1e-12)


def test_lists_are_arrays():
    x_T, noise = np.random.default_rng(0).standard_normal((4, 2)), np.random.default_rng(1).standard_normal((21, 4, 2))
    first, second = (sample(shrink, S, 4, 2, x_T=a, noise=b) for a, b in ((x_T, noise), (x_T.tolist(), noise.tolist())))
    assert (first == second).all()
    bounds = [variational_bound(shrink, S, x, rng=0).nats for x in (x_T, x_T.tolist())]
    assert (bounds[0] == bounds[1]).all()
    net = MLP(2, 4, 1, schedule=S, rng=0, dtype="float64")
    net.weights[-1][:] = 1
    for weighting in ("simple", "elbo"):
        losses, gradients = zip(*[npddpm.loss_and_gradient(net, S, x, t, x, weighting)
                                  for x, t in ((x_T, np.arange(1, 5)), (x_T.tolist(), [1, 2, 3, 4]))])
        assert losses[0] == losses[1] and (gradients[0] == gradients[1]).all()
    assert (net.backward(x_T) == net.backward(x_T.tolist())).all()


def test_ddim_with_eta_1_is_ancestral_with_the_posterior_variance():
    x_T, noise = np.random.default_rng(0).standard_normal((4, 2)), np.random.default_rng(1).standard_normal((21, 4, 2))
    ancestral = sample(shrink, S, 4, 2, x_T=x_T, noise=noise, variance="posterior")
    assert sample(shrink, S, 4, 2, x_T=x_T, noise=noise, steps=20, eta=1.0) == approx(ancestral, rel=1e-13)


@given(st.integers(1, 20))
def test_ddim_without_noise_is_deterministic(steps):
    x_T = np.random.default_rng(0).standard_normal((4, 2))
    first, second = (sample(shrink, S, 4, 2, rng=seed, x_T=x_T, steps=steps, eta=0.0) for seed in (1, 2))
    assert (first == second).all()
    assert (sample(shrink, S, 4, 2, x_T=x_T, steps=S.T, eta=0.0) == sample(shrink, S, 4, 2, x_T=x_T, eta=0.0)).all()


def test_ddim_of_a_point_lands_on_it():
    """If all data are one point m, eps = (x_t - sqrt(abar) m)/sqrt(1 - abar), and any step count ends at m."""
    m = np.array([1.0, -2.0])
    exact = lambda x, t: S.predict_eps(x, t, np.broadcast_to(m, x.shape))
    for steps in (1, 3, 20):
        assert sample(exact, S, 5, 2, rng=0, steps=steps, eta=0.0) == approx(np.tile(m, (5, 1)), rel=1e-9)


def test_ddim_reaches_the_figures_of_another_implementation():
    """Those of diffusers' own test (tests/schedulers/test_scheduler_ddim.py, test_full_loop_no_noise, float32).

    Its times run from 0 to 999, ten of them from 900 down, and x_0 is kept within [-1, 1].
    """
    x_T = np.arange(768).reshape(3, 8, 8, 4).transpose(3, 0, 1, 2).reshape(4, -1) / 768
    x = sample(lambda x, t: x * (t - 1) / t, Schedule.linear(1000), 4, 192, x_T=x_T,
               steps=range(901, 0, -100), eta=0.0, clip=(-1, 1))
    assert np.abs(x).sum() == approx(172.0067, abs=1e-3) and np.abs(x).mean() == approx(0.223967, abs=1e-6)


def test_trajectory_yields_every_time_and_ends_in_the_sample():
    steps = list(trajectory(shrink, S, 3, 2, rng=0))
    assert [t for t, _ in steps] == list(range(20, -1, -1))
    assert (steps[-1][1] == sample(shrink, S, 3, 2, rng=0)).all()
    assert [t for t, _ in trajectory(shrink, S, 3, 2, rng=0, steps=4, eta=0.5)] == [20, 15, 10, 5, 0]
    assert [t for t, _ in trajectory(shrink, S, 3, 2, rng=0, steps=[19, 4, 1])] == [19, 4, 1, 0]


def test_seed_decides_the_samples():
    first, same, other = (sample(shrink, S, 3, 2, rng=seed) for seed in (0, np.random.default_rng(0), 1))
    assert (first == same).all() and (first != other).any()


@pytest.mark.parametrize("options", [{}, {"steps": 5, "eta": 0.5}])
def test_clip_bounds_the_predicted_x0(options):
    """In the last step x_0 is its own prediction, so it lies within the range, and inside it nothing changes."""
    wild, tame = lambda x, t: 3 * x, lambda x, t: np.sqrt(S.one_minus_alpha_bars[t]) * x
    assert np.abs(sample(wild, S, 50, 2, rng=0, clip=(-1.5, 1.5), **options)).max() <= 1.5 + 1e-12
    free = sample(tame, S, 50, 2, rng=0, **options)
    assert sample(tame, S, 50, 2, rng=0, clip=(-1e3, 1e3), **options) == approx(free, rel=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"steps": 1}, {"steps": 5}, {"steps": 5, "eta": 0.0}], ids=str)
@pytest.mark.parametrize("ends", [(1000, 1e-4, 0.5), (300, 0.99, 0.999)])
def test_clip_where_the_signal_is_lost(ends, options, dtype):
    """sqrt(abar_T) is 1e-67, which is 0 in float32, and less than 1e-324, which is 0 in float64."""
    s = Schedule.linear(*ends)
    net = MLP(2, 4, 1, schedule=s, rng=0, dtype=dtype)
    x = sample(net, s, 5, 2, rng=0, clip=(-1, 1), **options)
    assert x.dtype == dtype and np.abs(x).max() <= 1 + 1e-6


def test_network_precision_is_kept():
    net = MLP(2, 4, 1, schedule=S, rng=0, dtype="float32")
    assert sample(net, S, 3, 2, rng=0).dtype == np.float32


def test_elbo_loss_is_the_weighted_one():
    net = MLP(2, 4, 1, schedule=S, rng=0, dtype="float64")
    rng = np.random.default_rng(0)
    x0, eps, t = rng.standard_normal((3, 2)), rng.standard_normal((3, 2)), np.array([1, 7, 20])
    error = (net(S.q_sample(x0, t, eps), t) - eps) ** 2
    assert npddpm.loss_and_gradient(net, S, x0, t, eps)[0] == approx(error.mean(), rel=1e-12)
    weighted = (S.loss_weights[t][:, None] * error).mean()
    loss, _ = npddpm.loss_and_gradient(net, S, x0, t, eps, "elbo")
    assert loss == approx(weighted, rel=1e-12) and isinstance(loss, float)


# ---- the glue: who draws what, and in which order

def largest_correlation(rows):
    """Between any two of the rows, in units of the deviation that independent rows have."""
    c = np.corrcoef(rows)
    return np.abs(c - np.eye(len(c))).max() * np.sqrt(rows.shape[1])


@pytest.mark.parametrize("options", [{}, {"variance": "posterior"}, {"steps": 7, "eta": 0.5}, {"steps": [20, 9, 1]}])
@pytest.mark.parametrize("dim", [2, 2048])      # whose noise is drawn in two ways in float32
def test_the_sampler_draws_x_T_and_then_one_noise_for_each_step(options, dim):
    def narrow(x, t):
        assert x.dtype == np.float32
        return np.float32(0.3) * x

    narrow.dtype, rng = np.dtype("float32"), np.random.default_rng(3)
    x_T, noise = standard_normal(rng, (4, dim), narrow.dtype), np.zeros((21, 4, dim), "float32")
    times = options.get("steps", 20)
    for t in (range(20, 0, -1) if times == 20 else [20, 18, 15, 12, 9, 6, 3] if times == 7 else times)[:-1]:
        noise[t] = standard_normal(rng, (4, dim), narrow.dtype)
    drawn = sample(narrow, S, 4, dim, rng=3, **options)
    assert (drawn == sample(narrow, S, 4, dim, rng=9, x_T=x_T, noise=noise, **options)).all()


def test_rows_and_steps_have_noise_of_their_own():
    """No two rows of one draw, no two steps and no two seeds share their noise."""
    n, d = 24, 4000
    steps = [x for _, x in trajectory(lambda x, t: np.zeros_like(x), S, n, d, rng=0)]
    shares = [reverse_coefficients(S, t, t - 1)[0] for t in range(20, 0, -1)]
    noise = [steps[0], *(after - a * before for a, before, after in zip(shares, steps, steps[1:]))][:20]
    assert largest_correlation(np.concatenate(noise[:6])) < 6 and largest_correlation(np.concatenate(noise[-6:])) < 6
    other = sample(shrink, S, n, d, rng=1)
    assert largest_correlation(np.concatenate([sample(shrink, S, n, d, rng=0), other])) < 6


def test_draws_of_the_bound_have_noise_of_their_own():
    seen = []
    variational_bound(lambda x, t: seen.append(x) or x, S, np.zeros((3, 4000)), rng=0, n=3)
    rows = np.concatenate(seen)     # 3 rows, 3 draws, 20 times
    assert len(rows) == 180 and largest_correlation(rows) < 6


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_the_bound_by_hand(variance):
    """Each term from the draws of the same generator, with every constant written out."""
    s, rng, n, d = Schedule.cosine(5), np.random.default_rng(4), 2, 3
    x0 = np.random.default_rng(5).standard_normal((4, d))
    expected, abar = np.zeros((6, 4)), s.alpha_bars
    for t in [1, 2, 3, 4, 5] * n:
        eps, beta, rest = rng.standard_normal((4, d)), s.betas[t], 1 - abar[t]
        x = np.sqrt(abar[t]) * x0 + np.sqrt(rest) * eps
        mu = (x - beta / np.sqrt(rest) * shrink(x, t)) / np.sqrt(1 - beta)
        rho = beta * (1 - abar[t - 1]) / rest
        sigma2 = beta if variance == "beta" or t == 1 else rho
        if t == 1:
            term = -((x0 - mu) ** 2).sum(1) / (2 * beta) - d / 2 * np.log(2 * np.pi * beta)
        else:
            exact = (x - beta / np.sqrt(rest) * eps) / np.sqrt(1 - beta)
            term = -((exact - mu) ** 2).sum(1) / (2 * sigma2) - d / 2 * (rho / sigma2 - 1 - np.log(rho / sigma2))
        error = ((eps - np.sqrt(rest) * x) ** 2).sum(1)     # of the best guess for N(0, I), whose mean is known
        mean = d * abar[t] ** 2 + abar[t] * rest * (x0**2).sum(1)
        expected[t] += (term + beta**2 / ((1 - beta) * rest) * (error - mean) / (2 * sigma2)) / n
    m2, v = abar[5] * (x0**2).sum(1), 1 - abar[5]
    expected[0] = -0.5 * (m2 + d * (v - 1 - np.log(v)))
    bound = variational_bound(shrink, s, x0, rng=4, variance=variance, n=n)
    assert bound.terms == approx(expected, rel=1e-9, abs=1e-12) and bound.nats == approx(expected.sum(0), rel=1e-9)


def test_defaults_of_the_bound_and_of_the_loss():
    x0 = np.random.default_rng(0).standard_normal((4, 2))
    given_all = variational_bound(shrink, S, x0, rng=1, variance="beta", n=1).terms
    assert (variational_bound(shrink, S, x0, rng=1).terms == given_all).all()
    net = MLP(2, 4, 1, schedule=S, rng=0)
    net.parameters += 0.1
    loss, gradient = npddpm.loss_and_gradient(net, S, x0, 3, x0 + 1)
    again, out = npddpm.loss_and_gradient(net, S, x0, 3, x0 + 1, "simple")
    assert loss == again and (gradient == out).all()


def test_times_of_ddim():
    """Evenly spread, rounded up: T - floor(T i / n)."""
    times = lambda steps: [t for t, _ in trajectory(shrink, S, 1, 1, rng=0, steps=steps, eta=0.0)]
    assert times(3) == [20, 14, 7, 0] and times(1) == [20, 0] and times(20) == times(None) == list(range(20, -1, -1))
    assert times(np.int64(3)) == times(3) and times((np.int64(9), 4)) == [9, 4, 0]


def test_clip_by_hand():
    """The predicted x_0 is kept in range; eps and x_r follow from it. The range may differ by column."""
    x_T, noise = np.random.default_rng(0).standard_normal((4, 2)), np.random.default_rng(1).standard_normal((21, 4, 2))
    low, high = np.array([-0.2, -1.0]), np.array([0.3, 0.1])
    x, abar = x_T, S.alpha_bars
    for t in range(20, 0, -1):
        x0 = np.clip((x - np.sqrt(1 - abar[t]) * shrink(x, t)) / np.sqrt(abar[t]), low, high)
        mean = (np.sqrt(abar[t - 1]) * S.betas[t] * x0 + np.sqrt(S.alphas[t]) * (1 - abar[t - 1]) * x) / (1 - abar[t])
        x = mean + (np.sqrt(S.betas[t]) * noise[t] if t > 1 else 0)
    ours = sample(shrink, S, 4, 2, x_T=x_T, noise=noise, clip=(low, high))
    assert ours == approx(x, rel=1e-9, abs=1e-12)


def test_clip_where_nothing_of_the_signal_is_left():
    """sqrt(abar_T) = 1e-40 is no reason for NaN or infinity, in any precision."""
    s = Schedule([0.9999] * 20)
    for dtype in ("float32", "float64"):
        x = sample(MLP(2, 4, 1, schedule=s, rng=0, dtype=dtype), s, 3, 2, rng=0, clip=(-1, 1))
        assert np.isfinite(x).all() and np.abs(x).max() <= 1 + 1e-5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_denoiser_is_given_its_own_precision_whatever_the_rest_has(dtype):
    """x_T, noise and clip of another precision, or lists; and the loss is a plain number."""
    def narrow(x, t):
        assert x.dtype == dtype
        return 0.5 * x

    narrow.dtype = np.dtype(dtype)
    for other in ("float32", "float64"):
        x_T, noise = np.ones((3, 2), other), np.ones((21, 3, 2), other)
        for clip in (None, (np.full(2, -1, other), np.full(2, 1.5, other)), (-1, 1)):
            for options in ({}, {"x_T": x_T}, {"noise": noise}, {"x_T": x_T.tolist(), "noise": noise.tolist()}):
                assert sample(narrow, S, 3, 2, rng=0, clip=clip, **options).dtype == dtype
    net = MLP(2, 4, 1, schedule=S, rng=0, dtype=dtype)
    assert type(npddpm.loss_and_gradient(net, S, x_T, 3, x_T)[0]) is float


def test_clip_where_the_noise_is_less_than_float32_holds():
    """sqrt(1 - abar_1) = 3e-48 is 0 in float32, and is not divided by."""
    s = Schedule([1e-95, 0.5])
    for dtype in ("float32", "float64"):
        x = sample(MLP(2, 4, 1, schedule=s, rng=0, dtype=dtype), s, 4, 2, rng=0, clip=(-1, 1))
        assert np.isfinite(x).all() and np.abs(x).max() <= 1 + 1e-5


def test_what_is_no_schedule_is_named():
    net = MLP(2, 4, 1, schedule=S, rng=0)
    for call in (lambda: sample(net, None, 4, 2), lambda: variational_bound(net, 0.1, np.ones((3, 2))),
                 lambda: npddpm.loss_and_gradient(net, "s", np.ones((3, 2)), 1, np.ones((3, 2)))):
        with pytest.raises(TypeError, match="s must be a Schedule, got"):
            call()
