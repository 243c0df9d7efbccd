"""Loss, samplers and bound, with denoisers that are known in closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

import npddpm
from npddpm import MLP, Schedule, sample, trajectory, variational_bound

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
    assert [t for t, _ in trajectory(shrink, S, 3, 2, rng=0, steps=4)] == [20, 15, 10, 5, 0]
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
