"""Arguments that the root modules refuse: the right exception, and one message with the argument, what came and what would do."""

import numpy as np
import pytest
from refused import CLIPS, refused

from npddpm import MLP, GaussianMixture, Schedule, log_likelihood, loss_and_gradient, sample, variational_bound
from npddpm.samplers import reverse_coefficients

S, ONES, TALL = Schedule.linear(10), np.ones((3, 2)), np.ones((2, 3))
LAW = GaussianMixture([1], [[0, 0]], [1])


def net(**change):
    return MLP(**{"dim": 2, "hidden": 4, "depth": 1, "schedule": S, "rng": 0} | change)


def draw(**change):
    return sample(**{"denoiser": lambda x, t: x, "s": S, "n": 3, "dim": 2, "rng": 0} | change)


def backward_after_three_rows(grad_out):
    network = net()
    network(ONES, 1)
    network.backward(grad_out)


REFUSED = [
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
    *((lambda end=end, value=value: Schedule.linear(1, **{end: value}), f"{end} must lie strictly between 0 and 1, got {value}")
      for end in ("beta_start", "beta_end") for value in (-0.1, 0, 1, 1.5)),
    *((lambda make=make: make(100_001), "T must be at most 100000, got 100001") for make in (Schedule.linear, Schedule.cosine)),
    *((lambda f=f, given=given: getattr(S, f)(given), "variances must be some finite numbers of at least 0, got") for f in ("rotation", "gaussian_variances")
      for given in ([-1.0], [np.nan], "a", np.ones((2, 2)), [], [[1, 2], [3]])),
    *((lambda other=other: draw(denoiser=net(), s=other), "s must be the schedule of the denoiser, .*T=10.* got .*T=") for other in (
        Schedule.cosine(10), Schedule.linear(9), Schedule.linear(11))),
    (lambda: variational_bound(net(), Schedule.cosine(10), ONES), "s must be the schedule of the denoiser"),
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
    *((lambda r=r, t=t: S.q_transition(r, t), "^(r|t) must be") for r, t in ((-1, 3), (3, 2), (0, 11))),
    *((lambda t=t: S.q_joint(ONES, t), f"^t must be .*, got {t}") for t in (0, 11)),
    *((lambda t=t, r=r: reverse_coefficients(S, t, r), f"^{name} must be") for t, r, name in ((0, 0, "t"), (11, 0, "t"), (3, 3, "r"), (3, 4, "r"), (3, -1, "r"))),
    *((lambda eta=eta: reverse_coefficients(S, 3, 2, eta), fr"eta must lie in \[0, 1\], got {eta}") for eta in (-0.01, 1.01, 2)),
    (lambda: reverse_coefficients(S, 3, 1, variance="beta"), "variance must be 'posterior' unless r = t - 1 and eta = 1, got 'beta' with r = 1"),
    (lambda: reverse_coefficients(S, 3, 2, 0.5, "beta"), "variance must be 'posterior' unless .* eta = 0.5"),
    (lambda: reverse_coefficients(S, 3, 2, variance="b"), "variance must be 'beta' or 'posterior', got 'b'"),
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
    (lambda: loss_and_gradient(net(), S, ONES, 1, ONES, out=np.zeros(3)), r"out must have shape \(278,\), got \(3,\)"),
    (lambda: net(fourier=-1), "fourier must be an int of at least 0, got -1"),
    (lambda: net(dtype="float16"), "dtype must be float32, float64 or complex128, got 'float16'"),
    (lambda: net(dtype="floaty"), "dtype must be float32, float64 or complex128, got 'floaty'"),
    (lambda: net(device="tpu"), "device must be 'cpu' or 'gpu', got 'tpu'"),
    (lambda: net(schedule=0.1), "schedule must be a Schedule, got 0.1", TypeError),
    (lambda: net(rng=-1), "rng must be None, an int of at least 0 or a Generator, got -1"),
    *((lambda use=use, rng=rng: use(rng=rng), "rng must be None, an int of at least 0 or a Generator, got", TypeError)
      for use in (net, draw, lambda rng: LAW.sample(3, rng), lambda rng: variational_bound(net(), S, ONES, rng))
      for rng in (np.random, "7", 1.5, [1.5], np.random.standard_normal, np.random.Generator)),
    (lambda: net()(np.zeros(3), 1), r"xt must have shape \(B, 2\), got \(3,\)"),
    (lambda: net()(TALL, 1), r"xt must have shape \(B, 2\), got \(2, 3\)"),
    (lambda: net()(1j * ONES, 1), "xt must hold real numbers, got dtype complex128", TypeError),
    (lambda: net()([["a", "b"]], 1), "xt must be an array of numbers, got dtype <U1", TypeError),
    (lambda: net()(np.ma.array(ONES, mask=ONES > 0), 1), "xt must have no masked entries"),
    (lambda: loss_and_gradient(lambda x, t: x, S, ONES, 1, ONES), r"net must have a method backward\(.*, got <function",
     TypeError),
    (lambda: net()(ONES, [1, 2]), "t must be an int or have shape"),
    (lambda: net()(ONES, 11), r"t must lie in 0\.\.10, got 11"),
    (lambda: net().backward(ONES), "backward needs a forward pass before it"),
    *((lambda shape=shape: backward_after_three_rows(np.zeros(shape)), r"grad_out must have shape \(3, 2\), got") for shape in ((2, 3), (2, 2), (3, 1), (3,))),
    (lambda: loss_and_gradient(net(), S, ONES, 1, ONES, "l1"), "weighting must be 'simple' or 'elbo', got 'l1'"),
    (lambda: loss_and_gradient(net(), S, ONES, 1, ONES, np.ones(S.T)),
     f"weighting must be 'simple', 'elbo' or an array of {S.T + 1} floats"),
    *[(lambda w=w: loss_and_gradient(net(), S, ONES, 1, ONES, w), "weighting must be 'simple', 'elbo' or an array of")
      for w in (np.ones(S.T + 1, int), -np.ones(S.T + 1), np.full(S.T + 1, np.nan), np.ma.masked_less(np.ones(S.T + 1), 2),
                memoryview(np.ones(S.T + 1)), [1.0] * (S.T + 1))],
    (lambda: reverse_coefficients(3, 2, 1), "s must be a Schedule, got 3", TypeError),
    (lambda: loss_and_gradient(net(), S, ONES, 1, TALL), "eps must have the shape of x0"),
    (lambda: loss_and_gradient(net(), S, ONES[:0], 1, ONES[:0]), r"x0 must have a row or more, got shape \(0, 2\)"),
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
    (lambda: sample(lambda x, t: x * 1j, S, 3, 2, 0), "denoiser must return real numbers, got dtype complex128", TypeError),
    *((f, "s must be a Schedule, got", TypeError) for f in (
        lambda: LAW.denoiser(None), lambda: LAW.score(ONES, None, 1), lambda: LAW.log_density(ONES, True, 1), lambda: LAW.log_density(ONES, 0, 0),
        lambda: LAW.least_loss(None, 1), lambda: draw(s=None), lambda: variational_bound(net(), 0.1, ONES),
        lambda: loss_and_gradient(net(), "s", ONES, 1, ONES), lambda: log_likelihood(LAW.denoiser(S), None, ONES))),
    (lambda: draw(steps=2.5), "steps must be an int, or times that fall .* got 2.5"),
    *((lambda steps=steps: draw(steps=steps), "steps must be an int") for steps in ("9531", b"\t\x05\x01", [5.9, 2.5], [5.0, 2.0], [True], {9: 1}.values, 2.0)),
    (lambda: draw(start=3), r"start needs x_T, which is N\(0, I\) at T alone"),
    *((lambda start=start: draw(x_T=ONES, start=start), "start must be") for start in (0, 11, 2.5)),
    *((lambda use=use, value=value: use(lambda x, t: np.where(t == 3, value, x)), "denoiser must give finite numbers", FloatingPointError)
      for use in (lambda d: draw(denoiser=d), lambda d: variational_bound(d, S, ONES, 0)) for value in (np.nan, np.inf)),
    (lambda: draw(eta=-0.1), r"eta must lie in \[0, 1\], got -0.1"),
    (lambda: draw(eta=2), r"eta must lie in \[0, 1\], got 2"),
    (lambda: draw(eta=float("nan")), r"eta must lie in \[0, 1\], got nan"),
    (lambda: draw(eta="none"), r"eta must lie in \[0, 1\], got 'none'"),
    (lambda: draw(clip=(1, -1)), r"clip must be \(low, high\), numbers or .* with low <= high, got \(1, -1\)"),
    (lambda: draw(clip=5), r"clip must be .* arrays of shape \(2,\), with low <= high, got 5"),
    (lambda: draw(clip=([0, 0, 0], 1)), r"clip must be .* arrays of shape \(2,\), .* got \(\[0, 0, 0\], 1\)"),
    *((lambda f=f: draw(clip=f), words, error) for f, words, error in CLIPS),
    (lambda: draw(x_T=np.zeros((2, 2))), r"x_T must have shape \(3, 2\), got \(2, 2\)"),
    (lambda: draw(x_T=[[0, 0], [0, np.nan], [0, 0]]), "x_T must be finite, got nan in row 1, column 1"),
    (lambda: draw(x_T=1e39 * ONES, denoiser=net()), "x_T must be finite, got inf in row 0, column 0"),
    (lambda: draw(x_T=1j * ONES), "x_T must hold real numbers, got dtype complex128", TypeError),
    (lambda: draw(x_T=[["a", "b"]] * 3), "x_T must be an array of numbers, got dtype <U1", TypeError),
    (lambda: draw(x_T=1e308 * ONES, denoiser=lambda x, t: 10 * x),
     r"denoiser must give finite numbers, .* results: x_T is too large, it reaches 1e\+308", FloatingPointError),
    (lambda: draw(noise=np.full((11, 3, 2), np.inf)), "noise must be finite, got inf in row 0, column 0"),
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
    # densities
    (lambda: log_likelihood(lambda x, t: LAW.denoiser(S)(x.real, t), S, ONES, 5), "^denoiser must return complex numbers, got dtype float64$", TypeError),
    *((lambda change=change: log_likelihood(**{"denoiser": LAW.denoiser(S), "s": S, "x0": ONES, "steps": 3} | change), message)
      for change, message in (
          ({"steps": 0}, "steps must be an int of at least 1, got 0"), ({"steps": 11}, "steps must be at most 10, got 11"),
          ({"probes": 1}, "probes must be an int of at least 2, got 1"), ({"probes": 2, "rng": -1}, "rng must be None"),
          ({"x0": np.zeros(2)}, r"x0 must have shape \(B, d\), got \(2,\)"), ({"x0": [[np.nan, 0]]}, "x0 must be finite, got nan in row 0, column 0"))),
    # mixtures
    (lambda: GaussianMixture([], [], []), r"weights must be \(K,\) positive numbers, got \[\]"),
    (lambda: GaussianMixture([-1], [[0]], [1]), r"weights must be \(K,\) positive numbers, got \[-1\]"),
    *((lambda weights=weights: GaussianMixture(weights, [[0], [0]], [1, 1]), "weights must be") for weights in ([[1, 1]], [0, 1], [1, -1], [np.inf, 1])),
    (lambda: GaussianMixture([1e-301, 1], [[0], [1]], [1, 1]), "weights must be at least 1e-300 of the largest"),
    (lambda: GaussianMixture([1], [[1j]], [1]), "means must hold real numbers", TypeError),
    (lambda: GaussianMixture([1], [[np.nan]], [1]), "means must be finite"),
    (lambda: GaussianMixture([1], [0], [1]), r"means must be finite, of shape \(K, d\) with K = 1, got shape \(1,\)"),
    (lambda: GaussianMixture([1, 1], [[0]], [1]), r"with K = 2, got shape \(1, 1\)"),
    *((lambda means=means: GaussianMixture([1], means, [1]), "means must be") for means in ([[0], [1]], [[]])),
    (lambda: GaussianMixture([1], [[0, 0]], [[1, 2, 3]]), r"covariances must have shape \(1,\), .* got \(1, 3\)"),
    (lambda: GaussianMixture([1], [[0]], [0]), "covariances must be positive definite, got eigenvalue 0"),
    (lambda: GaussianMixture([1], [[0, 0]], [[[1, 2], [2, 1]]]), "positive definite, got eigenvalue -1"),
    (lambda: GaussianMixture([1], [[0, 0]], [[[1, 1], [0, 1]]]), "covariances must be finite and symmetric"),
    *((lambda c=c: GaussianMixture([1], [[0]], [c]), "covariances must be finite and symmetric") for c in (np.nan, np.inf)),
    (lambda: LAW.log_density([0, 0]), r"x must have shape \(B, 2\), got \(2,\)"),
    (lambda: LAW.denoiser(S)(TALL, 1), r"x must have shape \(B, 2\), got \(2, 3\)"),
    (lambda: LAW.least_loss(S, -1), "t must be an int of at least 0, got -1"),
    (lambda: LAW.least_loss(S, 11), r"t must lie in 0\.\.10, got 11"),
    (lambda: LAW.sample(0), "n must be an int of at least 1, got 0"),
    *((lambda tolerance=tolerance: LAW.least_loss(S, 10, tolerance=tolerance), "tolerance must be a positive number") for tolerance in (np.inf, np.nan, "small")),
    *((lambda t=t: LAW.log_density(ONES, t=t), r"log_density at t = .* needs a schedule s") for t in (9, np.int64(9), [1, 2, 3])),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case[1])
def test_the_reference_refuses(case):
    refused(*case)
