"""evaluate: distances between samples, the loss by time, and what the command says of both."""

import re
from pathlib import Path

import numpy as np
import pytest
from bounded import memory
from commands import SMALL
from pytest import approx
from refused import refused

from npddpm import DDPM, GaussianMixture, Schedule
from npddpm.cli import evaluate
from npddpm.cli.evaluate import (
    distances,
    energy_distance,
    loss_at,
    loss_by_time,
    nearest,
    one_nearest_neighbour,
    precision_recall,
)
from npddpm.cli.main import main

X, Y = np.random.default_rng(0).standard_normal((40, 3)), 5 + np.random.default_rng(1).standard_normal((25, 3))

# ---- distances


def test_distances():
    expected = np.linalg.norm(X[:, None] - Y, axis=-1)
    assert distances(X, Y) == approx(expected, rel=1e-10)
    assert nearest(X, Y) == approx(np.median(expected.min(1)))


@pytest.mark.parametrize("unbiased", [True, False])
def test_energy_distance_is_its_definition(unbiased):
    def mean(a, b):
        d = np.linalg.norm(a[:, None] - b, axis=-1)
        return d.sum() / (len(a) * (len(a) - 1)) if unbiased and a is b else d.mean()
    assert energy_distance(X, Y, unbiased) == approx(2 * mean(X, Y) - mean(X, X) - mean(Y, Y), rel=1e-10)


def test_energy_distance_of_points():
    """Two point masses at distance 3: 2 * 3 - 0 - 0."""
    assert energy_distance(np.zeros((5, 1)), np.full((4, 1), 3.0)) == approx(6)
    assert energy_distance(X, X, unbiased=False) == approx(0, abs=1e-7)


def test_half_precision_is_read_as_what_it_is():
    x, y = X.astype(np.float16), Y.astype(np.float16)
    assert energy_distance(x, y) == energy_distance(x.astype(float), y.astype(float))


@pytest.mark.parametrize("scale", [1.0, 1 / 3, 1e6])
@pytest.mark.parametrize("d", [3, 8])
def test_rounding_decides_no_tie(scale, d):
    """Rows of 0 and 1 have few distances, of which many are equal; copies of all rows are told apart by nobody."""
    rng = np.random.default_rng(d)
    whole = rng.integers(0, 2, (2, 300, d)).astype(float)

    def ranked(own, other):     # in whole numbers, without rounding
        return np.where(own == other, 0.5, own < other)

    def between(a, b):
        return ((a[:, None] - b) ** 2).sum(-1)

    def alone(a):
        return (between(a, a) + 1000 * np.eye(len(a))).min(1)

    x, y = whole
    expected = np.concatenate([ranked(alone(x), between(x, y).min(1)), ranked(alone(y), between(y, x).min(1))]).mean()
    shift = np.pi * rng.standard_normal(d)
    assert one_nearest_neighbour(x * scale + shift, y * scale + shift) == expected
    z = rng.standard_normal((200, d)) * scale + shift
    twice = np.concatenate([z, z])
    assert one_nearest_neighbour(twice, twice[rng.permutation(400)]) == 0.5
    fourfold = np.concatenate([z[:100]] * 4)        # the third nearest other row is a copy, at a distance of 0
    assert precision_recall(fourfold, fourfold[rng.permutation(400)]) == (1, 1)


def test_nearest_keeps_its_digits_where_rows_almost_agree():
    """|x|^2 + |y|^2 - 2 x.y, which finds the nearest row, has none left at 1e-10."""
    z = np.random.default_rng(2).standard_normal((200, 64))
    assert nearest(z, z) == 0 and nearest(z + 1e-10, z) == approx(8e-10, rel=1e-4)


@pytest.mark.parametrize("rows", [1, 5, 7, 24, 39])
def test_blocks_change_nothing(monkeypatch, rows):
    """They only bound what is held at a time; every pair of rows counts once."""
    whole = energy_distance(X, Y), energy_distance(X, Y, unbiased=False), nearest(X, Y), nearest(Y, X)
    monkeypatch.setattr(evaluate, "BLOCK", rows)
    assert max(len(block) for block in evaluate.blocks(X)) == rows
    assert (energy_distance(X, Y), energy_distance(X, Y, unbiased=False), nearest(X, Y), nearest(Y, X)) == approx(whole, rel=1e-8)


def test_one_row_has_a_v_statistic():
    """Of point masses at distance 5; a table without rows has none."""
    assert energy_distance([[0, 0]], [[3, 4]], unbiased=False) == approx(10)
    with pytest.raises(ValueError, match="x must have shape .* n >= 1 rows"):
        energy_distance(X[:0], Y, unbiased=False)


def test_distances_take_memory_for_a_block_alone(monkeypatch):
    monkeypatch.setattr("npddpm.cli.evaluate.BLOCK", 100)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((150, 2)), rng.standard_normal((20_000, 2))
    with memory(2**21):
        near, apart = nearest(x, y), energy_distance(x, y[:1000])
        loss_by_time(lambda xt, t: xt, Schedule.linear(10), y)
    assert near == approx(np.median([np.sqrt(((row - y) ** 2).sum(1)).min() for row in x]))
    monkeypatch.setattr("npddpm.cli.evaluate.BLOCK", 10_000)
    assert apart == approx(energy_distance(x, y[:1000]))


# ---- the loss by time


def test_loss_of_the_best_denoiser_is_the_least_loss():
    law, s = GaussianMixture([1], [[0.0, 1.0]], [0.5]), Schedule.linear(50)
    assert loss_at(law.denoiser(s), s, law.sample(100_000, 0), 20, rng=1) == approx(law.least_loss(s, 20), rel=0.03)


@pytest.mark.parametrize("T, times", [(1, [1]), (4, [1, 2, 3, 4]), (100, [1, 2, 4, 5, 8, 12, 19, 28, 43, 66, 100])])
@pytest.mark.parametrize("rows, draws", [(1, 4000), (300, 4200), (3999, 7998), (4000, 4000), (4001, 4000)])
def test_loss_by_time(T, times, rows, draws):
    """Rows are used as often as makes 4000 draws, and the same noise at each time."""
    s, law = Schedule.linear(T), GaussianMixture([1], [[0.0, 1.0]], [0.5])
    x0, seen = law.sample(rows, 0), []

    def denoiser(xt, t):
        seen.append(len(xt))
        return law.denoiser(s)(xt, t)

    found = loss_by_time(denoiser, s, x0, 3)
    assert found[:, 0].tolist() == times and np.isnan(found[:, 2]).all() and set(seen) == {draws}
    again = np.concatenate([x0] * (draws // rows + 1))[:draws]
    assert found[:, 1].tolist() == [loss_at(denoiser, s, again, t, 3) for t in times]


def test_the_least_loss_stands_beside_the_loss():
    s, law = Schedule.linear(4), GaussianMixture([1], [[0.0, 1.0]], [0.5])
    found = loss_by_time(law.denoiser(s), s, law.sample(5, 0), law=law)
    assert found[:, 2].tolist() == [law.least_loss(s, t) for t in (1, 2, 3, 4)]
    assert (found[:, :2] == loss_by_time(law.denoiser(s), s, law.sample(5, 0), 0)[:, :2]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_loss_is_taken_in_the_precision_of_the_rows(dtype):
    s, seen = Schedule.linear(4), []
    loss_at(lambda xt, t: seen.append(xt.dtype) or xt, s, X.astype(dtype), 2, rng=0)
    assert seen == [dtype]


# ---- two-sample tests by neighbours


def brute_force(x, y, k):
    """Distances of x to the k-th nearest row of y, by sorting."""
    return np.sort(np.linalg.norm(x[:, None] - y, axis=-1), axis=1)[:, k - 1]


def test_one_nearest_neighbour_by_hand(monkeypatch):
    """Leave one out: the label of the nearest other row of both sets together."""
    monkeypatch.setattr(evaluate, "BLOCK", 7)
    x, y = X[:25], X[15:] + 0.3 * Y
    both, label = np.concatenate([x, y]), np.repeat([0, 1], 25)
    d = np.linalg.norm(both[:, None] - both, axis=-1)
    np.fill_diagonal(d, np.inf)
    assert one_nearest_neighbour(x, y) == approx((label[d.argmin(1)] == label).mean())


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


def test_precision_and_recall_by_hand(monkeypatch):
    monkeypatch.setattr(evaluate, "BLOCK", 7)
    drawn, real = X[:30], X[10:] * 1.3
    within = np.linalg.norm(drawn[:, None] - real, axis=-1)
    precision = (within <= brute_force(real, real, 4)).any(1).mean()
    recall = (within.T <= brute_force(drawn, drawn, 4)).any(1).mean()
    assert precision_recall(drawn, real) == approx((precision, recall))


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


@pytest.mark.parametrize("statistic", [energy_distance, one_nearest_neighbour])
@pytest.mark.parametrize("x, y, message", [
    (X[:1], Y, "x must have shape (n, d) with n >= 2 rows"), (X, Y[:1], "y must have shape (n, d) with n >= 2 rows"),
    (X, Y[:, :2], "y must have 3 columns as x, got 2"), (X, Y[0], "y must have shape (n, d)"), (X, [], "y must have shape (n, d)"),
    (X, 1j * Y, "y must hold real numbers, got dtype complex128"), (np.ma.masked_less(X, 0), Y, "x must have no masked entries"),
    (np.where(X > 2, np.nan, X), Y, "x must be finite, got nan in row"), (X, [["a"]], "y must hold real numbers")])
def test_a_statistic_needs_tables_of_finite_numbers(statistic, x, y, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        statistic(x, y)


@pytest.mark.parametrize("call, message", [
    (lambda: one_nearest_neighbour(X, Y), "y must have as many rows as x, 40, got 25"),
    (lambda: precision_recall(X, Y, 0), "k must be an int of at least 1, got 0"),
    (lambda: precision_recall(X, Y[:3]), "real must have shape (n, d) with n >= 4 rows"),
    (lambda: nearest(X, Y[:, :1]), "y must have 3 columns as x, got 1"),
    (lambda: nearest(X, np.inf * Y), "y must be finite"),
    (lambda: loss_at(lambda xt, t: xt, Schedule.linear(4), X[:0], 2), "x0 must have a row or more"),
    (lambda: loss_by_time(lambda xt, t: xt, Schedule.linear(4), X[:0]), "x0 must have a row or more")])
def test_what_the_others_refuse(call, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        call()


@pytest.mark.parametrize("case", [
    (lambda: loss_by_time(lambda xt, t: xt, None, X), "s must be a Schedule, got", TypeError),
    *((lambda x=x, f=f: f(x, np.ones((3, 2))), f"x must reach between 1e-150 and 1e150, .* got {x.max():.3g}".replace("+", r"\+"))
      for x in (np.full((3, 2), 1e160), np.full((3, 2), 1e-200)) for f in (energy_distance, nearest))], ids=lambda case: case[1])
def test_what_reaches_too_far_or_is_no_schedule(case):
    refused(*case)


# ---- the command


def test_the_oracle_stands_beside_the_loss(in_an_empty_folder, monkeypatch, capsys):
    monkeypatch.setattr("npddpm.cli.main.MOST_COMPARED", 100)
    assert main(["train", "gaussians", *SMALL, "--T", "2", "--out", "g.npz"]) == 0
    assert main(["evaluate", "g.npz"]) == 0
    table = capsys.readouterr().out.split("ratio\n")[1].splitlines()
    t, loss, least, ratio = map(float, table[0].split())
    assert t == 1 and loss >= 0.9 * least > 0 and ratio == approx(loss / least, rel=0.01)


@pytest.mark.parametrize("rows, share", [(4, "0"), (5, "0.1"), (9, "0.15"), (30, "0.9")])
def test_few_rows(rows, share, in_an_empty_folder, capsys):
    """Where no two rows are held out, halves of the data stand for both sides, and that is said."""
    np.save("few.npy", np.random.default_rng(0).standard_normal((rows, 2)))
    assert main(["train", "few.npy", "--holdout", share, *SMALL, "--out", "m.npz"]) == 0
    assert main(["evaluate", "m.npz"]) == 0
    assert ("no two rows of few.npy were held out" in capsys.readouterr().out) == (rows < 30)


def test_three_rows_are_too_few_to_compare_with(in_an_empty_folder, capsys):
    np.save("four.npy", np.random.default_rng(0).standard_normal((4, 2)))
    assert main(["train", "four.npy", *SMALL, "--out", "m.npz"]) == 0 and main(["evaluate", "m.npz"]) == 2
    assert "DATA four.npy has 3 rows, and 4 are needed" in capsys.readouterr().err


def test_equal_rows(in_an_empty_folder, capsys):
    """A held-out row that is also a training row lies at distance 0, by which nothing is divided."""
    np.save("bits.npy", np.random.default_rng(0).integers(0, 2, (200, 2)))
    assert main(["train", "bits.npy", *SMALL, "--out", "m.npz"]) == 0
    assert main(["evaluate", "m.npz"]) == 0
    assert capsys.readouterr().out.count("ratio                          - (the real rows lie at distance 0)\n") == 1


@pytest.mark.parametrize("command", ["evaluate", "plot"])
def test_a_model_is_not_compared_with_what_is_infinitely_far(in_an_empty_folder,  capsys, command):
    DDPM(Schedule.linear(10), 4, 1).fit(X, steps=5, rng=0).save("near.npz")
    np.save("far.npy", 1e200 * X)
    assert main([command, "near.npz", "far.npy"]) == 2
    assert re.search(r"^npddpm: DATA far.npy lies too far from the training rows: it reaches \S+e\+200 of their deviations$", capsys.readouterr().err, re.MULTILINE)


@pytest.mark.usefixtures("in_an_empty_folder")
def test_samples_are_drawn_and_rounded_as_sample_does(capsys):
    """Fractions are told from whole numbers at a glance, and rounded ones are not."""
    rng = np.random.default_rng(0)
    np.save("own.npy", np.column_stack([rng.poisson(3, 1000), rng.poisson(5, 1000), np.ones(1000)]))
    assert main(["train", "own.npy", "--steps", "500"]) == 0
    told = {}
    for options in ((), ("--round",), ("--round", "--clip"), ("--round", "--steps", "10")):
        capsys.readouterr()
        assert main(["evaluate", "own.npz", *options]) == 0
        out = capsys.readouterr().out
        assert ("2 of 3 columns hold whole numbers, which these samples do not: --round compares rounded ones" in out) == (options == ())
        told[options] = float(re.search(r"told apart .*\n  \d+ samples +(\S+)", out)[1])
    assert told[()] > 0.75 and all(abs(told[options] - 0.5) < 0.15 for options in told if options) and len(set(told.values())) > 2
    for options in (["--variance", "beta", "--steps", "5"], ["--steps", "0"]):
        assert main(["evaluate", "own.npz", *options]) == 2
    np.save("plain.npy", rng.standard_normal((50, 2)))
    DDPM(Schedule.linear(10), 4, 1).fit(np.load("plain.npy"), steps=5, rng=0).save("plain.npz")
    assert main(["evaluate", "plain.npz", "plain.npy", "--round"]) == 2 and "--round: plain.npz does not say" in capsys.readouterr().err


@pytest.mark.usefixtures("in_an_empty_folder")
def test_samples_that_rounding_takes_off_the_plane_are_told(capsys):
    np.save("shares.npy", np.random.default_rng(0).multinomial(100, [0.2, 0.3, 0.5], 200))
    assert main(["train", "shares.npy", *SMALL]) == 0
    for options in ((), ("--round",)):
        capsys.readouterr()
        assert main(["evaluate", "shares.npz", *options]) == 0
        told = re.search(r"(\d+) of 40 samples break a relation that all training rows keep", capsys.readouterr().out)
        assert (told is not None) == (options != ()) and (told is None or int(told[1]) > 3)


@pytest.mark.usefixtures("in_an_empty_folder")
@pytest.mark.parametrize("share", [0.0, 0.02, 0.15, 0.4])
def test_one_value_that_is_often_there_has_no_density(share, capsys):
    """No rain on so many days."""
    rng = np.random.default_rng(0)
    np.save("own.npy", np.column_stack([np.where(rng.random(500) < share, 0, rng.gamma(4, 1, 500)), rng.standard_normal(500)]))
    assert main(["train", "own.npy", *SMALL]) == 0 and main(["evaluate", "own.npz"]) == 0
    assert ("on which a density has no bound: column 0 (from 0)" in capsys.readouterr().out) == (share > 0.1)


@pytest.mark.usefixtures("in_an_empty_folder")
def test_nats_of_whole_numbers_are_said_to_be_no_score(capsys):
    """A density on them grows with training, beyond every law of whole numbers."""
    rng = np.random.default_rng(0)
    for name, columns, expected in (("some", 1, "column 2 (from 0)"), ("many", 7, "column 2, 3, 4, 5, 6 and 2 others (from 0)"), ("none", 0, None),
                                    ("grid", 1, "column 2 (from 0)")):
        grid = rng.permutation(np.arange(80) % 40)[:, None] / 2 if name == "grid" else rng.integers(0, 3, (80, columns)) / (2 if columns == 1 else 1)
        np.save(f"{name}.npy", np.column_stack([rng.standard_normal((80, 2)), grid]))
        assert main(["train", f"{name}.npy", *SMALL]) == 0 and main(["evaluate", f"{name}.npz"]) == 0
        told = re.search("no score where columns hold whole numbers, few values again and again or one often, on which a density has no bound: (.*)", capsys.readouterr().out)
        assert expected == (told and told[1])


def test_columns_of_other_names_are_told_and_those_in_another_order_refused(in_an_empty_folder, capsys):
    lines = "".join(f"{i % 7},{i % 5}.5,{i % 3}\n" for i in range(40))
    for name, header in (("a", "a,b,n"), ("same", "a,b,n"), ("turned", "b,a,n"), ("other", "a,B,n")):
        Path(f"{name}.csv").write_text(f"{header}\n{lines}" + "0,0.5,9\n" * (name != "a"))
    assert main(["train", "a.csv", *SMALL]) == 0 and main(["evaluate", "a.npz", "same.csv"]) == 0
    assert "other names" not in capsys.readouterr().out
    assert main(["evaluate", "a.npz", "other.csv"]) == 0
    assert "other.csv has other names of columns than the training rows: 'B' for 'b'\n" in capsys.readouterr().out
    assert main(["evaluate", "a.npz", "turned.csv"]) == 2
    assert "has the columns b, a, n, and the model a, b, n: put them into the model's order" in capsys.readouterr().err


def test_images_of_another_shape_are_not_compared(in_an_empty_folder, capsys):
    x = np.random.default_rng(0).random((40, 2, 6))
    np.save("a.npy", x)
    np.save("b.npy", x.transpose(0, 2, 1))
    assert main(["train", "a.npy", *SMALL]) == 0 and main(["evaluate", "a.npz", "b.npy"]) == 2
    assert "DATA b.npy holds images of 6 x 2, the training rows were images of 2 x 6" in capsys.readouterr().err


@pytest.mark.parametrize("image", ["none", "3x4"])
def test_a_file_of_images_that_were_trained_on_as_something_else_is_what_was_trained_on(image, in_an_empty_folder):
    np.save("a.npy", np.random.default_rng(0).random((40, 2, 6)))
    assert main(["train", "a.npy", *SMALL, "--image", image]) == 0 and main(["evaluate", "a.npz"]) == main(["evaluate", "a.npz", "a.npy"]) == 0
