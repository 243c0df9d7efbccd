"""How long to train on few rows: as long as rows held back are predicted better than by the Gaussian that training starts from.

With F = 0 a model is that Gaussian. What it learns beyond it shows in rows that it was not trained on; once these are predicted
worse than by F = 0, it knows its own rows by heart and little else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import numpy as np

from ..arrays.threads import Team
from . import rules

FOLDS = 3           # models, each trained without another fifth of the rows
DRAWS = 4000        # of rows held back, times and noise
EVERY = 50          # steps between two looks


def held_out_loss(model: Any, x: Any, seed: int) -> Callable[[], float]:
    """The mean of |eps - eps_hat|^2 over 4,000 of the rows x, in turns, at times as in training; of what the model has learned meanwhile."""
    z = model.to_network(np.resize(x.reshape(len(x), -1), (DRAWS, x[0].size)))
    t = rules.draw_times(np.random.default_rng(seed).random(DRAWS), model.schedule.T, rules.time_power(model.net.dim))
    eps = model.net.xp.asarray(np.random.default_rng(seed).standard_normal(z.shape), dtype=z.dtype)
    xt = model.schedule.q_sample(z, t, eps)
    net = copy.deepcopy(model.net)

    def loss() -> float:
        net.parameters[...] = model.average
        with Team():
            return float(((net(xt, t) - eps) ** 2).mean())
    return loss


def last_good_step(models: list[Any], x: Any, most: int, **options: Any) -> int:
    """The last step, of at most `most`, after which the rows held back are not predicted worse than after the first.

    Parameters
    ----------
    models : list of DDPM
        One for each fold; they are trained.
    x : (n, d) array
    **options
        Of `DDPM.training`.
    """
    order = np.random.default_rng(0).permutation(len(x))
    with ExitStack() as stack:      # an interrupt leaves no threads behind
        losses, runs = [], []
        for fold, model in enumerate(models):
            held = order[fold::5]
            try:
                runs.append(stack.enter_context(closing(model.training(np.delete(x, held, axis=0), most, rng=fold, **options))))
            except ValueError:                              # the one row that differs is held back, say
                return most
            next(runs[-1])                                  # one step, whose F is nearly 0
            losses.append(held_out_loss(model, x[held], fold))
        first = sum(loss() for loss in losses)
        for k in range(EVERY, most + 1, EVERY):
            for run in runs:
                while next(run) < k:
                    pass
            if sum(loss() for loss in losses) > first:
                return max(1, k - EVERY)
    return most
