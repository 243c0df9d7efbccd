"""What goes wrong when people write these formulas: the functions of `exact`, each with one slip made in its syntax tree.

Most slips are one edit of a formula (t-1 where t belongs, a root or a factor left out, a sign). `edits` makes them all,
in each formula and in each of the FORMS in which people write the same. Others have a name, or need more than one edit:
they are the table SLIPS, and are tried first. A line of a table names a function, an expression or a statement in it,
and what to put in its place, where _ is what stood there; how the function is laid out does not matter.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from types import FunctionType, SimpleNamespace
from typing import Any

from . import exact

#  function | what | another way to write it
FORMS = [line.split(" | ") for line in r"""
posterior_variance | b[t] * (1 - A[t - 1]) / (1 - A[t]) | (1 - A[t - 1]) / (1 - A[t]) * (1 - A[t] / A[t - 1])
predict_x0 | (xt - (1 - A[t]).sqrt() * eps) / A[t].sqrt() | (1 / A[t]).sqrt() * xt - (1 / A[t] - 1).sqrt() * eps
reverse_mean | (xt - b[t] / (1 - A[t]).sqrt() * eps) / a[t].sqrt() | xt / a[t].sqrt() - b[t] / (a[t] * (1 - A[t])).sqrt() * eps
reverse_mean | (xt - b[t] / (1 - A[t]).sqrt() * eps) / a[t].sqrt() | q_posterior(betas, predict_x0(betas, xt, t, eps), xt, t)[0]
ddim_step | sigma2 = eta2 * (1 - A[t] / A[s]) * (1 - A[s]) / (1 - A[t]) | sigma = Decimal(eta) * ((1 - A[s]) / (1 - A[t]) * (1 - A[t] / A[s])).sqrt(); sigma2 = sigma**2
ddim_step | A[s].sqrt() * x0 + (1 - A[s] - sigma2).sqrt() * eps | (A[s] / A[t]).sqrt() * xt + ((1 - A[s] - sigma2).sqrt() - (A[s] / A[t] * (1 - A[t])).sqrt()) * eps
loss_weight | b[t] / (2 * a[t] * (1 - A[t])) | (b[t] / (a[t] * (1 - A[t])).sqrt()) ** 2 / (2 * b[t])
variational_bound | d * (-A[T] - (1 - A[T]).ln()) | d * (1 - A[T] - 1 - (1 - A[T]).ln())
variational_bound | bound = bound - loss_weight(betas, t) * error - constant | xt = q_sample(betas, x0, t, noise[t]); m, rho = q_posterior(betas, x0, xt, t); mu = reverse_mean(betas, xt, t, eps_hat); bound = bound - ((d * (b[t] / rho).ln() + (d * rho + ((m - mu) ** 2).sum(1)) / b[t] - d) / 2 if t > 1 else d * (2 * PI * b[1]).ln() / 2 + ((x0 - mu) ** 2).sum(1) / (2 * b[1]))
""".strip().splitlines()]

SLIPS = [(function, what, re.sub(r"\b_\b", f"({what})", new), words) for function, what, new, words in (
    line.split(" | ", 3) for line in r"""
cosine_betas | Decimal("0.999") | Decimal("0.9999") | cut at 0.9999 where 0.999 belongs
linear_betas | T - 1 | T | T where T-1 belongs: the last beta is missed
linear_betas | "0.0001" | "0.001" | 1e-3 where 1e-4 belongs
linear_betas | "0.02" | "0.2" | 0.2 where 0.02 belongs
linear_betas | first + (last - first) * i / (T - 1) | (first.sqrt() + (last.sqrt() - first.sqrt()) * i / (T - 1)) ** 2 | linear in sqrt(beta), not in beta
cosine_betas | (Decimal(t) / T + Decimal("0.008")) / Decimal("1.008") | Decimal(t) / T | the offset 0.008 left out
cosine_betas | "0.999" | "1" | beta not cut at 0.999
cosine_betas | f[t] / f[t - 1] | f[t] / f[0] | abar_t where the quotient abar_t / abar_{t-1} belongs
cosine_betas | 1 - f[t] / f[t - 1] | f[t - 1] / f[t] - 1 | t where t-1 belongs, in the denominator
cosine_betas | range(1, T + 1) | range(T) | t-1 where t belongs
_tables | A.append(A[-1] * alpha) | A.append(A[-1] * (alpha - 1).exp()) | exp(-beta_t) where alpha_t = 1 - beta_t belongs
_tables | A.append(A[-1] * alpha) | A.append(alpha) | alpha_t where the product abar_t belongs
_tables | return b, a, A | return b, a, [A[0], *A[:-1]] | t-1 where t belongs, in abar_t
_tables | return b, a, A | return b, a, [A[0], A[-1], *A[1:-1]] | t-1 where t belongs, in abar_t (index -1 at t = 1)
_tables | return b, a, A | return b, a, A[1:] | t+1 where t belongs, in abar_t
_tables | return b, a, A | return b, a, [x.sqrt() for x in A] | sqrt(abar) where abar belongs
alpha_bars | A[1:] | A | abar_0 = 1 in front, T+1 entries
alpha_bars | A[1:] | [1 - x for x in _] | 1 - abar where abar belongs
alpha_bars | np.array(A[1:]) | np.cumprod(b[1:]) | products of beta where those of alpha = 1 - beta belong
q_sample | (1 - A[t]).sqrt() | b[t].sqrt() | beta_t where 1 - abar_t belongs, the noise of one step
q_sample | A[t].sqrt() * x0 + (1 - A[t]).sqrt() * eps | (1 - A[t]).sqrt() * x0 + A[t].sqrt() * eps | signal and noise exchanged
q_sample | A[t].sqrt() * x0 + (1 - A[t]).sqrt() * eps | A[t] * x0 + (1 - A[t]) * eps | abar_t and 1 - abar_t where their roots belong
q_sample | A[t].sqrt() * x0 + (1 - A[t]).sqrt() * eps | x0 | x_0 itself, with no noise added
q_posterior | A[t - 1].sqrt() * b[t] / (1 - A[t]) * x0 + a[t].sqrt() * (1 - A[t - 1]) / (1 - A[t]) * xt | A[t - 1].sqrt() * b[t] / (1 - A[t]) * xt + a[t].sqrt() * (1 - A[t - 1]) / (1 - A[t]) * x0 | x_0 and x_t exchanged
q_posterior | A[t - 1] | A[t - 1 or -1] | the last entry where abar_0 = 1 belongs (index -1 at t = 1)
q_posterior | mean, posterior_variance(betas, t) | posterior_variance(betas, t), mean | mean and variance exchanged
posterior_variance | b[t] * (1 - A[t - 1]) / (1 - A[t]) | b[t] | t where t-1 belongs, in 1 - abar_{t-1} (beta_t where rho_t belongs)
posterior_variance | A[t - 1] | A[t - 1 or -1] | the last entry where abar_0 = 1 belongs (index -1 at t = 1)
posterior_variance | b[t] * (1 - A[t - 1]) / (1 - A[t]) | _.sqrt() | a deviation where the variance belongs
posterior_variance | b[t] * (1 - A[t - 1]) / (1 - A[t]) | _.ln() | the logarithm where the variance belongs
posterior_variance | b[t] * (1 - A[t - 1]) / (1 - A[t]) | b[max(t, 2)] * (1 - A[max(t, 2) - 1]) / (1 - A[max(t, 2)]) | rho_2 where rho_1 = 0 belongs
predict_x0 | (xt - (1 - A[t]).sqrt() * eps) / A[t].sqrt() | xt - (1 - A[t]).sqrt() * eps / A[t].sqrt() | only eps divided by sqrt(abar_t)
predict_x0 | (xt - (1 - A[t]).sqrt() * eps) / A[t].sqrt() | np.clip(_, -1, 1) | cut to [-1, 1]
reverse_mean | a[t].sqrt() | A[t].sqrt() | 1/sqrt(abar_t) where 1/sqrt(alpha_t) belongs
reverse_mean | b[t] / (1 - A[t]).sqrt() | (1 - A[t]).sqrt() | sqrt(1 - abar_t) where beta_t / sqrt(1 - abar_t) belongs
reverse_step | t > 1 | t > 0 | noise added in the last step, to x_0
reverse_step | t > 1 | t > 2 | no noise in the step before the last
reverse_step | sigma2.sqrt() * z | 0 * z | no noise at all
reverse_step | variance == "beta" | True | beta_t where rho_t belongs, for "posterior"
reverse_step | variance == "beta" | False | rho_t where beta_t belongs, for "beta"
reverse_step | denoiser(xt, t) | denoiser(xt, t - 1) | the denoiser asked at t-1 (times counted from 0)
reverse_step | reverse_mean(betas, xt, t, eps) | predict_x0(betas, xt, t, eps) | the predicted x_0 where the mean of x_{t-1} belongs
reverse_step | denoiser(xt, t) | (xt - A[t].sqrt() * np.clip(predict_x0(betas, xt, t, _), -1, 1)) / (1 - A[t]).sqrt() | the predicted x_0 cut to [-1, 1]
ddim_step | Decimal(eta) ** 2 | Decimal(eta) ** 4 | eta^2 where eta belongs, in sigma
ddim_step | A[s] | A[s or 1] | abar_1 where abar_0 = 1 belongs, at s = 0
ddim_step | return A[s].sqrt() * x0 + (1 - A[s] - sigma2).sqrt() * eps + sigma2.sqrt() * z | s2 = sigma2 / eta2 * Decimal(eta) if eta else sigma2; return (A[s] / A[t]).sqrt() * xt - (s2 + A[s] / A[t] - 1) / ((A[s] / A[t] - A[s]).sqrt() + (1 - A[s] - sigma2).sqrt()) * eps + s2.sqrt() * z | eta where eta^2 belongs, in sigma^2 but not under the root
ddim_step | return A[s].sqrt() * x0 + (1 - A[s] - sigma2).sqrt() * eps + sigma2.sqrt() * z | return (A[s] / A[t]).sqrt() * xt - (sigma2 + (A[s] / A[t]).sqrt() * (1 - A[t] / A[s])) / ((A[s] / A[t] - A[s]).sqrt() + (1 - A[s] - sigma2).sqrt()) * eps + sigma2.sqrt() * z | a where a^2 belongs, a = sqrt(abar_s / abar_t), in the weight of eps
ddim_step | 1 - A[t] / A[s] | b[t] | beta_t where 1 - abar_t / abar_s belongs, which is right for s = t-1 alone
ddim_step | denoiser(xt, t) | denoiser(xt, t - 1) | the denoiser asked at t-1 (times counted from 0)
ddim_step | denoiser(xt, t) | (xt - A[t].sqrt() * np.clip(predict_x0(betas, xt, t, _), -1, 1)) / (1 - A[t]).sqrt() | the predicted x_0 cut to [-1, 1]
sample | noise[t] | noise[t - 1] | row t-1 of noise where row t belongs
sample | noise[t] | noise[T - t] | the rows of noise used from the front
sample | range(T, 0, -1) | range(T, 1, -1) | the last step, from x_1 to x_0, left out
sample | range(T, 0, -1) | range(T - 1, 0, -1) | the first step, from x_T, left out
sample | range(T, 0, -1) | range(1, T + 1) | the times rise where they should fall
loss_weights | [loss_weight(betas, t) for t in range(1, len(betas) + 1)] | [Decimal(0)] + _ | w_0 = 0 in front, T+1 entries
loss_weight | b[t] | _ ** 2 | beta_t^2 where beta_t belongs: not divided by sigma_t^2 = beta_t
loss_weight | b[t] / (2 * a[t] * (1 - A[t])) | Decimal(1) | the weight 1 of the simple loss
loss_weight | b[t] / (2 * a[t] * (1 - A[t])) | b[t] ** 2 / (2 * posterior_variance(betas, t) * a[t] * (1 - A[t])) | sigma_t^2 = rho_t where beta_t belongs
variational_bound | d * (-A[T] - (1 - A[T]).ln()) | -A[T] - (1 - A[T]).ln() | d forgotten in the term of p(x_T)
variational_bound | -(A[T] * (x0**2).sum(1) + d * (-A[T] - (1 - A[T]).ln())) / 2 | 0 * _ | the term of p(x_T) left out
variational_bound | d * (ratio - 1 - ratio.ln()) | ratio - 1 - ratio.ln() | d forgotten in the terms of rho_t / beta_t, the slip of step 6
variational_bound | d * (2 * PI * b[1]).ln() | (2 * PI * b[1]).ln() | d forgotten in the normaliser, the slip of step 6
variational_bound | d * (ratio - 1 - ratio.ln()) / 2 | 0 | the terms of rho_t / beta_t left out
variational_bound | d * (2 * PI * b[1]).ln() / 2 | 0 | the normaliser of p(x_0 | x_1) left out
variational_bound | return bound | return -bound | an upper bound (the negative of the lower one), the slip of step 2
variational_bound | return bound | return bound / Decimal(2).ln() | bits where nats belong
variational_bound | return bound | return bound / d | a mean over the d dimensions where the sum belongs
variational_bound | loss_weight(betas, t) * error | error | the weight 1 of the simple loss
variational_bound | loss_weight(betas, t) * error | _ * (b[t] / posterior_variance(betas, t) if t > 1 else 1) | rho_t where sigma_t^2 = beta_t belongs, in |x_{t-1} - mu|^2 alone
variational_bound | loss_weight(betas, t) * error | _ / d | a mean over the d dimensions where the sum belongs, in |eps - eps_hat|^2
variational_bound | noise[t] | noise[t - 1] | row t-1 of noise where row t belongs
variational_bound | denoiser(q_sample(betas, x0, t, noise[t]), t) | denoiser(q_sample(betas, x0, t, noise[t]), t - 1) | the denoiser asked at t-1 (times counted from 0)
variational_bound | range(1, T + 1) | range(2, T + 1) | the term of p(x_0 | x_1) left out
variational_bound | range(1, T + 1) | range(1, T) | the term of t = T left out
""".strip().splitlines())]


def slips_of(of: str) -> Iterator[tuple[str, Any]]:
    """The words of each slip in what the function `of` calls, and `exact` with the slip made in it."""
    for function in called(of, {}):
        for _, old, new, words in (slip for slip in SLIPS if slip[0] == function):
            for form in dict.fromkeys([new, new.replace("[t - 1]", "[t - 1 or -1]")]):    # where t = 0 is the last entry
                yield words, made(**{function: replaced(text_of(function), old, form)})
    done = set()
    for world in ({}, *({f: replaced(text_of(f), old, new)} for f, old, new in FORMS)):     # whose forms may call others
        for function in called(of, world):
            for text in (text_of(function), *forms(function)):
                for words, edited in edits(text) if text not in done else ():
                    yield words + f", in {function}" * (function != of), made(**{**world, function: edited})
                done.add(text)


@cache
def text_of(function: str) -> str:
    return inspect.getsource(getattr(exact, function))


@cache
def replaced(text: str, old: str, new: str) -> str:
    """A function's text with `new` in all places where its syntax tree holds `old`, an expression or a statement."""
    wanted = ast.parse(old).body[0]
    left, right = "()" if isinstance(wanted, ast.Expr) else ("", "")
    shape = ast.dump(wanted.value if isinstance(wanted, ast.Expr) else wanted)
    places = sorted((span(text, node) for node in ast.walk(ast.parse(text)) if ast.dump(node) == shape), reverse=True)
    if not places:
        raise ValueError(f"there is no {old} in {text}")
    for start, end in places:
        text = text[:start] + left + new + right + text[end:]
    return text


def span(text: str, node: Any) -> tuple[int, int]:
    """Where in the text a node of its syntax tree begins and ends."""
    lines = text.splitlines(keepends=True)
    return (sum(map(len, lines[:node.lineno - 1])) + node.col_offset, sum(map(len, lines[:node.end_lineno - 1])) + node.end_col_offset)


def forms(function: str) -> list[str]:
    """The other ways to write it."""
    return [replaced(text_of(function), old, new) for f, old, new in FORMS if f == function]


def called(function: str, world: dict[str, str]) -> list[str]:
    """The function and, first things first, the others of `exact` that it calls; `world` holds other texts of some."""
    found = [function]
    for f in found:
        found += [name for name in dict.fromkeys(re.findall(r"\w+(?=\()", world.get(f) or text_of(f))) if name not in found
                  and inspect.isfunction(inspect.unwrap(getattr(exact, name, name)))]
    return [f for f in found if f not in ("cos", "exact", "tables")]


@cache
def made(**texts: str) -> Any:
    """`exact` with other texts of some functions."""
    world: dict[str, Any] = {}
    for name, value in vars(exact).items():
        own = isinstance(value, FunctionType) and value.__module__ == exact.__name__
        world[name] = FunctionType(value.__code__, world, name) if own else value
    exec("from __future__ import annotations\n" + "\n".join(texts.values()), world)  # noqa: S102
    return SimpleNamespace(**world)


# ---------------------------------------------------------------- one edit

@cache
def edits(text: str) -> list[tuple[str, str]]:
    """The words and the text of each function that differs from the given one by one edit."""
    found: dict[str, str] = {}
    tree = ast.parse(text)
    count = Counter(map(ast.unparse, ast.walk(tree)))

    def walk(node: ast.AST, around: str) -> None:
        old = ast.unparse(node)
        if isinstance(node, ast.expr) and not isinstance(getattr(node, "ctx", None), ast.Store):
            start, end = span(text, node)
            for new, words in mistakes(node, old, around):
                found.setdefault(f"{text[:start]}({new}){text[end:]}", pretty(words))
                if isinstance(node, ast.Subscript) and count[old] > 1:
                    found.setdefault(replaced(text, old, new), pretty(words.split(", in ")[0] + f", in every {old}"))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) or old.endswith(".sqrt()"):
            around = old
        for child in ast.iter_child_nodes(node) if not isinstance(node, ast.Subscript) else ():
            walk(child, around)

    for statement in tree.body[0].body:       # type: ignore[attr-defined]
        walk(statement, "")
    return [(words, new) for new, words in found.items() if "[s]" not in new or "[s]" in text]


INDICES = {"t": ["t - 1", "t - 1 or -1", "t + 1", "s"], "t - 1": ["t", "t - 1 or -1", "t - 1 or 1"], "s": ["t", "t - 1"], "T": ["T - 1"]}
TINY = "1e-8", "1e-6", "1e-5"       # that people add to what is divided by, or under a root
AT_1 = {"t - 1 or -1": "t-1 (at t = 1 the last entry)", "t - 1 or 1": "t-1 (at t = 1 the first entry)"}


def mistakes(node: ast.expr, old: str, around: str) -> Iterator[tuple[str, str]]:
    """What may stand in the place of an expression by mistake, and the words for it."""
    where = f", in {around}" if around else ""
    match node:
        case ast.Subscript(value=ast.Name(id=table), slice=at, ctx=ast.Load()) if (index := ast.unparse(at)) in INDICES:
            if index == "t - 1":
                yield f"(t > 1) * {old}", f"0 where {table}_0 = 1 belongs{where}"
            for new in INDICES[index]:
                yield f"{table}[{new}]", f"{AT_1.get(new, new)} where {index} belongs, in {around or old}".replace("t - 1", "t-1")
            for other in "baA".replace(table, "") if table in "baA" else "":
                yield f"{other}[{index}]", f"{other}[{index}] where {old} belongs{where}"
        case ast.Call(func=ast.Attribute(value=ast.BinOp(left=left, op=ast.Sub(), right=right), attr="sqrt")):
            inner = f"{ast.unparse(left)} - {ast.unparse(right)}"
            for new in (inner, f"{ast.unparse(left)} - ({ast.unparse(right)}).sqrt()"):
                yield new, f"{new} where {old} belongs"
            yield from ((f"({inner} + Decimal('{tiny}')).sqrt()", f"{tiny} added to {inner}, under the root") for tiny in TINY)
        case ast.Call(func=ast.Attribute(value=inner, attr="sqrt")):
            yield ast.unparse(inner), f"{ast.unparse(inner)} where {old} belongs{where}"
        case ast.Call(func=ast.Name(id=name)) if ", t" in old:
            yield re.sub(r", t\b", ", t - 1", old), f"t-1 where t belongs, in {name}"
        case ast.UnaryOp(op=ast.USub(), operand=x):
            yield ast.unparse(x), f"a sign, in front of {ast.unparse(x)}"
        case ast.BinOp(left=left, op=op, right=right):
            l, r = ast.unparse(left), ast.unparse(right)
            L, R = f"({l})", f"({r})"
            if isinstance(op, ast.Div):
                yield from ((f"{L} / ({R} + Decimal('{tiny}'))", f"{tiny} added to {r}") for tiny in TINY)
            yield from {
                ast.Pow: [(L, f"{l} where {old} belongs")],
                ast.Add: [(f"{L} - {R}", f"a sign, in front of {r}"), (L, f"{r} left out"), (R, f"{l} left out")],
                ast.Sub: [(f"{L} + {R}", f"a sign, in front of {r}"), (L, f"{r} not taken off {l}"),
                          (R, f"{r} where {old} belongs")],
                ast.Mult: [(L, f"{r} left out, in {old}"), (R, f"{l} left out, in {old}"),
                           (f"{L} / {R}", f"divided by {r} where it is to be multiplied, in {old}")],
                ast.Div: [(L, f"not divided by {r}, in {old}"), (f"{R} / {L}", f"upside down, in {old}"),
                          (f"{L} * {R}", f"multiplied by {r} where it is to be divided, in {old}")],
            }[type(op)]
    rootable = isinstance(node, (ast.Subscript, ast.BinOp)) or old == "sigma2"
    if rootable and around != f"{old}.sqrt()" and not re.search(r"xt|x0|eps|z|error|noise|mu", old):
        for new in (f"({old}).sqrt()", f"({old}) ** 2"):
            yield new, f"{new} where {old} belongs{where}"


def pretty(words: str) -> str:
    """abar_t for A[t], sqrt(x) for x.sqrt(), and the like."""
    names = {"b": "beta", "a": "alpha", "A": "abar"}
    words = re.sub(r"Decimal\('?([\w.]+)'?\)", r"\1", words).replace(" ** ", "^").replace("sigma2", "sigma^2")
    words = re.sub(r"\b([baA])\[(.+?)\]", lambda m: f"{names[m[1]]}_" + (m[2] if len(m[2]) == 1 else f"{{{m[2].replace(' ', '')}}}"),
                   words.replace("A_0", "abar_0"))
    root = re.compile(r"(\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)|[\w^]+(?:\{[^}]*\})?)\.sqrt\(\)")
    while root.search(words):
        words = root.sub(lambda m: f"sqrt{m[1]}" if m[1].startswith("(") else f"sqrt({m[1]})", words)
    return words
