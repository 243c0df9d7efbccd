"""Few rows: training ends before they are known by heart, and goes on where there is something to learn."""

import numpy as np
import pytest
from pytest import approx

from npddpm import DDPM, Schedule, data
from npddpm.cli.evaluate import nearest
from npddpm.model import rules, stopping


def normal(n, d):
    return np.random.default_rng(1).standard_normal((n, d))


@pytest.mark.parametrize("n, d", [(30, 40), (60, 3)])
def test_rows_of_one_gaussian_are_not_memorised(n, d):
    """All that they tell is a Gaussian: samples vary as the rows do, and lie as far from them as new rows, or nearly."""
    x = normal(n, d)
    model = DDPM(Schedule.linear(100), 32, 2).fit(x, rng=0)
    drawn, new = model.sample(400, rng=0, steps=20), np.random.default_rng(2).standard_normal((400, d))
    assert model.step <= 100 and drawn.std(0) == approx(x.std(0), rel=0.15)
    assert nearest(drawn, x) > 0.8 * nearest(new, x)


def test_what_can_be_learned_is_learned():
    model = DDPM(Schedule.linear(100), 32, 2)
    assert model.usual_steps(data.load("moons", 200, 0)) == rules.steps(200, 2) == 1000


def test_the_last_step_at_which_rows_held_back_are_predicted_no_worse(monkeypatch):
    """Losses by hand: the rows held back of three folds, which differ, and sum to less than at first up to step 100."""
    seen = []

    class Model:
        def training(self, x, steps, rng, lr):
            seen.append(x[:, 0])
            return (step for step in range(1, steps + 1))

    x = np.arange(20.0)[:, None]
    first, later = [1.0, 1.0, 1.0], [[0.5, 1, 1], [0.5, 1.5, 1], [0.5, 1.5, 1.1], [0, 0, 0]]
    losses = [iter([a, *(look[fold] for look in later)]) for fold, a in enumerate(first)]
    monkeypatch.setattr(stopping, "held_out_loss", lambda model, x, fold: (seen.append(x[:, 0]), losses[fold].__next__)[1])
    assert stopping.last_good_step([Model(), Model(), Model()], x, 1000, lr=1e-3) == 100
    kept, held = seen[::2], seen[1::2]
    assert all(sorted([*a, *b]) == list(range(20)) and len(b) == 4 for a, b in zip(kept, held))
    assert len(set(np.concatenate(held))) == 12


def test_many_rows_and_very_few_take_the_rule():
    model = DDPM(Schedule.linear(10))
    with pytest.raises(TypeError, match="foo"):
        model.usual_steps(normal(1000, 2), foo=3)
    assert model.usual_steps(normal(6, 2)) == 1000 and model.usual_steps(normal(1000, 2)) == 4000


def test_a_row_that_alone_differs_may_be_held_back():
    x = np.zeros((10, 1))
    x[0] = 1
    assert DDPM(Schedule.linear(10), 4, 1).usual_steps(x) == 1000


def test_the_trials_are_trained_as_the_model_will_be(monkeypatch):
    taken = []
    monkeypatch.setattr(stopping, "last_good_step", lambda models, x, most, **options: taken.append(options) or 3)
    model, given = DDPM(Schedule.linear(10), 4, 1), {"batch_size": 8, "lr": 1e-2, "weighting": "simple"}
    model.fit(normal(30, 2), **given, rng=0)
    model.usual_steps(normal(30, 2))
    usual = {"batch_size": 256, "lr": rules.lr(30), "weighting": None, "device": "cpu", "threads": None}
    assert taken == [usual | given, usual] and model.step == 3
