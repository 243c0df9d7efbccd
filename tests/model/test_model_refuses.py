"""Arguments that a model refuses, and that nothing is left of the attempt."""

from pathlib import Path

import numpy as np
import pytest
from refused import CLIPS, refused

from npddpm import DDPM, Schedule
from npddpm.model.gates import GatedMLP

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")
S, X = Schedule.linear(10), np.random.default_rng(0).standard_normal((20, 2))
TALL = np.ones((2, 3))


def fit(x=X, **change):
    return DDPM(S, 4, 1).fit(x, **{"steps": 5, "rng": 0} | change)


@pytest.fixture(scope="module")
def model():
    return fit()


REFUSED = [
    # settings
    *((lambda change=change: DDPM(S, **change), message) for change, message in (
        ({"hidden": 0}, "^hidden must be an int of at least 1, got 0"), ({"depth": 1001}, "^depth must be at most 1000, got 1001"),
        ({"fourier": 65}, "^fourier must be at most 64, got 65"), ({"fourier": -1}, "^fourier must be an int of at least 0, got -1"))),
    (lambda: DDPM(S, gated=1), "^gated must be a bool, got 1$", TypeError),
    *((lambda directions=directions: GatedMLP(3, 5, 2, schedule=S, directions=directions), "^directions must", error) for directions, error in (
        (np.ones((2, 4)), ValueError), (np.ones(3), ValueError), (np.full((3, 4), np.nan), ValueError), ([["a"] * 4] * 3, TypeError))),
    # rows
    *((lambda x=x: fit(x), message) for message, xs in {
        "x must hold integers of at most 2.53, which float64 does not round, got": (
            [[2**53 + 1, 1], [2, 3]], [[2**64, 1], [2, 3]], [[10**400, True], [1, 2]], np.array([[2**53 + 1, True], [2, False]], dtype=object)),
        "x must have no masked entries": (np.ma.masked_greater(X, 1),),
        r"x must have shape \(n, d\) with n >= 2 rows .* got \(1, 2\)": ([[1, 2]],),
        "x must be finite, got -inf in row 1, column 0": (np.array([[0.0], [-np.inf]]),),
        "x must be finite, got .* in row 0, column 0": (np.longdouble("1e400") * np.eye(4, dtype=np.longdouble),),
        "x must vary: all its rows are equal": (np.ones((5, 2)),),
        "x must hold real numbers, got dtype <U5": ("moons",),
        "x must be a table of numbers": ([[1, 2], [3]],),
        "too near to each other for float64": (1e-300 * X,),
        r"x is too large .* it reaches 1.5e\+308": (1e308 * np.array([[-1.0], [1.0], [1.5], [1.5]]),),
        r"x is too large .* it reaches 1e\+300": (1e300 * np.array([[-1.0], [1.0]]),)}.items() for x in xs),
    # a training
    (lambda: fit(steps=-10), "steps must be an int of at least 1, got -10"),
    (lambda: fit(resume="no"), "resume must be a bool, got 'no'", TypeError),
    *((lambda do=do, change=change: do(X, **change), message) for do in (fit, DDPM(S, 4, 1).usual_steps) for change, message in (
        ({"batch_size": 1.5}, "batch_size must be an int of at least 1, got 1.5"), ({"threads": 0}, "threads must be an int of at least 1, got 0"),
        ({"lr": 0}, "lr must be a positive number, got 0"), ({"lr": 10**400}, "lr must be a positive number, got 1000"),
        ({"lr": np.nan}, "lr must be a positive number, got nan"), ({"lr": "fast"}, "lr must be a positive number, got 'fast'"),
        ({"device": "tpu"}, "device must be 'cpu' or 'gpu', got 'tpu'"), ({"weighting": "l1"}, "weighting must be 'simple' or 'elbo', got 'l1'"),
        ({"weighting": np.ones(S.T + 1)}, "weighting must be 'simple' or 'elbo', got array"))),
    (lambda: fit(resume=True), "resume needs a model that was trained or loaded"),
    (lambda: fit(lr=1e30, steps=200), "the loss became inf at step 2: .*lower lr", FloatingPointError),
    (lambda: DDPM(S, dtype="floaty"), "dtype must be float32 or float64, got 'floaty'"),
    (lambda: DDPM("linear"), "schedule must be a Schedule, got 'linear'", TypeError),
    *((lambda use=use: use(DDPM(S)), "the model is not trained: call fit, or DDPM.load") for use in (
        lambda it: it.sample(3), lambda it: it.save("m.npz"), lambda it: it.denoiser(), lambda it: it.bound(X), lambda it: it.encode(X))),
    *((lambda rng=rng: fit(rng=rng), "rng must be None, an int of at least 0 or a Generator, got", TypeError)
      for rng in (np.random, "7", 1.5, [1.5], np.random.standard_normal)),
    (lambda: DDPM.load("gone.npz"), "cannot read gone.npz: No such file", OSError),
    (lambda: DDPM.load(10**6), "path must be a str or a Path, got 1000000", TypeError),
    (lambda: fit(comm=4), "comm must be a communicator of mpi4py, such as MPI.COMM_WORLD, got 4", TypeError),
]

OF_A_MODEL = [
    (lambda it: it.sample(0), "n must be an int of at least 1, got 0"),
    (lambda it: it.sample(3, clip=np.sin, threads=2.0), "threads must be an int of at least 1, got 2.0"),
    (lambda it: it.sample(3, clip=5), r"clip must be .* got 5"),
    *((lambda it, f=f: it.sample(3, clip=f), words, error) for f, words, error in CLIPS),
    *((lambda it, steps=steps: it.sample(3, 0, steps=steps), "steps must be an int, or times that fall")
      for steps in ("9531", b"\t\x05\x01", [5.9, 2.5], {9: 1}.values, np.array(5))),
    (lambda it: it.sample(5, x_T=np.zeros((6, 2))), r"x_T must have shape \(5, 2\), got \(6, 2\)"),
    (lambda it: it.sample(3, comm=5), "comm must be a communicator of mpi4py, such as MPI.COMM_WORLD, got 5", TypeError),
    (lambda it: it.bound(TALL), "x must have 2 columns as the training rows, got 3"),
    (lambda it: it.bound(1e200 * X), r"x must lie near the training rows, got 1.32e\+199 in row 0"),
    (lambda it: it.encode(1e30 * X), r"x must lie near the training rows, got 1.32e\+29 in row 0"),
    (lambda it: it.fit(TALL, resume=True), "x must have 2 columns as the training rows, got 3"),
    (lambda it: it.save("none/m.npz"), "cannot write none/m.npz: No such file", OSError),
    (lambda it: it.save("."), "cannot write .: ", OSError),
    (lambda it: it.save(b"x.npz"), "path must be a str or a Path, got b'x.npz'", TypeError),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case[1])
def test_a_new_model_refuses(case):
    refused(*case)
    assert not list(Path().iterdir())


@pytest.mark.parametrize("case", OF_A_MODEL, ids=lambda case: case[1])
def test_a_trained_model_refuses(case, model):
    """And is as it was."""
    call, *said = case
    before = model.sample(3, rng=0)
    refused(lambda: call(model), *said)
    assert (model.sample(3, rng=0) == before).all() and model.step == 5 and not list(Path().iterdir())


@pytest.mark.parametrize(("trained", "given", "words"), [
    ((30, 2, 6), (30, 6, 2), r"x must be images of \(2, 6\) as the training rows, got images of \(6, 2\)"),
    ((30, 2, 6), (30, 2, 2, 3), "got images of"), ((30, 4), (30, 2, 2), r"x must be a table as the training rows, got images of \(2, 2\)")])
def test_images_of_another_shape_are_no_rows_of_a_model(trained, given, words):
    rng = np.random.default_rng(0)
    model, x = fit(rng.standard_normal(trained)), rng.standard_normal(given)
    for call in (model.bound, model.encode, model.log_likelihood, lambda x: model.fit(x, 9, resume=True)):
        with pytest.raises(ValueError, match=words):
            call(x)
    assert model.bound(rng.standard_normal(trained).reshape(30, -1)).shape == (30,) and model.step == 5
