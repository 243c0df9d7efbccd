"""The model: it learns, repeats itself, and survives being saved."""

import copy
import inspect
import json
import pickle
from itertools import islice

import numpy as np
import pytest
from pytest import approx

from npddpm import DDPM, MLP, Schedule, data, diffusion, loss_and_gradient, sample, variational_bound
from npddpm.arrays.backend import standard_normal
from npddpm.cli.evaluate import energy_distance
from npddpm.model import ddpm as train
from npddpm.model import rules
from npddpm.model.axes import PrincipalAxes
from npddpm.model.gates import GatedMLP
from npddpm.optim import Adam, learning_rate

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
    z = model.axes.standardize(x)
    assert z.shape == (500, 2) and z.var(0) == approx(model.axes.variances) and z.var(0).sum() == approx(2)
    assert model.axes.restore(z) == approx(x, rel=1e-12)
    samples = model.sample(200, rng=0)
    assert (samples[:, 2] == 7.25).all()
    assert np.abs(samples - x.mean(0))[:, :2].mean(0) == approx([1e3, 5e-10], rel=0.8)


def test_a_fit_that_is_refused_leaves_the_model_as_it_was():
    model = small()
    before = model.sample(5, rng=0)
    for change in ({"weighting": "l1"}, {"device": "tpu"}, {"rng": -1}, {"lr": 0}):
        with pytest.raises(ValueError):
            model.fit(np.zeros((9, 3)) + np.arange(9)[:, None], **change)
        assert (model.sample(5, rng=0) == before).all()


def test_a_model_can_be_fitted_again_to_data_of_another_width():
    model = small()
    assert model.net.fourier == 4 and model.fit(data.load("digits"), steps=2, rng=0).net.fourier == 0
    assert model.sample(2, rng=0).shape == (2, 64)


def test_the_bound_of_one_row():
    assert np.isfinite(small().bound(MOONS[:1], rng=0)).all()


def test_images_keep_their_proportions():
    x = data.load("digits")
    axes = DDPM(S, 4, 1).fit(x, steps=1, rng=0).axes
    assert set(axes.scale[x.std(0) > 0]) == {axes.scale.max()} and axes.variances.sum() == approx(64)


def test_chunks_do_not_depend_on_those_behind_them():
    model = small()
    many = model.sample(2600, rng=0, steps=2)
    assert many.shape == (2600, 2) and (many[:2500] == model.sample(2500, rng=0, steps=2)).all()
    chunks = list(model.sample_chunks(2600, rng=0, steps=2))
    assert [len(c) for c in chunks] == [2500, 100] and (np.concatenate(chunks) == many).all()


def test_a_clip_that_reuses_its_array_leaves_every_chunk_its_own(monkeypatch):
    model, room = small(), np.empty((4, 2))
    monkeypatch.setitem(train.CHUNK, "cpu", 4)
    x = model.sample(8, rng=0, steps=3, clip=lambda x: np.clip(x, -0.5, 0.75, out=room))
    assert (x == model.sample(8, rng=0, steps=3, clip=(-0.5, 0.75))).all()


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
    for name in ("average", "losses", "step"):
        assert np.array_equal(getattr(resumed, name), getattr(whole, name)), name
    assert all(np.array_equal(a, b) for a, b in zip(resumed.axes, whole.axes, strict=True))
    assert (resumed.net.parameters == whole.net.parameters).all()
    assert (resumed.optimizer.v == whole.optimizer.v).all()


# ---- the glue: the loop, the chunks and the bound again by hand, from the same draws, to the bit

def by_hand(s, x, steps, batch_size, lr, rng, weighting):
    """The loop of `fit`: network, average and loss of each step, and the norms of the gradients before clipping."""
    rng = np.random.default_rng(np.random.default_rng(rng).integers(2**63))
    axes = PrincipalAxes.of(x)
    net = MLP(2, 16, 2, schedule=s, variances=axes.variances, fourier=4, rng=rng)
    average, adam, losses, norms = net.parameters.copy(), Adam(net.parameters), [], []
    z = ((x - x.mean(0)) / x.std(0) @ axes.V).astype("float32")
    for step in range(steps):
        x0 = z[rng.integers(0, len(z), batch_size)]
        t = 1 + np.floor(s.T * rng.random(batch_size) ** (1 if weighting else 2)).astype(int)     # small t more often by default
        eps = standard_normal(rng, (batch_size, 2), np.float32)
        loss, gradient = loss_and_gradient(net, s, x0, t, eps, weighting or "simple")
        norms.append(np.sqrt(gradient @ gradient))
        gradient *= 1 / np.maximum(1, norms[-1])                                # clipped first,
        adam.step(gradient, learning_rate(step, steps, lr))                     # then Adam,
        average += max(0.001, 9 / (step + 10)) * (net.parameters - average)     # and last the average
        losses.append(loss)
    return net, average, losses, norms


@pytest.mark.parametrize("weighting", ["simple", "elbo", None])
@pytest.mark.parametrize("batch_size, steps", [(24, 110), (2048, 8)])       # whose noise is drawn in two ways
def test_the_loop_is_the_one_by_hand(weighting, batch_size, steps):
    s = Schedule([0.01, 0.9, 0.99])
    settings = {"steps": steps, "batch_size": batch_size, "lr": 0.02, "rng": 5, "weighting": weighting}
    model, (net, average, losses, norms) = DDPM(s, 16, 2).fit(MOONS, **settings), by_hand(s, MOONS, **settings)
    assert (model.net.parameters == net.parameters).all() and (model.average == average).all()
    assert model.losses == ([sum(losses[:100]) / 100] if steps > 100 else [])
    assert model._loss_sum == sum(losses[100:] if steps > 100 else losses) and model.step == steps
    assert min(norms) < 1 < max(norms) or steps == 8        # clipping matters, and not always


def test_the_average_forgets_a_thousandth_in_a_late_step():
    model = DDPM(S, 16, 2)
    run = model.training(MOONS, steps=50, batch_size=16, rng=0)
    next(run)
    model.optimizer.t, before = 20_000, model.average.copy()
    next(run)
    assert model.average == approx(before + 0.001 * (model.net.parameters - before), rel=1e-6)
    assert (model.average != model.net.parameters).any()


def test_fit_and_training_have_the_same_defaults():
    wanted = {"steps": None, "batch_size": 256, "lr": None, "rng": None, "device": "cpu", "weighting": None,
              "resume": False, "comm": None}
    for method in (DDPM.fit, DDPM.training):
        found = inspect.signature(method).parameters
        assert {name: p.default for name, p in found.items() if p.default is not p.empty} == wanted
    model = DDPM()
    assert model.schedule == Schedule.linear(1000) and model.shape == {"hidden": None, "depth": None, "fourier": None, "gated": None,
                                                                     "dtype": "float32"}
    assert (model.step, model.losses, model.about) == (0, [], {})


@pytest.mark.parametrize("name, value, message", [
    ("hidden", 0, "of at least 1, got 0"), ("depth", 1001, "at most 1000, got 1001"), ("fourier", 65, "at most 64, got 65"),
    ("fourier", -1, "of at least 0, got -1"), ("dtype", "complex128", "float32 or float64, got 'complex128'")])
def test_settings_out_of_range_are_refused_at_once(name, value, message):
    with pytest.raises(ValueError, match=f"^{name} must be .*{message}"):
        DDPM(S, **{name: value})


def test_whether_there_are_gates_is_said_by_a_bool():
    with pytest.raises(TypeError, match="^gated must be a bool, got 1$"):
        DDPM(schedule=S, gated=1)


def test_images_are_weighted_by_what_the_gaussian_leaves_open():
    """One over the root mean square of sd[eps | x_t], which stops at 1/10, with mean 1; up to 128 axes 1, the simple loss."""
    x = np.random.default_rng(0).standard_normal((400, 140)) * np.arange(1, 141)
    a, by_rule, simple = (DDPM(S, 8, 1, dtype="float64").fit(x, 3, 16, rng=0, **given) for given in ({}, {}, {"weighting": "simple"}))
    s, lam = a.schedule, a.axes.variances
    v = s.alpha_bars[:, None] * lam + s.one_minus_alpha_bars[:, None]
    left_open = (s.alpha_bars[:, None] * lam / v).mean(1)
    w = 1 / np.sqrt(np.maximum(left_open, 0.01))
    assert left_open[-1] < 0.01 < left_open[1]
    assert rules.weighting(a.net.rotation.cos) == approx(w / w[1:].mean(), rel=1e-12)
    assert (a.net.parameters == by_rule.net.parameters).all() and (a.net.parameters != simple.net.parameters).any()
    assert rules.weighting(a.net.rotation.cos[:, :128]) == "simple"


@pytest.mark.parametrize("r, hidden, depth, fourier, gated", [
    (1, 128, 3, 4, False), (3, 128, 3, 4, False), (4, 128, 3, 0, False), (32, 128, 3, 0, False), (33, 256, 5, 0, False),
    (128, 256, 5, 0, False), (129, 512, 3, 0, True), (10_000, 512, 3, 0, True)])
def test_the_rules_for_the_network(r, hidden, depth, fourier, gated):
    assert (rules.hidden(r), rules.depth(r), rules.fourier(r), rules.gated(r)) == (hidden, depth, fourier, gated)


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


def test_times_are_uniform_where_a_weighting_is_given(monkeypatch):
    seen = []
    monkeypatch.setattr(diffusion, "loss_and_gradient", lambda net, s, x0, t, *rest, out: (seen.append(t), out.fill(0), (0.0, out))[-1])
    DDPM(Schedule.linear(5), 4, 1).fit(MOONS, 40, 1000, rng=0, weighting="simple")
    assert np.bincount(np.concatenate(seen)).tolist() == approx([0, *[8000] * 5], rel=0.05)


def test_gates_are_for_many_axes():
    x = np.random.default_rng(0).standard_normal((300, 129))
    for d, given, gated in ((129, None, True), (128, None, False), (129, False, False), (128, True, True)):
        net = DDPM(S, 4, 1, gated=given).fit(x[:, :d], 1, 2, rng=0).net
        assert isinstance(net, GatedMLP) and (net.directions.size > 0) == gated and net.shapes[-1] == (5, d + d * gated)
        assert not gated or net.U @ net.U.T == approx(np.eye(d), abs=1e-5)


@pytest.mark.parametrize("d, fourier", [(1, 4), (3, 4), (4, 0)])
def test_fourier_features_are_for_few_dimensions(d, fourier):
    x = np.random.default_rng(0).standard_normal((9, d))
    assert DDPM(S, 4, 1).fit(x, 1, 2, rng=0).net.fourier == fourier
    for given in (0, 1):
        assert DDPM(S, 4, 1, fourier=given).fit(x, 1, 2, rng=0).net.fourier == given


def test_training_yields_each_step_and_can_be_left():
    model = DDPM(S, 16, 2)
    assert list(islice(model.training(MOONS, steps=9, batch_size=4, rng=0), 3)) == [1, 2, 3] and model.step == 3
    assert list(model.training(MOONS, steps=5, batch_size=4, resume=True)) == [4, 5]


def test_a_second_fit_starts_afresh():
    model = small(steps=120).fit(MOONS, 60, 32, rng=0)
    fresh = small()
    assert (model.average == fresh.average).all() and (model.step, model.losses) == (60, [])
    assert model._loss_sum == fresh._loss_sum and model.optimizer.t == 60


def test_samples_are_those_of_the_average():
    model = small()
    net = model.denoiser()
    assert (net.parameters == model.average).all() and (model.average != model.net.parameters).any()
    assert net.parameters is not model.average and net.dtype == np.float32
    expected = MOONS.mean(0) + MOONS.std(0) * (sample(net, S, 5, 2, rng=0, variance="gaussian") @ model.axes.V.T)
    assert model.sample(5, rng=0) == approx(expected, rel=1e-12)


def test_chunks_are_new_draws_each_from_a_stream_of_its_own():
    """Two thousand and five hundred rows at a time, each with noise of its own: no two rows are alike."""
    model, rng = small(), np.random.default_rng(5)
    net = model.denoiser()
    options = {"steps": 2, "eta": 0.5}
    jumped = [np.random.Generator(np.random.default_rng(5).bit_generator.jumped(i)) for i in range(4)]
    expected = [model.axes.restore(sample(net, S, n, 2, jumped[i], **options)) for i, n in enumerate((2500, 2500, 3))]
    chunks = list(model.sample_chunks(5003, rng, **options))
    assert all((a == b).all() for a, b in zip(chunks, expected, strict=True))
    assert rng.random() == jumped[3].random()       # so that the next call has new draws in every chunk
    rows = np.concatenate(chunks)
    assert len(np.unique(rows, axis=0)) == 5003
    for lag in (1, 2, 2500):
        assert abs(np.corrcoef(rows[lag:, 0], rows[:-lag, 0])[0, 1]) < 5 / np.sqrt(len(rows) - lag)


def test_the_sampler_gets_its_options():
    model = small()
    options = [{}, {"variance": "beta"}, {"variance": "posterior"}, {"steps": 5}, {"steps": 5, "eta": 0.0}, {"clip": (-0.2, 0.3)}]
    assert len({model.sample(2, rng=0, **o).tobytes() for o in options}) == len(options)


def test_the_bound_is_that_of_the_scaled_rows():
    model = small()
    z = ((MOONS[:4] - MOONS.mean(0)) / MOONS.std(0) @ model.axes.V).astype("float32")
    expected = variational_bound(model.denoiser(), S, z, 7, "posterior", 2).nats - np.log(MOONS.std(0)).sum()
    assert model.bound(MOONS[:4], 7, "posterior", 2) == approx(expected, rel=1e-12)


def test_what_could_not_be_read_again_is_not_saved(tmp_path):
    """The last step is followed by no loss that would show it. The checkpoint before it stays."""
    small().save(tmp_path / "m.npz")
    model = DDPM.load(tmp_path / "m.npz")
    with np.errstate(all="ignore"):
        model.fit(MOONS, 61, 8, lr=1e300, resume=True)
    with pytest.raises(FloatingPointError, match="became NaN or infinite at step 61: the learning rate is too high"):
        model.save(tmp_path / "m.npz")
    assert DDPM.load(tmp_path / "m.npz").step == 60 and [p.name for p in tmp_path.iterdir()] == ["m.npz"]


def test_a_checkpoint_holds_the_settings(tmp_path):
    model = DDPM(Schedule.cosine(7), 5, 3, fourier=1, gated=True, dtype="float64").fit(MOONS, 3, 4, rng=0)
    model.save(tmp_path / "m.npz")
    again = DDPM.load(tmp_path / "m.npz")
    assert again.shape == model.shape == {"hidden": 5, "depth": 3, "fourier": 1, "gated": True, "dtype": "float64"}
    assert again.net.fourier == 1 and again.schedule == model.schedule and again.optimizer.t == 3
    for name in ("m", "v"):
        assert (getattr(again.optimizer, name) == getattr(model.optimizer, name)).all()
    with np.load(tmp_path / "m.npz") as file:
        config = json.loads(str(file["config"]))
    assert config["loss_sum"] == model._loss_sum and config["format"] == 11      # which later versions must know


@pytest.mark.parametrize("note", [float("nan"), (1, 2), {1: 2}])
def test_notes_are_checked_again_when_they_are_saved(tmp_path, note):
    """They may have been changed in place, to what JSON would write and not give back as it was."""
    model = small(steps=1)
    model.about["note"] = note
    with pytest.raises(TypeError, match="about must be a dict of what JSON can hold"):
        model.save(tmp_path / "m.npz")
    assert not list(tmp_path.iterdir())


def test_an_untrained_model_says_so(tmp_path):
    model = DDPM(S, 4, 1)
    save = lambda: model.save(tmp_path / "m.npz")
    for use in (model.denoiser, lambda: model.sample(1), lambda: model.bound(MOONS), save):
        with pytest.raises(ValueError, match="the model is not trained: call fit, or DDPM.load"):
            use()
    with pytest.raises(ValueError, match="resume needs a model that was trained or loaded"):
        model.fit(MOONS, 2, resume=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name, change", [
    ("average", lambda a: a[:-1]), ("parameters", lambda a: a[None]), ("m", lambda a: a.astype(int)),
    ("mean", lambda a: a[:1]), ("v", lambda a: a + np.nan), ("scale", lambda a: a + np.inf),
    ("losses", lambda a: a[None])])
def test_a_damaged_checkpoint_is_refused_by_the_name_of_its_fault(tmp_path, name, change):
    small().save(tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "bad.npz", **arrays | {name: change(arrays[name])})
    with pytest.raises(ValueError, match=f"its {name} must be finite numbers of float.., of shape .*, and are"):
        DDPM.load(tmp_path / "bad.npz")
    config = json.loads(str(arrays["config"]))
    for key in ("step", "optimizer_t"):
        np.savez(tmp_path / "bad.npz", **arrays | {"config": np.asarray(json.dumps(config | {key: 0}))})
        with pytest.raises(ValueError, match=f"its {key} must be an int of at least 1, got 0"):
            DDPM.load(tmp_path / "bad.npz")


def test_what_is_no_checkpoint(tmp_path):
    np.save(tmp_path / "rows.npy", MOONS)
    np.savez(tmp_path / "other.npz", x=MOONS)
    for name in ("rows.npy", "other.npz"):
        with pytest.raises(ValueError, match="it is no npddpm checkpoint"):
            DDPM.load(tmp_path / name)


def losses_of(monkeypatch, hundreds, weighting="simple"):
    """`fit` where each hundred steps have the loss that is named, until it ends or is stopped; the entries it noted."""
    given = iter(np.repeat(hundreds, 100).tolist())
    monkeypatch.setattr(diffusion, "loss_and_gradient", lambda *args, out: (next(given), out))
    model = DDPM(S, 4, 1)
    try:
        model.fit(MOONS, 100 * len(hundreds), 2, rng=0, weighting=weighting)
    except FloatingPointError as error:
        assert "the learning rate is too high" in str(error)
        return model.losses, "stopped"
    return model.losses, "ended"


@pytest.mark.parametrize("hundreds, entries", [
    ([10.0] * 5, None), ([10.125] * 5, 3), ([1000.0, 0.5, 1, 1], None), ([1000.125, 0.5], 1), ([1000.125, 1000.125], 1),
    ([0.5, 1000.0, 1000.0], None), ([500.0, 5, 20, 20, 20, 1], 5), ([500.0, 5, 20, 20, 1, 20, 20, 1], None)])
def test_a_run_that_diverges_is_stopped(monkeypatch, hundreds, entries):
    """At ten times the loss of a guess of 0 in three hundreds on end; in the first two at a thousand times."""
    expected = (hundreds, "ended") if entries is None else (hundreds[:entries], "stopped")
    assert losses_of(monkeypatch, hundreds) == expected


def test_divergence_is_measured_by_the_weights_of_the_loss(monkeypatch):
    guess = S.loss_weights[1:].mean()
    assert losses_of(monkeypatch, [9.9 * guess] * 4, "elbo")[1] == "ended"
    assert losses_of(monkeypatch, [10.1 * guess] * 4, "elbo")[1] == "stopped"


def test_a_loss_that_stays_on_the_device_is_looked_at_every_hundred_steps(monkeypatch):
    """A 0-d array, as on the GPU, which is not waited for at each step."""
    monkeypatch.setattr(diffusion, "loss_and_gradient", lambda *args, out: (np.asarray(np.nan), out))
    model = DDPM(S, 4, 1)
    model.fit(MOONS, 99, 2, rng=0)
    with pytest.raises(FloatingPointError, match="the loss became nan"):
        model.fit(MOONS, 200, 2, resume=True)
    assert model.step == 100


def test_times_that_can_be_read_once_serve_every_chunk():
    model = small()
    assert (model.sample(2501, 0, steps=iter((50, 7))) == model.sample(2501, 0, steps=[50, 7])).all()


def test_usual_arguments_of_the_bound():
    model = small()
    assert (model.bound(MOONS[:3], 0) == model.bound(MOONS[:3], 0, "gaussian", 1)).all()


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("steps", [1, 60])
def test_a_copy_goes_on_as_the_original(twin, steps):
    """And by itself: what happens to one does not happen to the other."""
    model = small(steps=steps)
    other = twin(model)
    assert (other.sample(3, 0) == model.sample(3, 0)).all() and other.losses == model.losses
    before = model.net.parameters.copy()
    other.fit(MOONS, 130, 32, resume=True)
    assert (model.net.parameters == before).all() and (other.net.parameters != before).any()
    model.fit(MOONS, 130, 32, resume=True)
    assert (model.net.parameters == other.net.parameters).all() and (model.average == other.average).all()
    assert model.losses == other.losses and model.step == other.step == 130
