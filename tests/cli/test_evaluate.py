"""evaluate: distances between samples, the loss by time, and what the command says of both. In exact arithmetic: test_nearest.py."""

import re
from pathlib import Path

import numpy as np
import pytest
from bounded import memory
from commands import printed, train
from pytest import approx
from refused import refused

from npddpm import DDPM, GaussianMixture, Schedule
from npddpm.cli import evaluate
from npddpm.cli.evaluate import energy_distance, loss_at, loss_by_time, nearest, one_nearest_neighbour, precision_recall
from npddpm.cli.main import main

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")
X, Y = np.random.default_rng(0).standard_normal((40, 3)), 5 + np.random.default_rng(1).standard_normal((25, 3))

# ---- distances


def test_energy_distance_of_points():
    """Two point masses at distance 3: 2 * 3 - 0 - 0. One row alone has a V-statistic."""
    assert energy_distance(np.zeros((5, 1)), np.full((4, 1), 3.0)) == approx(6)
    assert energy_distance([[0, 0]], [[3, 4]], unbiased=False) == approx(10)
    assert energy_distance(X, X, unbiased=False) == approx(0, abs=1e-7)


def test_copies_of_all_rows_are_told_apart_by_nobody():
    z = np.random.default_rng(0).standard_normal((200, 3)) / 3 + np.pi
    order = np.random.default_rng(1).permutation(400)
    for times in (2, 4):                            # of four the third nearest other row is a copy, at a distance of 0
        rows = np.concatenate([z[:400 // times]] * times)
        assert one_nearest_neighbour(rows, rows[order]) == 0.5 and precision_recall(rows, rows[order]) == (1, 1)


def test_distances_take_memory_for_a_block_alone(monkeypatch):
    monkeypatch.setattr(evaluate, "BLOCK", 100)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((150, 2)), rng.standard_normal((20_000, 2))
    with memory(2**21):
        nearest(x, y), energy_distance(x, y[:1000])
        loss_by_time(lambda xt, t: xt, Schedule.linear(10), y)


# ---- the loss by time


def test_loss_of_the_best_denoiser_is_the_least_loss():
    law, s = GaussianMixture([1], [[0.0, 1.0]], [0.5]), Schedule.linear(50)
    assert loss_at(law.denoiser(s), s, law.sample(100_000, 0), 20, rng=1) == approx(law.least_loss(s, 20), rel=0.03)


@pytest.mark.parametrize("T, times", [(1, [1]), (4, [1, 2, 3, 4]), (100, [1, 2, 4, 5, 8, 12, 19, 28, 43, 66, 100])])
@pytest.mark.parametrize("rows, draws", [(1, 4000), (300, 4200), (3999, 7998), (4000, 4000), (4001, 4000)])
def test_loss_by_time(T, times, rows, draws):
    """Rows are used as often as makes 4000 draws, and the same noise at each time; the least loss stands beside it, if it is known."""
    s, law = Schedule.linear(T), GaussianMixture([1], [[0.0, 1.0]], [0.5])
    denoiser, x0 = law.denoiser(s), law.sample(rows, 0)
    again = np.concatenate([x0] * (draws // rows + 1))[:draws]
    expected = np.array([[t, loss_at(denoiser, s, again, t, 3), law.least_loss(s, t)] for t in times])
    assert (loss_by_time(denoiser, s, x0, 3, law) == expected).all()
    assert np.isnan(loss_by_time(denoiser, s, x0[:9], 3)[:, 2]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_loss_is_taken_in_the_precision_of_the_rows(dtype):
    s, seen = Schedule.linear(4), []
    loss_at(lambda xt, t: seen.append(xt.dtype) or xt, s, X.astype(dtype), 2, rng=0)
    assert seen == [dtype]


# ---- two-sample tests by neighbours


def test_the_standard_error_of_one_nearest_neighbour():
    """0.64 / sqrt(2 n), where independent rows would have 0.5 / sqrt(2 n)."""
    rng = np.random.default_rng(0)
    drawn = [one_nearest_neighbour(*rng.standard_normal((2, 100, 2))) for _ in range(500)]
    assert np.std(drawn) * np.sqrt(200) == approx(0.64, abs=0.04)


def test_what_one_nearest_neighbour_sees():
    """Equal laws 1/2, others more, copies less."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 1000, 2))
    assert one_nearest_neighbour(x, y) == approx(0.5, abs=0.04)
    assert one_nearest_neighbour(x, 0.5 * y) > 0.54 and one_nearest_neighbour(x, x + 1e-6) == 0


def test_what_precision_and_recall_see():
    """Samples of one cluster of two are precise, and miss half; strays are not precise."""
    rng = np.random.default_rng(0)
    two = rng.standard_normal((400, 2)) + 20 * rng.integers(0, 2, (400, 1))
    one = rng.standard_normal((200, 2))
    precision, recall = precision_recall(one, two)
    assert precision > 0.9 and recall == approx(0.5, abs=0.1)
    precision, recall = precision_recall(np.concatenate([two[:200], rng.uniform(40, 90, (50, 2))]), two[200:])
    assert precision == approx(0.8, abs=0.08)


# ---- what is refused


@pytest.mark.parametrize("case", [
    *((lambda x=x, y=y: energy_distance(x, y), message) for x, y, message in (
        (X[:1], Y, r"x must have shape \(n, d\) with n >= 2 rows"), (X, Y[:1], r"y must have shape \(n, d\) with n >= 2 rows"),
        (X, Y[:, :2], "y must have 3 columns as x, got 2"), (X, Y[0], r"y must have shape \(n, d\)"), (X, [], r"y must have shape \(n, d\)"),
        (X, 1j * Y, "y must hold real numbers, got dtype complex128"), (np.ma.masked_less(X, 0), Y, "x must have no masked entries"),
        (np.where(X > 2, np.nan, X), Y, "x must be finite, got nan in row"), (X, [["a"]], "y must hold real numbers"),
        (1e160 * X, Y, r"x must reach between 1e-150 and 1e150, .* got 2.33e\+160"), (1e-200 * X, Y, "x must reach between .* got 2.33e-200"))),
    (lambda: energy_distance(X[:0], Y, unbiased=False), "x must have shape .* n >= 1 rows"),
    (lambda: one_nearest_neighbour(X[:1], Y[:1]), "x must have shape .* n >= 2 rows"),
    (lambda: one_nearest_neighbour(X, Y), "y must have as many rows as x, 40, got 25"),
    (lambda: precision_recall(X, Y, 0), "k must be an int of at least 1, got 0"),
    (lambda: precision_recall(X, Y[:3]), "real must have shape .* n >= 4 rows"),
    (lambda: nearest(X, np.inf * Y), "y must be finite"),
    (lambda: loss_at(lambda xt, t: xt, Schedule.linear(4), X[:0], 2), "x0 must have a row or more"),
    (lambda: loss_by_time(lambda xt, t: xt, Schedule.linear(4), X[:0]), "x0 must have a row or more"),
    (lambda: loss_by_time(lambda xt, t: xt, None, X), "s must be a Schedule, got", TypeError)], ids=lambda case: case[1])
def test_what_is_refused(case):
    refused(*case)


# ---- the command


def evaluated(capsys, data, *options, how=""):
    """What evaluate prints of a model that is trained on these."""
    np.save("own.npy", data)
    train("own.npy", *options)
    return printed(capsys, f"evaluate m.npz {how}")


def test_the_oracle_stands_beside_the_loss(monkeypatch, capsys):
    monkeypatch.setattr("npddpm.cli.main.MOST_COMPARED", 100)
    train("gaussians", "--T", "2")
    t, loss, least, ratio = map(float, printed(capsys, "evaluate m.npz").split("ratio\n")[1].splitlines()[0].split())
    assert t == 1 and loss >= 0.9 * least > 0 and ratio == approx(loss / least, rel=0.01)


@pytest.mark.parametrize("rows, share", [(4, "0"), (5, "0.1"), (9, "0.15"), (30, "0.9")])
def test_few_rows(rows, share, capsys):
    """Where no two rows are held out, halves of the data stand for both sides, and that is said."""
    assert ("no two rows of own.npy were held out" in evaluated(capsys, X[:rows], "--holdout", share)) == (rows < 30)


def test_three_rows_are_too_few_to_compare_with(capsys):
    np.save("own.npy", X[:4])
    train()
    assert main(["evaluate", "m.npz"]) == 2 and "DATA own.npy has 3 rows, and 4 are needed" in capsys.readouterr().err


def test_three_rows_of_other_data_are_too_few_even_where_chance_makes_rows_equal(capsys):
    x = np.random.default_rng(0).integers(0, 4, (150, 2))
    np.save("own.npy", x)
    np.save("few.npy", x[:3])
    train()
    assert main(["evaluate", "m.npz", "few.npy"]) == 2 and "DATA few.npy has 3 rows, and 4 are needed" in capsys.readouterr().err


def test_equal_rows(capsys):
    """A held-out row that is also a training row lies at distance 0, by which nothing is divided."""
    out = evaluated(capsys, np.random.default_rng(0).integers(0, 2, (200, 2)))
    assert out.count("ratio                          - (the real rows lie at distance 0)\n") == 1


@pytest.mark.parametrize("command", ["evaluate", "plot"])
def test_a_model_is_not_compared_with_what_is_infinitely_far(capsys, command):
    DDPM(Schedule.linear(10), 4, 1).fit(X, steps=5, rng=0).save("near.npz")
    np.save("far.npy", 1e200 * X)
    assert main([command, "near.npz", "far.npy"]) == 2
    assert re.search(r"^npddpm: DATA far.npy lies too far from the training rows: it reaches \S+e\+200 of their deviations$", capsys.readouterr().err, re.MULTILINE)


def test_samples_are_drawn_and_rounded_as_sample_does(capsys):
    """Fractions are told from whole numbers at a glance, and rounded ones are not."""
    rng = np.random.default_rng(0)
    np.save("own.npy", np.column_stack([rng.poisson(3, 1000), rng.poisson(5, 1000), np.ones(1000)]))
    assert main(["train", "own.npy", "--steps", "500", "--hidden", "32", "--T", "100"]) == 0
    told = []
    for options in ("", "--round", "--round --clip", "--round --steps 10"):
        out = printed(capsys, f"evaluate own.npz {options}")
        assert ("2 of 3 columns hold whole numbers, which these samples do not: --round compares rounded ones" in out) == (not options)
        told.append(float(re.search(r"told apart .*\n  \d+ samples +(\S+)", out)[1]))
    assert told[0] > 0.75 and all(abs(share - 0.5) < 0.15 for share in told[1:]) and len(set(told)) > 2
    DDPM(Schedule.linear(10), 4, 1).fit(X, steps=5, rng=0).save("plain.npz")
    for command, line in (("own.npz --variance beta --steps 5", "--variance has no effect"), ("own.npz --steps 0", "steps must be"),
                          ("plain.npz own.npy --round", "--round: plain.npz does not say")):
        assert main(["evaluate", *command.split()]) == 2 and line in capsys.readouterr().err


def test_samples_that_rounding_takes_off_the_plane_are_told(capsys):
    out = evaluated(capsys, np.random.default_rng(0).multinomial(100, [0.2, 0.3, 0.5], 200), how="--round")
    assert int(re.search(r"(\d+) of 40 samples break a relation that all training rows keep", out)[1]) > 3
    assert "break a relation" not in printed(capsys, "evaluate m.npz")


@pytest.mark.parametrize("column, told", [
    *((lambda rng, share=share: np.where(rng.random((500, 1)) < share, 0, rng.gamma(4, 1, (500, 1))), "column 2" if share > 0.1 else None)
      for share in (0.0, 0.02, 0.15, 0.4)),                                                  # no rain on so many days
    (lambda rng: rng.integers(0, 3, (80, 1)) / 2, "column 2"), (lambda rng: rng.permutation(np.arange(80) % 40)[:, None] / 2, "column 2"),
    (lambda rng: rng.integers(0, 10**6, (80, 7)), "column 2, 3, 4, 5, 6, ...")])
def test_nats_are_said_to_be_no_score_where_a_density_has_no_bound(column, told, capsys):
    """It grows with training, beyond every law of whole numbers."""
    rng = np.random.default_rng(0)
    last = column(rng)
    out = evaluated(capsys, np.column_stack([rng.standard_normal((len(last), 2)), last]))
    found = re.search(r"no score where columns hold whole numbers, few values again and again or one often, on which a density has no bound: (.*) \(from 0\)", out)
    assert (found and found[1]) == told


def test_data_unlike_the_training_rows_is_told(capsys):
    """Beside it the energy ratio is 1 whatever the model is, and that of the nearest training row near 0."""
    rng = np.random.default_rng(0)
    for name, shift in (("own", 0), ("alike", 0), ("shifted", 8)):
        np.save(f"{name}.npy", rng.standard_normal((200, 2)) + shift)
    train()
    told = "is unlike the training rows"
    assert told not in printed(capsys, "evaluate m.npz alike.npy") and f"shifted.npy {told}" in printed(capsys, "evaluate m.npz shifted.npy")


def test_columns_of_other_names_are_told_and_those_in_another_order_refused(capsys):
    lines = "".join(f"{i % 7},{i % 5}.5,{i % 3}\n" for i in range(40))
    for name, header in (("a", "a,b,n"), ("same", "a,b,n"), ("turned", "b,a,n"), ("other", "a,B,n")):
        Path(f"{name}.csv").write_text(f"{header}\n{lines}" + "0,0.5,9\n" * (name != "a"))
    train("a.csv")
    assert "and the model" not in printed(capsys, "evaluate m.npz same.csv")
    assert "other.csv has the columns a, B, n, and the model a, b, n\n" in printed(capsys, "evaluate m.npz other.csv")
    assert main(["evaluate", "m.npz", "turned.csv"]) == 2
    assert "has the columns b, a, n, and the model a, b, n: put them into the model's order" in capsys.readouterr().err


@pytest.mark.parametrize("image", ["2x6", "none", "3x4"])
def test_images_of_another_shape_are_not_compared(image, capsys):
    """But a file is what was trained on, also if it was trained on as something else."""
    x = np.random.default_rng(0).random((40, 2, 6))
    np.save("other.npy", x.transpose(0, 2, 1))
    for how in ("", "own.npy"):
        assert "held-out rows" in evaluated(capsys, x, "--image", image, how=how)
    assert main(["evaluate", "m.npz", "other.npy"]) == 2
    shape = {"2x6": "images of 2 x 6", "3x4": "images of 3 x 4", "none": "a table"}[image]
    assert f"DATA other.npy holds images of 6 x 2, the training rows were {shape}" in capsys.readouterr().err
