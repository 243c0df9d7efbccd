"""The network of images: its gates by hand, their gradient, and the drift that keeps samples as wide as the data."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx

from npddpm import DDPM, MLP, Schedule, loss_and_gradient, sample
from npddpm.model.gates import GatedMLP, measure_drift

H = 1e-30
SCHEDULE = Schedule.linear(20)
LAM = np.array([0.3, 1.0, 7.0])


def network(dtype="float64", seed=0, p=4, **options):
    """With no weight at zero, and a drift; p = None stands for directions that are the axes, which need no matrix."""
    rng = np.random.default_rng(seed)
    U = None if p is None else rng.standard_normal((3, p))
    net = GatedMLP(3, 5, 2, schedule=SCHEDULE, variances=LAM, directions=U, rng=rng, dtype=dtype, **options)
    net.parameters[...] = 0.4 * rng.standard_normal(net.parameters.shape)
    net.drift[...] = [0.1, 0.0, 0.5]
    return net


@pytest.mark.parametrize("t", [7, np.array([1, 7, 12, 20])])
@pytest.mark.parametrize("p", [1, 3, 5, None])
def test_the_gated_network_by_hand(p, t):
    """F = F_0 + (G * (m U)) U^T - drift sin(theta) cos(theta) u, where [F_0, G] is what an `MLP` of as many outputs gives."""
    net, x = network(p=p), np.random.default_rng(1).standard_normal((4, 3))
    sin, cos, sd = (table[t] for table in SCHEDULE.rotation(LAM))
    u = x / sd
    m, U, (W_1, W_2, W_3) = np.sqrt(LAM) * cos * u, np.eye(3) if p is None else net.directions, net.weights
    a = np.column_stack([np.broadcast_to(net.features.tau[t], (4, 64)), m])
    for W in (W_1, W_2):
        z = a @ W[:-1] + W[-1]
        a = z * (1 + np.tanh(z))
    F, G = np.split(a @ W_3[:-1] + W_3[-1], [3], axis=1)
    for j in range(U.shape[1]):
        F = F + (G[:, j] * (m @ U[:, j]))[:, None] * U[:, j]
    F = F - [0.1, 0.0, 0.5] * sin * cos * u
    assert net(x, t) == approx(sin * u + cos * F, rel=1e-11, abs=1e-13) and net.shapes[-1] == (6, 3 + U.shape[1])


@given(st.none() | st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**32), st.booleans())
@settings(max_examples=15)
def test_the_gated_gradient_is_the_complex_step_derivative(p, batch, seed, one_t):
    """Every parameter, the drift in place."""
    net, rng = network("complex128", seed, p, fourier=seed % 2), np.random.default_rng(seed)
    (x0, eps), t = rng.standard_normal((2, batch, 3)), int(rng.integers(1, 21)) if one_t else rng.integers(1, 21, batch)
    _, gradient = loss_and_gradient(net, SCHEDULE, x0, t, eps, "elbo")
    exact = np.empty(len(gradient))
    for i in range(len(gradient)):
        kept = net.parameters[i]
        net.parameters[i] += 1j * H
        exact[i] = loss_and_gradient(net, SCHEDULE, x0, t, eps, "elbo")[0].imag / H
        net.parameters[i] = kept
    assert np.abs(gradient.real - exact).max() <= 1e-12 * np.abs(exact).max()


def test_it_starts_as_the_best_linear_guess():
    net, plain = (make(3, 5, 2, schedule=SCHEDULE, variances=LAM, rng=0, **options)
                  for make, options in ((GatedMLP, {"directions": np.ones((3, 7))}), (MLP, {})))
    x = np.random.default_rng(0).standard_normal((4, 3))
    assert (net.drift == 0).all() and (net(x, 5) == plain(x, 5)).all()


@pytest.mark.parametrize("p", [4, None])
def test_a_copy_is_the_same_function_with_weights_and_a_drift_of_its_own(twin, p):
    """Of another precision too."""
    net, x = network(p=p), np.random.default_rng(1).standard_normal((4, 3))
    before = network(p=p)(x, 7)
    for other in (twin(net), net.astype("complex128")):
        assert isinstance(other, GatedMLP) and other.schedule == SCHEDULE and other(x, 7) == approx(before, rel=1e-13)
        assert (other.parameters == net.parameters).all() and (other.drift == net.drift).all() and np.array_equal(other.U, net.U)
        other.parameters[...], other.drift[...] = 0, 0
        assert (net(x, 7) == before).all() and (other(x, 7) != before).any()


# ---- the drift

S = Schedule.linear(50)


def constant_gates(k, variances=(0.01, 0.5, 1.0, 2.0), dtype="float32"):
    """F = k m, along every axis: with k > 0 samples go towards the middle, with k < 0 away from it."""
    net = GatedMLP(len(variances), 4, 1, schedule=S, variances=variances, directions=np.eye(len(variances)), rng=0, dtype=dtype)
    net.weights[-1][-1, len(variances):] = k
    return net


def test_a_network_with_no_correction_has_no_drift():
    """But for what N(0, I) in the place of q(x_T) takes, log v_T."""
    for lam in ([0.0, 1e-9, 0.3, 1.0, 9.0], [1.0]):
        net, lost = constant_gates(0, lam, "float64"), 2 * np.log(S.rotation(lam).sd[S.T]).clip(0)
        assert measure_drift(net) == approx(lost, rel=0.05, abs=1e-6) and (measure_drift(net) == net.drift).all()


@pytest.mark.parametrize("k", [0.05, 0.2, 0.5])
def test_samples_get_the_spread_that_they_lack(k):
    """From other noise, too, in other numbers of steps, within a few percent."""
    net, lam = constant_gates(k), np.array([0.01, 0.5, 1.0, 2.0])
    before = sample(net, S, 20_000, 4, 1, steps=20).var(0) / lam
    assert before[1:].max() < 1 - k / 2                                     # without the drift they lack it
    measure_drift(net)
    for steps in (20, 50):
        assert sample(net, S, 20_000, 4, 1, steps=steps).var(0) == approx(lam, rel=0.05)


def test_samples_that_are_too_wide_stay_as_they_are():
    assert (measure_drift(constant_gates(-0.2)) == 0).all()


def test_the_model_measures_its_drift_once_for_the_same_parameters(monkeypatch):
    """In a copy as in the original, and whatever happens to what it returned; the training is not changed."""
    x = np.random.default_rng(0).standard_normal((60, 3))
    model, calls = DDPM(S, 8, 1, gated=True).fit(x, steps=60, rng=0), []
    monkeypatch.setattr("npddpm.model.ddpm.measure_drift", lambda net: calls.append(net.parameters.copy()) or np.array([0.1, 0.2, 0.3], "float32"))
    for made in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        net = model.denoiser()
        assert (net.drift == np.array([0.1, 0.2, 0.3], "float32")).all() and (model.net.drift == 0).all()
        net.drift[...] = 5
    assert len(calls) == 1 and (calls[0] == model.average).all()
    model.average *= 1.01               # other parameters, other samples
    model.denoiser()
    model.fit(x, steps=61, rng=0, resume=True).denoiser()
    assert len(calls) == 3
    model = DDPM(S, 8, 1).fit(x, steps=1, rng=0)
    assert type(model.denoiser()) is MLP and len(calls) == 3
