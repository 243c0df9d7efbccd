"""Adam and the average against the formulas of their papers."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx
from strategies import reals

from npddpm.arrays.backend import to_host
from npddpm.optim import Adam, clip_norm, learning_rate, update_average

# ---- Adam


@given(st.lists(reals(-10, 10), min_size=1, max_size=20), st.floats(1e-4, 1))
def test_adam_is_algorithm_1(gradients, lr):
    """Kingma and Ba's Algorithm 1, line by line."""
    p, (m, v, expected) = np.array([0.5]), (0.0, 0.0, 0.5)
    adam = Adam(p)
    for t, g in enumerate(gradients, 1):
        adam.step(np.array([g]), lr)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        expected -= lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        assert p[0] == approx(expected, rel=1e-10, abs=1e-12)
    assert adam.t == len(gradients)


def test_adam_keeps_sums_and_precision():
    """M = sum beta1^k g and V = sum beta2^k g^2; other decays and eps than the usual ones."""
    p, g = np.ones(2, "float32"), np.array([0.5, -2], "float32")
    adam = Adam(p, beta1=0.5, beta2=0.75, eps=1.0)
    assert adam.m.tolist() == adam.v.tolist() == [0, 0] and adam.t == 0
    adam.step(g, 0.1)
    adam.step(g, 0.1)
    assert adam.parameters is p and adam.m.dtype == adam.v.dtype == p.dtype == np.float32 and adam.t == 2
    assert adam.m == approx(1.5 * g) and adam.v == approx(1.75 * g**2)
    assert p == approx(1 - 2 * 0.1 * g / (np.abs(g) + 1), rel=1e-6)     # m_hat = g and v_hat = g^2 in both


def test_adam_without_memory_is_the_sign_of_the_gradient():
    """beta1 = beta2 = 0, which the paper allows: p <- p - lr g / (|g| + eps)."""
    p = np.zeros(3)
    adam = Adam(p, beta1=0.0, beta2=0.0)
    for _ in range(2):
        adam.step(np.array([2.0, -3.0, 0.5]), 0.1)
    assert p == approx([-0.2, 0.2, -0.2], rel=1e-6)


def test_adam_finds_the_minimum_of_a_quadratic():
    """L = 1/2 (p - c)^T D (p - c), condition number 1e4."""
    c, d = np.arange(5.0), np.logspace(-2, 2, 5)
    p = np.zeros(5)
    adam = Adam(p)
    for k in range(4000):
        adam.step(d * (p - c), learning_rate(k, 4000, 0.05))
    assert p == approx(c, abs=1e-3)


def test_long_vectors_are_updated_in_blocks_alike():
    g = np.random.default_rng(0).standard_normal(600_001).astype("float32")
    p = np.zeros_like(g)
    adam = Adam(p)
    adam.step(g, 0.1), adam.step(2 * g, 0.1)
    for i in (0, 300_000, 600_000):
        one = np.zeros(1, "float32")
        alone = Adam(one)
        alone.step(g[[i]], 0.1), alone.step(2 * g[[i]], 0.1)
        assert p[i] == one[0]


# ---- the average, the length of the gradient, and the learning rate


@given(reals(-5, 5), st.integers(1, 60))
def test_average_of_a_constant_forgets_its_start(start, steps):
    """With decay_t = min(decay, t/(t+9)) the share of the start is prod decay_t."""
    average, left = np.array([start]), 1.0
    for t in range(1, steps + 1):
        update_average(average, np.array([1.0]), t, decay=0.8)
        left *= min(0.8, t / (t + 9))
    assert average[0] == approx(1 + left * (start - 1), rel=1e-9, abs=1e-12)


def test_the_average_forgets_a_thousandth_a_step_after_its_warm_up():
    for t, share in ((1, 0.9), (91, 0.09), (8991, 0.001), (8992, 0.001), (10**6, 0.001)):
        average = np.array([2.0])
        update_average(average, np.array([3.0]), t)
        assert average[0] == approx(2 + share, rel=1e-15)


@given(st.lists(reals(-100, 100), min_size=1, max_size=5), st.floats(0.1, 10))
def test_clip_norm(values, most):
    g = np.array(values)
    before = g.copy()
    clip_norm(g, most)
    norm = np.linalg.norm(before)
    assert g == approx(before if norm <= most else before * most / norm, rel=1e-12)


def test_clipping_leaves_a_gradient_of_zero_and_works_in_place():
    g = np.zeros(3, "float32")
    clip_norm(g, 1.0)
    assert (g == 0).all()
    g += [0, 3, 4]
    clip_norm(g, 2.5)
    assert g.tolist() == [0, 1.5, 2]


@given(st.integers(0, 999))
def test_learning_rate_is_its_formula(k):
    """A hundred steps up, and half a cosine down from the first one on."""
    cosine = (1 + np.cos(np.pi * k / 1000)) / 2
    assert learning_rate(k, 1000, 0.3) == approx(0.3 * min(1, (k + 1) / 100) * cosine, rel=1e-12)
    assert learning_rate(k, 1000, 0.3, warmup=7) == approx(0.3 * min(1, (k + 1) / 7) * cosine, rel=1e-12)


def test_no_warm_up():
    assert learning_rate(0, 10, 1.0, warmup=0) == 1.0


def test_on_a_device(cupy):
    rng, results = np.random.default_rng(0), []
    start, gradient = rng.standard_normal((2, 15))
    for xp in (np, cupy):
        p, g, average = xp.asarray(start).copy(), xp.asarray(gradient).copy(), xp.zeros(15)
        adam = Adam(p)
        for _ in range(3):
            clip_norm(g, 1.0)
            adam.step(g, 0.1)
            update_average(average, p, adam.t)
        results.append(np.array([to_host(p), to_host(average)]))
    assert results[1] == approx(results[0], rel=1e-12)
