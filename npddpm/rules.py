"""Sizes and steps that fit the data: what `DDPM` takes where none is given, each by a rule of one sentence."""

from __future__ import annotations


def hidden(r: int) -> int:
    """Width of the layers for r principal axes: the least power of two that is at least 4 r, between 128 and 512."""
    return min(512, max(128, 4 << (r - 1).bit_length()))


def depth(r: int) -> int:
    """Number of layers for r principal axes: three, or five for more than 32."""
    return 5 if r > 32 else 3


def fourier(r: int) -> int:
    """Octaves of Fourier features for r principal axes: four for up to three, else none."""
    return 4 if r <= 3 else 0


def gated(r: int) -> bool:
    """Whether there is a gate for each column, for r principal axes: for more than 32."""
    return r > 32


def steps(n: int) -> int:
    """Training steps for n rows: four a row, but at least 1,000, and at most 10,000.

    With more the network would memorise a small table.
    """
    return min(10_000, max(1000, 4 * n))
