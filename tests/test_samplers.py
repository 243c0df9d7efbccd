"""From anywhere, in few steps and in all; the walk without noise is in test_flow.py."""

import numpy as np
import pytest
from pytest import approx

from npddpm import DDPM, GaussianMixture, Schedule, data, encode, sample, trajectory
from npddpm.cli.evaluate import energy_distance
from npddpm.samplers import reverse_coefficients

S = Schedule.linear(1000)
WIDE = GaussianMixture([1, 2, 1], [[-1.5, 0], [1, 0.5], [0, -1]], [[0.3, 0.1], [0.2, 0.2], [0.1, 0.1]])


def test_twenty_steps_are_as_good_as_a_thousand():
    """Eight Gaussians with the exact denoiser: no farther from fresh points than real ones are; DDIM is with a few more."""
    law = data.GAUSSIANS
    fresh, real = law.sample(4000, 1), law.sample(2000, 2)
    x_T = np.random.default_rng(0).standard_normal((2000, 2))
    drawn = [sample(law.denoiser(S), S, 2000, 2, x_T=x_T, **options) for options in ({"steps": 20}, {"steps": 20, "eta": 0.0})]
    usual, (few, ddim) = energy_distance(real, fresh), (energy_distance(x, fresh) for x in drawn)
    assert few < usual + 0.002 and few < ddim - 0.0002


def test_a_noised_input_is_denoised():
    """From x_t at t, with Algorithm 2 and with few steps: the samples are draws of x_0 given x_t."""
    law = GaussianMixture([1], [[0.0]], [1.0])
    xt = np.full((4000, 1), 0.8)
    for options in ({}, {"eta": 1.0, "steps": 200}):
        x0 = sample(law.denoiser(S), S, 4000, 1, 0, x_T=xt, start=300, **options)
        assert x0.mean() == approx(S.sqrt_alpha_bars[300] * 0.8, abs=0.05)
        assert x0.var() == approx(S.one_minus_alpha_bars[300], rel=0.1)
    assert [t for t, _ in trajectory(law.denoiser(S), S, 4000, 1, 0, x_T=xt, start=300, steps=3)] == [300, 134, 34, 0]
    with pytest.raises(ValueError, match=r"start needs x_T, which is N\(0, I\) at T alone"):
        sample(law.denoiser(S), S, 4, 1, 0, start=300)
    for start in (0, 1001, 2.5):
        with pytest.raises(ValueError, match="start must be"):
            trajectory(law.denoiser(S), S, 1, 1, x_T=[[0.0]], start=start)


@pytest.mark.parametrize("options", [{"steps": 4}, {"eta": 0.5, "steps": 4}, {}])
def test_a_clip_may_return_the_same_array_each_time(options):
    same = np.empty((3, 2))

    def clip(x0):
        return np.clip(x0, -0.3, 0.4, out=same)
    for seed in (0, 1):
        x = sample(WIDE.denoiser(S), S, 3, 2, seed, clip=clip, **options)
        kept = x.copy()
        clip(np.ones((3, 2)))
        assert (x == kept).all() and (x == sample(WIDE.denoiser(S), S, 3, 2, seed, clip=(-0.3, 0.4), **options)).all()


def test_clip_with_few_steps_and_by_a_function():
    x = sample(WIDE.denoiser(S), S, 500, 2, 0, steps=10, clip=(-0.5, 0.75))
    assert x.min() == approx(-0.5) and x.max() == approx(0.75)
    assert (sample(WIDE.denoiser(S), S, 500, 2, 0, steps=10, clip=lambda x0: x0.clip(-0.5, 0.75)) == x).all()


def test_a_model_encodes_and_continues():
    x = data.load("moons", 600)
    model = DDPM(Schedule.linear(100), 64, 2).fit(x, steps=800, rng=0)
    z = model.encode(x, steps=50)
    assert z.shape == (600, 2) and model.sample(600, x_T=z, steps=50) == approx(x, abs=0.1)
    many = np.tile(z, (5, 1))                   # in chunks of 2500
    assert model.sample(3000, x_T=many, steps=50)[2500:2600] == approx(x[100:200], abs=0.1)
    noisy = model.schedule.q_sample(model.axes.standardize(x), 20, np.random.default_rng(0).standard_normal((600, 2)))
    cleaned = model.sample(600, rng=0, x_T=noisy, start=20)
    assert energy_distance(cleaned, x) < 0.3 * energy_distance(model.axes.restore(noisy), x)
    with pytest.raises(ValueError, match=r"x_T must have shape \(5, 2\), got \(600, 2\)"):
        model.sample(5, x_T=z)


@pytest.mark.parametrize("beta", [1e-3, 1e-160, 1e-200, 1e-300])
def test_the_coefficients_of_tiny_betas(beta):
    """Step 7, from the tables of the schedule: nothing underflows in between."""
    s = Schedule([beta] * 3)
    a, b, c, sigma = reverse_coefficients(s, 3, 2)
    assert (a, b) == approx((s.rsqrt_alphas[3], s.reverse_eps_coefs[3]), rel=1e-14, abs=0)
    assert sigma == approx(s.posterior_variances[3] ** 0.5, rel=1e-14, abs=0)
    assert c == approx(s.one_minus_alpha_bars[2] / s.sqrt_one_minus_alpha_bars[3] / s.rsqrt_alphas[3], rel=1e-14, abs=0)


class Reusing:
    """The exact prediction, always in the same memory."""

    def __init__(self):
        self.out = np.empty((50, 2))

    def __call__(self, x, t):
        self.out[...] = WIDE.denoiser(S)(x, t)
        return self.out


def test_a_denoiser_may_write_each_result_in_the_place_of_the_last():
    for options in ({"steps": 10}, {"steps": 10, "eta": 0.5}, {}):
        assert (sample(Reusing(), S, 50, 2, 0, **options) == sample(WIDE.denoiser(S), S, 50, 2, 0, **options)).all()
    x = WIDE.sample(50, 1)
    assert (encode(Reusing(), S, x, 20) == encode(WIDE.denoiser(S), S, x, 20)).all()


def test_what_is_done_to_the_first_x_t_is_not_done_to_the_callers():
    x_T = np.ones((3, 2))
    _, first = next(trajectory(WIDE.denoiser(S), S, 3, 2, x_T=x_T))
    first *= 0
    assert (x_T == 1).all()
