"""Numbers from text: .csv, .tsv and .txt files, with any usual separator, and a line that says what is no number."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple, TextIO

import numpy as np

from ..arrays.checks import Array

SEPARATORS = {"\t": "tabs", ";": "semicolons", ",": "commas", None: "spaces"}
ERROR = re.compile(r"#(N/[AD]|n/a|NV|###+|[A-Z]+_DATA|[^\sa-z,;]+[!?])")        # of a spreadsheet, such as #DIV/0! and #N/A
MISSING = {"", "-", "?", ".", "na", "n/a", "#n/a", "nan", "null", "none"}


def read_text(file: BinaryIO) -> tuple[Array, str]:
    """Numbers in rows, with tabs, semicolons, commas or spaces between them.

    Lines that begin with # are comments, but for rows that begin with a spreadsheet's error, such as #DIV/0!.

    The first line is a header if it is all in quotes and the second is not; if it holds no number, and none of the marks for a
    missing one; or years, or the numbers 0, 1, 2 ... that pandas gives to columns without names. Else a comment above it may name
    the columns, with the same separator. A first column without a name is pandas' index, or R's names of the rows, whose header is
    one name short: it is left out, as are Excel's line sep=... and a separator at the end of every line.

    Returns
    -------
    x : (n, d) float64
    how : str
        What was taken: the separator, and the header or none.

    Raises
    ------
    ValueError
        Naming the line, where rows differ in length, a header does not fit them, or a value is no number.
    """
    lines = io.TextIOWrapper(file, encoding="utf-8-sig")
    layout = _layout(lines)
    separator, header, index = layout.separator, layout.header, layout.indexed

    def rows(most: int | None = None) -> Iterator[tuple[int, str]]:
        lines.seek(0)
        for number, line in _rows(lines, layout.first, most, layout.last):
            check_quotes(number, line)
            yield number, line

    def explain() -> None:      # a comment's names do not make a line of numbers less of one
        _explain(rows(), separator, header if layout.first else [], int(index))

    try:        # the index need not be numbers
        x: Array = np.loadtxt((line for _, line in rows()), delimiter=separator, comments=None, quotechar='"', ndmin=2,
                              converters={0: lambda name: 0.0} if index else None)
    except ValueError:
        explain()
        raise
    x = x[:, int(index):]
    if not (np.abs(x) < 2**53).all():
        explain()
    ambiguous = separator == "," and not layout.first and decimal_commas(rows(1000))
    lines.seek(0)
    left = sum(number > layout.start and _comment(line) and line[1:2].strip() != "" for number, line in enumerate(lines, 1))
    lines.detach()
    how = f", separated by {SEPARATORS[separator]}" if x.shape[1] > 1 else ""
    how += " (if 1,5 is one number here, write 1.5)" if ambiguous else ""
    how += f", header {printable(', '.join(header)):.80}" if header else ", no header"
    how += f"; lines among the rows that begin with # left out: {left}" if left else ""
    if index:
        how += "; its first column, which has no name, is an index and left out"
    elif x.shape[1] > 1 and x[0, 0] in (0, 1) and (x[:, 0] == x[0, 0] + np.arange(len(x))).all():
        how += "; its first column counts the rows: leave it out if it is an index"
    return x, how


def decimal_commas(rows: Iterator[tuple[int, str]]) -> bool:
    """Whether all rows are pairs of whole numbers, so that each could be one with a decimal comma; ValueError if one is."""
    pair = r"([-+]?\d+),(\d+)"
    for number, line in rows:
        if not re.fullmatch(rf"{pair}(, *{pair})*", line.strip()):
            return False
        if any(whole == "-0" or re.match(r"0\d", part) for whole, part in re.findall(pair, line)):
            raise ValueError(f"line {number}, {line:.40}, seems to have decimal commas: write decimal points")
    return True


def check_quotes(number: int, line: str) -> None:
    """Raise ValueError for a quote that ends in another line, where np.loadtxt would go on."""
    if line.count('"') % 2:
        raise ValueError(f"line {number} has a quote that does not end in it: take it out, or join it with the next line")


def column_names(file: BinaryIO) -> list[str]:
    """The header's names of the columns that `read_text` gives; none without a header."""
    lines = io.TextIOWrapper(file, encoding="utf-8-sig")
    layout = _layout(lines)
    lines.detach()
    return layout.header[int(layout.indexed):]


class Layout(NamedTuple):
    """How a table is written."""

    separator: str | None
    last: str           # the separator where it ends each line, else ""
    header: list[str]
    first: bool         # whether the header is the first line, and not a comment
    indexed: bool       # whether the first column is an index
    start: int          # the number of the first line that is no comment


def _layout(lines: TextIO) -> Layout:
    """By the first two lines."""
    start = list(_rows(lines, 0, 2))
    if not start:
        raise ValueError("it holds no rows of numbers")
    for number, line in start:
        if re.search(r'(^|[,;\t ])"', line):
            check_quotes(number, line)
    separator = next((mark for _, line in reversed(start) for mark in SEPARATORS if mark and mark in line), None)
    last = separator or ""
    if all(line.endswith(last) for _, line in start):
        start = [(number, line.removesuffix(last)) for number, line in start]
    else:
        last = ""
    cells = [_cells(line, separator) for _, line in start]
    apart = separator or " "
    in_quotes = [re.fullmatch(rf'\s*"[^"]*"(\s*{apart}\s*"[^"]*")*\s*', line) is not None for _, line in start]
    # Quotes say that "0" is a name, but not that "1,5" is one, which needs them.
    needless = all(apart not in cell or re.search(r"[^\W\d_]", cell) for cell in cells[0])
    quoted = in_quotes == [True, False] and needless
    header = cells[0] if quoted else _header(*cells)
    if header and len(start) == 1:
        raise ValueError("it holds no rows of numbers")
    if separator is None and len(cells) > 1 and len(cells[1]) == 1 < len(header):
        header = [start[0][1].strip('"')]       # one column, whose name has spaces
    if header and separator != "," and len(header) == len(cells[1]) - 1 and (
            start[1][1].lstrip().startswith('"') or not _is_number(cells[1][0])):
        header = ["", *header]      # the name of a row
    if header and len(header) != len(cells[1]):
        _explain(iter(start[1:]), separator, [])
        raise ValueError(f"its header has {len(header)} names, line {start[1][0]} has {len(cells[1])} values")
    first = len(header) > 0
    if not header and separator:
        lines.seek(0)
        above = [line for line in itertools.islice(lines, start[0][0] - 1) if line.startswith("#")]
        names = _cells(above[-1].lstrip("# ").rstrip("\r\n "), separator) if above else []
        header = names if len(names) == len(cells[0]) > 1 and all(names) and _header(names, cells[0]) else []
    index = len(header) > 1 and (header[0] == "" or header[0].lower() == "unnamed: 0" and not quoted)
    return Layout(separator, last, header, first, index, start[0][0])


def _rows(lines: TextIO, first: int, most: int | None, last: str = "") -> Iterator[tuple[int, str]]:
    """Numbered lines without the separator `last` at their ends, but for empty ones, comments and Excel's sep=."""
    rows = ((number, re.sub(r'(?<=[,;\t]) +(?=")', "", line).rstrip("\r\n ").removesuffix(last)) for number, line in enumerate(lines, 1)
            if line.strip() and not line.startswith(("sep=", '"sep=')) and not _comment(line))
    return itertools.islice(rows, first, most)


def _comment(line: str) -> bool:
    """Whether a line is one: it begins with #, and is no row whose first cell is a spreadsheet's error."""
    if not line.startswith("#"):
        return False
    first, *others = (cell.strip('"') for cell in re.split(r"[,;\s]+", line.strip()))
    return not ERROR.fullmatch(first) or first.strip("#") == "" and not others or not all(
        _is_number(cell) or cell.lower() in MISSING or ERROR.fullmatch(cell) for cell in others)


def _cells(line: str, separator: str | None) -> list[str]:
    if separator is None:
        return [cell.strip('"') for cell in re.findall(r'"[^"]*"|\S+', line)]
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator))]


def _header(first: list[str], second: Sequence[str] = ()) -> list[str]:
    """The cells of the first line if they are names of columns, else none."""
    like_numbers = re.compile(r"[-+.,_\s]*\d[-+.,_\d\seE%]*|inf|infinity|nan", re.IGNORECASE)
    word = [not like_numbers.fullmatch(cell) and cell.lower() not in MISSING for cell in first]
    words = all(word[1:] or word) and not like_numbers.fullmatch(first[0])
    above_numbers = len(second) == len(first) and all(map(_is_number, second))          # then Na is sodium
    any_number = any(_is_number(cell) and np.isfinite(float(cell)) for cell in first)
    if words or above_numbers and any(word) and all(first[1:]) and not any_number:
        return first
    names = first[1:] if first[0] == "" else first
    if names and names[0].isdecimal() and names == [str(int(names[0]) + i) for i in range(len(names))]:
        start = int(names[0])
        years = 1900 <= start < 2100 and not all(re.fullmatch("(19|20)[0-9]{2}", cell) for cell in second)
        counted = start == 0 and (len(names) > 2 or all("." in cell for cell in second))
        if first[0] == "" or len(names) > 1 and (years or counted):
            return first
    return []


def _explain(rows: Iterator[tuple[int, str]], separator: str | None, header: list[str], first: int = 0) -> None:
    """Raise ValueError for the first line that is not what it should be, if there is one; columns before `first` are no numbers."""
    width = len(header)
    for i, (number, line) in enumerate(rows):
        cells = _cells(line, separator)
        width = width or len(cells)
        if len(cells) != width:
            raise ValueError(f"line {number} has {len(cells)} values, the first has {width}")
        for column, cell in enumerate(cells[first:], first + 1):
            where = f"column {column}" + (f", {printable(header[column - 1]):.40}" if header else "")
            if not _is_number(cell):
                commas = re.fullmatch(r"[-+]?\d*(,\d+)+", cell)
                advice = "write decimal points, and no commas that mark thousands" if commas else \
                    "fill it in, or leave the row out" if cell.lower() in MISSING or ERROR.fullmatch(cell) else \
                    "put commas, semicolons, tabs or spaces between the numbers" if len(cells) == 1 else \
                    "leave the column out, or give it numbers"
                if i == 0 and not header:
                    advice += "; in a header every column has a name that is no number, or is in quotes"
                raise ValueError(f"line {number} holds {cell!r:.40}, which is no number ({where}): {advice}")
            if not np.isfinite(float(cell)):
                raise ValueError(f"line {number} holds {cell!r:.40}, which is not finite ({where}): fill it in, or leave the row out")
            if re.fullmatch(r"[-+]?\d+", cell) and int(cell) != int(float(cell)):
                raise ValueError(f"line {number} holds {cell:.40}, an integer beyond 2^53, which float64 rounds ({where}): "
                                 "leave the column out, or scale it down")


def printable(text: str) -> str:
    """Text from a file as a terminal may show it: what is no letter, mark or space of one line is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?|[-+]?(inf|infinity|nan)", cell, re.IGNORECASE | re.ASCII) is not None
