"""The least loss of a mixture against quadrature, also where components hardly meet; and how many draws it takes."""

import time

import numpy as np
import pytest
from bounded import memory
from pytest import approx

from npddpm import GaussianMixture, Schedule, mixture

S, SHORT = Schedule.linear(1000), Schedule.linear(50)
TWO = GaussianMixture([1, 3], [[0.0, 1], [2, -1]], [[[0.3, 0.1], [0.1, 0.2]], [[0.05, 0], [0, 0.4]]])


def cost_on(x, law, s, t):
    """p sum_k r_k |eps_k - eps|^2 / d at x, (B,), as sum_{j<k} w_j p_j w_k p_k / p |eps_j - eps_k|^2 / d, in logarithms."""
    a, b, d = s.sqrt_alpha_bars[t], s.sqrt_one_minus_alpha_bars[t], x.shape[1]
    logs, eps = [], []
    for w, m, c in zip(law.weights, law.means, law.covariances):
        S_k = a**2 * c + b**2 * np.eye(d)
        whitened = (x - a * m) @ np.linalg.inv(S_k)
        logs.append(np.log(w) - 0.5 * ((x - a * m) * whitened).sum(1) - 0.5 * np.linalg.slogdet(2 * np.pi * S_k)[1])
        eps.append(b * whitened)
    log_p = np.logaddexp.reduce(logs)
    return sum(np.exp(logs[j] + logs[k] - log_p) * ((eps[j] - eps[k]) ** 2).sum(1) / d for j in range(len(eps)) for k in range(j))


def by_trapezoid(law, s, t):
    """In one dimension: on a two-hundredth of each deviation, forty to each side."""
    a, b = s.sqrt_alpha_bars[t], s.sqrt_one_minus_alpha_bars[t]
    variances = a**2 * law.variances[:, 0] + b**2
    x = np.unique(np.concatenate([a * m + np.sqrt(v) * np.linspace(-40, 40, 16_001) for m, v in zip(law.means[:, 0], variances)]))
    return law.weights @ (a**2 * law.variances[:, 0] / variances) + np.trapezoid(cost_on(x[:, None], law, s, t), x)


LAWS = {    # with the times at which they are tried: where their components never meet, hardly, and always
    "alike": (([1, 1], [0, 1], [1, 1]), (0, 10, 1000)),
    "of little variance": (([1, 1], [0, 1], [1e-6, 1e-6]), (10, 20, 25, 100)),
    "of none": (([1, 1], [0, 1], [1e-12, 1e-12]), (0, 10, 20, 25, 1000)),
    "rare": (([1e-8, 1], [0, 1], [1e-10, 1e-8]), (20, 25, 100)),
    "rarer": (([1e-20, 1, 1], [0, 1, 3], [1e-10, 1e-14, 1e-8]), (20, 25, 100)),
    "wide and far": (([1, 1], [0, 4], [1e-9, 1]), (10, 25, 1000)),
    "five": (([1, 2, 3, 2, 1], [0, 1, 2, 3.5, 1e5], [1e-9] * 5), (20, 25, 100)),
    "far from 0": (([1, 1], [1e8, 1e8 + 1], [1e-12] * 2), (20, 25)),
    "narrow in wide": (([1, 1], [0, 0], [1, 1e-4]), (10, 50)),
    "very narrow in wide": (([1, 1], [0, 0], [1, 1e-6]), (10,)),
    "rare and wide": (([1e-4, 1], [0, 0.5], [100, 1e-2]), (50,)),
    "rarer and wider": (([1e-6, 1], [0, 0.5], [1e6, 1]), (300, 1000)),
    "three": (([1, 2, 3], [-2, 0, 0.5], [1, 1e-2, 1e-4]), (200, 1000))}


def on_the_line(name):
    weights, means, variances = LAWS[name][0]
    return GaussianMixture(weights, np.array(means, dtype=float)[:, None], variances)


@pytest.mark.parametrize("name, t", [(name, t) for name, (_, times) in LAWS.items() for t in times])
def test_least_loss_in_one_dimension(name, t):
    """To five of its standard errors. A smaller error is tested below."""
    law = on_the_line(name)
    assert law.least_loss(S, t, tolerance=2e-3) == approx(by_trapezoid(law, S, t), rel=1e-2, abs=0)


def test_the_trapezoids_are_right():
    """The figures of scipy.integrate.quad."""
    assert [by_trapezoid(on_the_line("narrow in wide"), S, t) for t in (10, 50)] == approx([0.6229603753716, 0.6834608034493], rel=1e-9)


def test_a_component_at_the_end_of_the_world_adds_its_own_loss():
    near, far = GaussianMixture([1, 2], [[0], [1]], [1e-9] * 2), GaussianMixture([1], [[1e160]], [1e-3])
    both = GaussianMixture([1, 2, 1], [[0], [1], [1e160]], [1e-9, 1e-9, 1e-3])
    assert both.least_loss(S, 30) == approx(0.75 * near.least_loss(S, 30) + 0.25 * far.least_loss(S, 30), rel=3e-3, abs=0)


@pytest.mark.parametrize("t", [50, 400])
def test_least_loss_of_many_components_by_plain_draws(t):
    """Forty that overlap: E |eps - E[eps | x_t]|^2 / d as it is written."""
    rng = np.random.default_rng(0)
    law = GaussianMixture(rng.uniform(1, 3, 40), rng.standard_normal((40, 3)), rng.uniform(0.01, 0.1, (40, 3)))
    eps = rng.standard_normal((30_000, 3))
    plain = ((law.denoiser(S)(S.q_sample(law.sample(len(eps), rng), t, eps), t) - eps) ** 2).mean()
    assert law.least_loss(S, t, tolerance=3e-3) == approx(plain, rel=0.02)


def test_what_not_knowing_the_component_costs_in_four_dimensions():
    """Turned covariances, so that no matrix is its own transpose: the mean over plain draws, which see where these components meet."""
    rng = np.random.default_rng(0)
    root = rng.standard_normal((3, 4, 4)) * [0.2, 0.4, 0.6, 0.8]
    law = GaussianMixture([1, 2, 2], 1.5 * rng.standard_normal((3, 4)), root @ root.swapaxes(1, 2))
    a, b = S.sqrt_alpha_bars[100], S.sqrt_one_minus_alpha_bars[100]
    x = a * law.sample(400_000, rng) + b * rng.standard_normal((400_000, 4))
    plain = cost_on(x, law, S, 100) / np.exp(law.log_density(x, S, 100))
    known = law.weights @ (a**2 * law.variances / (a**2 * law.variances + b**2)).mean(1)
    assert law.least_loss(S, 100, tolerance=1e-4) - known == approx(plain.mean(), rel=5 * plain.std() / plain.mean() / 400_000**0.5)


def test_the_error_is_what_it_says(monkeypatch):
    """Of other seeds the mean square error is that of the tolerance, or less, also where the two hardly meet."""
    monkeypatch.setattr(mixture, "BATCH", 10_000)
    law = GaussianMixture([1, 1], [[0.0], [1.0]], [1e-12] * 2)
    found = np.array([law.least_loss(S, 20, seed, 1e-2) for seed in range(20)])
    assert np.sqrt(((found / by_trapezoid(law, S, 20) - 1) ** 2).mean()) < 1.3e-2


def test_a_tolerance_that_would_take_too_many_draws():
    law, start = GaussianMixture([1, 1], [[0.0], [1.0]], [1e-12] * 2), time.monotonic()
    with pytest.raises(ValueError, match=r"^tolerance must be at least \d\.\de-04 here, for 10,000,000 draws, got 1e-06; .* draws reached"):
        law.least_loss(S, 20, tolerance=1e-6)
    assert time.monotonic() - start < 10


# ---- in the plane

def least_loss_by_quadrature(law, s, t):
    """1 - (1 - abar_t) E |grad log p_t(x_t)|^2 / d, since E |eps|^2 = d = E |E[eps | x_t]|^2 + E tr Var[eps | x_t].

    Gauss-Legendre with 8 nodes on every half deviation of every component, out to nine, in each coordinate: with
    twelve on every third the results are the same to 1e-14.
    """
    a, b, d = s.alpha_bars[t], s.one_minus_alpha_bars[t], law.means.shape[1]
    covariances, nodes, axes, weights = a * law.covariances + b * np.eye(d), np.polynomial.legendre.leggauss(8), [], np.ones(1)
    for i in range(d):
        deviations = np.sqrt(covariances[:, i, i])[:, None]
        edges = np.unique(np.sqrt(a) * law.means[:, i, None] + deviations * np.arange(-9, 9.5, 0.5))
        half = np.diff(edges)[:, None] / 2
        axes.append((edges[:-1, None] + half + half * nodes[0]).ravel())
        weights = np.multiply.outer(weights, (half * nodes[1]).ravel()).ravel()
    x, p, slope = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, d), 0.0, 0.0
    for w, m, precision in zip(law.weights, law.means, np.linalg.inv(covariances)):
        whitened = (x - np.sqrt(a) * m) @ precision
        part = np.exp(-0.5 * (whitened * (x - np.sqrt(a) * m)).sum(1)) * w * np.sqrt(np.linalg.det(precision / 2 / np.pi))
        p, slope = p + part, slope - part[:, None] * whitened
    seen = p > 0
    assert weights @ p == approx(1, rel=1e-12)
    return 1 - b / d * weights[seen] @ ((slope[seen] ** 2).sum(1) / p[seen])


TURNED = np.array([[3.0, 1.2], [1.2, 1.0]]) * 1e-2
PLANE = {
    "rare and wide": (GaussianMixture([1e-3, 1], [[0, 0], [0, 0]], [1, 1e-6]), 300),
    "a cross": (GaussianMixture([1, 1], [[0, 0], [0, 0]], [[1, 1e-6], [1e-6, 1]]), 10),
    "two": (TWO, 300),
    **{f"three of scale {scale}": (GaussianMixture([1, 3, 2], [[0, 0], [1, 0.3], [0.4, 1]],
                                                   scale * np.array([TURNED, TURNED[::-1, ::-1], [[0.01, 0], [0, 0.001]]])), t)
       for scale, t in ((1, 30), (1e-2, 30), (1e-4, 24))}}


@pytest.mark.parametrize("law, t", PLANE.values(), ids=PLANE)
def test_least_loss_in_the_plane(law, t):
    """Also of turned and unlike covariances; to five of its standard errors, which are at most a thousandth of it."""
    assert law.least_loss(S, t) == approx(least_loss_by_quadrature(law, S, t), rel=5e-3)


def test_least_loss_at_both_ends():
    """At t = 0 all of eps is unknown; for one component it is a number whatever the seed."""
    assert TWO.least_loss(SHORT, 0) == 1
    one = GaussianMixture([1], [[0, 1]], [[0.5, 2]])
    a, b = SHORT.alpha_bars[50], 1 - SHORT.alpha_bars[50]
    exact = np.mean([a * v / (a * v + b) for v in (0.5, 2)])
    assert one.least_loss(SHORT, 50, rng=7) == approx(exact, rel=1e-13)
    assert one.least_loss(SHORT, 50) == one.least_loss(SHORT, 50, 1)


def test_least_loss_of_one_gaussian_in_two_parts():
    """Two components alike are one, whose loss is closed-form: not knowing which costs nothing."""
    one, split = GaussianMixture([1], [[0, 1, 2]], [0.5]), GaussianMixture([1, 2], [[0, 1, 2]] * 2, [0.5, 0.5])
    assert split.least_loss(SHORT, 25) == approx(one.least_loss(SHORT, 25), rel=1e-12)


def test_least_loss_where_all_draws_agree(monkeypatch):
    """Two points, nearly, at a late time: the result has five digits. 1 - E best^2 is the same by quadrature."""
    monkeypatch.setattr(mixture, "BATCH", 800)
    law, x = GaussianMixture([1, 1], [[-1.0], [1]], [1e-3, 1e-3]), np.linspace(-9, 9, 4001)[:, None]
    best, density = law.denoiser(SHORT)(x, 40), np.exp(law.log_density(x, SHORT, 40))
    assert law.least_loss(SHORT, 40) == approx(1 - (density * best[:, 0] ** 2).sum() * (x[1, 0] - x[0, 0]), rel=5e-5)


def test_least_loss_draws_until_its_tolerance_is_met(monkeypatch):
    """With few draws at a time it goes on: of ten results the mean square error is that of the tolerance, or less."""
    monkeypatch.setattr(mixture, "BATCH", 20_000)
    law = on_the_line("narrow in wide")
    found = np.array([law.least_loss(S, 50, rng, 3e-3) for rng in range(10)])
    assert np.sqrt(((found / least_loss_by_quadrature(law, S, 50) - 1) ** 2).mean()) < 1.5 * 3e-3


def test_least_loss_stops_at_the_tolerance_that_was_asked_for(monkeypatch):
    """Drawn in small batches, the results of other seeds spread by the tolerance, and no less: it stops in time."""
    monkeypatch.setattr(mixture, "BATCH", 8000)                  # a thousand of each component at a time
    found = np.array([TWO.least_loss(SHORT, 10, seed, tolerance=4e-3) for seed in range(16)])
    assert 2e-3 < found.std() / found.mean() < 7e-3
    assert found.mean() == approx(TWO.least_loss(SHORT, 10, 3, tolerance=1e-3), rel=5e-3)
    assert TWO.least_loss(SHORT, 10, 5, tolerance=4e-3) == found[5]


def test_usual_seed_and_tolerance_of_the_least_loss(monkeypatch):
    monkeypatch.setattr(mixture, "BATCH", 80_000)
    assert TWO.least_loss(SHORT, 10) == TWO.least_loss(SHORT, 10, 0, 1e-3)


def noted_draws(monkeypatch, law, batch):
    """How many points `law` looks at in each draw, of at most `batch` numbers."""
    drawn, components = [], law._components
    monkeypatch.setattr(mixture, "BATCH", batch)
    monkeypatch.setitem(vars(law), "_components", lambda x, *at: drawn.append(len(x)) or components(x, *at))
    return drawn


def test_a_rare_wide_component_takes_few_draws(monkeypatch):
    """The first ten thousand are enough for a hundredth. Without the weights p / q it takes five times as many."""
    law = GaussianMixture([1e-4, 1], [[0, 0], [0, 0]], [1, 1e-6])
    drawn = noted_draws(monkeypatch, law, 20_000)
    found = np.array([law.least_loss(S, 300, seed, 0.01) for seed in range(10)])
    assert np.sqrt(((found / least_loss_by_quadrature(law, S, 300) - 1) ** 2).mean()) < 0.01 and sum(drawn) < 120_000


@pytest.mark.parametrize("t, tolerance", [(10, 10), (40, 1e-3)])
def test_least_loss_takes_ten_thousand_draws_and_no_more_where_they_are_enough(monkeypatch, t, tolerance):
    """They are if much is tolerated, and at t = 40, where all draws agree."""
    law = GaussianMixture([1, 3], [[-1.0, 0], [1, 0]], [1e-3, 1e-3])
    drawn = noted_draws(monkeypatch, law, 800)
    law.least_loss(SHORT, t, 0, tolerance)
    assert 10_000 <= sum(drawn) < 10_200 and set(drawn) == {200}


def test_many_components_fit_into_memory():
    """A hundred in ten dimensions, far from each other: at small noise the loss is that of one of them."""
    means = 100 * np.random.default_rng(0).standard_normal((100, 10))
    one = GaussianMixture([1], means[:1], [0.5]).least_loss(S, 10)
    with memory(100e6):
        assert GaussianMixture(np.ones(100), means, np.full(100, 0.5)).least_loss(S, 10) == approx(one, rel=1e-9)
