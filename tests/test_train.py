"""The model: it learns, repeats itself, and survives being saved."""


import numpy as np
import pytest
from pytest import approx

from npddpm import DDPM, Schedule, data
from npddpm.evaluate import energy_distance
from npddpm.train import standardization

S = Schedule.linear(50)
MOONS = data.load("moons", 500)


def small(**changes):
    return DDPM(S, hidden=16, depth=2).fit(MOONS, **{"steps": 60, "batch_size": 32, "rng": 0} | changes)


def test_it_learns():
    """The samples of a short training are far nearer to the data than a Gaussian of the same moments."""
    x, fresh = data.load("gaussians", 2000), data.load("gaussians", 1000, rng=1)
    model = DDPM(S, hidden=64, depth=2).fit(x, steps=1500, batch_size=128, lr=3e-3, rng=0)
    assert len(model.losses) == 15 and np.mean(model.losses[-3:]) < model.losses[0]
    gaussian = np.random.default_rng(0).multivariate_normal(x.mean(0), np.cov(x.T), 1000)
    assert energy_distance(model.sample(1000, rng=0), fresh) < 0.25 * energy_distance(gaussian, fresh)


def test_seed_decides_everything():
    first, same, other = small(), small(rng=np.random.default_rng(0)), small(rng=1)
    assert (first.average == same.average).all() and (first.average != other.average).any()
    assert (first.sample(5, rng=2) == same.sample(5, rng=2)).all()


def test_scaling_is_learned_and_undone():
    x = np.column_stack([1e6 + 1e3 * MOONS[:, 0], 1e-9 * MOONS[:, 1], np.full(500, 7.25)])
    model = DDPM(S, hidden=16, depth=1).fit(x, steps=20, rng=0)
    z = model.standardize(x)
    assert z[:, :2].std(0) == approx([1, 1]) and (z[:, 2] == 0).all()
    assert model.restore(z) == approx(x, rel=1e-12)
    samples = model.sample(200, rng=0)
    assert (samples[:, 2] == 7.25).all()
    assert np.abs(samples - x.mean(0))[:, :2].mean(0) == approx([1e3, 5e-10], rel=0.8)
    with pytest.raises(ValueError, match="column 2 of the training data was constant"):
        model.bound(x)


def test_a_fit_that_is_refused_leaves_the_model_as_it_was():
    model = small()
    before = model.sample(5, rng=0)
    for change in ({"weighting": "l1"}, {"device": "tpu"}, {"rng": -1}, {"lr": 0}):
        with pytest.raises(ValueError):
            model.fit(np.zeros((9, 3)) + np.arange(9)[:, None], **change)
        assert (model.sample(5, rng=0) == before).all()


def test_a_model_can_be_fitted_again_to_data_of_another_width():
    model = small()
    assert model.net.fourier == 2 and model.fit(data.load("digits"), steps=2, rng=0).net.fourier == 0
    assert model.sample(2, rng=0).shape == (2, 64)


def test_the_bound_of_one_row():
    assert np.isfinite(small().bound(MOONS[:1], rng=0)).all()


def test_images_keep_their_proportions():
    x = data.load("digits")
    mean, scale = standardization(x)
    assert len(set(scale)) == 1 and ((x - mean) / scale).var(0).mean() == approx(1)


def test_chunks_are_drawn_from_one_generator():
    model = small()
    many = model.sample(2600, rng=0, steps=2)
    assert many.shape == (2600, 2) and (many[:2500] == model.sample(2500, rng=0, steps=2)).all()
    chunks = list(model.sample_chunks(2600, rng=0, steps=2))
    assert [len(c) for c in chunks] == [2500, 100] and (np.concatenate(chunks) == many).all()


def test_clip_is_in_the_units_of_the_data():
    x = small().sample(200, rng=0, clip=(-0.5, 0.75))
    assert x.min() == approx(-0.5, abs=1e-6) and x.max() == approx(0.75, abs=1e-6)


def test_bound_changes_with_the_units_as_a_density_does():
    """x -> 10 x divides a density in two dimensions by 100."""
    bound = small().bound(MOONS[:20], rng=0)
    larger = DDPM(S, hidden=16, depth=2).fit(10 * MOONS, steps=60, batch_size=32, rng=0).bound(10 * MOONS[:20], rng=0)
    assert bound.shape == (20,) and larger == approx(bound - 2 * np.log(10), abs=1e-2)


def test_save_and_load(tmp_path):
    model = small()
    model.about = {"data": "moons", "note": [1, "two"]}
    model.save(tmp_path / "m.npz")
    again = DDPM.load(tmp_path / "m.npz")
    assert (again.sample(7, rng=3) == model.sample(7, rng=3)).all()
    assert (again.bound(MOONS[:3], rng=0) == model.bound(MOONS[:3], rng=0)).all()
    assert again.schedule == S and again.losses == model.losses and again.about == model.about and again.step == 60
    assert [p.name for p in tmp_path.iterdir()] == ["m.npz"]


@pytest.mark.parametrize("stop", [1, 99, 100, 137])
def test_resumed_run_is_the_uninterrupted_one_to_the_bit(tmp_path, stop):
    whole, model = small(steps=210), DDPM(S, hidden=16, depth=2)
    for step in model.training(MOONS, steps=210, batch_size=32, rng=0):
        if step == stop:
            break
    model.save(tmp_path / "m.npz")
    resumed = DDPM.load(tmp_path / "m.npz").fit(MOONS, steps=210, batch_size=32, resume=True)
    for name in ("average", "mean", "scale", "losses", "step"):
        assert np.array_equal(getattr(resumed, name), getattr(whole, name)), name
    assert (resumed.net.parameters == whole.net.parameters).all()
    assert (resumed.optimizer.v == whole.optimizer.v).all()
