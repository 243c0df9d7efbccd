"""Larger examples, and those that are searched, take most of a check's time: they are tried where a test is about them."""

import re

import pytest

from npddpm.testing import values


def none(*_):
    """One function, since answers are kept for each that makes examples."""
    return iter(())


@pytest.fixture(autouse=True)
def few_examples(request, monkeypatch):
    if not re.search(r"larger|[BdT] > ", request.node.name):
        monkeypatch.setattr(values, "larger_examples", none)
    if not re.search(r"smallest|page|one_line|T < 2", request.node.name):
        monkeypatch.setattr(values, "search", lambda *_: None)
