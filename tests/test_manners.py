"""Manners of a library: notes, copies, threads, generators half used, and arguments that only look right."""

import copy
import pickle
import threading

import numpy as np
import pytest

import npddpm
from npddpm import DDPM, MLP, GaussianMixture, Schedule, sample, trajectory, variational_bound
from npddpm.arrays import backend
from npddpm.model.ddpm import CHUNK

S = Schedule.linear(10)
X = np.random.default_rng(0).standard_normal((30, 2))
LAW = GaussianMixture([1], [[0.0, 1.0]], [0.5])


def model(**change):
    return DDPM(S, 8, 2).fit(X, **{"steps": 20, "batch_size": 8, "rng": 0} | change)


def network(**change):
    net = MLP(**{"dim": 2, "hidden": 8, "depth": 2, "schedule": S, "rng": 0, "fourier": 2} | change)
    net.parameters[:] += 0.1
    return net


# ---- notes

CIRCLE = {}
CIRCLE["self"] = CIRCLE


@pytest.mark.parametrize("notes", [
    {"a": np.float32(1)}, {"a": np.zeros(2)}, {"a": float("nan")}, {1: "a"}, {"a": (1, 2)}, {"a": {1, 2}}, {"a": b"b"}, [1],
    "text", None, CIRCLE,
], ids=repr)
def test_notes_that_json_cannot_hold_are_refused_at_once(notes, tmp_path):
    it = DDPM(S, 8, 1)
    with pytest.raises(TypeError, match="about must be a dict of what JSON can hold"):
        it.about = notes
    assert it.about == {}
    if isinstance(notes, dict):
        it.about.update(notes)          # behind its back
        with pytest.raises(TypeError, match="about must be a dict of what JSON can hold"):
            it.fit(X, steps=1)
        assert it.step == 0


def test_notes_that_json_can_hold_travel(tmp_path):
    it, notes = model(steps=1), {"a": [1, 2.5, None, True, {"b": "\ud800 ü \0"}], "": {}}
    it.about = notes
    it.save(tmp_path / "m.npz")
    assert DDPM.load(tmp_path / "m.npz").about == notes


# ---- copies

COPIES = [copy.deepcopy, copy.copy, lambda it: pickle.loads(pickle.dumps(it))]


@pytest.mark.parametrize("duplicate", COPIES)
@pytest.mark.parametrize("change", [{}, {"dtype": "float64", "depth": 1, "fourier": 0}])
def test_copies_of_a_network(duplicate, change):
    net = network(**change)
    expected = net(X, 3)
    again = duplicate(net)
    assert (again(X, 3) == expected).all()
    again.parameters[:] = 0
    assert all((W == 0).all() for W in again.weights) and not np.shares_memory(again.parameters, net.parameters)
    assert (net(X, 3) == expected).all() and again.dtype == net.dtype and again.schedule == S


@pytest.mark.parametrize("duplicate", [COPIES[0], COPIES[2]])
@pytest.mark.parametrize("when", [0, 7, 20])
def test_copies_of_a_model_go_on_alike(duplicate, when):
    it = DDPM(S, 8, 2)
    run = it.training(X, steps=20, batch_size=8, rng=0)
    for _ in range(when):
        next(run)
    again = duplicate(it)
    resume = {"steps": 30, "batch_size": 8, "rng": 0, "resume": when > 0}
    it.fit(X, **resume)
    expected = it.net.parameters.copy()
    again.fit(X, **resume)
    assert (again.net.parameters == expected).all() and (it.net.parameters == expected).all()
    assert (again.sample(3, rng=0) == it.sample(3, rng=0)).all() and again.losses == it.losses


@pytest.mark.parametrize("duplicate", COPIES)
def test_copies_of_values(duplicate):
    again = duplicate(S)
    assert again == S and hash(again) == hash(S) and not again.betas.flags.writeable
    assert (duplicate(LAW).sample(3, 0) == LAW.sample(3, 0)).all()


# ---- threads

def in_threads(*works):
    errors, barrier = [], threading.Barrier(len(works))

    def run(work):
        try:
            barrier.wait()
            work()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_one_network_in_many_threads():
    net = network(hidden=64)
    batches = [np.random.default_rng(seed).standard_normal((200, 2)) for seed in range(4)]
    times = [3, 7, np.arange(200) % 10 + 1, 1]
    expected = [(net(x, t).copy(), net.backward(x).copy()) for x, t in zip(batches, times)]

    def work(x, t, eps_hat, gradient):
        for _ in range(50):
            assert (net(x, t) == eps_hat).all() and (net.backward(x) == gradient).all()

    jobs = [lambda x=x, t=t, e=e: work(x, t, *e) for x, t, e in zip(batches, times, expected)]
    assert in_threads(*jobs) == []


def test_a_backward_pass_needs_the_forward_pass_of_its_thread():
    net = network()
    net(X, 1)
    error, = in_threads(lambda: net.backward(X))
    assert isinstance(error, ValueError) and "needs a forward pass before it, in the same thread" in str(error)


# ---- generators half used

def test_a_training_that_never_begins_changes_nothing():
    it = model()
    before, losses = it.sample(3, rng=0), it.losses
    it.training(X[:, :1], steps=5, rng=1)
    assert (it.sample(3, rng=0) == before).all() and it.step == 20 and it.losses is losses


@pytest.mark.parametrize("resume", [False, True])
def test_an_older_training_does_not_go_on_in_a_newer_one(resume):
    it = DDPM(S, 8, 2)
    old = it.training(X, steps=30, batch_size=8, rng=0)
    assert [next(old) for _ in range(3)] == [1, 2, 3]
    new = it.training(X, steps=30, batch_size=8, rng=0, resume=resume)
    next(new)
    before = it.net.parameters.copy()
    with pytest.raises(RuntimeError, match="another training of this model has begun"):
        next(old)
    assert (it.net.parameters == before).all() and it.step == (4 if resume else 1)
    assert list(new)[-1] == 30


# ---- arguments that only look right

@pytest.mark.parametrize("rng", [np.random, "7", 1.5, [1.5], np.random.standard_normal])
def test_what_is_no_generator(rng):
    for use in (lambda: sample(LAW.denoiser(S), S, 3, 2, rng=rng), lambda: network(rng=rng), lambda: LAW.sample(3, rng),
                lambda: backend.generator(rng), lambda: model(rng=rng)):
        with pytest.raises((TypeError, ValueError), match="rng must be None, an int of at least 0 or a Generator, got"):
            use()


@pytest.mark.parametrize("steps", ["9531", b"\t\x05\x01", [5.9, 2.5], [5.0, 2.0], [True], {9: 1}.values, 2.0])
def test_what_is_no_steps(steps):
    for use in (lambda: sample(LAW.denoiser(S), S, 3, 2, 0, steps=steps), lambda: model().sample(3, 0, steps=steps)):
        with pytest.raises(ValueError, match="steps must be an int"):
            use()


def test_steps_from_a_generator_serve_all_chunks(monkeypatch):
    it, times = model(), [9, 5, 3, 1]
    monkeypatch.setitem(CHUNK, "cpu", 10)
    expected = it.sample(25, rng=0, steps=times)
    assert (it.sample(25, rng=0, steps=iter(times)) == expected).all()
    assert (it.sample(25, rng=0, steps=(t for t in times)) == expected).all()
    assert (it.sample(25, rng=0, steps=np.array(times)) == expected).all()


def test_empty_batches():
    net, none = network(), np.zeros((0, 2))
    assert net(none, 1).shape == net(none, np.zeros(0, int)).shape == (0, 2)
    with pytest.raises(ValueError, match=r"x0 must have a row or more, got shape \(0, 2\)"):
        npddpm.loss_and_gradient(net, S, none, 1, none)
    assert variational_bound(net, S, none).nats.shape == (0,)


@pytest.mark.parametrize("options", [{}, {"steps": 4}, {"steps": 4, "clip": (-1, 1)}])
def test_a_denoiser_that_writes_into_its_input(options):
    good = LAW.denoiser(S)

    def careless(x, t):
        eps = good(x, t)
        x[...] = 77
        return eps

    assert (sample(careless, S, 5, 2, rng=0, **options) == sample(good, S, 5, 2, rng=0, **options)).all()
    assert (variational_bound(careless, S, X, rng=0).nats == variational_bound(good, S, X, rng=0).nats).all()
    for (_, a), (_, b) in zip(trajectory(careless, S, 5, 2, rng=0), trajectory(good, S, 5, 2, rng=0)):
        assert (a == b).all()


def test_noise_that_is_not_used_may_be_anything():
    noise = np.full((11, 3, 2), np.nan)
    assert np.isfinite(sample(LAW.denoiser(S), S, 3, 2, 0, noise=noise, steps=[9, 5, 3])).all()
    noise[[9, 5]] = 1
    few, gaussian = {"steps": [9, 5, 3], "eta": 0.5}, {"x_T": X[:3], "start": 1, "variance": "gaussian"}
    for options in (few, gaussian | {"variance": "beta"}):
        assert np.isfinite(sample(LAW.denoiser(S), S, 3, 2, 0, noise=noise, **options)).all()
    with pytest.raises(ValueError, match=r"noise\[9\] must be finite, got nan in row 1, column 0"):
        noise[9, 1, 0] = np.nan
        sample(LAW.denoiser(S), S, 3, 2, 0, noise=noise, **few)
    with pytest.raises(ValueError, match=r"noise\[1\] must be finite, got nan"):      # the last step has noise too
        sample(LAW.denoiser(S), S, 3, 2, 0, noise=noise, **gaussian)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_denoiser_that_returns_no_numbers(value):
    for use in (lambda d: sample(d, S, 5, 2, rng=0), lambda d: variational_bound(d, S, X, rng=0)):
        with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match="denoiser must give finite numbers"):
            use(lambda x, t: np.where(t == 3, value, x))
