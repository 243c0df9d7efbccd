"""Where a verdict turns: how far off a value, a call, a time or a derivative may be, and that no example in use is left out."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import small_ddpm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from subjects import Loops, failures, result_of, verdicts

from npddpm import testing
from npddpm.testing import inputs
from npddpm.testing.contract import ARGUMENTS, ARRAYS, Implementation
from npddpm.testing.gradients import derivatives
from npddpm.testing.values import judge

VALUES = [check for check in testing.CHECKS if isinstance(check.fixed, dict)]
NAMES = [f"{check.function}-{check.name}" for check in VALUES]
BETAS = np.array([1e-4, 0.3, 0.001, 0.2])       # 1 - abar_1 = 1e-4, for which single precision would be forgiven much


@pytest.fixture(autouse=True)
def verdicts_without_a_diagnosis(monkeypatch):
    """It takes seconds, and is tested elsewhere."""
    monkeypatch.setattr("npddpm.testing.values.name_of_slip", lambda *_: None)


# ---- values

def example(check, betas=BETAS, t=1):
    if "T" in ARGUMENTS[check.function]:
        return {"T": 1000}
    return inputs.assemble(check.function, check.fixed, betas, t, 0, inputs.normal(0), 2, 2, 1.0, 0.5)


def shifted(check, args, shift):
    """An implementation that returns the exact answer to these arguments with a number added to one entry."""
    def answer(*given):
        value = inputs.answer(check.function, args, part=check.part)
        if check.function == "variational_bound":       # one value for each group of rows
            value = np.repeat(value, 4)
        value = value.copy()
        value[(-1,) * value.ndim] += shift * (4 if check.function == "variational_bound" else 1)
        return (value, value) if check.part is not None else value
    return Implementation(SimpleNamespace(**{check.function: answer}))


@pytest.mark.parametrize("check", VALUES, ids=NAMES)
def test_a_value_may_be_off_by_the_tolerance_and_no_more(check):
    """Relative to the largest entry, or a tenth of the largest input, but a variance to itself; NaN and infinity are never right."""
    args = example(check, t=2)
    largest = np.abs(inputs.answer(check.function, args, part=check.part)).max()
    if check.name != "variance":
        largest = max([largest, *(np.abs(args[name]).max() / 10 for name in ARRAYS if name in args)])
    for share in (0.9, -0.9, 1.1, -1.1, math.nan, math.inf):
        assert judge(check, shifted(check, args, share * 1e-8 * largest), args).wrong == (not abs(share) < 1), share


@pytest.mark.parametrize(("beta", "allowed"), [(0.5, 1e-4), (1e-3, 1e-3), (1e-4, 1e-2), (1e-6, math.inf)])
def test_single_precision_is_forgiven_what_it_cannot_know(beta, allowed):
    check = VALUES[NAMES.index("q_sample-x_t")]
    args = example(check, np.array([beta, 0.5]))
    largest = np.abs(inputs.answer("q_sample", args)).max()
    for share in (0.9, 1.1):
        subject = shifted(check, args, share * min(allowed, 1) * largest)
        subject.tolerance = 1e-4
        assert judge(check, subject, args).wrong == (share > 1 and allowed < 1)


@pytest.mark.parametrize("beta", [0.0, 1.0, math.nan, -0.1])
def test_a_linear_schedule_of_any_length_lies_within_0_and_1(beta):
    def linear_betas(T):
        return small_ddpm.linear_betas(T) if T == 1000 else np.append(small_ddpm.linear_betas(T)[1:], beta)
    wrong, = failures(SimpleNamespace(linear_betas=linear_betas), "linear_betas")       # and its calls agree
    assert wrong.check == "betas" and "outside (0, 1)" in wrong.got


@pytest.mark.parametrize("returns", [lambda mean, rho: (mean, rho, rho), lambda mean, rho: (mean,), lambda mean, rho: mean])
def test_a_posterior_is_a_pair(returns):
    subject = SimpleNamespace(q_posterior=lambda *args: returns(*small_ddpm.q_posterior(*args)))
    for part in ("mean", "variance"):
        assert "no pair" in result_of(subject, "q_posterior", part).got


@pytest.mark.parametrize("where", [
    "t == 1", "t == 1 and T == 1000", "t == 2", "1 < t == T - 1", "t == T", "t == T == 1000", "s == 0 and t > 100", "0 < s < t - 1",
    "B == 1", "d == 1", "B == d > 1", "B > 64", "d > 64", "B > 3 and d > 5", "T > 2000", "B > 3 and T > 1000", "20 < T < 200", "T == 1000 and betas[-1] == 0.02", "T == 1000 and betas[-1] > 0.99",
    "(np.diff(betas) > 0).all()", "(np.diff(betas) < 0).all()", "(np.diff(betas) == 0).all()"])
def test_a_step_that_is_wrong_in_some_places_alone_is_found(where):
    def ddim_step(betas, denoiser, xt, t, s, eta, z):
        B, d = xt.shape
        here = eval(where, {"np": np, "betas": betas, "T": len(betas), "t": t, "s": s, "B": B, "d": d})
        return small_ddpm.ddim_step(betas, denoiser, xt, t, s, eta, z) * (1.01 if here else 1)
    check = ("eta = 0", "eta = 1/2", "eta = 1")[len(where) % 3]      # which have the same examples
    assert result_of(SimpleNamespace(ddim_step=ddim_step), "ddim_step", check).verdict == "fail"


@pytest.mark.parametrize("where", ["B > 32", "T > 1000"])
@pytest.mark.parametrize(("function", "check"), [("sample", "variance beta"), ("variational_bound", "bound"), ("loss", "x_t and weights"),
                                                 ("gradient", "entries"), ("times", "times"), ("cosine_betas", "betas")])
def test_what_is_wrong_for_larger_ones_alone_is_found(where, function, check):
    """The loss and its gradient agree where the loss is wrong: it is held against step 1."""
    def size(args):
        first = args.get("betas", args.get("T"))
        rows = args.get("x_T", args.get("x0"))
        return {"T": first if isinstance(first, int) else len(first), "B": 0 if rows is None else len(rows)}

    def wrong(*args):
        here = eval(where, size(dict(zip(ARGUMENTS[function], args))))
        if function == "loss" and here:
            args = (*args[:2], args[2] * 1.01, *args[3:])
        value = getattr(small_ddpm, function)(*args)
        return value if not here or function == "loss" else value[::-1] if function == "times" else value * 1.01
    subject = SimpleNamespace(parameters=small_ddpm.parameters, loss=small_ddpm.loss)
    setattr(subject, function, wrong)
    expected = "B" not in where or function not in ("times", "cosine_betas")
    assert (result_of(subject, function, check).verdict == "fail") == expected


@pytest.mark.parametrize("T", [100, 1000])
def test_a_network_made_for_few_times_is_right(T):
    def loss(parameters, betas, x0, t, eps):
        np.zeros(T)[t - 1]
        return small_ddpm.loss(parameters, betas, x0, t, eps)
    subject = SimpleNamespace(parameters=small_ddpm.parameters, loss=loss, gradient=small_ddpm.gradient)
    assert not failures(subject, "loss", "gradient")
    for name, check in (("loss", "x_t and weights"), ("gradient", "entries")):
        note = result_of(subject, name, check).note
        assert "T = 2000 left out: IndexError: index 1999 is out of bounds" in note and ("T = 1000 left out" in note) == (T == 100)


def test_a_table_without_a_row_for_the_last_time_is_wrong():
    """Its rows are those of t = 0 to T - 1, the first of which no example ever sees."""
    def loss(parameters, betas, x0, t, eps):
        np.zeros(1000)[t]
        return small_ddpm.loss(parameters, betas, x0, t, eps)
    subject = SimpleNamespace(parameters=small_ddpm.parameters, loss=loss, gradient=small_ddpm.gradient)
    assert {r.looks_like for r in failures(subject, "loss", "gradient")} == {"t where t-1 belongs, in a table of T rows"}


def test_a_cosine_schedule_in_single_precision_is_right():
    def cosine_betas(T):
        f = np.cos((np.arange(T + 1, dtype=np.float32) / T + np.float32(0.008)) / np.float32(1.008) * np.float32(np.pi / 2)) ** 2
        return np.minimum(1 - f[1:] / f[:-1], np.float32(0.999))
    single = SimpleNamespace(cosine_betas=cosine_betas, TOLERANCE=1e-4)
    assert {r.verdict for r in verdicts(single, "cosine_betas")} == {"pass"}
    assert not judge(VALUES[NAMES.index("cosine_betas-betas")], Implementation(single), {"T": 4000}).wrong     # which may be left out for time


def test_larger_examples_are_left_out_of_what_is_slow(monkeypatch):
    monkeypatch.setattr("npddpm.testing.values.MOST_SECONDS", -1)
    result = result_of(small_ddpm, "q_sample", "x_t")
    assert result.verdict == "pass" and result.note.startswith("larger examples left out, for time")


def test_every_check_is_made():
    """One that is taken out of the table is missed here."""
    values = {"linear_betas": ["betas"], "cosine_betas": ["betas"], "alpha_bars": ["products"], "q_sample": ["x_t"],
              "q_posterior": ["mean", "variance"], "predict_x0": ["x_0"], "reverse_mean": ["mean"],
              "reverse_step": ["variance beta", "variance posterior"], "ddim_step": ["eta = 0", "eta = 1", "eta = 1/2"],
              "times": ["times"], "sample": ["variance beta", "variance posterior", "point mass"], "loss_weights": ["weights"],
              "variational_bound": ["bound"], "parameters": ["finite"], "loss": ["rows", "x_t and weights"], "gradient": ["entries"]}
    assert [(c.function, c.name) for c in testing.CHECKS] == [(f, name) for f, names in values.items() for name in [*names, "calls"]]


# ---- conduct

@pytest.mark.parametrize(("function", "name"), [(function, name) for function, names in ARGUMENTS.items() for name in names
                                                if name in (*ARRAYS, "betas", "parameters") or name == "t" and "parameters" in names])
def test_no_argument_may_be_written_into(function, name):
    def writes(*args):
        given = dict(zip(ARGUMENTS[function], args))
        value = copy.deepcopy(getattr(small_ddpm, function)(*args))
        given[name].ravel()[-1:] += 1
        return value
    subject = SimpleNamespace(parameters=small_ddpm.parameters) if function in ("loss", "gradient") else SimpleNamespace()
    setattr(subject, function, writes)
    assert result_of(subject, function, "calls").got == f"{name} is written into"


@pytest.mark.parametrize(("factor", "words"), [
    (lambda call, x0: np.nan if x0.dtype == np.float32 else 1, "float32"), (lambda call, x0: np.inf if x0.dtype == np.float32 else 1, "float32"),
    (lambda call, x0: 1.001 if x0.dtype == np.float32 else 1, "float32"),
    (lambda call, x0: np.nan if call == 4 else 1, "a second time"), (lambda call, x0: 1 + 1e-7 * (call == 4), "a second time"),
    (lambda call, x0: np.array([[np.inf, call], [1, np.nan]]), "a second time")])
def test_calls_that_differ_by_little_or_by_nan_differ(factor, words):
    """The first of the calls serves to see whether it is implemented, the second and the fourth are to agree."""
    calls = []

    def q_sample(betas, x0, t, eps):
        calls.append(t)
        return small_ddpm.q_sample(betas, x0, t, eps) * factor(len(calls), x0)
    result = result_of(SimpleNamespace(q_sample=q_sample), "q_sample", "calls")
    assert result.verdict == "fail" and words in result.got


def test_what_writes_into_its_arguments_is_judged_on_the_arguments_all_the_same():
    def q_sample(betas, x0, t, eps):
        x0 *= np.sqrt(np.prod(1 - betas[:t]))
        x0 += np.sqrt(1 - np.prod(1 - betas[:t])) * eps
        betas[:] = 0.5
        return x0
    check = VALUES[NAMES.index("q_sample-x_t")]
    args = example(check)
    before = copy.deepcopy(args)
    for _ in range(2):
        assert not judge(check, Implementation(SimpleNamespace(q_sample=q_sample)), args).wrong
    assert all(np.array_equal(args[name], before[name]) for name in args)


# ---- times

CHANGES = {"a time twice": lambda x, i: [*x[:i], x[max(i - 1, 0)] if i else x[-1], *x[i + 1:]], "one too many": lambda x, i: [*x[:i], x[i], *x[i:]],
           "one too few": lambda x, i: x[:i] + x[i + 1:], "a half": lambda x, i: [*x[:i], x[i] - 0.5, *x[i + 1:]],
           "the last is 0": lambda x, i: [*x[:-1], 0], "the first is not T": lambda x, i: [x[0] + 1, *x[1:]],
           "NaN": lambda x, i: [*x[:i], np.nan, *x[i + 1:]], "rising": lambda x, i: x[::-1]}


@given(st.sampled_from(sorted(CHANGES)), st.sampled_from([*range(20, 31), 37, 48, 60]), st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_change_of_one_sequence_of_times_is_found(change, T, data):
    least = 2 if change in ("a time twice", "rising") else 1
    n = data.draw(st.sampled_from([least, T - 1, T]) | st.integers(least, T))
    i = data.draw(st.integers(1 if change == "a time twice" else 0, n - 1))

    def times(T_, n_):
        right = small_ddpm.times(T_, n_)
        return CHANGES[change](right, i) if (T_, n_) == (T, n) else right
    result = result_of(SimpleNamespace(times=times), "times", "times")
    assert result.verdict == "fail" and result.example == f"T = {T}, n = {n}"


@pytest.mark.parametrize(("times", "note"), [
    (lambda T, n: range(T, T - n, -1), "T = 1000, n = 50: one step goes over 951 times, where T/n is 20"),
    (lambda T, n: range(T, 0, -(T // n))[:n], "T = 1000, n = 600: one step goes over 401 times"),
    (lambda T, n: [T, *range(n - 1, 0, -1)], "T = 1000, n = 50: one step goes over 951 times"),
    (lambda T, n: [max(i, -(-T * i * i // (n * n))) for i in range(n, 0, -1)], "")])
def test_a_gap_in_the_times_is_told(times, note):
    result = result_of(SimpleNamespace(times=times), "times", "times")
    assert result.verdict == "pass" and note in result.note and ("one step" in result.note) == bool(note)


def test_times_for_some_n_alone_are_judged_on_those():
    def times(T, n):
        if n != 10:
            raise NotImplementedError
        return small_ddpm.times(T, n)
    result = result_of(SimpleNamespace(times=times), "times", "times")
    assert result.verdict == "pass" and "NotImplementedError in" in result.note


# ---- a network

@pytest.mark.parametrize(("parameters", "words"), [
    (lambda rng: np.array([1.0, np.nan]), "no finite numbers"), (lambda rng: {"W": np.ones(2), "b": np.array([np.inf])}, "no finite numbers"),
    (lambda rng: [], "no finite numbers"), (lambda rng: 1 / 0, "ZeroDivisionError")])
def test_parameters_that_cannot_be_used_fail(parameters, words):
    wrong = result_of(SimpleNamespace(parameters=parameters), "parameters", "finite")
    assert wrong.verdict == "fail" and words in wrong.got


GRADIENTS = {
    "off by 1e-5": lambda g, t: g * (1 + 1e-5), "one entry off": lambda g, t: g + 1e-4 * np.abs(g).max() * (np.arange(g.size) == g.size - 1),
    "NaN in one entry": lambda g, t: np.where(np.arange(g.size) == 0, np.nan, g), "infinite": lambda g, t: g * np.inf,
    "at t = 1 alone": lambda g, t: g * (1.01 if t.tolist() == [1] else 1), "of many rows": lambda g, t: g * (1.01 if len(t) > 100 else 1),
    "of a batch alone": lambda g, t: g * len(t), "of one row alone": lambda g, t: g * (1 + (len(t) == 1)),
    "of another shape": lambda g, t: g[:, None], "one entry too few": lambda g, t: g[:-1], "at t = 1000": lambda g, t: g * (1 + (t.max() > 100)),
    "raises": lambda g, t: 1 / 0}


@pytest.mark.parametrize("change", GRADIENTS)
def test_a_gradient_that_is_wrong_by_little_or_for_some_batches_is_found(change):
    def gradient(parameters, betas, x0, t, eps):
        return GRADIENTS[change](small_ddpm.gradient(parameters, betas, x0, t, eps), t)
    subject = SimpleNamespace(parameters=small_ddpm.parameters, loss=small_ddpm.loss, gradient=gradient)
    assert result_of(subject, "gradient", "entries").verdict == "fail"


def test_differences_tell_a_gradient_that_is_off_by_1e_5():
    class Off(Loops):
        def gradient(self, *args):
            g = super().gradient(*args)
            return {"W": g["W"] * (1 + 1e-5), "layers": g["layers"]}
    assert result_of(Off(), "gradient", "entries").verdict == "fail"


# ---- test cases of pytest

def test_a_case_of_pytest_fails_passes_or_is_skipped_as_its_check_does():
    subject = SimpleNamespace(alpha_bars=small_ddpm.alpha_bars, loss_weights=lambda betas: 2 * small_ddpm.loss_weights(betas))
    cases = {case.id: case.values for case in testing.parametrize_with_checks(subject).args[1]}
    assert len(cases) == len(testing.CHECKS)
    implementation, right = cases["alpha_bars-products"]
    assert implementation is subject and right(implementation) is None
    with pytest.raises(AssertionError, match="loss_weights.*FAIL"):
        cases["loss_weights-weights"][1](subject)
    with pytest.raises(pytest.skip.Exception, match="q_sample: not defined"):
        cases["q_sample-calls"][1](subject)


def test_differences_in_single_precision_know_what_is_rounded():
    """A small step changes nothing in such a loss, and all its differences agree that the slope is 0."""
    rng = np.random.default_rng(0)
    at, c = rng.standard_normal((2, 2000))
    c /= 1000

    def value(v):
        if np.iscomplexobj(v):
            raise TypeError
        return np.float32(1) + (np.tanh(v.astype(np.float32)) * c.astype(np.float32)).sum()
    slopes, errors, groups, weights, how = derivatives(value, at, 40, [2000], single=True)
    right = np.array([w @ (c * (1 - np.tanh(at) ** 2))[group] for group, w in zip(groups, weights)])
    assert how == "by central differences" and (np.abs(slopes - right) <= errors).all()
