"""The checks are right: about npddpm, about right implementations of other styles, and about each known slip."""

import json
import math
import re
import subprocess
import sys
from decimal import localcontext
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import small_ddpm
import strict_cupy
from npddpm_adapter import Npddpm

from npddpm import testing
from npddpm.arrays.backend import to_host
from npddpm.cli.main import main
from npddpm.testing import exact as reference
from npddpm.testing import inputs as examples
from npddpm.testing import slips

ROOT = Path(__file__).parents[1]
SMALL = Path(small_ddpm.__file__).read_text(encoding="utf-8")


def verdicts(implementation, *functions):
    """The results of these functions alone."""
    subject = testing.Implementation(implementation)
    return [c.run(subject) for c in testing.CHECKS if c.function in functions]


def failures(implementation, *functions):
    return [r for r in verdicts(implementation, *functions) if r.verdict == "fail"]


# ---- npddpm

@testing.parametrize_with_checks(Npddpm())
def test_npddpm(implementation, check):
    check(implementation)


@pytest.mark.parametrize("function", testing.FUNCTIONS)
def test_npddpm_on_the_stand_in_for_cupy(function, monkeypatch):
    cupy = strict_cupy.module()
    cupy.__file__ = strict_cupy.__file__    # hypothesis looks at the files of all modules
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    device = Npddpm(cupy)

    def on_host(*args):
        value = getattr(device, function)(*args)
        return tuple(map(to_host, value)) if isinstance(value, tuple) else to_host(value)

    needed = {name: getattr(device, name) for name in ("parameters", "loss") if function in ("loss", "gradient")}
    if "loss" in needed:
        needed["loss"] = lambda *args: to_host(device.loss(*args))
    assert [str(r) for r in failures(SimpleNamespace(**needed | {function: on_host}), function)] == []


# ---- the exact answers, by other routes

ALPHAS = [Fraction(1, 4), Fraction(9, 16), Fraction(16, 25), Fraction(4, 9)]      # squares, so that all is rational


def test_the_reference_agrees_with_bayes_in_rationals():
    roots = [Fraction(1, 2), Fraction(3, 4), Fraction(7, 8)]
    betas = np.array([float(1 - r * r) for r in roots])
    x0, xt = np.array([[0.75, -2.0]]), np.array([[1.5, 0.25]])
    for t in (2, 3):
        before, root = math.prod(roots[:t - 1]), roots[t - 1]
        precision = root**2 / (1 - root**2) + 1 / (1 - before**2)
        mean = [(root / (1 - root**2) * Fraction(b) + before / (1 - before**2) * Fraction(a)) / precision
                for a, b in zip(x0[0], xt[0])]
        with localcontext(reference.CONTEXT):
            found, variance = reference.q_posterior(betas, reference.exact(x0), reference.exact(xt), t)
        assert abs(Fraction(variance) - 1 / precision) < Fraction(1, 10**50)
        assert all(abs(Fraction(a) - b) < Fraction(1, 10**50) for a, b in zip(found[0], mean))


def test_the_reference_bound_lies_below_the_log_density_in_the_mean():
    """Data N(0, v), with its own best denoiser; the mean over x_0 and noise by nodes is exact."""
    d, v = 2, 0.5
    x = math.sqrt(v) * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1.0]])
    log_p = -d / 2 * math.log(2 * math.pi * v) - d / 2
    gaps = []
    for T in (20, 100, 400):
        betas = np.linspace(1e-4, 0.02, T) * 1000 / T * 0.9
        x0, noise = np.repeat(x, 4, axis=0), np.tile(np.tile(np.sign(x), (4, 1)), (T + 1, 1, 1))
        with localcontext(reference.CONTEXT):
            denoiser = examples.GaussianDenoiser(betas, 0.0, v)
            bound = reference.variational_bound(betas, denoiser, reference.exact(x0), reference.exact(noise))
        gaps.append(log_p - float(bound.mean()))
    assert gaps[0] > gaps[1] > gaps[2] > 0 and gaps[2] < 0.05


def test_other_ways_to_write_a_formula_agree():
    betas, rng = np.array([0.5, 0.25, 0.2, 0.4]), np.random.default_rng(0)
    for function, old, new in slips.FORMS:
        assert slips.text_of(function).count(old) == 1
        form = slips.made(**{function: slips.text_of(function).replace(old, new)})
        for t, s in ((4, 2), (1, 0)):
            fixed = {"t": t, "s": s, "eta": 0.5, "denoiser": examples.GaussianDenoiser(betas, 1.0, 0.5), "betas": betas}
            fixed["noise"] = rng.standard_normal((5, 2, 2))
            args = [reference.exact(fixed.get(name, rng.standard_normal((2, 2)))) if name != "betas" else betas
                    for name in examples.signature(function)]
            with localcontext(reference.CONTEXT):
                right, other = (getattr(module, function)(*args) for module in (reference, form))
            assert np.all(np.abs(other - right) < 1e-50), (function, new)


CALLERS = {"_tables": "alpha_bars", "posterior_variance": "q_posterior", "loss_weight": "loss_weights"}


@pytest.mark.parametrize("slip", slips.SLIPS, ids=[f"{s[0]}-{s[3]}" for s in slips.SLIPS])
def test_each_slip_in_the_table_is_made_caught_and_named(slip):
    """Each is made in the text, in doubles, and the check of the function says its words."""
    function, old, new, words = slip
    text = slips.text_of(function)
    assert old in text
    module, of = slips.made(**{function: text.replace(old, new)}), CALLERS.get(function, function)

    def wrong(*args):
        args = [a if name == "betas" else reference.exact(a) for name, a in zip(examples.signature(of), args)]
        with localcontext(reference.CONTEXT):
            value = getattr(module, of)(*args)
        return tuple(np.array(v, dtype=float) for v in value) if of == "q_posterior" else np.array(value, dtype=float)

    subject, named = testing.Implementation(SimpleNamespace(**{of: wrong})), []
    schedules = [np.array([0.5, 0.25, 0.2, 0.4]), np.full(3, 0.5), np.array([0.1, 0.3])]
    for check in testing.CHECKS:
        if check.function != of or check.body is not testing.check_values:
            continue
        given = [{"T": 20}, {"T": 1000}] if of.endswith("_betas") else [
            examples.assemble(of, check.fixed, betas, t, s, examples.normal(t), 2, 2, 1.0, 0.5)
            for betas in schedules for t in range(1, len(betas) + 1) for s in {0, t // 2, t - 1}]
        found = [testing.judge(check, subject, args) for args in given]
        failures = [x for x in found if x.wrong]
        if failures:
            named.append(testing.name_of_slip(check, subject, failures, found))
    assert words in named


# ---- right implementations of other styles

def in_single_precision(module):
    """The same functions, all of whose arrays are float32."""
    def cast(a):
        return a.astype(np.float32) if isinstance(a, np.ndarray) and a.dtype == float else a

    def single(f):
        return lambda *args: f(*map(cast, args))
    functions = {name: single(getattr(module, name)) for name in testing.FUNCTIONS}
    return SimpleNamespace(**functions, TOLERANCE=1e-4)


class Loops:
    """Numbers and lists alone, one case of DDIM alone, times one by one."""

    def q_sample(self, betas, x0, t, eps):
        abar = math.prod(1 - float(b) for b in betas[:t])
        return [[abar**0.5 * x + (1 - abar) ** 0.5 * e for x, e in zip(*rows)] for rows in zip(x0, eps)]

    def q_posterior(self, betas, x0, xt, t):
        beta, before = float(betas[t - 1]), math.prod(1 - float(b) for b in betas[:t - 1])
        if t == 1:
            return x0, 0
        precision = (1 - beta) / beta + 1 / (1 - before)
        mean = [[((1 - beta) ** 0.5 / beta * b + before**0.5 / (1 - before) * a) / precision for a, b in zip(*rows)]
                for rows in zip(x0, xt)]
        return mean, 1 / precision

    def ddim_step(self, betas, denoiser, xt, t, s, eta, z):
        if eta != 0:
            raise NotImplementedError
        at, a_s = (math.prod(1 - float(b) for b in betas[:r]) for r in (t, s))
        eps = denoiser(xt, np.full((len(xt), 1), t))
        return a_s**0.5 * (xt - (1 - at) ** 0.5 * eps) / at**0.5 + (1 - a_s) ** 0.5 * eps

    def times(self, T, n):
        return (T - T * i // n for i in range(n))

    def parameters(self, rng):
        return {"W": rng.standard_normal((2, 2)), "layers": [np.zeros(2), rng.standard_normal((3, 2))]}

    def loss(self, parameters, betas, x0, t, eps):
        """The mean of |r|, of a network with relu: differences alone can tell its derivatives."""
        h = self.hidden(parameters, betas, x0, t, eps)[1]
        return float(sum(abs(h @ parameters["layers"][1] - eps).ravel())) / len(t)

    def hidden(self, parameters, betas, x0, t, eps):
        abar = np.array([math.prod(1 - betas[:i]) for i in t])[:, None]
        z = (np.sqrt(abar) * x0 + np.sqrt(1 - abar) * eps) @ parameters["W"] + parameters["layers"][0]
        return z, np.concatenate([np.maximum(z, 0), t[:, None] / 10], axis=1)

    def gradient(self, parameters, betas, x0, t, eps):
        z, h = self.hidden(parameters, betas, x0, t, eps)
        abar = np.array([math.prod(1 - betas[:i]) for i in t])[:, None]
        dr = np.sign(h @ parameters["layers"][1] - eps) / len(t)
        dz = (dr @ parameters["layers"][1].T)[:, :2] * (z > 0)
        return {"W": (np.sqrt(abar) * x0 + np.sqrt(1 - abar) * eps).T @ dz, "layers": [dz.sum(0), h.T @ dr]}


RIGHT = {"counted from 0": small_ddpm, "float32": in_single_precision(small_ddpm), "loops": Loops()}


@pytest.mark.parametrize(("style", "function"), [(style, function) for style, module in RIGHT.items()
                                                 for function in testing.FUNCTIONS if hasattr(module, function)])
def test_right_implementations_pass(style, function):
    results = verdicts(RIGHT[style], function)
    assert [str(r) for r in results if r.verdict == "fail"] == []
    assert any(r.verdict == "pass" for r in results)


def test_single_precision_is_named_where_the_file_does_not_say_so():
    single = in_single_precision(small_ddpm)
    del single.TOLERANCE
    wrong, = failures(single, "q_sample")
    assert wrong.looks_like.startswith("single precision") and 5 < wrong.digits < 8


def test_what_is_not_there_is_skipped():
    results = {(r.function, r.check): r for r in testing.check(SimpleNamespace(ddim_step=Loops().ddim_step))}
    assert results["ddim_step", "eta = 0"].verdict == "pass"
    half = results["ddim_step", "eta = 1/2"]
    assert half.verdict == "skipped" and half.note == "NotImplementedError"
    assert results["sample", "all"].verdict == "skipped" and results["sample", "all"].note == "not defined"


# ---- slips, made in tests/small_ddpm.py: function | what | mistaken for | words of the diagnosis

MADE = [tuple(line.split(" | ")) for line in r"""
linear_betas | np.linspace(1e-4, 0.02, T) | np.linspace(1e-4, 0.02, T + 1)[:-1] | the last beta is missed
cosine_betas | ((t + 0.008) / 1.008 * | (t * | the offset 0.008
cosine_betas | np.clip(1 - f[1:] / f[:-1], 0, 0.999) | 1 - f[1:] / f[:-1] | not cut at 0.999
alpha_bars | np.cumprod(1 - betas) | np.append(1, np.cumprod(1 - betas))[:-1] | t-1 where t belongs
alpha_bars | np.cumprod(1 - betas) | np.append(1, np.cumprod(1 - betas)) | abar_0 = 1 in front
q_sample | math.sqrt(abar) * x0 | abar * x0 | abar_t where sqrt(abar_t)
q_sample | math.sqrt(1 - abar) * eps\n\n\ndef post | (1 - abar) * eps\n\n\ndef post | 1 - abar_t where sqrt(1 - abar_t)
q_sample | alpha_bars(betas)[t - 1]\n    return math | alpha_bars(betas)[t - 2]\n    return math | t-1 where t belongs, in abar_t
q_posterior | return betas[t - 1] * (1 - previous(betas, t)) | return betas[t - 1] * (1 - alpha_bars(betas)[t - 1]) | t where t-1 belongs, in 1 - abar_{t-1}
q_posterior | math.sqrt(before) * beta | math.sqrt(abar) * beta | t where t-1 belongs, in sqrt(abar_{t-1})
q_posterior | math.sqrt(1 - beta) * (1 - before) | (1 - beta) * (1 - before) | alpha_t where sqrt(alpha_t)
q_posterior | if t > 1 else 1.0 | if t > 0 else 1.0 | the last entry where abar_0 = 1
q_posterior | if t > 1 else 1.0 | if t > 1 else 0.0 | 0 where abar_0 = 1 belongs
q_posterior | mean, posterior_variance(betas, t) | mean, math.sqrt(posterior_variance(betas, t)) | a deviation where the variance
predict_x0 | eps) / math.sqrt(abar) | eps) / math.sqrt(1 - betas[t - 1]) | alpha_t where abar_t
predict_x0 | (xt - math.sqrt(1 - abar) | (xt + math.sqrt(1 - abar) | a sign
predict_x0 | (xt - math.sqrt(1 - abar) * eps) / math.sqrt(abar) | xt / math.sqrt(abar) - (1 / abar - 1) * eps | 1 / abar_t - 1 where sqrt(1 / abar_t - 1)
reverse_mean | / math.sqrt(1 - beta)\n | / math.sqrt(abar)\n | 1/sqrt(abar_t) where 1/sqrt(alpha_t)
reverse_mean | beta / math.sqrt(1 - abar) * eps | beta / (1 - abar) * eps | 1 - abar_t where sqrt(1 - abar_t)
reverse_mean | beta / math.sqrt(1 - abar) * eps | math.sqrt(beta) * eps | alpha_t where the product abar_t
reverse_step | z if t > 1 else mean | z | noise added in the last step
reverse_step | z if t > 1 else mean | z * (1 if t > 1 else 0.5) | the weight of z alone is wrong, at t = 1 alone
reverse_step | math.sqrt(sigma2) * z | sigma2 * z | sigma^2 where sqrt(sigma^2)
reverse_step | denoiser(xt, t))\n    sigma2 | denoiser(xt, t - 1))\n    sigma2 | the denoiser asked at t-1
reverse_step | else posterior_variance(betas, t)\n | else betas[t - 1]\n | beta_t where rho_t
ddim_step | sigma = eta * | sigma = np.sqrt(eta) * | eta where eta^2
ddim_step | abars[s] - sigma**2 | abars[s] | sigma^2 not taken off
ddim_step | abars[s] - sigma**2 | abars[t] - sigma**2 | t where s belongs, in 1 - abar_s
ddim_step | (1 - abars[t] / abars[s])) | betas[t - 1]) | right for s = t-1 alone
times | T - i * T // n | T - 1 - i * T // n | counted from 0
sample | noise[t], variance) | noise[t - 1], variance) | row t-1 of noise
sample | reversed(range(1, | reversed(range(2, | the last step
loss_weights | (2 * (1 - betas) | ((1 - betas) | 2 left out
loss_weights | (1 - alpha_bars(betas))) | (1 - alpha_bars(betas)) ** 2) | (1 - abar_t)^2 where 1 - abar_t
loss_weights | (2 * (1 - betas) * (1 | (2 * alpha_bars(betas) * (1 | abar_t where alpha_t
variational_bound | return -total | return total | an upper bound
variational_bound | + d / 2 * math.log(2 * math.pi | + 1 / 2 * math.log(2 * math.pi | the slip of step 6
variational_bound | - d * abar_T - d * math | - abar_T - math | d forgotten in the term of p(x_T)
variational_bound | return -total | return -total / math.log(2) | bits where nats
loss | alpha_bars(betas)[t - 1][:, None] | alpha_bars(betas)[t - 1] | abar_t of shape (B,) where (B, 1)
loss | np.sqrt(abar) * x0 + np.sqrt(1 | abar * x0 + np.sqrt(1 | abar_t where sqrt(abar_t)
loss | W2 + b2 - eps | W2 + b2 - x0 | the residual is that of x_0
loss | return (forward( | w = betas / (2 * alpha_bars(betas) * (1 - alpha_bars(betas)))\n    return (w[t - 1][:, None] * forward( | abar_t where alpha_t
gradient | dr = 2 * r | dr = r | the 2 of the derivative of a square left out or divided by d once too often, in entries 0 to 31
gradient | dz.sum(axis=0) | dz.mean(axis=0) | divided by B once too often, in entries 15 to 19
gradient | (1 - hidden**2) | (1 + hidden**2) | a wrong derivative, in entries 0 to 19
gradient | dr.sum(axis=0)] | 0 * dr.sum(axis=0)] | left out (zero), in entries 30 to 31
""".strip().splitlines()]


def small_with(old, new):
    old, new = (text.replace(r"\n", "\n") for text in (old, new))
    assert SMALL.count(old) == 1, old
    scope = {}
    exec(SMALL.replace(old, new), scope)  # noqa: S102
    return SimpleNamespace(**{name: scope[name] for name in testing.FUNCTIONS})


@pytest.mark.parametrize(("function", "old", "new", "words"), MADE, ids=[f"{s[0]}-{s[3]}" for s in MADE])
def test_a_slip_is_caught_and_named(function, old, new, words):
    wrong = failures(small_with(old, new), function)
    assert wrong, "not caught"
    assert any(words in (r.looks_like or "") for r in wrong), [str(r) for r in wrong]


def test_a_loss_with_weights_of_its_own_is_not_judged():
    own = small_with("return (forward(", r"w = 1 / betas\n    return (w[t - 1][:, None] * forward(")
    result, = (r for r in verdicts(own, "loss") if r.check == "x_t and weights")
    assert result.verdict == "pass" and "not judged" in result.note


def test_what_calls_a_wrong_function_is_said_to_share_its_slip():
    """Where 1/abar_t - 1 lacks its root, the step to x_{t-1} could as well have abar_t for 1 - abar_t in its mean."""
    slip = next(s for s in MADE if s[3].startswith("1 / abar_t - 1 where"))
    wrong = small_with(*slip[1:3])

    def reverse_step(betas, denoiser, xt, t, z, variance):
        return small_ddpm.q_posterior(betas, wrong.predict_x0(betas, xt, t, denoiser(xt, t)), xt, t)[0] + (
            (t > 1) * math.sqrt(betas[t - 1]) * z)
    found = failures(SimpleNamespace(predict_x0=wrong.predict_x0, reverse_step=reverse_step), "predict_x0", "reverse_step")
    assert found[1].looks_like == found[0].looks_like + ", in predict_x0"


def test_the_smallest_example_has_round_numbers():
    slip = next(s for s in MADE if s[0] == "q_posterior")
    wrong, = failures(small_with(*slip[1:3]), "q_posterior")
    assert (wrong.check, wrong.example, wrong.got, wrong.exact) == ("variance", "betas = [1/2, 1/2], t = 2", "1/2", "1/3")


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
    assert SMALL.count(old) == 1
    scope = {"BUFFER": np.zeros(100), "KEPT": {}}
    exec(SMALL.replace(old, new), scope)  # noqa: S102
    wrong = [r for r in failures(SimpleNamespace(q_sample=scope["q_sample"]), "q_sample") if r.check == "calls"]
    assert len(wrong) == 1 and words in wrong[0].got


@pytest.mark.parametrize(("result", "words"), [
    (lambda x0: x0.ravel(), "shape (1,) where (1, 1) belongs"), (lambda x0: None, "None where an array of numbers belongs"),
    (lambda x0: 1 / 0, "ZeroDivisionError: division by zero"), (lambda x0: x0 * np.nan, "nan"), (lambda x0: sys.exit(3), "SystemExit: 3"),
    (lambda x0: pytest.skip("not now"), "Skipped: not now"), (lambda x0: 0j * x0, "complex numbers where real ones belong"),
    (lambda x0: np.ma.masked_less(x0, np.inf), "masked entries"), (lambda x0: x0.astype(str), "where an array of numbers belongs")])
def test_what_cannot_be_compared_fails_with_one_line(result, words):
    wrong = failures(SimpleNamespace(q_sample=lambda betas, x0, t, eps: result(x0)), "q_sample")
    assert words in wrong[0].got and "\n" not in wrong[0].got


# ---- the command

def run(tmp_path, capsys, text, *options):
    file = tmp_path / "mine.py"
    file.write_text(text, encoding="utf-8")
    code = main(["check", str(file), *options])
    return code, *capsys.readouterr()


RIGHT_FILE = "import numpy as np\nprint('hello')\ndef alpha_bars(betas):\n    return np.cumprod(1 - betas)\n"


def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(tmp_path, capsys, RIGHT_FILE)
    assert code == 0 and "hello" in err and "hello" not in out
    assert re.search(r"^step 1 +alpha_bars +pass +products: 1[56] digits", out, re.MULTILINE)
    assert re.search(r"^step 5 +q_posterior +skipped +all \(not defined\)", out, re.MULTILINE)
    code, out, _ = run(tmp_path, capsys, RIGHT_FILE.replace("1 - betas", "betas"), "--json")
    found = {r["check"]: r for r in json.loads(out) if r["function"] == "alpha_bars"}
    assert code == 1 and found["products"]["verdict"] == "fail" and found["calls"]["verdict"] == "pass"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"], "nothing else is left behind"
    assert set(found["products"]) >= {"function", "check", "verdict", "digits", "example", "got", "exact", "looks_like"}


@pytest.mark.parametrize(("text", "words"), [
    ("def broken(:", "SyntaxError"), ("1 / 0", "ZeroDivisionError"), ("raise SystemExit", "SystemExit"),
    ("x = 1", "nothing to check"), ("q_sample = 1\n", "must be a function"),
    ("TOLERANCE = 'small'\n" + RIGHT_FILE, "TOLERANCE must lie strictly between 0 and 1"), ("DIM = 0\n" + RIGHT_FILE, "DIM must be")])
def test_a_file_that_cannot_be_used(tmp_path, capsys, text, words):
    code, out, err = run(tmp_path, capsys, text)
    assert code == 2 and out == "" and words in err and err.splitlines()[-1].startswith("npddpm: ")


@pytest.mark.parametrize("fault", ["pytest.skip('later')", "raise asyncio.CancelledError", "raise BaseException('no')"])
def test_no_traceback_of_what_is_no_exception(tmp_path, capsys, fault):
    """While the file is run, in a function, and in a generator that a function returns."""
    header = f"import asyncio\nimport pytest\ndef fail(): {fault}\n"
    code, out, err = run(tmp_path, capsys, header + "fail()")
    assert code == 2 and out == "" and err.startswith("npddpm: cannot check") and "Traceback" not in err
    code, out, err = run(tmp_path, capsys, header + "def alpha_bars(betas): fail()\ndef sample(*args):\n    yield fail()")
    assert code == 1 and err == "" and len(re.findall("^.* FAIL .*", out, re.MULTILINE)) == 6


@pytest.mark.parametrize("settings", ["TOLERANCE = np.float32(1e-4)", "DIM = np.int64(3)"])
def test_settings_of_numpy(tmp_path, capsys, settings):
    assert run(tmp_path, capsys, "import numpy as np\n" + settings + "\n" + RIGHT_FILE)[0] == 0


@pytest.mark.parametrize(("old", "new"), [("0.999", "0.99"), ("math.pi / 2", "math.pi"), ("0.008", "0.08")])
def test_a_wrong_cosine_schedule_is_told_in_seconds(old, new):
    """A slip that divides by t = 0 has no cosine, and its series no end."""
    text = "import math\nimport numpy as np\ndef cosine_betas(T):\n    f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * math.pi / 2)**2\n" \
           "    return np.minimum(1 - f[1:] / f[:-1], 0.999)\n"
    assert text.count(old) == 1
    scope = {}
    exec(text.replace(old, new), scope)  # noqa: S102
    assert failures(SimpleNamespace(cosine_betas=scope["cosine_betas"]), "cosine_betas")


def test_a_file_that_is_not_there(tmp_path, capsys):
    assert main(["check", "no/such.py"]) == 2 and "no such file" in capsys.readouterr().err
    assert main(["check", str(tmp_path)]) == 2 and "it is no file" in capsys.readouterr().err


def test_hypothesis_is_needed_for_the_checks_alone():
    code = ("import sys; sys.modules['hypothesis'] = None; import npddpm\n"
            "try: npddpm.testing\nexcept ImportError as e: print(e)")
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert ran.stdout == "npddpm.testing needs hypothesis: pip install 'npddpm[test]'\n"


LINEAR = """
import numpy as np
def parameters(rng):
    return {"W": rng.standard_normal((2, 2)), "b": rng.standard_normal(2)}
def loss(p, betas, x0, t, eps):
    abar = np.cumprod(1 - betas)[t - 1][:, None]
    xt = np.sqrt(abar) * x0 + np.sqrt(1 - abar) * eps
    return ((NET - eps) ** 2).mean()
"""
NETS = {"linear": "xt @ p['W'] + p['b']", "tanh": "np.tanh(xt @ p['W']) @ p['W'] + p['b']"}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(("old", "new", "words"), [
    ("", "", None), (".mean()", ".mean() * 3", None), ("np.sqrt(1 - abar) * eps", "(1 - abar) * eps", "1 - abar_t where sqrt(1 - abar_t) belongs"),
    ("np.sqrt(abar) * x0", "abar * x0", "abar_t where sqrt(abar_t) belongs"), ("+ np.sqrt", "- np.sqrt", "a sign, in front of"),
    ("np.sqrt(abar) * x0 + np.sqrt(1 - abar) * eps", "abar * x0 + (1 - abar) * eps", "where their roots belong"),
    ("np.sqrt(abar) * x0 + np.sqrt(1 - abar) * eps", "np.sqrt(1 - abar) * x0 + np.sqrt(abar) * eps", "exchanged"),
    ("[t - 1]", "[t - 2]", "t-1 where t belongs"), ("np.cumprod(1 - betas)", "(1 - betas)", "alpha_t where the product"),
    ("np.cumprod(1 - betas)", "np.exp(-np.cumsum(betas))", "exp(-beta_t) where alpha_t"), ("    return ((", "    xt = x0\n    return ((", "no noise added")])
def test_x_t_within_the_loss(net, old, new, words):
    """Of a linear network too, for which the loss is quadratic for any x_t."""
    scope = {}
    exec(LINEAR.replace("NET", NETS[net]).replace(old, new, 1), scope)  # noqa: S102
    result = next(r for r in testing.check(SimpleNamespace(**scope)) if r.check == "x_t and weights")
    assert result.verdict == ("fail" if words else "pass") and (words or "") in (result.looks_like or "") and not result.note


@pytest.mark.parametrize(("loss", "hint"), [
    ("(((A[t - 1] ** 0.5 * x0 + (1 - A[t - 1]) ** 0.5 * eps) - eps) ** 2).mean()", True),
    ("((x0 - eps)[0] ** 2).mean()", False), ("((x0 - eps)[:-1] ** 2).mean()", False)])
def test_the_hint_on_rows_is_given_where_it_explains(loss, hint):
    scope = {}
    exec(f"import numpy as np\ndef parameters(rng): return np.ones(1)\ndef loss(p, betas, x0, t, eps):\n    A = np.cumprod(1 - betas)\n    return {loss}", scope)  # noqa: S102
    result = next(r for r in testing.check(SimpleNamespace(**scope)) if r.check == "rows")
    assert result.verdict == "fail" and (result.looks_like is not None) == hint


def test_functions_of_a_file_may_import_its_neighbours_and_pickle_what_it_defines(tmp_path, capsys):
    (tmp_path / "neighbour.py").write_text("import numpy as np\ndef products(b): return np.cumprod(1 - np.asarray(b))\n")
    (tmp_path / "own.py").write_text("import pickle\nclass Table: pass\ndef alpha_bars(betas):\n    from neighbour import products\n"
                                     "    pickle.loads(pickle.dumps(Table()))\n    return products(betas)\n")
    before = set(sys.modules), list(sys.path)
    assert main(["check", str(tmp_path / "own.py")]) == 0, capsys.readouterr()
    assert sys.path == before[1] and "own" not in sys.modules
    del sys.modules["neighbour"]


# ---- the README

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "slip", "right"), [
    ("mine.py", "beta * (1 - abar)", "beta * (1 - before)"), ("net.py", "dr.mean(axis=0)", "dr.sum(axis=0)")])
def test_the_section_check_your_own(name, slip, right, tmp_path, capsys):
    """The file with its slip gives the answer that is printed below it; without the slip nothing fails."""
    code, answer = re.search(rf"^```py\n# {name}\n(.*?)^```.*?^```text\n\$ npddpm check {name} \| grep -A1 FAIL\n(.*?)^```",
                             README, re.MULTILINE | re.DOTALL).groups()
    status, out, _ = run(tmp_path, capsys, code)
    groups = re.findall(r"(?m)(?:^.*FAIL.*\n.*\n)+", out)
    assert status == 1 and "--\n".join(groups) == answer       # as grep -A1 prints them
    assert code.count(slip) == 1
    (tmp_path / name).write_text(code.replace(slip, right), encoding="utf-8")
    wrong = {line.split()[2 if line.startswith("step") else 1] for line in answer.splitlines() if "FAIL" in line}
    with testing.loaded(tmp_path / name) as module:
        assert failures(module, *wrong) == []


def test_the_table_of_other_implementations_is_the_one_measured():
    measured = (ROOT / "benchmarks/results/conformance.md").read_text(encoding="utf-8").splitlines()
    table = [line for line in measured if line.startswith("| ")]
    assert len(table) > 5 and set(table) <= set(README.splitlines())
