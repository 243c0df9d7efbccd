"""The model: it learns, repeats itself, samples in the units of the data, and has a density in them."""

import contextlib
import copy
import inspect
import math
import sys
from itertools import islice

import numpy as np
import pytest
import strict_cupy
from commands import python
from pytest import approx

from npddpm import (
    DDPM,
    GaussianMixture,
    Schedule,
    data,
    diffusion,
    log_likelihood,
    sample,
    variational_bound,
)
from npddpm.arrays.backend import to_host
from npddpm.cli.evaluate import energy_distance, loss_at
from npddpm.model import ddpm
from npddpm.model.gates import GatedMLP

S = Schedule.linear(50)
MOONS = data.load("moons", 500)


def small(**changes):
    return DDPM(S, hidden=16, depth=2).fit(MOONS, **{"steps": 60, "batch_size": 32, "rng": 0} | changes)


@pytest.fixture(scope="module")
def trained():
    """Of sixty steps; not to be changed."""
    return small()


# ---- training


def test_it_learns():
    """The samples of a short training are far nearer to the data than a Gaussian of the same moments."""
    x, fresh = data.load("gaussians", 2000), data.load("gaussians", 1000, rng=1)
    model = DDPM(S, hidden=64, depth=2).fit(x, steps=1500, batch_size=128, lr=3e-3, rng=0)
    assert len(model.losses) == 15 and np.mean(model.losses[-3:]) < model.losses[0]
    gaussian = np.random.default_rng(0).multivariate_normal(x.mean(0), np.cov(x.T), 1000)
    assert energy_distance(model.sample(1000, rng=0), fresh) < 0.25 * energy_distance(gaussian, fresh)


@pytest.mark.parametrize("weighting", ["simple", "elbo", None])
@pytest.mark.parametrize("batch_size, steps", [(24, 110), (2048, 8)])       # whose noise is drawn in two ways
def test_the_loop_is_the_one_by_hand(by_hand, weighting, batch_size, steps):
    s = Schedule([0.01, 0.9, 0.99])
    settings = {"steps": steps, "batch_size": batch_size, "lr": 0.02, "rng": 2, "weighting": weighting}
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
    assert model.average == approx(before + 0.001 * (model.net.parameters - before), rel=1e-6, abs=1e-7)
    assert (model.average != model.net.parameters).any()


def test_fit_and_training_have_the_same_defaults():
    wanted = {"steps": None, "batch_size": 256, "lr": None, "rng": None, "device": "cpu", "weighting": None,
              "resume": False, "threads": None, "comm": None}
    for method in (DDPM.fit, DDPM.training):
        found = inspect.signature(method).parameters
        assert {name: p.default for name, p in found.items() if p.default is not p.empty} == wanted
    model = DDPM()
    assert model.schedule == Schedule.linear(1000) and model.shape == {"hidden": None, "depth": None, "fourier": None, "gated": None,
                                                                     "dtype": "float32"}
    assert (model.step, model.losses, model.about) == (0, [], {})


def test_a_training_that_is_refused_or_never_begins_changes_nothing(content):
    model = small()
    before = content(model)
    for change in ({"weighting": "l1"}, {"device": "tpu"}, {"rng": -1}, {"lr": 0}):
        with pytest.raises(ValueError):
            model.fit(np.zeros((9, 3)) + np.arange(9)[:, None], **change)
    model.training(MOONS[:, :1], steps=5, rng=1)
    assert content(model) == before


def test_a_second_fit_starts_afresh(content):
    """Of the same rows, by a generator as by its seed, and of rows of another width."""
    model = small(steps=120).fit(MOONS, 60, 32, rng=np.random.default_rng(0))
    assert content(model) == content(small())
    assert model.net.fourier == 4 and model.fit(data.load("digits"), steps=2, rng=0).net.fourier == 0
    assert model.sample(2, rng=0).shape == (2, 8, 8)


@pytest.mark.parametrize("resume", [False, True])
def test_an_older_training_does_not_go_on_in_a_newer_one(resume):
    it = DDPM(S, 8, 2)
    old = it.training(MOONS, steps=30, batch_size=8, rng=0)
    assert [next(old) for _ in range(3)] == [1, 2, 3]
    new = it.training(MOONS, steps=30, batch_size=8, rng=0, resume=resume)
    next(new)
    before = it.net.parameters.copy()
    with pytest.raises(RuntimeError, match="another training of this model has begun"):
        next(old)
    assert (it.net.parameters == before).all() and it.step == (4 if resume else 1)
    assert list(new)[-1] == 30


@pytest.mark.parametrize("when", [0, 7, 60])
def test_a_copy_goes_on_as_the_original(twin, content, when):
    """And by itself: what happens to one does not happen to the other."""
    model = DDPM(S, 16, 2)
    assert len([*islice(model.training(MOONS, steps=60, batch_size=32, rng=0), when)]) == when
    other, before = twin(model), when and content(model)
    resume = {"steps": 130, "batch_size": 32, "rng": 0, "resume": when > 0}
    other.fit(MOONS, **resume)
    assert before == (when and content(model))
    assert content(model.fit(MOONS, **resume)) == content(other)


def test_what_is_given_may_change_later():
    lam, betas, U, means, full = np.array([4.0, 1.0]), np.full(10, 0.1), np.eye(2), np.zeros((1, 2)), np.eye(2)[None]
    x, notes = np.ones((3, 2)), {"a": {"b": [1]}}
    schedule, law, it = Schedule(betas), GaussianMixture([1], means, full), DDPM(S, 4, 1)
    net = GatedMLP(2, 4, 1, schedule=S, variances=lam, directions=U, rng=0, dtype="float64")
    net.parameters[...] = np.random.default_rng(0).standard_normal(len(net.parameters))
    it.about, before = notes, (net(x, 5).copy(), law.log_density(x))
    for array in (lam, betas, U, means, full):
        array *= 9
        array += 1
    notes["a"]["b"].append(2)
    assert (net.astype("float64")(x, 5) == before[0]).all() and (net.variances == [4, 1]).all() and not net.variances.flags.writeable
    assert (net(x, 5) == before[0]).all() and schedule == Schedule(np.full(10, 0.1)) and it.about == {"a": {"b": [1]}}
    assert (law.log_density(x) == before[1]).all() and (law.sample(9, 0) == GaussianMixture([1], [[0, 0]], [1]).sample(9, 0)).all()


# ---- losses that are none


def losses_of(monkeypatch, hundreds, weighting):
    """`fit` where each hundred steps have the loss that is named, until it ends or is stopped; the entries it noted."""
    given = iter(np.repeat(hundreds, 100).tolist())
    monkeypatch.setattr(diffusion, "loss_and_gradient", lambda *args, out: (next(given), out))
    model = DDPM(S, 4, 1)
    with contextlib.suppress(FloatingPointError):
        model.fit(MOONS, 100 * len(hundreds), 2, rng=0, weighting=weighting)
    return model.losses


@pytest.mark.parametrize("weighting, guess", [("simple", 1.0), ("elbo", S.loss_weights[1:].mean())])
@pytest.mark.parametrize("hundreds, entries", [
    ([9.9] * 5, 5), ([10.1] * 5, 3), ([999.0, 0.5, 1, 1], 4), ([1001.0, 0.5], 1), ([0.5, 999.0, 999.0], 3), ([500.0, 5, 20, 20, 20, 1], 5),
    ([500.0, 5, 20, 20, 1, 20, 20, 1], 8)])
def test_a_run_that_diverges_is_stopped(monkeypatch, hundreds, entries, weighting, guess):
    """At ten times the loss of a guess of 0 in three hundreds on end; in the first two at a thousand times."""
    hundreds = guess * np.array(hundreds)
    assert losses_of(monkeypatch, hundreds, weighting) == approx(hundreds[:entries])


def test_a_loss_that_stays_on_the_device_is_looked_at_every_hundred_steps(monkeypatch):
    """A 0-d array, as on the GPU, which is not waited for at each step."""
    monkeypatch.setattr(diffusion, "loss_and_gradient", lambda *args, out: (np.asarray(np.nan), out))
    model = DDPM(S, 4, 1)
    model.fit(MOONS, 99, 2, rng=0)
    with pytest.raises(FloatingPointError, match="the loss became nan"):
        model.fit(MOONS, 200, 2, resume=True)
    assert model.step == 100


def test_a_loss_far_above_a_guess_of_0_is_a_divergence():
    with pytest.raises(FloatingPointError, match=r"the loss became .* where a guess of 0 has 1: .* \(lower lr\)"):
        DDPM(Schedule.linear(10), 16, 2).fit(MOONS[:200], steps=400, batch_size=16, lr=100.0, rng=0, weighting="simple")


# ---- samples


def test_samples_and_the_bound_are_those_of_the_average(trained):
    """In the units of the data; the bound of one row too, and by default of the variance "gaussian" and one draw."""
    net, scale = trained.denoiser(), MOONS.std(0)
    assert (net.parameters == trained.average).all() and (trained.average != trained.net.parameters).any()
    assert net.parameters is not trained.average and net.dtype == np.float32
    expected = MOONS.mean(0) + scale * (sample(net, S, 5, 2, rng=0, variance="gaussian") @ trained.axes.V.T)
    assert trained.sample(5, rng=0) == approx(expected, rel=1e-12)
    z = ((MOONS[:4] - MOONS.mean(0)) / scale @ trained.axes.V).astype("float32")
    for rows, given, usual in ((slice(4), (7, "posterior", 2), (7, "posterior", 2)), (slice(1), (7,), (7, "gaussian", 1))):
        expected = variational_bound(net, S, z[rows], *usual).nats - np.log(scale).sum()
        assert trained.bound(MOONS[rows], *given) == approx(expected, rel=1e-12)


def test_chunks_are_new_draws_each_from_a_stream_of_its_own(trained):
    """Five hundred rows at a time, each with noise of its own: no two rows are alike."""
    rng, net = np.random.default_rng(5), trained.denoiser()
    options = {"steps": 2, "eta": 0.5}
    jumped = [np.random.Generator(np.random.default_rng(5).bit_generator.jumped(i)) for i in range(4)]
    expected = [trained.axes.restore(sample(net, S, n, 2, jumped[i], **options)) for i, n in enumerate((500, 500, 3))]
    chunks = list(trained.sample_chunks(1003, rng, **options))
    assert all((a == b).all() for a, b in zip(chunks, expected, strict=True))
    assert rng.random() == jumped[3].random()       # so that the next call has new draws in every chunk
    assert len(np.unique(np.concatenate(chunks), axis=0)) == 1003


def test_chunks_are_of_the_model_as_it_was_when_they_were_asked_for(monkeypatch):
    model = small()
    monkeypatch.setitem(ddpm.CHUNK, "cpu", 10)
    expected = model.sample(40, rng=0, steps=2, clip=(-9, 9))
    chunks = model.sample_chunks(40, 0, steps=2, clip=(-9, 9), threads=1)
    first = next(chunks)
    model.fit(np.column_stack([MOONS * 50, MOONS]), 3, 8, rng=0)
    assert (np.concatenate([first, *chunks]) == expected).all()


def test_the_sampler_gets_its_options(trained):
    options = [{}, {"variance": "beta"}, {"variance": "posterior"}, {"steps": 5}, {"steps": 5, "eta": 0.0}, {"clip": (-0.2, 0.3)}]
    assert len({trained.sample(2, rng=0, **o).tobytes() for o in options}) == len(options)


def test_a_clip_is_in_the_units_of_the_data(monkeypatch, trained):
    """Also one that returns the same array for every chunk."""
    room = np.empty((4, 2))
    monkeypatch.setitem(ddpm.CHUNK, "cpu", 4)
    x = trained.sample(200, rng=0, clip=lambda x: np.clip(x, -0.5, 0.75, out=room))
    assert (x == trained.sample(200, rng=0, clip=(-0.5, 0.75))).all()
    assert x.min() == approx(-0.5, abs=1e-6) and x.max() == approx(0.75, abs=1e-6)


def test_steps_from_a_generator_serve_all_chunks(monkeypatch, trained):
    times = [9, 5, 3, 1]
    monkeypatch.setitem(ddpm.CHUNK, "cpu", 10)
    expected = trained.sample(25, rng=0, steps=times)
    for given in (iter(times), np.array(times)):
        assert (trained.sample(25, rng=0, steps=given) == expected).all()


def test_a_model_encodes_and_continues():
    x = data.load("moons", 600)
    model = DDPM(Schedule.linear(100), 64, 2).fit(x, steps=800, rng=0)
    z = model.encode(x, steps=50)
    assert z.shape == (600, 2) and model.sample(600, x_T=z, steps=50) == approx(x, abs=0.1)
    noisy = model.schedule.q_sample(model.axes.standardize(x), 20, np.random.default_rng(0).standard_normal((600, 2)))
    cleaned = model.sample(600, rng=0, x_T=noisy, start=20)
    assert energy_distance(cleaned, x) < 0.3 * energy_distance(model.axes.restore(noisy), x)
    with pytest.raises(ValueError, match=r"x_T must have shape \(5, 2\), got \(600, 2\)"):
        model.sample(5, x_T=z)


# ---- the bound and the density


@pytest.mark.parametrize("probes", [None, 8])
def test_the_models_density_is_that_of_its_axes_in_the_units_of_the_data(probes):
    """Columns of other scales, a constant, and a sum: rows off the plane have -inf, in the bound too."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 2)) * [3, 0.1] + [5, 0]
    x = np.column_stack([x, x.sum(1), np.full(300, 0.1)])
    model = DDPM(Schedule.linear(40), 8, 1).fit(x, steps=30, rng=0)
    rows = np.concatenate([x[:4], x[:1] + [[0, 0, 1, 0]], x[:1] + [[0, 0, 0, 1e-3]]])
    found = model.log_likelihood(rows, 20, probes=probes, rng=3)
    of_z = log_likelihood(model.denoiser(), model.schedule, model.axes.standardize(rows), 20, probes=probes, rng=3)
    if probes is not None:
        assert isinstance(found, tuple) and (found[1] == of_z[1]).all()
        found, of_z = found[0], of_z[0]
    assert found.shape == (6,) and (found[4:] == -np.inf).all() and found[:4] == approx(of_z[:4] - model.axes.log_volume(), rel=1e-12)
    assert np.isfinite(model.bound(rows, rng=0)).tolist() == [True] * 4 + [False] * 2
    assert model.axes.variances.size == 2 and math.isfinite(model.axes.log_volume()) and abs(model.axes.log_volume()) > 0.1
    if probes is None:
        assert (model.log_likelihood(rows) == model.log_likelihood(rows, 40)).all()


def test_a_models_density_against_the_datas_own():
    """F = 0: of a Gaussian table that of the Gaussian, but for what is left of the data in x_T."""
    x = np.random.default_rng(0).standard_normal((400, 2)) @ [[1, 0.9], [0, 0.2]] + [3, -1]
    model = DDPM(Schedule.linear(200), 4, 1).fit(x, steps=1, rng=0)
    model.average[:] = 0
    assert model.log_likelihood(x[:20]) == approx(GaussianMixture([1], [x.mean(0)], [np.cov(x.T, bias=True)]).log_density(x[:20]), abs=1e-3)


# ---- on a device


def test_a_model_on_a_device(cupy, tmp_path):
    model = DDPM(S, hidden=8, depth=2).fit(MOONS, steps=120, batch_size=16, rng=0, device="gpu")
    assert len(model.losses) == 1 and isinstance(model.average, cupy.ndarray)
    samples = model.sample(7, rng=0, clip=(-2, 3))
    assert isinstance(samples, np.ndarray) and samples.shape == (7, 2)
    assert [len(chunk) for chunk in model.sample_chunks(10_001, rng=0, steps=1)] == [10_000, 1]
    assert np.isfinite(model.bound(MOONS[:3], rng=0)).all()
    assert loss_at(model.denoiser(), S, model.to_network(MOONS), 3, rng=0) > 0
    model.save(tmp_path / "m.npz")
    moved = DDPM.load(tmp_path / "m.npz")
    assert (moved.average == to_host(model.average)).all()
    again = DDPM.load(tmp_path / "m.npz", device="gpu").fit(MOONS, steps=130, batch_size=16, resume=True)
    assert again.step == 130 and isinstance(again.average, cupy.ndarray)


@pytest.mark.parametrize("batch", [16, 512])
def test_a_training_step_makes_no_transfer(cupy, batch):
    """Ninety-eight steps that do not report their loss: nothing crosses, and the launches are counted."""
    run = DDPM(S, hidden=8, depth=2).training(MOONS, steps=300, batch_size=batch, rng=0, device="gpu")
    next(run)
    crossed = strict_cupy.counts(cupy, lambda: [next(run) for _ in range(98)])
    if crossed is not None:
        assert (crossed["to_device"], crossed["to_host"]) == (0, 0)
        assert crossed["launches"] <= 98 * 42     # one more is a pass that is no longer fused
        assert strict_cupy.counts(cupy, lambda: next(run))["to_host"] <= 1   # step 100: the loss


MEMORY = """
import resource, numpy as np
from npddpm import DDPM, Schedule
x = np.random.default_rng(0).standard_normal((100, 2))
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
model = DDPM(Schedule.linear(10), 8, 1)
def work(steps, samplings):
    model.fit(x, steps=steps, batch_size=8, rng=0)
    for seed in range(samplings):
        model.sample(50, rng=seed)
work(1000, 10)
first = peak()
work(10_000, 100)
print(peak() - first)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_memory_does_not_grow():
    """10,000 steps and 100 samplings keep the peak of the first thousand and ten, to 1 MiB."""
    out, error = python(MEMORY).communicate(timeout=120)
    assert float(out) < 1, error


# ---- images


@pytest.mark.parametrize("image", [(4, 6), (3, 2, 3)])
def test_images_come_and_go_in_their_shape(image, tmp_path):
    """A list too. With one scale; where rows of numbers will do, these are images' numbers; samples have the shape of the data."""
    x = np.random.default_rng(0).random((40, *image)) * np.linspace(1, 2, image[-1])
    flat, (low, high) = x.reshape(40, -1), (x.min(0), x.max(0))
    model = DDPM(S, 8, 1).fit(x.tolist(), steps=3, rng=0)
    assert model.image == image and set(model.axes.scale) == {model.axes.scale[0]} and (model.to_network(x) == model.to_network(flat)).all()
    model.save(tmp_path / "m.npz")
    for again in (model, DDPM.load(tmp_path / "m.npz"), copy.copy(model)):
        drawn = again.sample(3, rng=0, steps=2, clip=(low, high))
        assert drawn.shape == (3, *image) and (drawn >= low).all()
        assert (drawn == again.sample(3, rng=0, steps=2, clip=(low.ravel(), high.ravel()))).all()
        assert (again.bound(x[:2], rng=0) == again.bound(flat[:2], rng=0)).all() and again.encode(drawn, 2).shape == (3, model.net.dim)
    table = DDPM(S, 8, 1).fit(flat, steps=3, rng=0)
    assert table.image == () and table.sample(3, rng=0).shape == flat[:3].shape and len(set(table.axes.scale)) == x[0].size


DIGITS = data.load("digits")[:40]       # whose variances are shrunk, so that those of single pixels are not those of the rows


@pytest.mark.parametrize("x, change", [
    *((MOONS, change) for change in (lambda x: 0.4 * x, lambda x: x + [0, 0.8], lambda x: 10 * x + 500, lambda x: x * [1, 0])),
    (np.column_stack([MOONS, np.full(500, 0.1)]), lambda x: 3 * x), (DIGITS, lambda x: 3 * x)])
def test_other_rows_are_no_resumption(x, change):
    """Units and lambda are those of the first rows; what differs is named before the first step."""
    model = DDPM(S, 8, 1).fit(x, 3, rng=0)
    before = model.net.parameters.copy()
    with pytest.raises(ValueError, match=r"x must be rows like those that the model was trained on: column \d has mean"):
        model.fit(change(x), 6, resume=True)
    assert model.step == 3 and (model.net.parameters == before).all()
    assert model.fit(x, 6, resume=True).step == 6


def test_what_is_told_of_a_resumption():
    x = np.random.default_rng(0).standard_normal((60, 2))
    plane = np.column_stack([x, x.sum(1)])
    model = DDPM(S, 8, 1).fit(plane, 5, rng=0).fit(1.1 * plane[::2], 6, resume=True)
    with pytest.warns(UserWarning, match="x: 60 of the first 60 rows lie off the plane"):
        model.fit(plane + [0, 0, 0.5], 7, resume=True)
    with pytest.warns(UserWarning, match="the model has had 7 steps, so that nothing is done up to steps = 7"):
        model.fit(plane, 7, resume=True)
    assert model.step == 7


@pytest.mark.parametrize("apart, steps", [(1e-3, None), (1e-7, None), (1e-7, 20), (1e-12, 20)])
def test_columns_that_agree_nearly_differ_as_much_in_samples(apart, steps):
    rng = np.random.default_rng(0)
    a = rng.standard_normal((500, 2))
    x = np.column_stack([a, a[:, 0] + apart * rng.standard_normal(500)])
    drawn = DDPM(S, 16, 1).fit(x, 100, rng=0).sample(2000, rng=0, steps=steps)
    assert (drawn[:, 2] - drawn[:, 0]).std() == approx((x[:, 2] - x[:, 0]).std(), rel=0.06)


@pytest.mark.parametrize("n", [21, 40])
def test_a_sum_of_columns_is_their_sum_in_samples(n):
    """And a constant column is constant."""
    x = np.random.default_rng(0).standard_normal((n, 21)) + 5
    x[:, 0], x[:, -1] = 0.1, x[:, 1:-1].sum(1)
    model = DDPM(S, 16, 1).fit(x, 20, rng=0)
    drawn = model.sample(50, rng=0)
    assert drawn[:, -1] == approx(drawn[:, 1:-1].sum(1), abs=1e-12) and (drawn[:, 0] == 0.1).all() and model.net.dim == 19


@pytest.mark.parametrize(("schedule", "told"), [(Schedule.linear(100, 1e-4, 0.02), True), (Schedule.linear(1), True), (Schedule.linear(20), False),
                                                (Schedule.cosine(50), False), (Schedule.linear(1000), False)])
def test_a_schedule_that_leaves_a_signal_is_told(schedule, told):
    """Samples begin with N(0, I), so that an axis keeps the width that x_T has beside it."""
    x = np.random.default_rng(0).standard_normal((200, 1)) + 0.3 * np.random.default_rng(1).standard_normal((200, 10))
    for train in (DDPM(schedule, 8, 1).fit, DDPM(schedule, 8, 1).training):
        with pytest.warns(UserWarning, match="x_T is no noise: its variance is") if told else contextlib.nullcontext() as caught:
            train(x, 2, rng=0)
        assert not told or [warning.filename for warning in caught] == [__file__]


def test_sizes_of_numpy_are_ints():
    """The cut of a batch into slices multiplies them."""
    models = [DDPM(S, hidden=64, depth=2).fit(MOONS, steps=3, batch_size=batch, rng=0) for batch in (200, np.uint8(200), np.int16(200))]
    assert all((model.net.parameters == models[0].net.parameters).all() for model in models)
