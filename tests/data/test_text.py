"""Text of the world, read or refused in a line that helps."""

import re
from pathlib import Path

import numpy as np
import pytest
from bounded import memory
from hypothesis import given
from hypothesis import strategies as st
from refused import read_or_refuse

from npddpm import data
from npddpm.data.text import column_names

pytestmark = pytest.mark.usefixtures("in_an_empty_folder")
X = np.array([[1.5, 2.0], [3.0, 4.25]])


def load(name="f.csv"):
    told = []
    return data.load(name, tell=told.append), *told


def write(text, name="f.csv"):
    with open(name, "w", encoding="utf-8", newline="") as file:
        file.write(text)


def names_of_columns(name="f.csv"):
    with open(name, "rb") as file:
        return column_names(file)


def told_names(line):
    """As many as the array has columns: an index, which has no name, is left out."""
    told = re.search(r" header (.*?)(;.*)?$", line)
    names = told[1].split(", ") if told else []
    return names[1:] if "is an index" in line else names


READ = {
    "1.5,2\n3,4.25\n": "separated by commas, no header",
    "1.5;2\n3;4.25\n": "separated by semicolons, no header",
    "1.5\t2\r\n3\t4.25\r\n": "separated by tabs, no header",
    "1.5  2\n3 4.25\n\n": "separated by spaces, no header",
    "########\n#\n# 1 2\n# # #\n#####\n1.5 2\n# 3 4\n######\n3 4.25\n": "separated by spaces, no header; lines among the rows that begin with # left out: 1",
    "#! FIELDS time d\n#NA means missing\n#WARNING! raw data\n1.5 2\n3 4.25\n": "separated by spaces, no header",
    "#note! of N/A\n# DIV/0!\n1.5 2\n#3 4\n#NVIDIA\n# 3\n3 4.25\n": "separated by spaces, no header; lines among the rows that begin with # left out: 2",
    '"Sepal Length" "w"\n"1" 1.5 2\n"2" 3 4.25\n': "header , Sepal Length, w; its first column, which has no name, is an index and left out",
    '"0" "1"\n1.5 2\n3 4.25\n': "separated by spaces, header 0, 1",
    " 1.5 , 2\n 3 , 4.25": "separated by commas, no header",
    "1.5,02\n03,4.25\n": "separated by commas, no header",
    "left,right\n1.5,2\n3,4.25\n": "separated by commas, header left, right",
    "left;right\n1.5;2\n3;4.25\n": "separated by semicolons, header left, right",
    '"left","right"\n"1.5","2"\n"3","4.25"\n': "separated by commas, header left, right",
    "# made by hand\nleft,right\n\n1.5,2\n# a note\n3,4.25\n": "separated by commas, header left, right",
    "2019,2020\n1.5,2\n3,4.25\n": "separated by commas, header 2019, 2020",
    '"2019","a,b"\n1.5,2\n3,4.25\n': "separated by commas, header 2019, a,b",
    '"left","right side"\n1.5,2\n3,4.25\n': "separated by commas, header left, right side",
    "0,1\n1.5,2.0\n3.0,4.25\n": "separated by commas, header 0, 1",
    '"0","1"\n1.5,2\n3,4.25\n': "separated by commas, header 0, 1",
    '"7";"7.5"\n1.5;2\n3;4.25\n': "separated by semicolons, header 7, 7.5",
    '"1.5","2"\n"3","4.25"\n': "separated by commas, no header",
    'height ("),width\n1.5,2\n3,4.25\n': 'header height ("), width',
    '"left", "right"\n"1.5", "2"\n"3", "4.25"\n': "separated by commas, header left, right",
    '"Unnamed: 0","1"\n1.5,2\n3,4.25\n': "separated by commas, header Unnamed: 0, 1",
    'sep=;\r\n"left: or not";right;\r\n1.5;2;\r\n3;4.25;\r\n': "separated by semicolons, header left: or not, right",
    '\ufeff"sep=,"\n1.5,2\n3,4.25\n': "separated by commas, no header",
    "left,right,\n1.5,2,\n3,4.25,\n": "separated by commas, header left, right",
    "1.5\t2\t\n3\t4.25\t\n": "separated by tabs, no header",
    "1.5; 2; \r\n3; 4.25; \r\n": "separated by semicolons, no header",
    ",a,b\n0,1.5,2\n1,3,4.25\n": "header , a, b; its first column, which has no name, is an index and left out",
    ",0,1\n0,1.5,2\n1,3,4.25\n": "header , 0, 1; its first column, which has no name, is an index and left out",
    "\ufeffleft,right\r\n1.5, 2e0\r\n\r\n3, 425e-2\r\n": "separated by commas, header left, right",
    "K,Na\n1.5,2\n3,4.25\n": "separated by commas, header K, Na",
    "mean,5%\n1.5,2\n3,4.25\n": "separated by commas, header mean, 5%",
    "Unnamed: 0,a,b\n5,1.5,2\n7,3,4.25\n": "its first column, which has no name, is an index and left out",
}


@pytest.mark.parametrize("text", READ)
def test_text_is_read_and_what_was_taken_is_told(text):
    write(text)
    x, line = load()
    assert (x == X).all() and line.startswith("f.csv: 2 rows of 2") and line.endswith(READ[text])
    assert names_of_columns() == told_names(line)


def test_a_first_column_that_counts_is_told():
    for text in ("0,1.5\n1,2.5\n2,3.5\n", "1,1.5\n2,2.5\n3,3.5\n"):
        write(text)
        x, line = load()
        assert x.shape == (3, 2) and line.endswith("its first column counts the rows: leave it out if it is an index")


@pytest.mark.parametrize("text, ambiguous", [
    ("1,5\n2,7\n", True), ("1,5, -2,25\n2,7,0,5\n", True), ("1,5\n2,-7\n", False), ("1, 5\n2, 7\n", False), ("1,5.0\n2,7\n", False),
    ("a,b\n1,5\n2,7\n", False), ("1;5\n2;7\n", False), ("1,5,2\n2,7,3\n", False),
])
def test_whole_numbers_that_could_be_decimal_commas_are_told(text, ambiguous):
    write(text)
    assert (" (if 1,5 is one number here, write 1.5)" in load()[1]) == ambiguous


def test_years_are_no_header_where_all_rows_are():
    write("1950,1951\n1960,1961\n")
    assert load()[0].tolist() == [[1950, 1951], [1960, 1961]]


@pytest.mark.parametrize("name", ["f.tsv", "f.txt"])
def test_other_names_of_text(name):
    write("1.5\t2\n3\t4.25\n", name)
    assert (load(name)[0] == X).all()


@pytest.mark.parametrize("above, names", [
    ("# a,b c\n", "a, b c"), ("#a,b\n", "a, b"), ("# made by hand\n# a,b\n\n", "a, b"),
    ("# one name\n", None), ("# by hand, 2020\n", None), ("# a,b,c\n", None), ("# a,\n", None), ("# K,Na\n", "K, Na"), ("# a,7\n", None)])
def test_a_comment_above_the_rows_may_name_the_columns(above, names):
    """As np.savetxt writes a header, and files of the life sciences have theirs; the rows are the same in any case."""
    write(above + "1.5,2\n3,4.25\n# c,d\n")
    x, line = load()
    assert (x == X).all() and line.endswith(f"header {names}" if names else "no header")
    assert names_of_columns() == told_names(line)


REFUSED = {
    "# length, in cm\n1,05\n2,50\n": "line 2, 1,05, seems to have decimal commas: write decimal points",
    "1,5;2,5\n3,5;4,5\n": "line 1 holds '1,5', which is no number (column 1): write decimal points",
    "1,5\t2\n": "line 1 holds '1,5', which is no number (column 1): write decimal points",
    "x\n1,5\n2,7\n": "its header has 1 names, line 2 has 2 values",
    "1,5, 3,5\n2,05, 3,5\n": "line 2, 2,05, 3,5, seems to have decimal commas: write decimal points",
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
    "1,2\n3\n": "line 2 has 1 values, the first has 2",
    "1;2\n3;x\n": "line 2 holds 'x', which is no number",
    "1,\n2,3\n": "line 1 holds '', which is no number",
    '"mass\n(kg)",height\n1.5,2\n': "line 1 has a quote that does not end in it", '"m","a\nb"\n1.5,2\n': "line 1 has a quote that does not end in it",
    ",400,410\n0,1.5,2\n1,3,4\n": "line 1 holds '', which is no number (column 1): fill it in, or leave the row out; in a header every "
                              "column has a name that is no number, or is in quotes",
    "none,5%\n1,2\n3,4\n": "line 1 holds 'none', which is no number (column 1): fill it in",
    "a,7\n1,2\n3,4\n": "line 1 holds 'a', which is no number (column 1): leave the column out, or give it numbers; in a header every "
                        "column has a name that is no number, or is in quotes",
    "a,NA\n1,NA\n3,4\n": "line 1 holds 'a', which is no number",
    "some text\nmore text\n": "line 2 holds 'more', which is no number",
    "# nothing\n": "it holds no rows of numbers",
    "a,b\n1,2\n#DIV/0!,3\n4,5\n": "line 3 holds '#DIV/0!', which is no number (column 1, a): fill it in, or leave the row out",
    **{f"a,b\n1,2\n{row}\n4,5\n": f"line 3 holds '{row.split(',')[0]}', which is no number (column 1, a): fill it in" for row in (
        "#N/A,-", "#VALUE!,NA", "#N/A,null", '#DIV/0!,"2"', "#N/A,", "#n/a,2", "########,4", "#GETTING_DATA,3")},
    'a,b\n1,"2\n3"\n4,5\n': "line 2 has a quote that does not end in it", '"1 2\n3 4\n': "line 1 has a quote that does not end in it",
    "#N/A;2\n3;4\n": "line 1 holds '#N/A', which is no number (column 1): fill it in", "x\n1\n#NV\n": "line 3 holds '#NV'",
    "a b\n#¡REF! 2\n": "line 2 holds '#¡REF!'", "Run A\n1.5 2 3\n": "its header has 2 names, line 2 has 3 values",
    "1,2\n3,1e999\n": "line 2 holds '1e999', which is not finite (column 2)",
    "a,b\n1,nan\n2,3\n": "line 2 holds 'nan', which is not finite (column 2, b): fill it in",
    "1 2\n3 4\n5 1e400\n": "line 3 holds '1e400', which is not finite (column 2): fill it in",
    'a,b\n"1,234",2\n"2,345",3\n': "line 2 holds '1,234', which is no number (column 1, a): write decimal points, and no commas that mark thousands",
    "a,b\n": "it holds no rows of numbers",
    "": "it holds no rows of numbers",
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


@pytest.mark.parametrize("text", [100_000 * "1" + "x,2\n3,4\n", "a,b\n" + 100_000 * "1" + "x,2\n"])
def test_long_cells_take_no_square_of_their_length(text):
    """Which would be minutes."""
    write(text)
    with pytest.raises(ValueError, match="which is no number"):
        load()


@pytest.mark.parametrize("mark", [",", ";", "\t", " "])
def test_a_header_with_some_names_in_quotes(mark):
    """Whoever tries all ways to match such a line never ends."""
    names = [*(f'"column number {i}"' for i in range(40)), "pH"]
    row = mark.join(map(str, range(1, 42)))
    write(f"{mark.join(names)}\n{row}\n{row}\n")
    assert load()[0].shape == (2, 41)


def test_text_is_read_in_little_memory():
    """At most three times the array: rows are not kept as Python's objects."""
    x = np.random.default_rng(0).standard_normal((20_000, 5))
    np.savetxt("f.csv", x, delimiter=",")
    with memory(3 * x.nbytes):
        assert (data.load("f.csv") == x).all()


@given(st.binary(max_size=200) | st.text(alphabet="0123456789.,-+einf \n\r\"'#;x\t", max_size=200).map(str.encode))
def test_any_text(tmp_path_factory, content):
    read_or_refuse(tmp_path_factory.getbasetemp() / "fuzz.csv", content)


@pytest.mark.parametrize("separator", [" ", "\t", ";"])
def test_tables_of_R_have_names_of_rows(separator):
    """write.table(x): the header is one name short."""
    lines = ['"a" "b"', '"1" 1.5 2', '"2" 3 4.5', '"Merc.230" 5 6']
    Path("r.txt").write_text("\n".join(line.replace(" ", separator) for line in lines))
    x, line = load("r.txt")
    assert (x == [[1.5, 2], [3, 4.5], [5, 6]]).all() and "first column, which has no name, is an index and left out" in line
    Path("r.txt").write_text("\n".join([*lines[:3], '"3" 5 x']).replace(" ", separator))
    with pytest.raises(ValueError, match="line 4 holds 'x', which is no number"):
        load("r.txt")
    Path("r.txt").write_text("\n".join([*lines[:2], '"3" 5 6 7']).replace(" ", separator))
    with pytest.raises(ValueError, match="line 3 has 4 values"):
        load("r.txt")


@pytest.mark.parametrize("text", ["umsatz\n12 500\n9 800\n101 200\n", "a;b\n1;2;3\n1;5;6\n", "x\n1\u00a0500\n3\u00a0800\n"])
def test_thousands_are_no_names_of_rows(text):
    write(text)
    with pytest.raises(ValueError, match="its header has . names, line 2 has . values"):
        load()


def test_what_a_terminal_would_obey_is_shown():
    Path("f.csv").write_text("a\x1b[2J,b\n1,2\n3,4\n")
    assert load("f.csv")[1].endswith("header a\\x1b[2J, b")
    Path("f.csv").write_text("a\x1b[2J,b\nx,2\n3,4\n")
    with pytest.raises(ValueError, match=r"\(column 1, a\\x1b\[2J\)"):
        load("f.csv")


@pytest.mark.parametrize(("text", "name"), [("House price\n1.5\n2.5\n", "House price"),
                                            ('"House price"\n1.5\n2.5\n', "House price"),
                                            ('"2020"\n1.5\n2.5\n', "2020"), (",0\n0,1.5\n1,2.5\n", "0")])
def test_one_column(text, name):
    """Whose name has spaces, or is a number as R and pandas write it."""
    write(text)
    x, line = load()
    assert (x == [[1.5], [2.5]]).all() and names_of_columns() == told_names(line) == [name]


def test_large_whole_numbers_that_float64_holds_are_read():
    x = np.array([[1700047278495467776.0], [2.0**53 + 2]])
    write("ns\n" + "".join(f"{int(row[0])}\n" for row in x))
    assert (load()[0] == x).all()
