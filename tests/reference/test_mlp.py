"""The network, and every gradient by two independent routes.

The complex step: for an analytic f, Im f(w + ih)/h = f'(w) + O(h^2) with no subtraction, so h = 1e-30
gives every digit. The arithmetic of the network is analytic, and runs in complex128.
"""

import copy
import pickle
import threading

import numpy as np
import pytest
from bounded import memory
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pytest import approx

from npddpm import DDPM, MLP, Schedule, loss_and_gradient
from npddpm.arrays import checks
from npddpm.gaussian import condition

H = 1e-30
SCHEDULE = Schedule.linear(20)
shapes = st.fixed_dictionaries({"dim": st.integers(1, 4), "hidden": st.integers(1, 6), "depth": st.integers(1, 4),
                                "fourier": st.integers(0, 2)})
VARIANCES = np.array([0.0, 1.0, 0.3, 7.0])


def problem(shape, batch, seed, dtype, one_t=False):
    """A network with no weight at zero, and a batch."""
    rng = np.random.default_rng(seed)
    net = MLP(**shape, schedule=SCHEDULE, variances=VARIANCES[-shape["dim"]:], rng=rng, dtype=dtype)
    net.parameters[...] = 0.5 * rng.standard_normal(net.parameters.shape)
    x0, eps = rng.standard_normal((2, batch, shape["dim"]))
    t = int(rng.integers(1, 21)) if one_t else rng.integers(1, 21, batch)
    return net, x0, t, eps


# ---- the gradient


@given(shapes, st.integers(1, 5), st.integers(0, 2**32), st.booleans(),
       st.sampled_from(["simple", "elbo", np.linspace(0, 2, 21)]))
@settings(max_examples=40)
def test_gradient_is_the_complex_step_derivative(shape, batch, seed, one_t, weighting):
    """Every parameter, relative error 1e-12 of the gradient's size."""
    net, x0, t, eps = problem(shape, batch, seed, "complex128", one_t)
    _, gradient = loss_and_gradient(net, SCHEDULE, x0, t, eps, weighting)
    exact = np.empty(len(gradient))
    for i in range(len(gradient)):
        kept = net.parameters[i]
        net.parameters[i] += 1j * H
        exact[i] = loss_and_gradient(net, SCHEDULE, x0, t, eps, weighting)[0].imag / H
        net.parameters[i] = kept
    assert np.abs(gradient.real - exact).max() <= 1e-12 * np.abs(exact).max()
    assert np.abs(gradient.imag).max() == 0


@given(shapes, st.integers(1, 5), st.integers(0, 2**32))
@settings(max_examples=40)
def test_gradient_is_the_central_difference(shape, batch, seed):
    """(L(w + hv) - L(w - hv)) / 2h in float64, along the gradient itself and a random direction."""
    net, x0, t, eps = problem(shape, batch, seed, "float64")
    _, gradient = loss_and_gradient(net, SCHEDULE, x0, t, eps)
    start, h = net.parameters.copy(), 1e-5
    for v in (gradient / np.linalg.norm(gradient), np.random.default_rng(seed).standard_normal(len(gradient))):
        losses = []
        for sign in (1, -1):
            net.parameters[...] = start + sign * h * v
            losses.append(loss_and_gradient(net, SCHEDULE, x0, t, eps)[0])
        size = np.linalg.norm(gradient) * np.linalg.norm(v)
        assert (losses[0] - losses[1]) / (2 * h) == approx(gradient @ v, abs=1e-6 * (size + abs(losses[0])))


@given(shapes, st.integers(1, 5), st.integers(0, 2**32), st.booleans())
@example({"dim": 1, "hidden": 2, "depth": 2, "fourier": 2}, 2, 277199343, True)    # two rows that cancel
@settings(max_examples=40)
def test_float32_gradient_is_the_float64_one_rounded(shape, batch, seed, one_t):
    """The error is a modest multiple of the rounding unit u = 2^-24.

    The residual r = eps_hat - eps is rounded to u (|eps_hat| + |eps|), and each of its entries sends its
    own share to the gradient. The shares may cancel in the sum, their errors need not: the bound adds
    the absolute values.
    """
    net64, x0, t, eps = problem(shape, batch, seed, "float64", one_t)
    net32 = MLP(**shape, schedule=SCHEDULE, variances=net64.variances, rng=0, dtype="float32")
    net32.parameters[...] = net64.parameters
    net64.parameters[...] = net32.parameters
    x0, eps = x0.astype("float32"), eps.astype("float32")
    _, g32 = loss_and_gradient(net32, SCHEDULE, x0, t, eps)
    _, g64 = loss_and_gradient(net64, SCHEDULE, x0.astype(float), t, eps.astype(float))
    assert g32.dtype == np.float32
    eps_hat = net64(SCHEDULE.q_sample(x0.astype(float), t, eps.astype(float)), t)
    residual = 2 / eps.size * (np.abs(eps_hat) + np.abs(eps))
    shares = [net64.backward(r.reshape(eps.shape)) for r in np.diag(residual.ravel())]
    assert np.linalg.norm(g32 - g64) <= 100 * 2.0**-24 * np.linalg.norm(np.abs(shares).sum(axis=0))


@pytest.mark.parametrize("one_t", [True, False])
@pytest.mark.parametrize("hidden, batch", [(5, 512), (512, 512), (513, 512), (24, 40)])
def test_a_batch_is_its_parts(hidden, batch, one_t):
    """The layout in memory depends on the sizes: here are all, against halves; in used buffers, which could remember."""
    net, x0, t, eps = problem({"dim": 3, "hidden": hidden, "depth": 3, "fourier": 1}, batch, 0, "float64", one_t)
    net.parameters *= (5 / hidden) ** 0.5

    def passes(rows):
        times = t if one_t else t[rows]
        loss_and_gradient(net, SCHEDULE, eps[rows], times, x0[rows])
        result = loss_and_gradient(net, SCHEDULE, x0[rows], times, eps[rows])
        return result

    whole = passes(slice(batch))
    halves = [passes(slice(batch // 2)), passes(slice(batch // 2, batch))]
    assert whole[0] == approx(sum(loss for loss, _ in halves) / 2, rel=1e-13)
    parts = sum(gradient for _, gradient in halves) / 2
    assert (np.abs(whole[1] - parts) <= np.maximum(1e-11 * np.abs(parts), 1e-13)).all()


# ---- the function


@pytest.mark.parametrize("one_t", [True, False])
@pytest.mark.parametrize("fourier", [0, 1, 3])
def test_the_network_by_hand(fourier, one_t):
    """Features, layers and output as their equations have them, with plain arrays."""
    rng = np.random.default_rng(fourier)
    lam = np.array([0.3, 2.0])
    net = MLP(2, 5, 3, schedule=SCHEDULE, variances=lam, fourier=fourier, rng=0, dtype="float64")
    net.parameters[...] = 0.3 * rng.standard_normal(net.parameters.shape)
    x, t = rng.standard_normal((4, 2)), np.full(4, 7) if one_t else np.array([1, 7, 12, 20])
    abar = SCHEDULE.alpha_bars[t][:, None]
    v = abar * lam + 1 - abar
    x0 = np.sqrt(abar) * lam / v * x
    angles = np.outer(t * 50.0, [10_000 ** (-i / 32) for i in range(32)])           # t in thousandths of T = 20
    octaves = [f(2.0**k * x0[:, i]) for i in range(2) for f in (np.sin, np.cos) for k in range(fourier)]
    a = np.column_stack([np.sin(angles), np.cos(angles), x0, *octaves])
    for W in net.weights[:-1]:
        z = a @ W[:-1] + W[-1]
        a = 2 * z / (1 + np.exp(-2 * z))                                            # the SiLU of 2z
    F = a @ net.weights[-1][:-1] + net.weights[-1][-1]
    expected = np.sqrt(1 - abar) / v * x + np.sqrt(abar * lam / v) * F
    assert net(x, 7 if one_t else t) == approx(expected, rel=1e-11, abs=1e-13)
    assert net.shapes == [(64 + 2 + 4 * fourier + 1, 5), (6, 5), (6, 5), (6, 2)]


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=4))
def test_the_first_term_is_bayes_rule(variances):
    """E[x_0 | x_t] = sqrt(lambda) cos(theta) u and E[eps | x_t] = sin(theta) u, against gaussian.condition for x_t = 1."""
    lam, abar, rest = np.array(variances), SCHEDULE.alpha_bars[1:, None], SCHEDULE.one_minus_alpha_bars[1:, None]
    sin, cos, sd = (table[1:] for table in SCHEDULE.rotation(lam))
    assert np.sqrt(lam) * cos / sd == approx(condition(0, lam, np.sqrt(abar), rest, 1)[0], rel=1e-12, abs=1e-25)
    mean, variance = condition(0, 1, np.sqrt(rest), abar * lam, 1)
    assert sin / sd == approx(mean, rel=1e-12) and cos**2 == approx(variance, rel=1e-12, abs=1e-25)


def test_the_correction_is_what_is_added_to_the_gaussian():
    """eps_hat = sin(theta) u + cos(theta) F of m = sqrt(lambda) cos(theta) u, for one t and for many."""
    net, x, times, _ = problem({"dim": 3, "hidden": 5, "depth": 2, "fourier": 1}, 4, 0, "float64")
    for t in times, 7:
        sin, cos, sd = (table[t] for table in SCHEDULE.rotation(net.variances))
        F = net.correction(np.sqrt(net.variances) * cos * x / sd, t)
        assert net(x, t) == approx(sin / sd * x + cos * F, rel=1e-12)


def test_one_time_for_all_rows_is_the_same_function():
    net, x0, _, _ = problem({"dim": 3, "hidden": 5, "depth": 2, "fourier": 1}, 4, 0, "float64")
    assert net(x0, 7) == approx(net(x0, np.full(4, 7)), rel=1e-13)


def test_starts_as_the_best_linear_guess():
    net = MLP(3, 8, 2, schedule=SCHEDULE, rng=0, dtype="float64")
    x = np.random.default_rng(0).standard_normal((4, 3))
    t = np.array([1, 5, 10, 20])
    assert net(x, t) == approx(np.sqrt(SCHEDULE.one_minus_alpha_bars[t])[:, None] * x)
    # but not so far in that nothing can be learned: the gradient is not 0
    assert np.abs(loss_and_gradient(net, SCHEDULE, x, t, x + 1)[1]).max() > 0


def test_at_the_start_every_layer_keeps_the_size_of_what_it_is_given():
    """The sums Z of six layers lie within 0.4 and 1; with He's deviation not halved for g they would double in each."""
    net, x = MLP(2, 256, 6, schedule=SCHEDULE, rng=0, dtype="float64"), np.random.default_rng(0).standard_normal((400, 2))
    ones = np.ones((400, 1))
    A = np.concatenate([net.features.tau[np.arange(400) % 20 + 1], x, ones], axis=1)
    for W in net.weights[:-1]:
        Z = A @ W
        assert 0.4 < Z.std() < 1
        A = np.concatenate([Z * (1 + np.tanh(Z)), ones], axis=1)


def test_initial_weights_are_he_et_al_halved():
    """Drawn for t, for x and for each layer in turn, with deviation sqrt(2/inputs)/2; biases and W_{D+1} are 0."""
    net, rng = MLP(3, 7, 3, schedule=SCHEDULE, fourier=1, rng=5, dtype="float64"), np.random.default_rng(5)
    expected = [np.zeros(shape) for shape in net.shapes]
    for block in (expected[0][:64], expected[0][64:-1], expected[1][:-1], expected[2][:-1]):
        block[:] = np.sqrt(2 / len(block)) / 2 * rng.standard_normal(block.shape)
    assert all(W == approx(E, rel=1e-14) for W, E in zip(net.weights, expected, strict=True))


def test_usual_sizes():
    net = MLP(2, schedule=SCHEDULE)
    assert (net.dim, net.hidden, net.depth, net.fourier, net.dtype, net.device) == (2, 128, 3, 0, np.float32, "cpu")
    assert net.features.tau.shape == (21, 64) and net.features.phase.shape == (0,)
    assert net.schedule is SCHEDULE and net.shapes == [(67, 128), (129, 128), (129, 128), (129, 2)]


def test_seed_decides_the_weights():
    first, same, other = (MLP(2, 4, 2, schedule=SCHEDULE, rng=seed).parameters for seed in (1, 1, 2))
    assert (first == same).all() and (first != other).any()


def test_a_singular_covariance_leaves_no_doubt_on_its_axis():
    """lambda = 0: x_0 is 0 there, so all of x_t is noise, whatever the weights are."""
    net = MLP(2, 8, 2, schedule=SCHEDULE, variances=[1.0, 0.0], rng=0, dtype="float64")
    net.parameters[...] = np.random.default_rng(0).standard_normal(len(net.parameters))
    xt = np.random.default_rng(1).standard_normal((5, 2))
    for t in (1, 7, 20):
        assert net(xt, t)[:, 1] == approx(xt[:, 1] / SCHEDULE.sqrt_one_minus_alpha_bars[t], rel=1e-13)
    assert np.isfinite(net(xt, 0)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize("t", [7, [1, 7, 20]])
def test_input_is_brought_to_the_precision_of_the_network(dtype, t):
    net = MLP(2, 4, 2, schedule=SCHEDULE, fourier=1, rng=0, dtype=dtype)
    net.parameters += 0.1
    x = np.array([[1, -2], [0, 3], [4, 5]])
    expected = net(x.astype(dtype), np.array(t) if isinstance(t, list) else t)
    for other in (x, x.astype("float32"), x.astype("float64"), x.tolist()):
        assert net(other, t).dtype == dtype and (net(other, t) == expected).all()


def test_no_rows():
    net, none = MLP(2, 8, 2, schedule=SCHEDULE, rng=0, fourier=2), np.zeros((0, 2))
    assert net(none, 1).shape == net(none, np.zeros(0, int)).shape == (0, 2)


def test_strict_floating_point_errors_are_none_of_the_activation():
    """exp underflows where Z is large, which is as exact as float can be."""

    x = np.random.default_rng(0).standard_normal((20, 2))
    with np.errstate(all="raise"):
        assert np.isfinite(DDPM(SCHEDULE, 4, 1).fit(x, steps=5, rng=0).bound(x[:2] + 100, 0)).all()


# ---- what it keeps, and what it shares


def test_weights_and_gradient_share_a_layout():
    net = MLP(2, 4, 3, schedule=SCHEDULE, rng=0)
    assert [W.shape for W in net.weights] == net.shapes
    assert all(np.shares_memory(W, net.parameters) for W in net.weights)
    assert np.concatenate([W.ravel() for W in net.weights]) == approx(net.parameters)
    net.weights[-1][-1, 1] = 5    # the bias of the second output
    assert net(np.zeros((1, 2)), 20)[0] == approx([0, 5 * np.sqrt(SCHEDULE.alpha_bars[20])])


def test_backward_writes_where_it_is_told_and_never_into_an_old_result():
    net, x0, t, eps = problem({"dim": 2, "hidden": 3, "depth": 2, "fourier": 0}, 4, 0, "float32")
    _, first = loss_and_gradient(net, SCHEDULE, x0, t, eps)
    kept = first.copy()
    out = np.empty_like(first)
    _, second = loss_and_gradient(net, SCHEDULE, -x0, t, eps, out=out)
    assert second is out and (first == kept).all() and (second != first).any()


def test_a_used_network_is_as_good_as_new():
    """Batches of other sizes, and one t after many, leave nothing behind; an old result stays as it was."""
    net, x, t, eps = problem({"dim": 2, "hidden": 6, "depth": 2, "fourier": 1}, 9, 0, "float64")
    fresh = MLP(2, 6, 2, schedule=SCHEDULE, variances=VARIANCES[-2:], fourier=1, rng=0, dtype="float64")
    fresh.parameters[...] = net.parameters
    first = net(x, t)
    kept = first.copy()
    for rows, times in ((slice(3), 4), (slice(3), t[:3]), (slice(9), 11)):
        net(x[rows], times)
        net.backward(eps[rows])
    assert (first == kept).all() and (net(x, t) == fresh(x, t)).all()
    assert (net.backward(eps) == fresh.backward(eps)).all()


@pytest.mark.parametrize("twin", [copy.deepcopy, copy.copy, lambda net: pickle.loads(pickle.dumps(net))])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("fourier", [0, 2])
def test_a_copy_is_the_same_function_with_weights_of_its_own(twin, dtype, fourier):
    net, x, t, _ = problem({"dim": 2, "hidden": 5, "depth": 2, "fourier": fourier}, 4, 0, dtype)
    expected, other = net(x, t), twin(net)
    assert other.shapes == net.shapes and other.schedule == SCHEDULE and other.device == "cpu" and other.dtype == dtype
    assert (other(x, t) == expected).all()
    other.parameters[...] = 0
    assert all((W == 0).all() for W in other.weights) and not np.shares_memory(other.parameters, net.parameters)
    assert (net.parameters != 0).all() and (net(x, t) == expected).all()


def test_a_subclass_whose_arguments_have_other_names_is_copied():
    class Own(MLP):
        def __init__(self, d, h=3, layers=1, **options):
            super().__init__(d, h, layers, **options)
    net = Own(2, schedule=SCHEDULE, rng=1)
    assert type(copy.copy(net)) is Own and (copy.deepcopy(net).parameters == net.parameters).all() and net.astype("float64").hidden == 3


def test_a_copy_of_another_precision():
    net, x, t, _ = problem({"dim": 2, "hidden": 5, "depth": 2, "fourier": 1}, 4, 0, "float32")
    twin = net.astype("complex128")
    assert (twin.dtype, twin.schedule, net.dtype) == (np.complex128, SCHEDULE, np.float32) and (twin.parameters == net.parameters).all()
    assert twin(x, t).real == approx(net(x, t), rel=1e-4, abs=1e-5) and (twin.variances == net.variances).all()
    twin.parameters[...] = 0
    assert (net.parameters != 0).all()


def in_threads(*works):
    """The errors that came of them."""
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
    net = MLP(2, 64, 2, schedule=SCHEDULE, rng=0, fourier=2)
    net.parameters[:] += 0.1
    batches = [np.random.default_rng(seed).standard_normal((200, 2)) for seed in range(4)]
    times = [3, 7, np.arange(200) % 10 + 1, 1]
    expected = [(net(x, t).copy(), net.backward(x).copy()) for x, t in zip(batches, times)]

    def work(x, t, eps_hat, gradient):
        for _ in range(50):
            assert (net(x, t) == eps_hat).all() and (net.backward(x) == gradient).all()

    jobs = [lambda x=x, t=t, e=e: work(x, t, *e) for x, t, e in zip(batches, times, expected)]
    assert in_threads(*jobs) == []


def test_a_backward_pass_needs_the_forward_pass_of_its_thread():
    net, x, t, _ = problem({"dim": 2, "hidden": 5, "depth": 2, "fourier": 0}, 4, 0, "float64")
    net(x, t)
    error, = in_threads(lambda: net.backward(x))
    assert isinstance(error, ValueError) and "needs a forward pass before it, in the same thread" in str(error)


def test_sizes_of_numpy():
    net = MLP(np.int8(2), np.uint8(200), np.int64(2), fourier=np.int8(1), schedule=SCHEDULE, rng=0)
    assert (net.parameters == MLP(2, 200, 2, fourier=1, schedule=SCHEDULE, rng=0).parameters).all() and type(net.shapes[0][0]) is int


def test_tables_are_bounded_together(monkeypatch):
    """T and the number of columns are small in a checkpoint, and what is computed from them is not."""
    with memory(2**24), pytest.raises(ValueError, match="the numbers in the network's tables .* must be at most 134217728, got 156673400"):
        MLP(1300, 1, 1, schedule=Schedule.linear(20_000), rng=0)
    monkeypatch.setattr(checks, "MOST_ENTRIES", 2**23)
    T = (2**23 - 512 * 1000) // 6000 - 1
    with memory(8 * 2**23):
        MLP(1000, 1, 1, schedule=Schedule.linear(T), rng=0)
    with pytest.raises(ValueError, match="must be at most 8388608"):
        MLP(1000, 1, 1, schedule=Schedule.linear(T + 1), rng=0)


def test_parameters_that_are_assigned_are_written_into_their_place():
    net, other = (MLP(2, 8, 1, schedule=SCHEDULE, rng=seed) for seed in (0, 1))
    other.parameters[...] = np.random.default_rng(0).standard_normal(other.parameters.shape)
    net.parameters = other.parameters
    net.parameters += 1
    net.parameters = (net.parameters - 1).tolist()
    x = np.ones((3, 2), dtype="float32")
    assert net(x, 5) == approx(other(x, 5), rel=1e-5) and (net.weights[0].ravel()[:3] == net.parameters[:3]).all()
    assert not np.shares_memory(net.parameters, other.parameters)
    with pytest.raises(ValueError, match=r"parameters must have shape"):
        net.parameters = net.parameters[1:]
    for name in ("variances", "schedule"):
        with pytest.raises(AttributeError, match=f"an MLP keeps its {name}"):
            setattr(net, name, getattr(net, name))
    with pytest.raises(ValueError, match="read-only"):
        net.variances[0] = 2


@pytest.mark.parametrize("out", [[0.0] * 3, np.zeros(3, dtype=int), None])
def test_an_output_of_another_kind(out):
    net = MLP(1, 1, 1, schedule=SCHEDULE, rng=0)
    out = np.zeros(net.parameters.shape) if out is None else out
    with pytest.raises((TypeError, ValueError), match="out must (be an array of float32, got (list|float64)|have shape)"):
        loss_and_gradient(net, SCHEDULE, np.ones((2, 1)), 1, np.ones((2, 1)), out=out)
