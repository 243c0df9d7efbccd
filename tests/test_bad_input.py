"""Bad input: the right exception, one message with the argument, what came and what would do; nothing touched."""

import json
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import npddpm
from npddpm import DDPM, MLP, GaussianMixture, Schedule, data, sample, variational_bound
from npddpm.arrays import backend
from npddpm.cli.main import main
from npddpm.model.ddpm import FORMAT
from npddpm.samplers import reverse_coefficients

S, X = Schedule.linear(10), np.random.default_rng(0).standard_normal((20, 2))
ONES, TALL = np.ones((3, 2)), np.ones((2, 3))
LAW = GaussianMixture([1], [[0, 0]], [1])
SMALL = ["--hidden", "16", "--depth", "1", "--T", "20", "--steps", "50", "--batch-size", "16"]


def net(**change):
    return MLP(**{"dim": 2, "hidden": 4, "depth": 1, "schedule": S, "rng": 0} | change)


def fit(x=X, **change):
    return DDPM(S, 4, 1).fit(x, **{"steps": 5, "rng": 0} | change)


def draw(**change):
    return sample(**{"denoiser": lambda x, t: x, "s": S, "n": 3, "dim": 2, "rng": 0} | change)


def backward_of_another_batch():
    network = net()
    network(ONES, 1)
    network.backward(TALL)


LIBRARY = [
    # schedules
    (lambda: Schedule.linear(0), "T must be an int of at least 1, got 0"),
    (lambda: Schedule.linear(-5), "T must be an int of at least 1, got -5"),
    (lambda: Schedule.cosine(2.5), "T must be an int of at least 1, got 2.5"),
    (lambda: Schedule.linear("10"), "T must be an int of at least 1, got '10'"),
    (lambda: Schedule.linear(True), "T must be an int of at least 1, got True"),
    (lambda: Schedule.linear(10, beta_start=0.0), "beta_start must lie strictly between 0 and 1, got 0.0"),
    (lambda: Schedule.linear(10, beta_end=1), "beta_end must lie strictly between 0 and 1, got 1"),
    (lambda: Schedule.linear(10, beta_end="b"), "beta_end must lie strictly between 0 and 1, got 'b'"),
    (lambda: Schedule.linear(10, beta_start=float("nan")), "beta_start must .* got nan"),
    (lambda: Schedule.from_betas([]), r"betas must have shape \(T,\) with T >= 1, got shape \(0,\)"),
    (lambda: Schedule.from_betas([[0.1]]), r"betas must have shape \(T,\) .* got shape \(1, 1\)"),
    (lambda: Schedule.from_betas([0.1, 1.0]), "strictly between 0 and 1, got 1.0 at index 1"),
    (lambda: Schedule.from_betas([0.0, 0.1]), "got 0.0 at index 0 .pass beta_1 to beta_T, without beta_0"),
    (lambda: Schedule.from_betas([-0.1]), "strictly between 0 and 1, got -0.1"),
    (lambda: Schedule.from_betas([np.nan]), "got nan at index 0"),
    (lambda: Schedule.from_betas([0.1, 9e-301]), "betas must be at least 1e-300, got 9e-301 at index 1"),
    (lambda: Schedule.linear(3, beta_start=1e-310), "betas must be at least 1e-300, got 1e-310 at index 0"),
    (lambda: Schedule.from_betas(np.ma.array([0.1, 0.2], mask=[0, 1])), "betas must have no masked entries"),
    (lambda: Schedule.from_betas([np.inf]), "got inf at index 0"),
    (lambda: Schedule.from_betas("linear"), r"betas must be numbers in \(0, 1\), got 'linear'"),
    (lambda: Schedule.from_betas([[0.1], [0.1, 0.2]]), "betas must be numbers"),
    # times
    (lambda: S.q_sample(ONES, 11, ONES), r"t must lie in 0\.\.10, got 11"),
    (lambda: S.q_sample(ONES, -1, ONES), r"t must lie in 0\.\.10, got -1"),
    (lambda: S.q_sample(ONES, [-1, 2, 3], ONES), "t must lie in .* got -1"),
    (lambda: S.q_sample(ONES, [1, 2], ONES), r"t must be an int or have shape \(3,\), .* got shape \(2,\)"),
    (lambda: S.q_posterior(ONES, ONES, 0), r"t must lie in 1\.\.10, got 0"),
    (lambda: S.reverse_mean(ONES, 0, ONES), r"t must lie in 1\.\.10, got 0"),
    (lambda: S.q_sample(ONES, 1.5, ONES), "t must be an int or an array of ints, got dtype float64", TypeError),
    (lambda: S.q_sample(ONES, [1.0, 2.0, 3.0], ONES), "t must be .* ints, got dtype float64", TypeError),
    (lambda: S.q_sample(ONES, "1", ONES), "t must be an int", TypeError),
    (lambda: S.q_sample(ONES, True, ONES), "t must be .* got dtype bool", TypeError),
    (lambda: S.q_sample(ONES, None, ONES), "t must be an int", TypeError),
    (lambda: S.q_transition(5, 4), "r must be at most 4, got 5"),
    (lambda: S.q_transition(0, 11), "t must be at most 10, got 11"),
    (lambda: S.q_transition(1.5, 3), "r must be an int of at least 0, got 1.5"),
    (lambda: reverse_coefficients(S, 3, 3), "r must be at most 2, got 3"),
    (lambda: reverse_coefficients(S, 0, 0), "t must be an int of at least 1, got 0"),
    (lambda: reverse_coefficients(S, 3, 1, variance="beta"), "variance must be 'posterior' unless r = t - 1 and eta = 1, got 'beta' with r = 1"),
    (lambda: reverse_coefficients(S, 3, 2, 0.5, "beta"), "variance must be 'posterior' unless .* eta = 0.5"),
    (lambda: reverse_coefficients(S, 3, 2, variance="b"), "variance must be 'beta' or 'posterior', got 'b'"),
    (lambda: reverse_coefficients(S, 3, 2, eta=2), r"eta must lie in \[0, 1\], got 2"),
    (lambda: S.signal([1, 2, 3], ["a", "b", "c"]), "x must be an array of numbers", TypeError),
    (lambda: S.q_joint(ONES, [1, 2, 3]), r"t must be an int of at least 1, got \[1, 2, 3\]"),
    (lambda: S.q_sample(ONES, np.ma.array([1, 2, 3], mask=[0, 1, 0]), ONES), "t must have no masked entries"),
    # arrays
    (lambda: S.q_sample(ONES, 1, np.ma.array(ONES, mask=ONES > 0)), "eps must have no masked entries"),
    (lambda: S.q_sample([[1], [1, 2]], 1, ONES), r"x0 must be an array of numbers, got \[\[1\], \[1, 2\]\]", TypeError),
    (lambda: S.q_sample(ONES, 1, TALL), r"eps must have the shape of x0, \(3, 2\), got \(2, 3\)"),
    (lambda: S.q_posterior(ONES, TALL, 1), r"xt must have the shape of x0, \(3, 2\), got \(2, 3\)"),
    (lambda: S.predict_x0(ONES, 1, 0.5), r"eps must have the shape of xt, \(3, 2\), got \(\)"),
    (lambda: S.q_sample(np.array(["a"]), 1, np.array(["a"])), "x0 must be an array of numbers", TypeError),
    # the network
    (lambda: net(dim=0), "dim must be an int of at least 1, got 0"),
    (lambda: net(hidden=2.0), "hidden must be an int of at least 1, got 2.0"),
    (lambda: net(depth=-1), "depth must be an int of at least 1, got -1"),
    (lambda: net(fourier=65), "fourier must be at most 64, got 65"),
    (lambda: S.signal([1, 2, 3], np.array(["a", "b", "c"])), "x must be an array of numbers", TypeError),
    (lambda: npddpm.loss_and_gradient(net(), S, ONES, 1, ONES, out=np.zeros(3)), r"out must have shape \(278,\), got \(3,\)"),
    (lambda: net(fourier=-1), "fourier must be an int of at least 0, got -1"),
    (lambda: net(dtype="float16"), "dtype must be float32, float64 or complex128, got 'float16'"),
    (lambda: net(dtype="floaty"), "dtype must be float32, float64 or complex128, got 'floaty'"),
    (lambda: net(device="tpu"), "device must be 'cpu' or 'gpu', got 'tpu'"),
    (lambda: net(schedule=0.1), "schedule must be a Schedule, got 0.1", TypeError),
    (lambda: net(rng=1.5), "rng must be None, an int of at least 0 or a Generator, got 1.5", TypeError),
    (lambda: net(rng=np.random.Generator), "rng must be None, an int of at least 0 or a Generator, got <class", TypeError),
    (lambda: net(rng="seed"), "rng must be None, an int of at least 0 or a Generator, got 'seed'", TypeError),
    (lambda: net(rng=-1), "rng must be None, an int of at least 0 or a Generator, got -1"),
    (lambda: net()(np.zeros(3), 1), r"xt must have shape \(B, 2\), got \(3,\)"),
    (lambda: net()(TALL, 1), r"xt must have shape \(B, 2\), got \(2, 3\)"),
    (lambda: net()(1j * ONES, 1), "xt must hold real numbers, got dtype complex128", TypeError),
    (lambda: net()([["a", "b"]], 1), "xt must be an array of numbers, got dtype <U1", TypeError),
    (lambda: net()(np.ma.array(ONES, mask=ONES > 0), 1), "xt must have no masked entries"),
    (lambda: npddpm.loss_and_gradient(lambda x, t: x, S, ONES, 1, ONES), r"net must have a method backward\(.*, got <function",
     TypeError),
    (lambda: net()(ONES, [1, 2]), "t must be an int or have shape"),
    (lambda: net()(ONES, 11), r"t must lie in 0\.\.10, got 11"),
    (lambda: net().backward(ONES), "backward needs a forward pass before it"),
    (backward_of_another_batch, r"grad_out must have shape \(3, 2\), got \(2, 3\)"),
    (lambda: npddpm.loss_and_gradient(net(), S, ONES, 1, ONES, "l1"), "weighting must be 'simple' or 'elbo', got 'l1'"),
    (lambda: npddpm.loss_and_gradient(net(), S, ONES, 1, ONES, np.ones(S.T)),
     f"weighting must be 'simple', 'elbo' or an array of {S.T + 1} floats"),
    *[(lambda w=w: npddpm.loss_and_gradient(net(), S, ONES, 1, ONES, w), "weighting must be 'simple', 'elbo' or an array of")
      for w in (np.ones(S.T + 1, int), -np.ones(S.T + 1), np.full(S.T + 1, np.nan), np.ma.masked_less(np.ones(S.T + 1), 2),
                memoryview(np.ones(S.T + 1)), [1.0] * (S.T + 1))],
    (lambda: fit(weighting=np.ones(S.T + 1)), "weighting must be 'simple' or 'elbo', got array"),
    (lambda: npddpm.samplers.reverse_coefficients(3, 2, 1), "s must be a Schedule, got 3", TypeError),
    (lambda: npddpm.loss_and_gradient(net(), S, ONES, 1, TALL), "eps must have the shape of x0"),
    # sampling
    (lambda: draw(n=0), "n must be an int of at least 1, got 0"),
    (lambda: draw(n=2.5), "n must be an int of at least 1, got 2.5"),
    (lambda: draw(dim=-1), "dim must be an int of at least 1, got -1"),
    (lambda: draw(variance="gamma"), "variance must be 'beta' or 'posterior' or 'gaussian', got 'gamma'"),
    (lambda: draw(steps=0), "steps must be an int of at least 1, got 0"),
    (lambda: draw(steps=11), "steps must be at most 10, got 11"),
    (lambda: draw(steps=[5, 5]), r"times that fall within 1\.\.10, got \[5, 5\]"),
    (lambda: draw(steps=[]), r"times that fall within 1\.\.10, got \[\]"),
    (lambda: draw(steps=[25, 3]), r"times that fall within 1\.\.10, got \[25, 3\]"),
    (lambda: draw(start=5, x_T=np.ones((3, 2)), steps=[4, 1]), "steps must begin at start, 5, got 4"),
    (lambda: npddpm.sample(lambda x, t: x * 1j, S, 3, 2, 0), "denoiser must return real numbers, got dtype complex128", TypeError),
    (lambda: npddpm.DDPM.load(10**6), "path must be a str or a Path, got 1000000", TypeError),
    (lambda: fit().save(b"x.npz"), "path must be a str or a Path, got b'x.npz'", TypeError),
    *((lambda f=f: f(npddpm.GaussianMixture([1], [[0.0, 0]], [1])), "s must be a Schedule, got", TypeError) for f in (
        lambda law: law.denoiser(None), lambda law: law.score(ONES, None, 1), lambda law: law.log_density(ONES, True, 1),
        lambda law: law.log_density(ONES, 0, 0), lambda law: law.least_loss(None, 1),
        lambda law: npddpm.cli.evaluate.loss_by_time(law.denoiser(S), None, ONES))),
    *((lambda x=x, f=f: f(x, ONES), f"x must reach between 1e-150 and 1e150, .* got {x.max():.3g}".replace("+", r"\+"))
      for x in (ONES * 1e160, ONES * 1e-200) for f in (npddpm.cli.evaluate.energy_distance, npddpm.cli.evaluate.nearest)),
    (lambda: draw(steps=2.5), "steps must be an int, or times that fall .* got 2.5"),
    (lambda: draw(eta=-0.1), r"eta must lie in \[0, 1\], got -0.1"),
    (lambda: draw(eta=2), r"eta must lie in \[0, 1\], got 2"),
    (lambda: draw(eta=float("nan")), r"eta must lie in \[0, 1\], got nan"),
    (lambda: draw(eta="none"), r"eta must lie in \[0, 1\], got 'none'"),
    (lambda: draw(clip=(1, -1)), r"clip must be \(low, high\), numbers or .* with low < high, got \(1, -1\)"),
    (lambda: draw(clip=5), r"clip must be .* arrays of shape \(2,\), with low < high, got 5"),
    (lambda: draw(clip=([0, 0, 0], 1)), r"clip must be .* arrays of shape \(2,\), .* got \(\[0, 0, 0\], 1\)"),
    (lambda: fit().sample(3, clip=5), r"clip must be .* got 5"),
    *((lambda f=f, of=of: of(clip=f), words, error)
      for of in (draw, lambda clip: fit().sample(3, clip=clip)) for f, words, error in (
          (lambda x: x[:2], r"what clip returns must have shape \(3, 2\), got \(2, 2\)", ValueError),
          (lambda x: x.mean(), r"what clip returns must have shape \(3, 2\), got \(\)", ValueError),
          (lambda x: 1j * x, "what clip returns must hold real numbers, got dtype complex", TypeError),
          (lambda x: None, "what clip returns must be an array of numbers, got dtype object", TypeError),
          (lambda x: np.ma.masked_less(x, 99), "what clip returns must have no masked entries", ValueError),
          (lambda x: x * np.nan, "NaN or infinity in 6 of 6 results: .* or a clip, is wrong", FloatingPointError))),
    (lambda: fit().sample(3, steps=np.array(5)), r"steps must be an int, or times that fall within 1\.\.10, got array\(5\)"),
    (lambda: fit().bound(1e200 * X), r"x must lie near the training rows, got 1.32e\+199 in row 0"),
    (lambda: fit().encode(1e30 * X), r"x must lie near the training rows, got 1.32e\+29 in row 0"),
    (lambda: draw(x_T=np.zeros((2, 2))), r"x_T must have shape \(3, 2\), got \(2, 2\)"),
    (lambda: draw(x_T=[[0, 0], [0, np.nan], [0, 0]]), "x_T must be finite, got nan in row 1, column 1"),
    (lambda: draw(x_T=1e39 * ONES, denoiser=net()), "x_T must be finite, got inf in row 0, column 0"),
    (lambda: draw(x_T=1j * ONES), "x_T must hold real numbers, got dtype complex128", TypeError),
    (lambda: draw(x_T=[["a", "b"]] * 3), "x_T must be an array of numbers, got dtype <U1", TypeError),
    (lambda: draw(x_T=1e308 * ONES, denoiser=lambda x, t: 10 * x),
     r"denoiser must give finite numbers, .* results: x_T is too large, it reaches 1e\+308", FloatingPointError),
    (lambda: draw(noise=np.full((11, 3, 2), np.inf)), r"noise\[10\] must be finite, got inf in row 0, column 0"),
    (lambda: draw(noise=1j * np.ones((11, 3, 2))), "noise must hold real numbers", TypeError),
    (lambda: draw(noise=np.zeros((10, 3, 2))), r"noise must have shape \(11, 3, 2\), got \(10, 3, 2\)"),
    (lambda: draw(denoiser=lambda x, t: x[:, :1]), r"denoiser must return .* shape of x_t, \(3, 2\), got \(3, 1\)"),
    (lambda: draw(denoiser=lambda x, t: None), "denoiser must return .* got NoneType"),
    (lambda: draw(denoiser=3), "denoiser must be a callable .* got 3", TypeError),
    (lambda: variational_bound(lambda x, t: x, S, ONES, variance="large"), "variance must be 'beta' or 'posterior' or 'gaussian', got 'large'"),
    (lambda: variational_bound(lambda x, t: x, S, np.ones(3)), r"x0 must have shape \(B, d\), got \(3,\)"),
    (lambda: variational_bound(lambda x, t: x, S, [[np.nan, 1]]), "x0 must be finite, got nan in row 0, column 0"),
    (lambda: variational_bound(lambda x, t: x, S, 1j * ONES), "x0 must hold real numbers", TypeError),
    (lambda: variational_bound(lambda x, t: x, S, 1e200 * ONES), "results: x0 is too large, it reaches 1e.200", FloatingPointError),
    # mixtures
    (lambda: GaussianMixture([], [], []), r"weights must be \(K,\) positive numbers, got \[\]"),
    (lambda: GaussianMixture([-1], [[0]], [1]), r"weights must be \(K,\) positive numbers, got \[-1\]"),
    (lambda: GaussianMixture([np.inf], [[0]], [1]), "weights must be"),
    (lambda: GaussianMixture([1e-301, 1], [[0], [1]], [1, 1]), "weights must be at least 1e-300 of the largest"),
    (lambda: GaussianMixture([1], [[1j]], [1]), "means must hold real numbers", TypeError),
    (lambda: GaussianMixture([1], [[np.nan]], [1]), "means must be finite"),
    (lambda: GaussianMixture([1], [0], [1]), r"means must be finite, of shape \(K, d\) with K = 1, got shape \(1,\)"),
    (lambda: GaussianMixture([1, 1], [[0]], [1]), r"with K = 2, got shape \(1, 1\)"),
    (lambda: GaussianMixture([1], [[0, 0]], [[1, 2, 3]]), r"covariances must have shape \(1,\), .* got \(1, 3\)"),
    (lambda: GaussianMixture([1], [[0]], [0]), "covariances must be positive definite, got eigenvalue 0"),
    (lambda: GaussianMixture([1], [[0, 0]], [[[1, 2], [2, 1]]]), "positive definite, got eigenvalue -1"),
    (lambda: GaussianMixture([1], [[0, 0]], [[[1, 1], [0, 1]]]), "covariances must be finite and symmetric"),
    (lambda: GaussianMixture([1], [[0]], [np.nan]), "covariances must be finite and symmetric"),
    (lambda: LAW.log_density([0, 0]), r"x must have shape \(B, 2\), got \(2,\)"),
    (lambda: LAW.denoiser(S)(TALL, 1), r"x must have shape \(B, 2\), got \(2, 3\)"),
    (lambda: LAW.least_loss(S, -1), "t must be an int of at least 0, got -1"),
    (lambda: LAW.least_loss(S, 11), r"t must lie in 0\.\.10, got 11"),
    (lambda: LAW.sample(0), "n must be an int of at least 1, got 0"),
    # training
    (lambda: fit(np.ma.masked_greater(X, 1)), "x must have no masked entries"),
    (lambda: fit([[1, 2]]), r"x must have shape \(n, d\) with n >= 2 rows .* got \(1, 2\)"),
    (lambda: fit(np.zeros((0, 2))), r"x must have shape .* got \(0, 2\)"),
    (lambda: fit(np.zeros((5, 0))), r"x must have shape .* got \(5, 0\)"),
    (lambda: fit(np.zeros(5)), r"x must have shape .* got \(5,\)"),
    (lambda: fit(np.full((5, 2), np.nan)), "x must be finite, got nan in row 0, column 0"),
    (lambda: fit(np.array([[0.0], [-np.inf]])), "x must be finite, got -inf in row 1, column 0"),
    (lambda: fit(np.ones((5, 2))), "x must vary: all its rows are equal"),
    (lambda: fit("moons"), "x must hold real numbers, got dtype <U5"),
    (lambda: fit(1j * ONES), "x must hold real numbers, got dtype complex128"),
    (lambda: fit([[1, 2], [3]]), "x must be a table of numbers"),
    (lambda: fit(1e-300 * np.array([[-1.0], [1.0]])), "too near to each other for float64"),
    (lambda: fit(1e308 * np.array([[-1.0], [1.0], [1.5], [1.5]])), r"x is too large .* it reaches 1.5e\+308"),
    (lambda: fit(1e300 * np.array([[-1.0], [1.0]])), r"x is too large .* it reaches 1e\+300"),
    (lambda: fit(steps=0), "steps must be an int of at least 1, got 0"),
    (lambda: fit(steps=-10), "steps must be an int of at least 1, got -10"),
    (lambda: fit(batch_size=1.5), "batch_size must be an int of at least 1, got 1.5"),
    (lambda: fit(lr=0), "lr must be a positive number, got 0"),
    (lambda: fit(lr=10**400), "lr must be a positive number, got 1000"),
    (lambda: fit(lr=np.nan), "lr must be a positive number, got nan"),
    (lambda: fit(lr="fast"), "lr must be a positive number, got 'fast'"),
    (lambda: fit(device="tpu"), "device must be 'cpu' or 'gpu', got 'tpu'"),
    (lambda: fit(device="gpu"), "device 'gpu' needs CuPy: pip install", RuntimeError),
    (lambda: fit(weighting="l1"), "weighting must be 'simple' or 'elbo', got 'l1'"),
    (lambda: fit(resume=True), "resume needs a model that was trained or loaded"),
    (lambda: fit().fit(TALL, resume=True), "x must have 2 columns as the training rows, got 3"),
    (lambda: fit(lr=1e30, steps=200), "the loss became inf at step 2: .*lower lr", FloatingPointError),
    (lambda: DDPM(S, dtype="complex128"), "dtype must be float32 or float64, got 'complex128'"),
    (lambda: DDPM(S, dtype="floaty"), "dtype must be float32 or float64, got 'floaty'"),
    (lambda: DDPM("linear"), "schedule must be a Schedule, got 'linear'", TypeError),
    (lambda: DDPM(S).sample(3), "the model is not trained: call fit, or DDPM.load"),
    (lambda: DDPM(S).save("m.npz"), "the model is not trained"),
    (lambda: fit().sample(0), "n must be an int of at least 1, got 0"),
    (lambda: fit().bound(TALL), "x must have 2 columns as the training rows, got 3"),
    (lambda: fit().save("none/m.npz"), "cannot write none/m.npz: No such file", OSError),
    (lambda: fit().save("."), "cannot write .: ", OSError),
    (lambda: DDPM.load("gone.npz"), "cannot read gone.npz: No such file", OSError),
    # data
    (lambda: data.load("spiral"), "did you mean 'spirals'"),
    (lambda: data.load("zzz"), "data sets are digits, moons"),
    (lambda: data.load("moons", 1), r"n must be an int of at least 2, got 1"),
    (lambda: data.load("none.csv"), "cannot read none.csv: No such file", OSError),
    (lambda: data.load("folder.npy"), "cannot read folder.npy: Is a directory", OSError),
    (lambda: backend.device_module("cuda"), "device must be 'cpu' or 'gpu', got 'cuda'"),
]

CSV = {
    "1,2\n3,x\n": "line 2 holds 'x', which is no number",
    "1,2\n3\n": "line 2 has 1 values, the first has 2",
    "1,2\n3,nan\n": "must be finite, got nan in row 1, column 1",
    "1,2\n3,1e999\n": "got inf in row 1, column 1",
    "1,\n2,3\n": "line 1 holds '', which is no number",
    "1;2\n3;x\n": "line 2 holds 'x', which is no number",
    "": "no rows of numbers",
    "a,b\n": "no rows of numbers",
    "1,2\n": r"n >= 2 rows .* got \(1, 2\)",
    "some text\nmore text\n": "which is no number",
    "\xff\xfe\x00": "cannot read bad.csv",
}

NPY = [
    (np.zeros((3, 2, 2)), r"got \(3, 2, 2\)"), (np.zeros(3), r"got \(3,\)"), (np.zeros((0, 2)), r"got \(0, 2\)"),
    (np.zeros((3, 0)), r"got \(3, 0\)"), (np.array([["a"], ["b"]]), "must hold real numbers, got dtype <U1"),
    (np.array([[1j], [2]]), "must hold real numbers, got dtype complex128"), (np.array([[object()], [1]]), "pickle"),
    (np.array([[np.inf], [1]]), "got inf in row 0, column 0"), (np.zeros((2, 2), [("a", "f4")]), "must hold real numbers"),
]

COMMANDS = {
    "train nosuch.csv": "cannot read nosuch.csv: No such file",
    "train mons": "did you mean 'moons'",
    "train nan.csv": "got nan in row 1",
    "train text.csv": "which is no number",
    "train one.csv": "n >= 2 rows",
    "train cube.npy": r"got (3, 2, 2)",
    "train notes.npz": "its notes.txt is no array",
    "train two.npz": "it must hold one array, or one called x",
    "train cut.npy": "cannot read cut.npy",
    "train flat.csv": "all its rows are equal",
    "train moons --device gpu": "needs CuPy",
    "train moons --device tpu": "invalid choice: 'tpu'",
    "train moons --T 0": "T must be an int of at least 1, got 0",
    "train moons --steps 0": "steps must be",
    "train moons --steps few": "invalid int value: 'few'",
    "train moons --batch-size -1": "batch_size must be",
    "train moons --hidden -3": "hidden must be",
    "train moons --hidden 100000000": "out of memory: Unable to allocate",
    "train moons --depth 0": "depth must be",
    "train moons --depth 10000000000000000000": "depth must be at most 1000, got 10000000000000000000",
    "train moons --lr nan": "lr must be a positive number",
    "train moons --seed -1": "--seed must be an int of at least 0, got -1",
    "train moons --schedule sqrt": "invalid choice: 'sqrt'",
    "train moons --schedule consine": "did you mean 'cosine'?",
    "train moons --holdout 1": "--holdout must lie in [0, 1)",
    "train three.csv --holdout 0.9": "--holdout 0.9 leaves 0 of 3 rows to train on, and 2 are needed",
    "train moons --out none/m.npz": "cannot write none/m.npz: No such file or directory",
    "train moons --out .": "it is a folder",
    "train moons --resume --out gone.npz": "cannot read gone.npz",
    "train moons --resume --out half.npz": "cannot read half.npz",
    "train circles --resume --out good.npz": "circles is not the data that good.npz was trained on",
    "train data.npz": "would overwrite the data",
    "sample half.npz": "cannot read half.npz",
    "sample gone.npz": "cannot read gone.npz: No such file",
    "sample data.npz": "no npddpm checkpoint",
    "sample good.npz -n 0": "n must be",
    "sample good.npz --steps 21": "steps must be at most 20, got 21",
    "sample good.npz --eta 2": "eta must lie in [0, 1]",
    "sample good.npz --steps 5 --variance posterior": "--variance has no effect with --steps, or --eta below 1: leave it out",
    "sample good.npz --eta 0.5 --variance beta": "--variance has no effect with --steps, or --eta below 1: leave it out",
    "sample good.npz --out none/x.npy": "cannot write none/x.npy",
    "sample good.npz --out x.csv": "cannot write x.csv: name a .npy file",
    "sample text.csv": "cannot read text.csv: it is no NumPy file (.npy or .npz)",
    "sample cube.npy": "cannot read cube.npy: it is no npddpm checkpoint",
    "sample good.npz --out good.npz": "would overwrite the model",
    "sample good.npz --device gpu": "needs CuPy",
    "evaluate good.npz digits": "has 64 columns, the model 2",
    "evaluate good.npz three.csv": "DATA three.csv has 3 rows, and 4 are needed to compare a model with",
    "evaluate half.npz": "cannot read half.npz",
    "evaluate good.npz mons": "did you mean 'moons'",
    "plot good.npz --out none/x.png": "cannot write none/x.png",
    "plot good.npz --out x.bmpp": "cannot write x.bmpp: name a .png or .svg or .pdf file",
    "plot good.npz --out good.npz": "would overwrite the model",
    "plot good.npz --animate x.mp4": "cannot write x.mp4: name a .gif file",
    "plot good.npz --animate none/x.gif": "cannot write none/x.gif",
    "trian moons": "did you mean 'train'?",
    "fly": "invalid choice: 'fly'",
    "train": "the following arguments are required: DATA",
    "train moons --stops 3": "unrecognized arguments: --stops 3",
    "": "required: command",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "good.npz"
    assert main(["train", "moons", *SMALL, "--out", str(path)]) == 0
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path, monkeypatch, checkpoint):
    """A folder of files, good and bad, that must be found as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "cupy", None)
    for name, content in (("nan.csv", b"1,2\n3,nan\n"), ("text.csv", b"once\nupon a time\n"), ("one.csv", b"1,2\n"),
                          ("flat.csv", b"1,2\n1,2\n"), ("three.csv", b"1,2\n3,5\n8,9\n"), ("good.npz", checkpoint),
                          ("half.npz", checkpoint[:len(checkpoint) // 2])):
        (tmp_path / name).write_bytes(content)
    np.save("cube.npy", np.zeros((3, 2, 2)))
    np.savez("data.npz", x=np.eye(4))
    np.savez("two.npz", a=np.eye(4), b=np.eye(4))
    with zipfile.ZipFile("notes.npz", "w") as file:
        file.writestr("notes.txt", "no array")
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "folder.npy").mkdir()

    def content():
        return {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}

    before = content()
    yield tmp_path
    assert content() == before


def test_there_are_at_least_a_hundred():
    assert len(LIBRARY) + len(CSV) + len(NPY) + len(COMMANDS) >= 180


@pytest.mark.parametrize("case", LIBRARY, ids=lambda case: case[1])
def test_library(case, folder):
    call, message, *kind = case
    with np.errstate(all="ignore"), pytest.raises(kind[0] if kind else ValueError, match=message) as caught:
        call()
    assert type(caught.value) is (kind[0] if kind else ValueError) or isinstance(caught.value, OSError)


@pytest.mark.parametrize("content", CSV)
def test_csv(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=CSV[content]):
        data.load("bad.csv")


@pytest.mark.parametrize("array, message", NPY)
def test_npy(array, message, tmp_path):
    np.save(tmp_path / "bad.npy", array)
    with pytest.raises(ValueError, match=message):
        data.load(str(tmp_path / "bad.npy"))


@pytest.mark.parametrize("command", COMMANDS)
def test_command_line(command, folder, capsys):
    """One line, exit status 2, no traceback, no file touched."""
    if command.startswith("plot"):
        pytest.importorskip("matplotlib")
    assert main(command.split()) == 2
    error = capsys.readouterr().err
    assert COMMANDS[command] in error and error.startswith("npddpm: ") and error.count("\n") == 1


def test_a_process_prints_no_traceback():
    done = subprocess.run([sys.executable, "-m", "npddpm", "train", "nosuch.csv"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "npddpm: cannot read nosuch.csv: No such file or directory\n"


# ---- checkpoints

def test_cut_checkpoints_are_refused(tmp_path, checkpoint):
    bad = tmp_path / "bad.npz"
    for damaged in (b"", checkpoint[:10], checkpoint[:len(checkpoint) // 2], checkpoint[:-1], b"PK" + checkpoint[5:], b"text"):
        bad.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"cannot read .*bad.npz"):
            DDPM.load(bad)


def test_foreign_checkpoints_are_refused(tmp_path, checkpoint):
    good, bad = tmp_path / "good.npz", tmp_path / "bad.npz"
    good.write_bytes(checkpoint)
    arrays = dict(np.load(good))
    config = json.loads(str(arrays["config"]))

    def refuse(message, **changes):
        np.savez(bad, **{k: v for k, v in (arrays | changes).items() if v is not None})
        with pytest.raises(ValueError, match=message):
            DDPM.load(bad)

    def changed(**changes):
        return np.array(json.dumps(config | changes))

    refuse("no npddpm checkpoint", config=None)
    refuse(f"it has format 1, .* reads format {FORMAT}", config=changed(format=1))
    refuse(f"it has format {FORMAT + 1}, .* use the version that wrote it", config=changed(format=FORMAT + 1))
    refuse("cannot read", config=changed(format="new"))
    refuse("cannot read", config=np.array("{"))
    refuse("cannot read", config=np.array("[1]"))
    refuse("hidden must be", config=changed(hidden=-4))
    refuse("its parameters must be finite numbers", config=changed(hidden=10**7))
    refuse("its V must be finite numbers", variances=np.ones(10**6))
    refuse("its V must be finite numbers of float64, of shape", V=np.zeros((3, 3)))
    refuse("its variances must not be negative", variances=-arrays["variances"])
    refuse("its parameters must be finite numbers", config=changed(hidden=4))
    refuse("its step must be", config=changed(step=-1))
    refuse("its step must be", config=changed(step="many"))
    refuse("cannot read", config=changed(rng={"bit_generator": "MT19937"}))
    refuse("it has no 'average'", average=None)
    refuse("its mean must be finite numbers", mean=np.array([np.nan, 0]))
    refuse("its m must be", m=arrays["m"][:-1])
    refuse("its scale must be", scale=np.array(["a", "b"]))
    refuse("betas", betas=np.array([2.0]))
    refuse("its losses must be", losses=np.zeros((2, 2)))
    refuse("pickle", m=np.array([print], dtype=object))


@pytest.mark.parametrize("mark, offset, bit", [
    (b"PK\x01\x02", 8, 0),       # the directory says: encrypted
    (b"PK\x05\x06", 17, 7),      # the directory begins before the file does
    (b"'<f4', ", 6, 3),          # the header of an array: a bracket that nobody closes
])
def test_bits_that_matter(tmp_path, checkpoint, mark, offset, bit):
    refused_or_harmless(tmp_path / "bad.npz", checkpoint, checkpoint.index(mark) + offset, bit)


@given(st.integers(0, 10**6), st.integers(0, 7))
def test_flipped_bits_are_refused_or_harmless(checkpoint, tmp_path_factory, position, bit):
    refused_or_harmless(tmp_path_factory.getbasetemp() / "bad.npz", checkpoint, position % len(checkpoint), bit)


def refused_or_harmless(path, checkpoint, position, bit):
    content = bytearray(checkpoint)
    content[position] ^= 1 << bit
    path.write_bytes(content)
    try:
        damaged = DDPM.load(path)
    except ValueError as error:
        assert re.match(r"cannot read .*bad.npz: ", str(error))
    else:
        path.write_bytes(checkpoint)
        whole = DDPM.load(path)                         # the bit carried no meaning
        assert (damaged.average == whole.average).all() and damaged.schedule == whole.schedule


# ---- fuzzing the readers: an array, or the documented error

@given(st.binary(max_size=200) | st.text(alphabet="0123456789.,-+einf \n\r\"'#;x\t", max_size=200).map(str.encode))
def test_any_csv(tmp_path_factory, content):
    read_or_refuse(tmp_path_factory, "fuzz.csv", content)


HEADER = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (2, 2), }"


@given(st.binary(max_size=200), st.sampled_from([b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", HEADER]), st.sampled_from(["npy", "npz"]))
def test_any_npy(tmp_path_factory, content, start, kind):
    read_or_refuse(tmp_path_factory, f"fuzz.{kind}", start + content)


def read_or_refuse(tmp_path_factory, name, content):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    try:
        x = data.load(str(path))
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert x.ndim == 2 and x.dtype == np.float64 and np.isfinite(x).all()


@pytest.mark.parametrize("command", ["evaluate", "plot"])
def test_a_model_is_not_compared_with_what_is_infinitely_far(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    fit().save("near.npz")
    np.save("far.npy", 1e200 * X)
    assert main([command, "near.npz", "far.npy"]) == 2
    assert re.search(r"^npddpm: DATA far.npy lies too far from the training rows: it reaches \S+e\+200$", capsys.readouterr().err, re.MULTILINE)


def test_strict_floating_point_errors_are_none_of_the_activation():
    """exp underflows where Z is large, which is as exact as float can be."""
    with np.errstate(all="raise"):
        assert np.isfinite(fit().bound(X[:2] + 100, 0)).all()
