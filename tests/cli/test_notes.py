"""What one claims to compare it compares, or the line says what it could not know: the notes in a checkpoint, and the data now."""

import re
from pathlib import Path

import numpy as np
import pytest
from commands import printed, train

from npddpm import DDPM, Schedule
from npddpm.cli.main import main

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")


def rows(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 2))


def save(**tables):
    for name, x in tables.items():
        np.save(f"{name}.npy", x)


def evaluate(capsys, data=""):
    return printed(capsys, f"evaluate m.npz {data}")


def copies(self, n, rng=None, **options):
    """A model that knows its training rows by heart."""
    return [np.load("own.npy")[np.random.default_rng(0).integers(0, 32, n)]]


def test_a_copying_model_is_found_out_with_other_data_too(monkeypatch, capsys):
    save(own=rows(32), other=rows(500, seed=1))
    train("own.npy", "--holdout", "0")
    monkeypatch.setattr(DDPM, "sample_chunks", copies)
    out = evaluate(capsys, "other.npy")
    assert "other.npy is not what m.npz was trained on, own.npy; 0 of its 500 rows are training rows" in out
    assert "rows of DATA" in out and "held-out" not in out
    assert float(re.search(r"nearest training row .*\n  samples +(\S+)\n", out)[1]) == 0        # the nearest training row is the sample itself


@pytest.mark.parametrize("command", [[], ["own.npy"]])
def test_data_that_changed_are_not_taken_for_the_training_data(command, capsys):
    save(own=rows(40))
    train()
    save(own=rows(40, seed=1))
    out = evaluate(capsys, *command)
    assert "own.npy is not, or no longer, what m.npz was trained on, and its training rows are not known" in out
    assert "nearest training row: not known" in out and "held-out" not in out and not re.search(r"\d+ training rows", out)


def test_without_held_out_rows_training_rows_are_called_so(capsys):
    save(own=rows(40))
    train("own.npy", "--holdout", "0")
    out = evaluate(capsys)
    assert "no two rows of own.npy were held out" in out and "on training rows" in out and "20 other training rows" in out
    assert "held-out rows         none" in out


def test_a_model_of_the_library_does_not_know_its_data(capsys):
    save(own=rows(40))
    DDPM(Schedule.linear(10), 8, 1).fit(rows(40), steps=5, rng=0).save("m.npz")
    assert "m.npz does not say what it was trained on: rows of own.npy may be its training rows" in evaluate(capsys, "own.npy")


@pytest.mark.parametrize("notes", [
    {"data": [1], "sha256": 2, "settings": None}, {"data": "own.npy", "sha256": None, "settings": {"holdout": 0.5}},
    {"data": "own.npy", "settings": {"steps": "many", "batch_size": 8, "lr": 0.1, "holdout": 7}}, {"settings": [1]},
])
def test_nothing_that_a_checkpoint_notes_is_trusted(notes, capsys):
    save(own=rows(40))
    model = DDPM(Schedule.linear(10), 8, 1).fit(rows(40), steps=5, rng=0)
    model.about = notes
    model.save("m.npz")
    for command in ("evaluate m.npz own.npy", "train own.npy --out m.npz --resume", "evaluate m.npz", "sample m.npz -n 2"):
        assert main(command.split()) in (0, 2)
        assert re.fullmatch("(step .*\n|sample .*\n)*(npddpm: .*\n)?", capsys.readouterr().err)


def test_rows_off_the_plane_are_said_before_the_distances_that_do_not_see_them(capsys):
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.standard_normal((80, 2)), np.full(80, 3.0)])
    save(own=x, off=x + [[1, 0, 100 * (i % 2)] for i in range(80)])
    train()
    assert "lie off the plane" not in evaluate(capsys)
    out = evaluate(capsys, "off.npy")
    off, n = map(int, re.search(r"(\d+) of (\d+) rows of DATA lie off the plane of the training rows", out).groups())
    assert n == 64 and 25 < off < 40 and out.index("lie off the plane") < out.index("energy distance")


def test_training_rows_in_other_data_are_left_out_of_what_is_compared(capsys):
    rng = np.random.default_rng(0)
    x = 1e-100 * rng.standard_normal((80, 2))
    save(own=x)
    train()
    save(more=np.concatenate([x, 1e-100 * rng.standard_normal((20, 2))]))
    out = evaluate(capsys, "more.npy")
    assert "64 of its 100 rows are training rows, which are left out" in out and "energy distance to 36 rows of DATA" in out


@pytest.mark.parametrize("form", ["%.9g", "%.3f"])
def test_a_copy_with_fewer_digits_is_told(form, capsys):
    """Such as single precision has."""
    save(own=rows(80))
    np.savetxt("copy.csv", rows(80)[::-1], fmt=form, delimiter=",")
    train("own.npy", "--holdout", "0")
    assert re.search(r"(9\d|100)% of 80 rows of DATA are almost equal to a training row, beyond what training rows are to each other: they may be "
                     "copies with fewer digits", evaluate(capsys, "copy.csv"))


def test_rows_that_are_there_twice_are_told(capsys):
    save(own=np.repeat(np.random.default_rng(0).standard_normal((20, 2)), 8, axis=0))
    train()
    assert "32 of 32 held-out rows are training rows too: own.npy has rows more than once" in evaluate(capsys)


def test_rows_of_other_data_that_are_there_twice_are_told(capsys):
    rng = np.random.default_rng(0)
    save(own=rng.standard_normal((80, 2)), twice=np.repeat(rng.standard_normal((20, 2)), 4, axis=0))
    train()
    assert "60 of 80 rows of twice.npy are equal to an earlier one: what compares nearest rows takes them for copies" in evaluate(capsys, "twice.npy")


def test_notes_of_a_file_belong_to_its_training(capsys):
    train("moons")
    model = DDPM.load("m.npz")
    model.about["mine"] = 1
    known = dict(model.about)
    model.fit(1000 + np.random.default_rng(0).exponential(size=(60, 2)), 3, resume=False, rng=0).save("other.npz")
    assert "data" in known and model.about == DDPM.load("other.npz").about == {"mine": 1}
    assert main(["evaluate", "other.npz"]) == 2 and "does not say what it was trained on" in capsys.readouterr().err


def test_notes_of_a_training_that_went_on_elsewhere_are_not_used(capsys):
    """Its held-out rows may have been learned since."""
    save(own=rows(80))
    train()
    model = DDPM.load("m.npz")
    model.fit(rows(80), model.step + 1, resume=True).save("m.npz")
    assert main(["evaluate", "m.npz"]) == 2 and "m.npz does not say what it was trained on" in capsys.readouterr().err
    assert "rows of own.npy may be its training rows" in evaluate(capsys, "own.npy")
    assert main(["sample", "m.npz", "--clip"]) == 2 and "does not say what its training columns held" in capsys.readouterr().err


def test_data_that_are_elsewhere_now(capsys):
    save(own=rows(80))
    train()
    Path("own.npy").rename("other.npy")
    assert main(["evaluate", "m.npz"]) == 2
    assert "m.npz was trained on own.npy, but cannot read own.npy: No such file or directory: name DATA" in capsys.readouterr().err


def test_a_training_that_goes_on_keeps_the_names_of_its_columns(capsys):
    lines = "".join(f"{i % 7}.5,{i % 5}\n" for i in range(40))
    for name, header in (("a", "h,w\n"), ("turned", "w,h\n"), ("bare", "")):
        Path(f"{name}.csv").write_text(header + lines)
    train("a.csv")
    more = ["--resume", "--out", "m.npz", "--steps", "90"]
    assert main(["train", "turned.csv", *more]) == 2 and "put them into the model's order" in capsys.readouterr().err
    assert main(["train", "bare.csv", *more]) == 0 and main(["sample", "m.npz", "-n", "4", "--out", "x.csv"]) == 0
    assert Path("x.csv").read_text().startswith('"h","w"\n')
