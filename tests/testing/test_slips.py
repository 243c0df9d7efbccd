"""Each slip is caught, and the diagnosis is the right one."""

import inspect
import math
from decimal import localcontext
from types import SimpleNamespace

import numpy as np
import pytest
import small_ddpm
from subjects import SMALL, defined_by, failures, in_single_precision, network, result_of, small_with, with_loss

from npddpm import testing
from npddpm.testing import exact, inputs, slips, values
from npddpm.testing.contract import ARGUMENTS, Implementation
from npddpm.testing.values import check_values, judge, name_of_slip

# ---- the slips of the table, made in the exact answers

def test_how_a_function_is_laid_out_does_not_matter():
    tidy = "def f(a, t):\n    x = a[t - 1] * (t - 1)\n    return x + a[t - 1]\n"
    other = "def f(a, t):\n    x = (a[t-1]\n         * (t-1))  # as before\n    return (x) + a[ t - 1 ]\n"
    for old, new, wanted in (("a[t - 1]", "a[t] + 1", (3 + 1) * 1 + 3 + 1), ("x = a[t - 1] * (t - 1)", "x = 5; x = 2 * x", 12), ("t - 1", "t", 9)):
        for text in (tidy, other):
            assert defined_by(slips.replaced(text, old, new)).f([1, 2, 3], 2) == wanted
    with pytest.raises(ValueError, match="there is no"):
        slips.replaced(tidy, "a[t - 2]", "0")


def test_other_ways_to_write_a_formula_agree():
    betas, rng = np.array([0.5, 0.25, 0.2, 0.4]), np.random.default_rng(0)
    for function, old, new in slips.FORMS:
        form = slips.made(**{function: slips.replaced(slips.text_of(function), old, new)})
        for t, s in ((4, 2), (1, 0)):
            fixed = {"t": t, "s": s, "eta": 0.5, "denoiser": inputs.GaussianDenoiser(betas, 1.0, 0.5, 2), "betas": betas}
            fixed["noise"] = rng.standard_normal((5, 2, 2))
            args = [exact.exact(fixed.get(name, rng.standard_normal((2, 2)))) if name != "betas" else betas
                    for name in inspect.signature(getattr(exact, function)).parameters]
            with localcontext(exact.CONTEXT):
                right, other = (getattr(module, function)(*args) for module in (exact, form))
            assert np.all(np.abs(other - right) < 1e-50), (function, new)


CALLERS = {"_tables": "alpha_bars", "posterior_variance": "q_posterior", "loss_weight": "loss_weights"}


@pytest.mark.parametrize("slip", slips.SLIPS, ids=[f"{s[0]}-{s[3]}" for s in slips.SLIPS])
def test_each_slip_in_the_table_is_made_caught_and_named(slip):
    """Each is made in the text, in doubles, and the check of the function says its words."""
    function, old, new, words = slip
    module = slips.made(**{function: slips.replaced(slips.text_of(function), old, new)})
    of = CALLERS.get(function, function)

    def wrong(*args):
        args = [a if name == "betas" else exact.exact(a) for name, a in zip(ARGUMENTS[of], args)]
        with localcontext(exact.CONTEXT):
            value = getattr(module, of)(*args)
        return tuple(np.array(v, dtype=float) for v in value) if of == "q_posterior" else np.array(value, dtype=float)

    subject, named = Implementation(SimpleNamespace(**{of: wrong})), []
    schedules = [np.array([0.5, 0.25, 0.2, 0.4]), np.full(3, 0.5), np.array([0.1, 0.3])]
    for check in testing.CHECKS:
        if check.function != of or check.body is not check_values:
            continue
        given = [{"T": 20}, {"T": 1000}] if of.endswith("_betas") else [
            inputs.assemble(of, check.fixed, betas, t, s, inputs.normal(t), 2, 2, 1.0, 0.5)
            for betas in schedules for t in range(1, len(betas) + 1) for s in {0, t // 2, t - 1}]
        found = [judge(check, subject, args) for args in given]
        failures = [x for x in found if x.wrong]
        if failures:
            named.append(name_of_slip(check, subject, failures, found))
    assert words in named


# ---- slips, made in small_ddpm.py: function | what | mistaken for | words of the diagnosis

MADE = [tuple(line.split(" | ")) for line in r"""
linear_betas | np.linspace(1e-4, 0.02, T) | np.linspace(1e-4, 0.02, T + 1)[:-1] | the last beta is missed
cosine_betas | ((t + 0.008) / 1.008 * | (t * | the offset 0.008
cosine_betas | np.clip(1 - f[1:] / f[:-1], 0, 0.999) | 1 - f[1:] / f[:-1] | not cut at 0.999
alpha_bars | np.cumprod(1 - betas) | np.append(1, np.cumprod(1 - betas))[:-1] | t-1 where t belongs
q_sample | math.sqrt(abar) * x0 | abar * x0 | abar_t where sqrt(abar_t)
q_sample | math.sqrt(1 - abar) * eps\n\n\ndef post | (1 - abar) * eps\n\n\ndef post | 1 - abar_t where sqrt(1 - abar_t)
q_sample | alpha_bars(betas)[t - 1]\n    return math | alpha_bars(betas)[t - 2]\n    return math | t-1 where t belongs, in abar_t
q_posterior | return betas[t - 1] * (1 - previous(betas, t)) | return betas[t - 1] * (1 - alpha_bars(betas)[t - 1]) | t where t-1 belongs, in 1 - abar_{t-1}
q_posterior | math.sqrt(before) * beta | math.sqrt(abar) * beta | t where t-1 belongs, in sqrt(abar_{t-1})
q_posterior | math.sqrt(1 - beta) * (1 - before) | (1 - beta) * (1 - before) | alpha_t where sqrt(alpha_t)
q_posterior | if t > 1 else 1.0 | if t > 0 else 1.0 | the last entry where abar_0 = 1
q_posterior | if t > 1 else 1.0 | if t > 1 else 0.0 | 0 where abar_0 = 1 belongs
predict_x0 | eps) / math.sqrt(abar) | eps) / math.sqrt(1 - betas[t - 1]) | alpha_t where abar_t
predict_x0 | (xt - math.sqrt(1 - abar) | (xt - math.sqrt(1 - abar + 1e-8) | 1e-8 added to 1 - abar_t, under the root
predict_x0 | (xt - math.sqrt(1 - abar) | (xt + math.sqrt(1 - abar) | a sign
predict_x0 | (xt - math.sqrt(1 - abar) * eps) / math.sqrt(abar) | xt / math.sqrt(abar) - (1 / abar - 1) * eps | 1 / abar_t - 1 where sqrt(1 / abar_t - 1)
reverse_mean | / math.sqrt(1 - beta)\n | / math.sqrt(abar)\n | 1/sqrt(abar_t) where 1/sqrt(alpha_t)
reverse_mean | beta / math.sqrt(1 - abar) * eps | beta / (1 - abar) * eps | 1 - abar_t where sqrt(1 - abar_t)
reverse_mean | beta / math.sqrt(1 - abar) * eps | math.sqrt(beta) * eps | alpha_t where the product abar_t
reverse_step | z if t > 1 else mean | z | noise added in the last step
reverse_step | z if t > 1 else mean | z * (1 if t > 1 else 0.5) | the weight of z alone is wrong, at t = 1 alone
reverse_step | math.sqrt(sigma2) * z | sigma2 * z | sigma^2 where sqrt(sigma^2)
reverse_step | denoiser(xt, t))\n    sigma2 | denoiser(xt, t - 1))\n    sigma2 | the denoiser asked at t-1
ddim_step | sigma = eta * | sigma = np.sqrt(eta) * | eta where eta^2
ddim_step | abars[s] - sigma**2 | abars[s] | sigma^2 not taken off
ddim_step | abars[s] - sigma**2 | abars[t] - sigma**2 | t where s belongs, in 1 - abar_s
ddim_step | (1 - abars[t] / abars[s])) | betas[t - 1]) | right for s = t-1 alone
times | T - i * T // n | T - 1 - i * T // n | counted from 0
sample | noise[t], variance) | noise[t - 1], variance) | row t-1 of noise
loss_weights | (2 * (1 - betas) | ((1 - betas) | 2 left out
loss_weights | (1 - alpha_bars(betas))) | (1 - alpha_bars(betas)) ** 2) | (1 - abar_t)^2 where 1 - abar_t
loss_weights | (2 * (1 - betas) * (1 | (2 * alpha_bars(betas) * (1 | abar_t where alpha_t
variational_bound | return -total | return total | an upper bound
variational_bound | + d / 2 * math.log(2 * math.pi | + 1 / 2 * math.log(2 * math.pi | the slip of step 6
loss | alpha_bars(betas)[t - 1][:, None] | alpha_bars(betas)[t - 1] | abar_t of shape (B,) where (B, 1)
loss | np.sqrt(abar) * x0 + np.sqrt(1 | abar * x0 + np.sqrt(1 | abar_t where sqrt(abar_t)
loss | W2 + b2 - eps | W2 + b2 - x0 | the residual is that of x_0
loss | return (forward( | w = betas / (2 * alpha_bars(betas) * (1 - alpha_bars(betas)))\n    return (w[t - 1][:, None] * forward( | abar_t where alpha_t
gradient | dr = 2 * r | dr = r | the 2 of the derivative of a square left out or divided by d once too often, in entries 0 to 31
gradient | dz.sum(axis=0) | dz.mean(axis=0) | divided by B once too often, in entries 15 to 19
gradient | (1 - hidden**2) | (1 + hidden**2) | a wrong derivative, in entries 0 to 19
gradient | dr.sum(axis=0)] | 0 * dr.sum(axis=0)] | left out (zero), in entries 30 to 31
""".strip().splitlines()]


@pytest.mark.parametrize(("function", "old", "new", "words"), MADE, ids=[f"{s[0]}-{s[3]}" for s in MADE])
def test_a_slip_is_caught_and_named(function, old, new, words):
    wrong = failures(small_with(old, new), function)
    assert wrong, "not caught"
    assert any(words in (r.looks_like or "") for r in wrong), [str(r) for r in wrong]


def test_a_network_with_a_schedule_of_its_own_is_not_judged():
    """As a network of tanh is one that a loss of another form has, such as |eps - eps_hat|."""
    text = LINEAR.replace("NET", NETS["tanh"]).replace("1 - betas", "np.full(len(betas), 0.97)")
    result = result_of(defined_by(text), "loss", "x_t and weights")
    assert result.verdict == "skipped" and result.note.startswith("not judged: not a square") and "skipped" in str(result)


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


def test_single_precision_is_named_where_the_file_does_not_say_so():
    single = in_single_precision(small_ddpm)
    del single.TOLERANCE
    wrong, = failures(single, "q_sample")
    assert wrong.looks_like.startswith("single precision") and 5 < wrong.digits < 8


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
    ("np.sqrt(1 - abar) * eps", "np.sqrt(1 - abar + 1e-5) * eps", "1e-5 added to 1 - abar_t, under the root"),
    ("np.sqrt(abar) * x0", "abar * x0", "abar_t where sqrt(abar_t) belongs"), ("+ np.sqrt", "- np.sqrt", "a sign, in front of"),
    ("np.sqrt(abar) * x0 + np.sqrt(1 - abar) * eps", "abar * x0 + (1 - abar) * eps", "where their roots belong"),
    ("np.sqrt(abar) * x0 + np.sqrt(1 - abar) * eps", "np.sqrt(1 - abar) * x0 + np.sqrt(abar) * eps", "exchanged"),
    ("[t - 1]", "[t - 2]", "t-1 where t belongs"), ("np.cumprod(1 - betas)", "(1 - betas)", "alpha_t where the product"),
    ("np.cumprod(1 - betas)", "np.exp(-np.cumsum(betas))", "exp(-beta_t) where alpha_t"), ("    return ((", "    xt = x0\n    return ((", "no noise added")])
def test_x_t_within_the_loss(net, old, new, words):
    """Of a linear network too, for which the loss is quadratic for any x_t."""
    result = result_of(defined_by(LINEAR.replace("NET", NETS[net]).replace(old, new, 1)), "loss", "x_t and weights")
    assert result.verdict == ("fail" if words else "pass") and (words or "") in (result.looks_like or "") and not result.note


def chunked(parts_of, of_loss=True):
    """small_ddpm, whose batches are made of parts, each of which counts as much as another."""
    def mean(f):
        def of_parts(parameters, betas, x0, t, eps):
            found = [f(parameters, betas, x0[i], t[i], eps[i]) for i in parts_of(np.arange(len(t)))]
            return sum(found) / len(found)
        return of_parts
    return SimpleNamespace(parameters=small_ddpm.parameters, loss=mean(small_ddpm.loss) if of_loss else small_ddpm.loss, gradient=mean(small_ddpm.gradient))


@pytest.mark.parametrize("parts_of", [lambda i: np.array_split(i, min(4, len(i))), lambda i: np.split(i, range(64, len(i), 64)),
                                      lambda i: np.split(i, range(32, len(i), 32)), lambda i: [i[:32 * (len(i) // 32)] if len(i) >= 32 else i]])
def test_a_mean_of_the_means_of_unequal_parts(parts_of):
    assert result_of(chunked(parts_of), "loss", "rows").verdict == "fail"
    assert result_of(chunked(parts_of, of_loss=False), "gradient", "entries").verdict == "fail"
    assert result_of(chunked(lambda i: [i]), "loss", "rows").verdict == "pass"


@pytest.mark.parametrize("table", ["np.take(alpha_bars(betas), t, mode='clip')", "alpha_bars(betas)[t % len(betas)]"])
def test_a_table_read_beyond_its_end(table):
    """Another abar_t at each t, and something at t = T, as JAX gives without a word."""
    own = small_with("abar = alpha_bars(betas)[t - 1][:, None]", f"abar = {table}[:, None]")
    assert result_of(own, "loss", "x_t and weights").looks_like == "t+1 where t belongs, in abar_t"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_finite_number_is_called_so(value):
    own = SimpleNamespace(parameters=small_ddpm.parameters, gradient=small_ddpm.gradient, loss=lambda *args: value * small_ddpm.loss(*args))
    assert {r.got for r in failures(own, "loss", "gradient") if r.check != "calls"} == {f"returns a loss of {value}"}


def small_with_all(function, old, new):
    """small_ddpm with a slip in all places of one of its functions."""
    text = inspect.getsource(getattr(small_ddpm, function))
    assert old in text
    return defined_by(SMALL.replace(text, text.replace(old, new)))


def test_coordinates_that_are_mixed_up():
    """A denoiser that takes each coordinate alone, and all alike, does not show it."""
    wrong = failures(small_with_all("ddim_step", "denoiser(xt, t)", "denoiser(xt[:, ::-1], t)[:, ::-1]"), "ddim_step")
    assert wrong and all(r.looks_like.startswith("coordinates that are exchanged or mixed") for r in wrong if r.check != "calls")


@pytest.mark.parametrize(("old", "new"), [
    ("denoiser(q_sample(betas, x0, t, noise[t]), t)", "denoiser(q_sample(betas, x0, t, noise[t])[:, ::-1], t)[:, ::-1]"), ("noise[t]", "noise[t][:, :1] + 0 * noise[t]")])
def test_coordinates_of_the_bound(old, new, monkeypatch):
    """That are mixed up, or have one noise for all."""
    monkeypatch.setattr(values, "name_of_slip", lambda *_: None)
    assert failures(small_with_all("variational_bound", old, new), "variational_bound")


def remembering(key, of_gradient=True):
    """small_ddpm, whose activations are kept under what `key` makes of the arguments."""
    kept = {}

    def forward(*args):
        known = key(*args)
        if known not in kept:
            kept[known] = small_ddpm.forward(*args)
        return kept[known]
    own = defined_by(SMALL)
    own.loss.__globals__["forward"] = forward
    return own if of_gradient else SimpleNamespace(parameters=own.parameters, loss=own.loss)


def rows_of(p, betas, x0, t, eps):
    return x0.tobytes(), eps.tobytes(), t.tobytes(), betas.tobytes()


def test_activations_that_are_kept_for_other_parameters():
    assert "entries" in {r.check for r in failures(remembering(rows_of), "gradient")}
    assert [r.got for r in failures(remembering(rows_of, of_gradient=False), "loss") if r.check == "calls"] == ["other parameters give the same result"]
    alive = []      # so that no other array is given the same place
    of_place = remembering(lambda p, *rows: (alive.append(p), id(p), *rows_of(p, *rows)))
    assert "new values in the same arrays of parameters are not noticed" in [r.got for r in failures(of_place, "gradient")]
    assert not failures(remembering(lambda p, *rows: (p.tobytes(), *rows_of(p, *rows))), "loss", "gradient")


def test_a_cut_that_large_numbers_reach_alone():
    own = network(lambda p, xt, abar: np.minimum(np.maximum(xt @ p, 0), 6), lambda rng: rng.standard_normal((2, 2)),
                  lambda p, xt, abar, dr: xt.T @ (dr * (xt @ p > 0)))
    assert result_of(own, "gradient", "entries").verdict == "fail"


# ---- losses of a residual r: the check | its verdict | the loss | words of the result

LOSSES = [line.split(" | ") for line in r"""
rows | pass | (r**2).mean() | pass
rows | pass | (r**2).sum() | pass
rows | pass | (beta * r**2).sum(1).mean() | pass
rows | pass | 0.5 * (beta * r**2).sum() | pass
rows | pass | (r**2).mean() + 1e-3 * (p**2).sum() | pass
rows | pass | (r**2).sum() + 1e-3 * (p**2).sum() | pass
rows | fail | np.mean([(r[t == s]**2).mean() for s in set(t.tolist())]) | the mean over the rows
rows | fail | (r**2).mean() / len(t) | the mean over the rows
rows | fail | (beta / beta.mean() * r**2).mean() | the mean over the rows
rows | fail | beta.mean() * (r**2).mean() | the mean over the rows
rows | fail | (beta * r**2).sum() / beta.sum() | the mean over the rows
rows | fail | (r**2).sum() / (2 * len(r) + 2) | like: B + 1 where B belongs
rows | fail | (r**2).sum() / (2 * max(len(r) - 1, 1)) | like: B - 1 where B belongs
rows | fail | (r**2).sum() / (len(r) - 1) | like: B - 1 where B belongs
rows | fail | (r**2).sum() / (len(r) - 1 or np.nan) | like: B - 1 where B belongs
rows | fail | np.sqrt((r**2).mean()) | like: the root of the mean where the mean belongs
rows | fail | np.float32((r**2).mean() + 1e-7 * r[0, 0]) | like: single precision
rows | fail | (r**2).mean() / (1 + r.var()) | or a function of their mean
rows | fail | r[0, 0] * (len(r) == 2) | in another order
rows | fail | r[0, 0] * (len(r) == 3) | in another order
rows | fail | (r**2).mean(1) | of shape (2,) where one number belongs
rows | fail | (r**2).mean() if len(r) == 2 else 1 / 0 | ZeroDivisionError
x_t and weights | pass | (r**2).mean() + 1e-3 * (p**2).sum() | pass
x_t and weights | pass | (r**2).sum() + 1e-3 * (p**2).sum() | pass
x_t and weights | skipped | -(r**2).mean() | not judged: weights in t
x_t and weights | skipped | ((t[:, None] > 1) * r**2).mean() | not judged: weights in t that are neither 1 nor those of step 8)
x_t and weights | skipped | (r**2 / betas[t - 1, None]).mean() | not judged: weights in t
x_t and weights | skipped | (r**2 / (1 - abar)).mean() | those of the score's loss
x_t and weights | skipped | (beta / (1 - abar) * r**2).mean() | likelihood weighting
x_t and weights | skipped | (beta**2 / ((1 - beta) * (1 - abar)) * r**2).mean() | |mu~ - mu|^2
x_t and weights | skipped | (np.maximum(1 / abar - 1, 1) * r**2).mean() | neither 1 nor those of step 8
x_t and weights | skipped | (np.where((t == 1) & (len(betas) == 1000), 2, 1)[:, None] * r**2).mean() | neither 1 nor those of step 8, for
x_t and weights | skipped | (np.where((t == 20) & (len(betas) == 20), 2, 1)[:, None] * r**2).mean() | neither 1 nor those of step 8, for
x_t and weights | skipped | ((w if len(betas) > 6 else 1) * r**2).mean() | neither 1 nor those of step 8, for
x_t and weights | skipped | (np.minimum(w, 1) * r**2).mean() | neither 1 nor those of step 8, for
x_t and weights | skipped | (np.minimum(abar / (1 - abar), 5) * (1 - abar) / abar * r**2).mean() | neither 1 nor those of step 8, for
x_t and weights | fail | (r[:, 1:]**2).mean() | of it
x_t and weights | fail | (r**2 @ [1, 2]).mean() | weight of (eps - eps_hat)^2 in coordinate
x_t and weights | fail | (r.mean(1)**2).mean() | the square of a sum
x_t and weights | fail | r.var() | like: a variance over the coordinates
x_t and weights | fail | ((r**2).mean(1) * np.append(0, betas / (2 * (1 - betas) * (1 - np.cumprod(1 - betas))))[t - 1]).mean() | t-1 where t belongs
""".strip().splitlines()]


@pytest.mark.parametrize(("name", "verdict", "loss", "words"), LOSSES)
def test_a_loss_of_the_residual(name, verdict, loss, words):
    """Also where it is wrong in a corner alone, or has weights that are 1 or those of step 8 in most places."""
    result = result_of(with_loss(loss), "loss", name)
    assert result.verdict == verdict and words in str(result)


@pytest.mark.parametrize("wrong", ["(r[0] ** 2).mean()", "(r[:-1] ** 2).mean()"])
def test_no_hint_is_given_on_rows_that_none_explains(wrong):
    result = result_of(with_loss(wrong), "loss", "rows")
    assert result.verdict == "fail" and result.looks_like is None


@pytest.mark.parametrize(("d", "i", "weight", "kind"), [(6, 5, 0, float), (6, 5, 0.5, float), (6, 1, 2, float), (1000, 0, 0, np.float32), (1000, 999, 0, np.float32)])
def test_the_coordinate_that_counts_otherwise_is_named(d, i, weight, kind):
    counts = np.where(np.arange(d) == i, weight, 1).astype(kind)
    own = network(lambda p, xt, abar: np.tanh(xt) * p, lambda rng: np.ones(1), dim=d, of_residual=lambda r: counts * r.astype(kind)**2)
    own.TOLERANCE = 1e-8 if kind is float else 1e-4
    result = result_of(own, "loss", "x_t and weights")
    assert f"in coordinate {i}," in result.example and result.exact == "that of the other coordinates"


@pytest.mark.parametrize(("slope", "looks_like"), [(lambda p: 1, "a wrong derivative"), (lambda p: -(1 - np.tanh(p["gamma"])**2), "a sign")])
def test_a_small_wrong_entry_is_not_given_any_name(slope, looks_like):
    """Below a ten-thousandth of the largest entry every factor would fit."""
    own = network(lambda p, xt, abar: 1e-4 * np.tanh(p["gamma"]) * xt + p["c"], lambda rng: {"c": rng.standard_normal(2), "gamma": np.array(0.3)},
                  lambda p, xt, abar, dr: {"c": dr.sum(0), "gamma": np.array(1e-4 * slope(p) * (dr * xt).sum())})
    assert result_of(own, "gradient", "entries").looks_like == f"{looks_like}, in gamma (1 of 1 entries)"


KEPT = "a table that is kept from one call to the next, for as many betas"


@pytest.mark.parametrize("of", ["weights", "x_t", "gradient"])
def test_a_table_that_is_kept_for_a_number_of_times(of):
    """And used for other betas, as many of them."""
    kept, own = {}, SimpleNamespace(parameters=small_ddpm.parameters, loss=small_ddpm.loss, gradient=lambda p, betas, *rows: small_ddpm.gradient(
        p, kept.setdefault(len(betas), betas), *rows))
    if of == "gradient":
        assert result_of(own, "gradient", "entries").looks_like.startswith(KEPT)
        return

    def loss(p, betas, x0, t, eps):
        if of == "x_t":
            return small_ddpm.loss(p, kept.setdefault(len(betas), betas), x0, t, eps)
        weights = kept.setdefault(len(betas), small_ddpm.loss_weights(betas))
        return (weights[t - 1, None] * small_ddpm.forward(p, betas, x0, t, eps)[2] ** 2).mean()
    own.loss = loss
    assert result_of(own, "loss", "x_t and weights").looks_like == KEPT


def test_a_result_that_is_cut_off():
    own = SimpleNamespace(sample=lambda *args: np.clip(small_ddpm.sample(*args), -20, 20))
    assert {r.looks_like for r in failures(own, "sample") if r.check != "point mass"} == {"the result cut to [-20, 20]"}

    def linear_betas(T):
        if refuses and T != 1000:
            raise ValueError
        return np.minimum(small_ddpm.linear_betas(T), 0.01999)
    for refuses in (True, False):
        wrong = failures(SimpleNamespace(linear_betas=linear_betas), "linear_betas")[0]
        assert wrong.check == "betas" and wrong.looks_like is None and "NoneType" not in wrong.got      # one entry is no cut


def test_what_fails_for_larger_ones_without_mixing_too_is_not_called_so():
    """All of the largest examples have a denoiser that mixes."""
    def ddim_step(betas, *args):
        return small_ddpm.ddim_step(betas, *args) * (np.nan if len(betas) > 1000 else 1)
    wrong = result_of(SimpleNamespace(ddim_step=ddim_step), "ddim_step", "eta = 0")
    assert wrong.verdict == "fail" and "mixed" not in (wrong.looks_like or "")
