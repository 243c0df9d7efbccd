"""The two pictures of the README: samples by the whole idea in a dozen lines, and u against theta."""

from __future__ import annotations

import doctest
import re
from typing import Any

import numpy as np

from npddpm import GaussianMixture, Schedule
from npddpm.flow import POWER, Axes, few_times, walk

from .report import RESULTS


def idea() -> dict[str, Any]:
    """Run the README's first code, and return its names."""
    readme = (RESULTS.parents[1] / "README.md").read_text(encoding="utf-8")
    text = re.findall(r"^```pycon\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)[0]
    scope: dict[str, Any] = {}
    exec("".join(example.source for example in doctest.DocTestParser().get_examples(text)), scope)  # noqa: S102
    return scope


def draw() -> None:
    """Write idea.png and angle.png."""
    from matplotlib.figure import Figure
    scope = idea()
    figure = Figure(figsize=(7.5, 2.6), layout="constrained")
    noise = scope["s"].q_sample(scope["rows"], 30, np.random.default_rng(1).standard_normal(scope["rows"].shape))
    for axis, points, title in zip(figure.subplots(1, 3), (scope["rows"], noise, scope["x"]),
                                   ("rows $x_0$", "noised, $x_{30}$", "samples, from noise alone"), strict=True):
        axis.plot(*points[:1000].T, ".", markersize=2)
        axis.set(title=title, xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), aspect="equal", xticks=[], yticks=[])
    figure.savefig(RESULTS / "idea.png", dpi=110)

    s, u = Schedule.linear(1000), np.linspace(-2.5, 2.5, 25)[:, None]
    figure = Figure(figsize=(7.5, 2.8), layout="constrained")
    laws = {"one Gaussian: $F = 0$": GaussianMixture([1], [[0.0]], [0.25]),
            "one point: turned by $\\theta$": GaussianMixture([1], [[0.5]], [1e-12]),
            "two clusters": GaussianMixture([1, 1], [[-0.45], [0.45]], [0.01, 0.01])}
    for axis, (title, law) in zip(figure.subplots(1, 3, sharey=True), laws.items(), strict=True):
        denoiser: Any = law.denoiser(s)
        denoiser.variances = np.array([0.25])
        axes = Axes(denoiser, s, 1, np, np.dtype(float))
        path = [(s.T, u), *walk(axes, axes.F, u, [*few_times(s.T, 200, POWER), 0])]
        theta = [np.arctan2(axes.rotation.sin[t, 0], axes.rotation.cos[t, 0]) for t, _ in path]
        axis.plot(theta, np.concatenate([v for _, v in path], axis=1).T, color="C0", linewidth=0.8)
        axis.set(title=title, xlabel="$\\theta$, from data, 0, to noise, $\\pi/2$")
    figure.axes[0].set_ylabel("$u$")
    figure.savefig(RESULTS / "angle.png", dpi=110)
