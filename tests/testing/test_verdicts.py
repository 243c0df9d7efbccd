"""Verdicts: what is right passes, in any style; what is wrong fails, whatever it returns and however it behaves."""

import random
import sys
import tracemalloc
from collections import defaultdict
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import small_ddpm
import strict_cupy
from npddpm_adapter import Npddpm
from subjects import RIGHT, Loops, defined_by, failures, named, network, result_of, small_with, verdicts

from npddpm import testing
from npddpm.arrays.backend import to_host
from npddpm.testing import values
from npddpm.testing.inputs import fixed_examples

# ---- what is right

@testing.parametrize_with_checks(Npddpm())
def test_npddpm(implementation, check):
    check(implementation)


def one_in_five(function, fixed):
    return islice(fixed_examples(function, fixed), 0, None, 5)


@pytest.mark.parametrize("function", [function for function in testing.FUNCTIONS if function not in ("times", "parameters", "loss", "gradient")])
def test_npddpm_on_the_stand_in_for_cupy(function, monkeypatch):
    """But for what is no array; the loss and its gradient on a device have a test of their own."""
    monkeypatch.setattr(values, "fixed_examples", one_in_five)
    cupy = strict_cupy.module()
    cupy.__file__ = strict_cupy.__file__    # hypothesis looks at the files of all modules
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    device = Npddpm(cupy)

    def on_host(*args):
        value = getattr(device, function)(*args)
        return tuple(map(to_host, value)) if isinstance(value, tuple) else to_host(value)

    assert [str(r) for r in failures(SimpleNamespace(**{function: on_host}), function)] == []


@pytest.mark.parametrize(("style", "function"), [(style, function) for style, module in RIGHT.items()
                                                 for function in testing.FUNCTIONS if hasattr(module, function)])
def test_right_implementations_pass(style, function):
    results = verdicts(RIGHT[style], function)
    assert [str(r) for r in results if r.verdict == "fail"] == []
    assert any(r.verdict == "pass" for r in results)


def test_what_is_not_there_is_skipped():
    results = {(r.function, r.check): r for r in testing.check(SimpleNamespace(ddim_step=Loops().ddim_step))}
    assert results["ddim_step", "eta = 0"].verdict == "pass"
    half = results["ddim_step", "eta = 1/2"]
    assert half.verdict == "skipped" and half.note == "NotImplementedError"
    assert results["sample", "all"].verdict == "skipped" and results["sample", "all"].note == "not defined"


LAYERS = """
import numpy as np
TOLERANCE, F, H = 1e-4, np.float32, WIDTH
def parameters(rng):
    return [rng.standard_normal(shape).astype(F) / 2 for shape in ((3, H), (H,), (H, H), (H,), (H, 2), (2,))]
def forward(p, betas, x0, t, eps):
    abar = np.cumprod(1 - betas.astype(F))[t - 1][:, None]
    xt = np.sqrt(abar) * x0.astype(F) + np.sqrt(1 - abar) * eps.astype(F)
    a, p = [np.concatenate([xt, (t / len(betas)).astype(F)[:, None]], 1)], [q.astype(F) for q in p]
    for W, b in (p[:2], p[2:4]):
        a.append(ACT)
    return p, a, a[-1] @ p[4] + p[5] - eps.astype(F)
def loss(*args):
    return (forward(*args)[2] ** 2).mean()
def gradient(*args):
    p, a, r = forward(*args)
    d, g = 2 * r / F(r.size), []
    for i in (2, 1, 0):
        g = [a[i].T @ d, d.sum(0) * (BIAS if i == 1 else 1), *g]
        d = (d @ p[2 * i].T) * SLOPE
    return g
"""


RELU = "np.maximum(a[-1] @ W + b, 0)", "(a[i] > 0)"


@pytest.mark.parametrize(("act", "slope", "factor", "width"), [(*RELU, 1, 20), ("np.tanh(a[-1] @ W + b)", "(1 - a[i]**2)", 1, 8), (*RELU, 1.05, 8)])
def test_a_gradient_in_single_precision(act, slope, factor, width):
    """Where a step that single precision resolves crosses kinks of relu; a layer that is off by a twentieth is found all the same."""
    text = LAYERS.replace("ACT", act).replace("SLOPE", slope).replace("BIAS", f"{factor}").replace("WIDTH", f"{width}")
    result = result_of(defined_by(text), "gradient", "entries")
    assert result.verdict == ("pass" if factor == 1 else "fail")
    assert factor == 1 or result.looks_like.startswith("a wrong derivative, in groups of entries in [3]")


def test_dicts_whose_items_are_attributes_too():
    class Attributes(dict):
        def __init__(self, *args, **items):
            super().__init__(*args, **items)
            self.__dict__ = self

    own = network(lambda p, xt, abar: xt @ p.W + p.inner.b, lambda rng: Attributes(W=rng.standard_normal((2, 2)), inner=Attributes(b=np.zeros(2))),
                  lambda p, xt, abar, dr: {"W": xt.T @ dr, "inner": {"b": dr.sum(0)}})
    assert {r.verdict for r in verdicts(own, "parameters", "loss", "gradient")} == {"pass"}
    own.parameters = lambda rng: defaultdict(None, {"W": rng.standard_normal((2, 2))})
    assert result_of(own, "parameters", "finite").verdict == "pass"


def test_a_result_of_another_library_with_a_method_get():
    class Series(list):
        shape = (0,)

        def get(self, key):
            return self[key]
    assert result_of(SimpleNamespace(alpha_bars=lambda betas: Series(np.cumprod(1 - betas))), "alpha_bars", "products").verdict == "pass"


# ---- conduct

@pytest.mark.parametrize(("old", "new", "words"), [
    ("return math.sqrt(abar) * x0 +", "x0 *= math.sqrt(abar); return x0 +", "x0 is written into"),
    ("return math.sqrt(abar) * x0 +", "global H; H += 1; return H * math.sqrt(abar) * x0 +", "a second time"),
    ("return math.sqrt(abar) * x0 +", "eps = eps * (eps.itemsize / 8); return math.sqrt(abar) * x0 +", "float32"),
    ("return math.sqrt(abar) * x0 +", """out = BUFFER[:x0.size].reshape(x0.shape)
    if x0.dtype == float:
        return np.add(math.sqrt(abar) * x0, math.sqrt(1 - abar) * eps, out=out)
    return math.sqrt(abar) * x0 +""",
     "changed by the next"),
    ("abar = alpha_bars(betas)[t - 1]\n    return math", """KEPT.setdefault(id(betas), (betas, alpha_bars(betas)))
    abar = KEPT[id(betas)][1][t - 1]\n    return math""", "not noticed"),
])
def test_conduct(old, new, words):
    wrong = result_of(small_with(old, new, BUFFER=np.zeros(100), KEPT={}), "q_sample", "calls")
    assert wrong.verdict == "fail" and words in wrong.got


@pytest.mark.parametrize(("result", "words"), [
    (lambda x0: x0.ravel(), "shape (1,) where (1, 1) belongs"), (lambda x0: None, "None where an array of numbers belongs"),
    (lambda x0: 1 / 0, "ZeroDivisionError: division by zero"), (lambda x0: x0 * np.nan, "nan"), (lambda x0: sys.exit(3), "SystemExit: 3"),
    (lambda x0: pytest.skip("not now"), "Skipped: not now"), (lambda x0: 0j * x0, "complex numbers where real ones belong"),
    (lambda x0: np.ma.masked_less(x0, np.inf), "masked entries"), (lambda x0: x0.astype(str), "where an array of numbers belongs")])
def test_what_cannot_be_compared_fails_with_one_line(result, words):
    wrong = failures(SimpleNamespace(q_sample=lambda betas, x0, t, eps: result(x0)), "q_sample")
    assert words in wrong[0].got and "\n" not in wrong[0].got


# ---- memory

def test_a_large_network_is_judged_in_the_memory_of_a_few_copies_of_its_parameters():
    P = 20_000

    def gradient(p, xt, abar, dr):
        return {"a": np.full(P, (dr * xt).sum() / P), "b": np.full(2, dr.sum())}

    def big(change):
        return network(lambda p, xt, abar: xt * p["a"].mean() + p["b"].sum(), lambda rng: {"a": rng.standard_normal(P), "b": rng.standard_normal(2)},
                       lambda *args: gradient(*args) | change)
    tracemalloc.start()
    results = verdicts(big({}), "parameters", "loss", "gradient")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert {r.verdict for r in results} == {"pass"} and peak < 50 * 8 * P
    assert result_of(big({"b": np.zeros(2)}), "gradient", "entries").looks_like.endswith("b (2 of 2 entries)")


def test_a_lack_of_memory_is_no_verdict(monkeypatch):
    def lacking(*_):
        raise MemoryError("Unable to allocate")
    monkeypatch.setattr("npddpm.testing.gradients.derivatives", lacking)
    result = result_of(small_ddpm, "gradient", "entries")
    assert result.verdict == "skipped" and result.note == "not judged: MemoryError: Unable to allocate"


# ---- TOLERANCE

@pytest.mark.parametrize("tolerance", [1e-3, 0.05, 0.5, 0.999])
@pytest.mark.parametrize("wrong", [lambda x: 1 / 0, lambda x: x.astype(str), lambda x: "text", lambda x: None, lambda x: x[1:], lambda x: x * np.nan])
def test_what_is_no_array_of_numbers_is_wrong_at_any_tolerance(tolerance, wrong):
    def alpha_bars(betas):
        right = small_ddpm.alpha_bars(betas)
        return wrong(right) if len(betas) == 1000 else right
    assert result_of(SimpleNamespace(alpha_bars=alpha_bars, TOLERANCE=tolerance), "alpha_bars", "products").verdict == "fail"


def test_text_is_no_result_of_a_call():
    assert "str where" in result_of(SimpleNamespace(alpha_bars=lambda betas: "text"), "alpha_bars", "calls").got


@pytest.mark.parametrize("function", [f for f in testing.FUNCTIONS if f not in ("linear_betas", "cosine_betas", "times", "parameters")])
def test_where_a_tolerance_allows_all_nothing_is_judged(function):
    subject = SimpleNamespace(**{name: getattr(small_ddpm, name) for name in ("parameters", "loss", function)}, TOLERANCE=0.5)
    assert {r.verdict for r in verdicts(subject, function)} == {"skipped"}


def test_a_schedule_without_the_one_length_that_has_an_exact_answer_is_not_judged():
    def linear_betas(T):
        if T == 1000:
            raise NotImplementedError
        return np.linspace(0.1, 0.5, T)
    result = result_of(SimpleNamespace(linear_betas=linear_betas), "linear_betas", "betas")
    assert result.verdict == "skipped" and "not judged" in result.note and result.digits is None


def test_a_gradient_of_a_loss_that_is_noise_is_not_judged():
    rng = np.random.default_rng(0)
    noisy = SimpleNamespace(parameters=small_ddpm.parameters, gradient=lambda p, *_: np.zeros_like(p), loss=lambda *_: rng.standard_normal())
    assert result_of(noisy, "gradient", "entries").verdict == "skipped"


# ---- wrong in a corner alone

@pytest.mark.parametrize(("change", "words"), [
    (lambda g: g | {"b": g["c"], "c": g["b"]}, "entry"), (lambda g: [*g.values()], "where that of W, b, c belongs"),
    (lambda g: np.concatenate([leaf.ravel() for leaf in g.values()]), "where that of W, b, c belongs"),
    (lambda g: {"b": g["b"], "W": g["W"]}, "of W, b where that of W, b, c"), (lambda g: g | {"d": g["b"]}, "of W, b, c, d where that of W, b, c"),
    (lambda g: {}, "dict where that of W, b, c"), (lambda g: None, "NoneType where that of W, b, c")])
def test_a_gradient_is_compared_by_its_names(change, words):
    assert result_of(named(), "gradient", "entries").verdict == "pass"
    wrong = result_of(named(change), "gradient", "entries")
    assert wrong.verdict == "fail" and words in str(wrong)


@pytest.mark.parametrize(("shape", "verdict"), [((2,), "pass"), ((1, 2), "pass"), ((2, 1), "fail")])
def test_a_gradient_may_lack_the_ones_that_broadcasting_adds(shape, verdict):
    """Of a bias (1, 2), from which (2, 1) could not be taken off."""
    def with_row(f):
        return lambda p, *args: f({**p, "b": p["b"][0]}, *args)
    plain = named(lambda g: g | {"b": g["b"].reshape(shape)})
    rows = SimpleNamespace(DIM=2, parameters=lambda rng: plain.parameters(rng) | {"b": np.ones((1, 2))},
                           loss=with_row(plain.loss), gradient=with_row(plain.gradient))
    assert result_of(rows, "gradient", "entries").verdict == verdict


@pytest.mark.parametrize(("function", "where", "harm", "words"), [
    ("q_sample", "args[2] == 1", "args[1].fill(0)", "x0 is written into"), ("q_posterior", "args[3] == len(args[0])", "args[2].fill(0)", "xt is written into"),
    ("reverse_step", "args[5] == 'posterior'", "args[4].fill(0)", "z is written into"), ("sample", "len(args[0]) == 1000", "args[3].fill(0)", "noise is written into"),
    ("gradient", "len(args[3]) > 100", "args[4].fill(0)", "eps is written into"), ("alpha_bars", "len(args[0]) == 9", "args[0].fill(0.25)", "betas is written into"),
    ("predict_x0", "True", "np.random.seed(0)", "np.random"), ("loss", "True", "np.random.random()", "np.random"), ("q_sample", "True", "random.seed(0)", "or of random")])
def test_what_is_done_in_one_branch_to_inputs_or_to_the_global_generator_fails(function, where, harm, words):
    def harmful(*args):
        value = getattr(small_ddpm, function)(*args)
        if eval(where, {"args": args}):
            eval(harm, {"args": args, "np": np, "random": random})
        return value
    subject = SimpleNamespace(**{"parameters": small_ddpm.parameters, "loss": small_ddpm.loss, function: harmful})
    result = result_of(subject, function, "calls")
    assert result.verdict == "fail" and words in result.got


def test_a_function_that_depends_on_how_arrays_lie_in_memory():
    def q_sample(betas, x0, t, eps):
        out = np.empty_like(x0)
        out.reshape(-1)[:] = small_ddpm.q_sample(betas, x0, t, eps).ravel()     # of x0 in Fortran's order reshape makes a copy
        return out
    assert [r.got for r in failures(SimpleNamespace(q_sample=q_sample), "q_sample")] == ["arrays in Fortran's order give another result"]

    def flat(betas, x0, t, eps):
        x0.view().shape = (-1,)
        return small_ddpm.q_sample(betas, x0, t, eps)
    assert [r.example for r in failures(SimpleNamespace(q_sample=flat), "q_sample")] == ["arrays in Fortran's order"]

    def refusing(betas, x0, t, eps):
        if not x0.flags.c_contiguous:
            raise NotImplementedError
        return small_ddpm.q_sample(betas, x0, t, eps)
    assert not failures(SimpleNamespace(q_sample=refusing), "q_sample")


def test_a_gradient_may_be_an_array_where_the_parameters_are_lists():
    start = {"W": [np.eye(2), np.ones((2, 2))], "b": [0.5, 1.0]}
    own = network(lambda p, xt, abar: xt @ p["W"][0] @ p["W"][1] + np.array(p["b"]), lambda rng: start,
                  lambda p, xt, abar, dr: {"W": np.stack([xt.T @ dr @ p["W"][1].T, (xt @ p["W"][0]).T @ dr]), "b": dr.sum(0)})
    assert result_of(own, "gradient", "entries").verdict == "pass"


def test_a_gradient_of_nested_lists_is_right():
    """Where the parameters are arrays."""
    def dicts(vector):
        return dict(zip("abcd", small_ddpm.unpack(vector)))

    def joined(p):
        return np.concatenate([np.ravel(p[name]) for name in "abcd"])
    own = SimpleNamespace(parameters=lambda rng: dicts(small_ddpm.parameters(rng)), loss=lambda p, *args: small_ddpm.loss(joined(p), *args),
                          gradient=lambda p, *args: {name: a.tolist() for name, a in dicts(small_ddpm.gradient(joined(p), *args)).items()})
    assert result_of(own, "gradient", "entries").verdict == "pass"
    flat = SimpleNamespace(parameters=small_ddpm.parameters, loss=small_ddpm.loss, gradient=lambda *args: [*dicts(small_ddpm.gradient(*args)).values()])
    assert result_of(flat, "gradient", "entries").verdict == "pass"
    assert result_of(SimpleNamespace(**{**vars(own), "gradient": lambda *args: {**own.gradient(*args), "a": [[1.0], [2.0, 3.0]]}}), "gradient", "entries").verdict == "fail"


@pytest.mark.parametrize(("variance", "verdict"), [
    ("rho", "pass"), ("[rho]", "pass"), ("np.full(B, rho)", "pass"), ("np.full((B, 1), rho)", "pass"), ("np.full((B, d), rho)", "pass"),
    ("np.full(7, rho)", "fail"), ("np.full((B, d, 1), rho)", "fail"), ("np.full((0,), rho)", "fail")])
def test_a_variance_is_one_number_or_has_one_for_each_row_or_entry(variance, verdict):
    def q_posterior(betas, x0, xt, t):
        mean, rho = small_ddpm.q_posterior(betas, x0, xt, t)
        return mean, eval(variance, {"np": np, "rho": rho, "B": len(xt), "d": xt.shape[1]})
    assert result_of(SimpleNamespace(q_posterior=q_posterior), "q_posterior", "variance").verdict == verdict


@pytest.mark.parametrize(("betas", "verdict"), [
    (lambda T: np.linspace(0.1, 19, T) / T, "pass"), (lambda T: np.linspace(1e-4, 0.02, T) * 1000 / T, "fail"),     # beta = 1 for T = 20,
    (lambda T: np.minimum(np.linspace(1e-4, 0.02, T) * 1000 / T, 0.999), "pass"), (lambda T: np.full(T, 0.5) + np.arange(T) % 2 / 9, "fail"),
    (lambda T: np.linspace(1e-2, 0.141, T)**2, "fail"), (lambda T: np.linspace(0.02, 1e-4, T), "fail")])
def test_a_linear_schedule_of_any_length_rises_on_a_line(betas, verdict):
    def linear_betas(T):
        return small_ddpm.linear_betas(T) if T == 1000 else betas(T)
    assert result_of(SimpleNamespace(linear_betas=linear_betas), "linear_betas", "betas").verdict == verdict


def test_what_is_strange_and_not_wrong_is_said():
    strange = SimpleNamespace(times=lambda T, n: np.array(small_ddpm.times(T, n), dtype=float))
    assert "floats, which cannot index an array" in result_of(strange, "times", "times").note
    assert "floats" not in result_of(small_ddpm, "times", "times").note


@pytest.mark.parametrize(("function", "old", "new"), [
    ("reverse_step", "mean = reverse_mean(betas, xt, t, denoiser(xt, t))", "mean = reverse_mean(betas, xt, t, denoiser(xt.T, t).T)"),
    ("ddim_step", "np.sqrt(abars[t])\n    sigma", "np.sqrt(abars[t])\n    x0 = np.clip(x0, -9, 9)\n    sigma"),
    ("predict_x0", "return (xt - math.sqrt(1 - abar) * eps) / math.sqrt(abar)", "return np.clip((xt - math.sqrt(1 - abar) * eps) / math.sqrt(abar), -9, 9)")])
def test_a_clip_that_is_rarely_reached_and_a_denoiser_given_columns_for_rows_fail(function, old, new):
    assert failures(small_with(old, new), function)


def test_a_result_is_the_callers_own():
    kept = {}

    def linear_betas(T):
        return kept.setdefault(T, small_ddpm.linear_betas(T))
    assert "written into a result" in result_of(SimpleNamespace(linear_betas=linear_betas), "linear_betas", "calls").got


@pytest.mark.parametrize("wrong", ["np.squeeze(bound)", "bound + (len(bound) == 1)"])
def test_the_bound_of_a_row_alone_is_an_array_of_one_and_as_among_others(wrong):
    def variational_bound(*args):
        return eval(wrong, {"np": np, "bound": small_ddpm.variational_bound(*args)})
    assert "a row alone" in result_of(SimpleNamespace(variational_bound=variational_bound), "variational_bound", "calls").got


def test_what_is_refused_is_left_out_and_the_rest_is_judged():
    def limited(f, factor=1):
        def g(p, betas, x0, t, eps):
            if len(betas) > 100:
                raise NotImplementedError
            return factor * f(p, betas, x0, t, eps)
        return g
    right = SimpleNamespace(parameters=small_ddpm.parameters, loss=limited(small_ddpm.loss), gradient=limited(small_ddpm.gradient))
    assert {r.verdict for r in verdicts(right, "loss", "gradient")} == {"pass"}
    assert "left out" in result_of(right, "gradient", "entries").note
    right.gradient = limited(small_ddpm.gradient, -1)
    assert "a sign" in result_of(right, "gradient", "entries").looks_like


def test_names_of_libraries_and_what_is_no_function_are_not_defined():
    scope = {}
    exec("from numpy import *\nfrom random import sample\ntimes = arange(9)\nimport numpy as np\ndef alpha_bars(betas): return np.cumprod(1 - betas)", scope)  # noqa: S102
    found = testing.check(SimpleNamespace(**{name: value for name, value in scope.items() if not name.startswith("_")}))
    assert {r.function for r in found if r.verdict != "skipped"} == {"alpha_bars"} and not [r for r in found if r.verdict == "fail"]


class Attributes(dict):
    def __getattr__(self, name):
        if name not in self:
            raise AttributeError(name)
        return self[name]


def test_parameters_keep_their_class_and_may_hold_none():
    own = named(wrap=Attributes, none=None)
    loss = own.loss

    def of_attributes(p, *args):
        assert p.none is None and p.W is p["W"]
        return loss(p, *args)
    own.loss = of_attributes
    assert {r.verdict for r in verdicts(own, "parameters", "loss", "gradient")} == {"pass"}


def test_a_gradient_that_is_wrong_in_one_array_names_that_array_and_why():
    own = network(lambda p, xt, abar: xt @ p["W"] + p["b"] + p["d"].sum(),
                  lambda rng: {"W": rng.standard_normal((2, 2)), "b": rng.standard_normal(2), "d": rng.standard_normal(500)},
                  lambda p, xt, abar, dr: {"W": xt.T @ dr, "b": np.zeros(2), "d": np.full(500, dr.sum())})
    assert result_of(own, "gradient", "entries").looks_like == "left out (zero), in groups of entries in b (2 of 2 entries)"


@pytest.mark.parametrize(("old", "new", "words"), [
    ("(xt - beta / math.sqrt(1 - abar) * eps)", "(xt - beta / (math.sqrt(1 - abar) + 1e-8) * eps)", "1e-8 added to sqrt(1 - abar_t)"),
    ("mean = math.sqrt(before) * beta / (1 - abar) * x0", "mean = math.sqrt(before) * beta / (1 - abar + 1e-6) * x0", "1e-6 added to 1 - abar_t")])
def test_a_small_number_in_a_denominator_is_named(old, new, words):
    function = "q_posterior" if "before" in old else "reverse_mean"
    assert words in failures(small_with(old, new), function)[0].looks_like


def test_a_clamp_that_larger_T_reach_is_not_called_single_precision():
    """Which is wrong in few places, where rounding is everywhere."""
    wrong = small_with("return math.sqrt(abar) * x0 + math.sqrt(1 - abar) * eps", "return math.sqrt(abar) * x0 + math.sqrt(max(1 - abar, 4e-5)) * eps")
    found, = failures(wrong, "q_sample")
    assert "single" not in str(found)


def test_what_is_raised_is_told_in_one_line():
    error = ValueError("first\n  second")
    error.add_note("a hint")
    wrong = failures(SimpleNamespace(alpha_bars=lambda betas: (_ for _ in ()).throw(error)), "alpha_bars")[0]
    assert wrong.got == "ValueError: first second"


def test_a_loss_that_refuses_some_sizes_is_judged_on_the_others():
    def loss(p, betas, x0, t, eps):
        if len(t) > 100:
            raise NotImplementedError
        return small_ddpm.loss(p, betas, x0, t, eps) / len(t)
    subject = SimpleNamespace(parameters=small_ddpm.parameters, loss=loss)
    assert result_of(subject, "loss", "rows").verdict == "fail" and result_of(subject, "loss", "x_t and weights").verdict == "pass"


def test_a_library_that_is_blocked_is_no_fault(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert result_of(small_ddpm, "alpha_bars", "products").verdict == "pass"


def test_a_linear_schedule_that_is_rounded_is_on_its_line():
    rounded = SimpleNamespace(linear_betas=lambda T: np.round(np.linspace(1e-4, 0.02, T), 12))
    assert result_of(rounded, "linear_betas", "betas").verdict == "pass"


def test_times_without_end_are_too_many():
    def times(T, n):
        while True:
            yield T
    wrong = result_of(SimpleNamespace(times=times), "times", "times")
    assert wrong.verdict == "fail" and "2 times where 1 belong" in wrong.got


def test_the_global_generator_is_as_before():
    np.random.seed(3)
    before = np.random.get_state()[1].tolist()
    testing.check(SimpleNamespace(alpha_bars=small_ddpm.alpha_bars, linear_betas=lambda T: 1 / 0))
    assert np.random.get_state()[1].tolist() == before
