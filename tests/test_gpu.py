"""Every public path on a device: on a strict stand-in for CuPy always, on CuPy itself with ``pytest -m gpu``.

With the stand-in the device's arithmetic is NumPy's, so results are those of the CPU; on a GPU they are
equal up to rounding.
"""

import sys

import numpy as np
import pytest
import strict_cupy
from pytest import approx

import npddpm
from npddpm import DDPM, GaussianMixture, Schedule, data
from npddpm.arrays import backend
from npddpm.cli.evaluate import loss_at
from npddpm.model.gates import GatedMLP
from npddpm.optim import Adam, clip_norm, update_average

S = Schedule.linear(20)
X = data.load("moons", 200)
X0, EPS = np.random.default_rng(0).standard_normal((2, 5, 3))
T = np.array([1, 5, 11, 18, 20])


@pytest.fixture(params=["stand-in", pytest.param("cupy", marks=pytest.mark.gpu)])
def cupy(request, monkeypatch):
    if request.param == "stand-in":
        monkeypatch.setitem(sys.modules, "cupy", strict_cupy.module())
    else:
        try:
            backend.device_module("gpu")
        except RuntimeError as reason:
            pytest.skip(str(reason))
    return sys.modules["cupy"]


def counts(cupy, run):
    """What `run` adds to the counters of the stand-in; None on CuPy."""
    if not hasattr(cupy.ndarray, "_read"):
        run()
        return None
    before = dict(strict_cupy.COUNTS)
    run()
    return {k: n - before[k] for k, n in strict_cupy.COUNTS.items()}


def nets(dtype="float64"):
    """The same network on both devices, with gates and no weight at zero."""
    U = np.random.default_rng(2).standard_normal((3, 4))
    pair = [GatedMLP(3, 6, 2, schedule=S, fourier=1, directions=U, rng=0, dtype=dtype, device=device)
            for device in ("cpu", "gpu")]
    values = 0.2 * np.random.default_rng(1).standard_normal(len(pair[0].parameters))
    for net in pair:
        net.parameters[...] = net.xp.asarray(values.astype(dtype))
        net.drift += 0.1
    return pair


def test_the_stand_in_is_strict():
    cupy = strict_cupy.module()
    a = cupy.asarray(np.ones((2, 2)))
    for mixed in (lambda: a + np.ones((2, 2)), lambda: np.ones((2, 2)) * a, lambda: np.sin(a), lambda: np.asarray(a),
                  lambda: cupy.matmul(a, np.ones((2, 2))), lambda: np.concatenate([a, a]), lambda: a[np.array([0])]):
        with pytest.raises(TypeError):
            mixed()
    assert isinstance(a.sum(), cupy.ndarray) and counts(cupy, lambda: float(a.sum()))["to_host"] == 1


def test_shim(cupy):
    device = cupy.asarray(X)
    assert backend.get_array_module(1.0, device) is cupy and backend.get_array_module(X) is np
    assert (backend.to_host(device) == X).all()
    backend.synchronize(cupy)
    draws = [backend.to_host(backend.generator(seed, cupy).standard_normal((4,), dtype=np.dtype("float32")))
             for seed in (3, 3, np.random.default_rng(3))]
    assert (draws[0] == draws[1]).all() and (draws[0] != draws[2]).any() and draws[0].dtype == np.float32


def test_schedule(cupy):
    x0, eps = cupy.asarray(X0), cupy.asarray(EPS)
    for t_host, t in ((7, 7), (T, cupy.asarray(T))):
        for name in ("q_sample", "predict_x0", "predict_eps", "reverse_mean"):
            method = getattr(S, name)
            assert backend.to_host(method(x0, t, eps)) == approx(method(X0, t_host, EPS), rel=1e-14)
        assert backend.to_host(S.q_posterior(x0, eps, t)[0]) == approx(S.q_posterior(X0, EPS, t_host)[0], rel=1e-14)
        assert backend.to_host(S.q_mean_variance(x0, t)[0]) == approx(S.q_mean_variance(X0, t_host)[0], rel=1e-14)
    assert backend.to_host(S.q_joint(x0, 3)[0]) == approx(S.q_joint(X0, 3)[0], rel=1e-14)


@pytest.mark.parametrize("weighting", ["simple", "elbo", np.linspace(0, 2, S.T + 1)])
@pytest.mark.parametrize("one_t", [True, False])
def test_loss_and_gradient(cupy, weighting, one_t):
    cpu, gpu = nets()
    t_host, t = (4, 4) if one_t else (T, cupy.asarray(T))
    on_gpu = weighting if isinstance(weighting, str) else cupy.asarray(weighting)
    loss, gradient = npddpm.loss_and_gradient(cpu, S, X0, t_host, EPS, weighting)
    loss_gpu, gradient_gpu = npddpm.loss_and_gradient(gpu, S, cupy.asarray(X0), t, cupy.asarray(EPS), on_gpu)
    assert isinstance(loss_gpu, cupy.ndarray) and float(loss_gpu) == approx(loss, rel=1e-12)
    assert backend.to_host(gradient_gpu) == approx(gradient, rel=1e-9, abs=1e-12)


def test_optimizer(cupy):
    results = []
    for xp in (np, cupy):
        p, g, average = xp.asarray(X0.ravel()).copy(), xp.asarray(EPS.ravel()).copy(), xp.zeros(15)
        adam = Adam(p)
        for _ in range(3):
            clip_norm(g, 1.0)
            adam.step(g, 0.1)
            update_average(average, p, adam.t)
        results.append(np.array([backend.to_host(p), backend.to_host(average)]))
    assert results[1] == approx(results[0], rel=1e-12)


@pytest.mark.parametrize("options", [{}, {"variance": "posterior"}, {"variance": "gaussian"}, {"steps": 5}, {"steps": 5, "eta": 0.5}, {"clip": (-1, 1)}, {"steps": 5, "clip": (-1, 1)}])
def test_sampling(cupy, options):
    cpu, gpu = nets()
    rng = np.random.default_rng(2)
    x_T, noise = rng.standard_normal((4, 3)), rng.standard_normal((21, 4, 3))
    expected = npddpm.sample(cpu, S, 4, 3, x_T=x_T, noise=noise, **options)
    ours = npddpm.sample(gpu, S, 4, 3, x_T=cupy.asarray(x_T), noise=cupy.asarray(noise), **options)
    assert backend.to_host(ours) == approx(expected, rel=1e-8)
    assert isinstance(npddpm.sample(gpu, S, 4, 3, rng=0, **options), cupy.ndarray)


def test_bound(cupy):
    _, gpu = nets()
    bound = npddpm.variational_bound(gpu, S, cupy.asarray(X0), rng=0)
    assert bound.terms.shape == (21, 5) and np.isfinite(backend.to_host(bound.nats)).all()


def test_oracle(cupy):
    law = GaussianMixture([1, 2], [[0, 1, 2], [1, 0, 0]], [0.5, 0.3])
    x = cupy.asarray(X0)
    for t_host, t in ((7, 7), (T, cupy.asarray(T))):
        assert backend.to_host(law.denoiser(S)(x, t)) == approx(law.denoiser(S)(X0, t_host), rel=1e-12)
        assert backend.to_host(law.log_density(x, S, t)) == approx(law.log_density(X0, S, t_host), rel=1e-12)
        assert backend.to_host(law.score(x, S, t)) == approx(law.score(X0, S, t_host), rel=1e-12)


def test_model(cupy, tmp_path):
    model = DDPM(S, hidden=8, depth=2).fit(X, steps=120, batch_size=16, rng=0, device="gpu")
    assert len(model.losses) == 1 and isinstance(model.average, cupy.ndarray)
    samples = model.sample(7, rng=0, clip=(-2, 3))
    assert isinstance(samples, np.ndarray) and samples.shape == (7, 2)
    assert [len(chunk) for chunk in model.sample_chunks(10_001, rng=0, steps=1)] == [10_000, 1]
    assert np.isfinite(model.bound(X[:3], rng=0)).all()
    assert loss_at(model.denoiser(), S, model.to_network(X), 3, rng=0) > 0
    model.save(tmp_path / "m.npz")
    moved = DDPM.load(tmp_path / "m.npz")
    assert (moved.average == backend.to_host(model.average)).all()
    again = DDPM.load(tmp_path / "m.npz", device="gpu").fit(X, steps=130, batch_size=16, resume=True)
    assert again.step == 130 and isinstance(again.average, cupy.ndarray)


@pytest.mark.parametrize("batch", [16, 512])
def test_a_training_step_makes_no_transfer(cupy, batch):
    """Ninety-eight steps that do not report their loss: nothing crosses, and the launches are counted."""
    run = DDPM(S, hidden=8, depth=2).training(X, steps=300, batch_size=batch, rng=0, device="gpu")
    next(run)
    crossed = counts(cupy, lambda: [next(run) for _ in range(98)])
    if crossed is not None:
        assert (crossed["to_device"], crossed["to_host"]) == (0, 0)
        assert crossed["launches"] <= 98 * 47
        assert counts(cupy, lambda: next(run))["to_host"] <= 1   # step 100: the loss
