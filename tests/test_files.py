"""Files of the world, read or refused in a line that helps; and files that mean harm, in bounded memory."""

import json
import re
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from npddpm import DDPM, MLP, Schedule, data
from npddpm.arrays.checks import MOST_STEPS
from npddpm.cli.evaluate import energy_distance, loss_by_time, nearest
from npddpm.cli.main import main

X = np.array([[1.5, 2.0], [3.0, 4.25]])


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def load(name="f.csv"):
    told = []
    return data.load(name, tell=told.append), *told


def write(text, name="f.csv"):
    with open(name, "w", encoding="utf-8", newline="") as file:
        file.write(text)


READ = {
    "1.5,2\n3,4.25\n": "separated by commas, no header",
    "1.5;2\n3;4.25\n": "separated by semicolons, no header",
    "1.5\t2\r\n3\t4.25\r\n": "separated by tabs, no header",
    "1.5  2\n3 4.25\n\n": "separated by spaces, no header",
    " 1.5 , 2\n 3 , 4.25": "separated by commas, no header",
    "1.5,02\n03,4.25\n": "separated by commas, no header",
    "left,right\n1.5,2\n3,4.25\n": "separated by commas, header left, right",
    "left;right\n1.5;2\n3;4.25\n": "separated by semicolons, header left, right",
    '"left","right"\n"1.5","2"\n"3","4.25"\n': "separated by commas, header left, right",
    "# made by hand\nleft,right\n\n1.5,2\n# a note\n3,4.25\n": "separated by commas, header left, right",
    "2019,2020\n1.5,2\n3,4.25\n": "separated by commas, header 2019, 2020",
    "0,1\n1.5,2.0\n3.0,4.25\n": "separated by commas, header 0, 1",
    "sep=;\r\nleft;right\r\n1.5;2\r\n3;4.25\r\n": "separated by semicolons, header left, right",
    '\ufeff"sep=,"\n1.5,2\n3,4.25\n': "separated by commas, no header",
    "left,right,\n1.5,2,\n3,4.25,\n": "separated by commas, header left, right",
    "1.5\t2\t\n3\t4.25\t\n": "separated by tabs, no header",
    "1.5; 2; \r\n3; 4.25; \r\n": "separated by semicolons, no header",
    ",a,b\n0,1.5,2\n1,3,4.25\n": "header , a, b; its first column, which has no name, is an index and left out",
    ",0,1\n0,1.5,2\n1,3,4.25\n": "header , 0, 1; its first column, which has no name, is an index and left out",
    "Unnamed: 0,a,b\n5,1.5,2\n7,3,4.25\n": "its first column, which has no name, is an index and left out",
}


@pytest.mark.parametrize("text", READ)
def test_text_is_read_and_what_was_taken_is_told(text):
    write(text)
    x, line = load()
    assert (x == X).all() and line.startswith("f.csv: 2 rows of 2") and line.endswith(READ[text])


@pytest.mark.parametrize("text", [100_000 * "1" + "x,2\n3,4\n", "a,b\n" + 100_000 * "1" + "x,2\n"])
def test_long_cells_take_no_square_of_their_length(text):
    """Which would be minutes."""
    write(text)
    with pytest.raises(ValueError, match="which is no number"):
        load()


def test_a_first_column_that_counts_is_told():
    write("0,1.5\n1,2.5\n2,3.5\n")
    x, line = load()
    assert x.shape == (3, 2) and line.endswith("its first column counts the rows: leave it out if it is an index")


@pytest.mark.parametrize("text, ambiguous", [
    ("1,5\n2,7\n", True), ("1,5,-2,25\n2,7,0,5\n", True), ("1,5\n2,-7\n", False), ("1, 5\n2, 7\n", False), ("1,5.0\n2,7\n", False),
    ("a,b\n1,5\n2,7\n", False), ("1;5\n2;7\n", False), ("1,5,2\n2,7,3\n", False),
])
def test_whole_numbers_that_could_be_decimal_commas_are_told(text, ambiguous):
    write(text)
    assert (" (if 1,5 is one number here, write 1.5)" in load()[1]) == ambiguous


def test_years_are_no_header_where_all_rows_are():
    write("1950,1951\n1960,1961\n")
    assert load()[0].tolist() == [[1950, 1951], [1960, 1961]]


REFUSED = {
    "1,5;2,5\n3,5;4,5\n": "line 1 holds '1,5', which is no number (column 1): write decimal points",
    "1,5\t2\n": "line 1 holds '1,5', which is no number (column 1): write decimal points",
    "x\n1,5\n2,7\n": "its header has 1 names, line 2 has 2 values",
    "1,5\n2,05\n": "line 2, 2,05, seems to have decimal commas: write decimal points",
    "-0,5\n2,5\n": "line 1, -0,5, seems to have decimal commas",
    "a,b,c\n1,2\n3,4\n": "its header has 3 names, line 2 has 2 values",
    "NA,NA\n1,2\n3,4\n": "line 1 holds 'NA', which is no number (column 1): fill it in, or leave the row out",
    "NA\n1\n2\n": "line 1 holds 'NA'",
    "a,b\n1,2\n3,\n": "line 3 holds '', which is no number (column 2, b): fill it in",
    "1_0,2\n3,4\n": "line 1 holds '1_0', which is no number",
    "1_0,2_0\n3,4\n": "line 1 holds '1_0', which is no number",
    "0x10,2\n3,4\n": "line 1 holds '0x10', which is no number",
    "1,2\n3,9007199254740993\n": "line 2 holds 9007199254740993, an integer beyond 2^53, which float64 rounds (column 2)",
    "l,w,species\n1,2,setosa\n": "line 2 holds 'setosa', which is no number (column 3, species): leave the column out",
    "l,,r\n1,2,3\n": "line 1 holds 'l', which is no number (column 1): leave the column out, or give it numbers; in a header every "
                     "column has a name",
    "1|2\n3|4\n": "line 2 holds '3|4', which is no number (column 1, 1|2): put commas, semicolons, tabs or spaces between the numbers",
    "1,2,\n3,,\n": "line 2 holds '', which is no number (column 2): fill it in",
    "1,2\n\n3,4,5\n": "line 3 has 3 values, the first has 2",
    "# nothing\n": "it holds no rows of numbers",
}


@pytest.mark.parametrize("text", REFUSED)
def test_text_that_would_be_misread_is_refused(text):
    write(text)
    with pytest.raises(ValueError, match="^cannot read f.csv: " + re.escape(REFUSED[text])):
        load()


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_text_in_another_encoding(encoding):
    with open("f.csv", "w", encoding=encoding) as file:
        file.write("température,b\n1,2\n3,4\n")
    with pytest.raises(ValueError, match=r"cannot read f.csv: it is no text in UTF-8 \(byte \d+\): save it as such"):
        load()


@pytest.mark.parametrize("name", ["f.tsv", "f.txt"])
def test_other_names_of_text(name):
    write("1.5\t2\n3\t4.25\n", name)
    assert (load(name)[0] == X).all()


def test_text_is_read_in_little_memory():
    """At most three times the array: rows are not kept as Python's objects."""
    x = np.random.default_rng(0).standard_normal((20_000, 5))
    np.savetxt("f.csv", x, delimiter=",")
    tracemalloc.start()
    try:
        assert (data.load("f.csv") == x).all()
        assert tracemalloc.get_traced_memory()[1] < 3 * x.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [(5, 8, 8), (5, 1, 8, 8), (5, 8, 8, 1)])
def test_images(shape):
    images = np.random.default_rng(0).random(shape)
    np.save("f.npy", images)
    x, line = load("f.npy")
    assert (x == images.reshape(5, 64)).all() and line == "f.npy: 5 rows of 64, images of 8 x 8"
    np.savez("f.npz", x=images, y=np.arange(5))
    assert load("f.npz")[1] == "f.npz: 5 rows of 64, array x of x, y, images of 8 x 8"


def test_what_follows_an_array_is_not_passed_over():
    with open("f.npy", "wb") as file:
        np.save(file, X)
        np.save(file, X)
    with pytest.raises(ValueError, match=r"cannot read f.npy: something follows its array"):
        load("f.npy")


def test_numbers_that_no_float64_can_hold():
    if np.finfo(np.longdouble).maxexp > 1024:
        with pytest.raises(ValueError, match=r"x must be finite, got .* in row 0, column 0"):
            DDPM(Schedule.linear(10), 4, 1).fit(np.longdouble("1e400") * np.eye(4, dtype=np.longdouble), steps=1)


@pytest.mark.parametrize("integer", [2**53 + 1, -2**53 - 1, 2**63 - 1, -2**63])
def test_integers_that_float64_rounds(integer):
    np.save("f.npy", np.array([[1], [integer]]))
    with pytest.raises(ValueError, match=f"f.npy must hold integers of at most 2.53, which float64 does not round, got {integer}"):
        load("f.npy")
    np.save("f.npy", np.array([[1], [2**53]]))
    assert load("f.npy")[0][1] == 2**53


def test_train_says_what_it_took(capsys):
    write("a;b\n1.5;2\n3;4.25\n5;6\n")
    assert main(["train", "f.csv", "--steps", "2", "--hidden", "4", "--holdout", "0"]) == 0
    assert capsys.readouterr().out.startswith("f.csv: 3 rows of 2, separated by semicolons, header a, b\n")


# ---- files that mean harm

@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "good.npz"
    DDPM(Schedule.linear(10), 4, 1).fit(np.eye(4), steps=2, rng=0).save(path)
    with np.load(path) as content:
        return dict(content)


def refused_in_little_memory(message):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="cannot read bad.npz: .*" + message):
            DDPM.load("bad.npz")
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_compressed_arrays(arrays):
    np.savez_compressed("bad.npz", **{**arrays, "losses": np.zeros(10**6)})
    refused_in_little_memory("it is compressed, which a checkpoint is not")


def test_headers_that_promise_more_than_there_is(arrays):
    np.savez("bad.npz", **arrays)
    with zipfile.ZipFile("bad.npz") as whole, zipfile.ZipFile("worse.npz", "w") as worse:
        for name in whole.namelist():
            content = whole.read(name)
            worse.writestr(name, content.replace(b"(4,)", b"(9**9,)") if name == "mean.npy" else
                           content.replace(b"(10,), }" + 9 * b" ", b"(10000000000,), }") if name == "betas.npy" else content)
    with open("worse.npz", "rb") as worse, open("bad.npz", "wb") as bad:
        bad.write(worse.read())
    refused_in_little_memory("")


def test_sizes_that_are_longer_than_the_file(arrays):
    np.savez("bad.npz", **arrays)
    with open("bad.npz", "rb") as file:
        content = bytearray(file.read())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 20:entry + 28] = struct.pack("<II", 2**31, 2**31)
    with open("bad.npz", "wb") as file:
        file.write(content)
    refused_in_little_memory("its arrays are longer than the file")


def test_arrays_twice_or_unknown(arrays):
    np.savez("bad.npz", **arrays, more=np.zeros(3))
    refused_in_little_memory("it holds more, which no checkpoint has")
    np.savez("bad.npz", **arrays)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile("bad.npz", "a") as bad:
        bad.writestr("mean.npy", b"")
    refused_in_little_memory("it holds an array twice")


@pytest.mark.parametrize("name, value, message", [
    ("depth", 10**9, "depth must be at most 1000"), ("depth", "3", "depth must be an int"), ("hidden", 4.0, "hidden must be"),
    ("gated", None, "its gated must be a bool"), ("fourier", None, "its fourier must be"),
    ("fourier", 10**9, "fourier must be at most 64"),
    ("dtype", "float16", "dtype must be"), ("dtype", "float64", "its parameters must be"), ("step", 1.5, "its step must be"),
    ("loss_sum", float("nan"), "its loss_sum must"), ("loss_sum", float("inf"), "its loss_sum must"),
    ("loss_sum", "0", "its loss_sum must"), ("optimizer_t", [], "its optimizer_t must be"), ("about", [], "about must be a dict"),
    ("about", {"a": float("nan")}, "about must be a dict"), ("rng", 3, ""), ("rng", {"bit_generator": "MT19937"}, ""),
])
def test_every_value_of_the_configuration_is_checked(name, value, message, arrays):
    config = json.loads(str(arrays["config"])) | {name: value}
    np.savez("bad.npz", **{**arrays, "config": np.array(json.dumps(config))})
    refused_in_little_memory(message)


@pytest.mark.parametrize("name, array, message", [
    ("betas", np.full(MOST_STEPS + 1, 0.1), f"betas must be at most {MOST_STEPS} numbers"),
    ("scale", -np.ones(4), "its scale must not be negative"), ("mean", np.full(4, np.inf), "its mean must be finite numbers"),
    ("mean", np.zeros(4, np.float32), "its mean must be finite numbers of float64, of shape"),
])
def test_every_array_is_checked(name, array, message, arrays):
    np.savez("bad.npz", **{**arrays, name: array})
    refused_in_little_memory(message)


def test_long_schedules_of_many_columns_are_refused():
    """Both are small in a checkpoint, and what is computed from them is not."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"dim \(T \+ 1\) must be at most 134217728, got 1000010000"):
            MLP(10_000, 1, 1, schedule=Schedule.linear(100_000), rng=0)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


def test_features_of_many_columns_take_little_memory():
    """No (d, d) matrix: a checkpoint of a narrow network for a hundred thousand columns is a small file."""
    tracemalloc.start()
    try:
        MLP(100_000, 1, 1, schedule=Schedule.linear(10), fourier=1, rng=0)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


# ---- memory and time bounded by what is asked

@pytest.mark.parametrize("options, message", [
    (["--T", "10000000"], "T must be at most 100000, got 10000000"),
    (["--T", str(2**63 - 1)], "T must be at most 100000"),
    (["--depth", "10000000"], "depth must be at most 1000, got 10000000"),
])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_large_numbers_are_one_line_before_anything_is_put_aside(options, message, schedule, capsys):
    write("mine", "moons.npz")
    assert main(["train", "moons", "--schedule", schedule, *options]) == 2
    assert message in capsys.readouterr().err
    with open("moons.npz") as file:
        assert file.read() == "mine"


@pytest.mark.parametrize("command", ["sample m.npz", "evaluate m.npz", "train moons"])
def test_advice_names_options_that_the_command_has(command, monkeypatch, capsys):
    DDPM(Schedule.linear(10), 4, 1).fit(np.eye(4), steps=2, rng=0).save("m.npz")

    def full(*_, **__):
        raise MemoryError("Unable to allocate 1 PiB")

    monkeypatch.setattr(DDPM, "load", full)
    monkeypatch.setattr(DDPM, "training", full)
    assert main(command.split()) == 2
    line = capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([command.split()[0], "--help"])
    assert "out of memory" in line and set(re.findall(r"--\w[\w-]*", line)) <= set(re.findall(r"--\w[\w-]*", capsys.readouterr().out))


def test_distances_take_memory_for_a_block_alone(monkeypatch):
    monkeypatch.setattr("npddpm.cli.evaluate.BLOCK", 100)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((150, 2)), rng.standard_normal((20_000, 2))
    tracemalloc.start()
    try:
        near, apart = nearest(x, y), energy_distance(x, y[:1000])
        loss_by_time(lambda xt, t: xt, Schedule.linear(10), y)
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()
    assert near == pytest.approx(np.median([np.sqrt(((row - y) ** 2).sum(1)).min() for row in x]))
    monkeypatch.setattr("npddpm.cli.evaluate.BLOCK", 10_000)
    assert apart == pytest.approx(energy_distance(x, y[:1000]))
