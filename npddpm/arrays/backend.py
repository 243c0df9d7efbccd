"""The one file that names CuPy: array modules, transfer, random numbers and fused kernels.

CuPy is looked up, never imported, until a GPU is asked for: no array can be CuPy's before CuPy has
been imported, so ``sys.modules`` answers the question without its cost.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import numpy as np

BLOCK = 2**18  # elements in a block of `elementwise`: a MiB of float32, so that its operands stay in cache, and waking threads pays


def get_array_module(*arrays: Any) -> ModuleType:
    """Return ``cupy`` if any argument is a CuPy array, else ``numpy``."""
    cupy = sys.modules.get("cupy")
    if cupy is not None and any(isinstance(a, cupy.ndarray) for a in arrays):
        return cupy
    return np


def device_module(device: str) -> Any:
    """Return the array module of a device: NumPy for ``"cpu"``, CuPy for ``"gpu"``.

    Raises
    ------
    ValueError
        If `device` is neither.
    RuntimeError
        If `device` is ``"gpu"`` and CuPy is not installed, or cannot multiply two matrices on a GPU.
    """
    if device == "cpu":
        return np
    if device != "gpu":
        raise ValueError(f"device must be 'cpu' or 'gpu', got {device!r}")
    try:
        import cupy
    except ImportError:
        raise RuntimeError("device 'gpu' needs CuPy: pip install 'npddpm[cuda12]' "
                           "(or [cuda13]), or use device 'cpu'") from None
    try:
        cupy.ones((1, 1)) @ cupy.ones((1, 1))   # takes a driver, a GPU, the compiler of kernels and cuBLAS
    except Exception as error:  # noqa: BLE001, whatever of these is missing has a class of its own
        raise RuntimeError(f"device 'gpu': CuPy finds no usable GPU ({error}); 'npddpm[cuda12]' (or [cuda13]) brings "
                           "CUDA's libraries, but not its driver; or use device 'cpu'") from None
    return cupy


def use_gpu(number: int) -> None:
    """Make this thread use the GPU of this number, modulo their count."""
    cuda = device_module("gpu").cuda
    cuda.Device(number % cuda.runtime.getDeviceCount()).use()


def to_host(array: Any) -> np.ndarray:
    """Return the array in host memory; a NumPy array comes back as it is."""
    xp = get_array_module(array)
    return np.asarray(array) if xp is np else xp.asnumpy(array)


def generator(rng: Any, xp: ModuleType = np) -> Any:
    """Return a random generator that draws on the device of `xp` (SPEC 7).

    Parameters
    ----------
    rng : None, int or Generator
        A seed, or a generator. On the GPU a NumPy generator seeds CuPy's with its next draw.
    """
    if hasattr(rng, "standard_normal") and not isinstance(rng, (np.random.RandomState, ModuleType, type)):
        if xp is np or not isinstance(rng, np.random.Generator):
            return rng
        rng = int(rng.integers(2**63))
    try:
        return xp.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise type(error)(f"rng must be None, an int of at least 0 or a Generator, got {rng!r}") from None


def synchronize(xp: ModuleType) -> None:
    """Wait until the device has finished; the CPU always has."""
    if xp is not np:
        xp.cuda.get_current_stream().synchronize()


@functools.cache
def kernel(cupy: Any, expression: Callable[..., Any], *first: Any) -> Any:
    """The one that CuPy compiles of an expression, with its first arguments."""
    return cupy.fuse(kernel_name=expression.__name__)(functools.partial(expression, *first))


def fused(expression: Callable[..., Any]) -> Callable[..., Any]:
    """Make one kernel of ``expression(*arrays)``, plain array arithmetic that returns a new array.

    On the GPU ``cupy.fuse`` compiles it to a single launch, on the CPU it is what it says.
    """
    @functools.wraps(expression)
    def call(*arrays: Any) -> Any:
        xp = get_array_module(*arrays)
        return expression(*arrays) if xp is np else kernel(xp, expression)(*arrays)

    return call


@fused
def axpby(a: Any, x: Any, b: Any, y: Any) -> Any:
    """a x + b y, the form that most means have."""
    return a * x + b * y


# How many threads share out the blocks of `elementwise`, and the function that does.
SHARE: ContextVar[tuple[int, Callable[..., Any]]] = ContextVar("SHARE", default=(1, lambda work, items: [work(i) for i in items]))


def elementwise(expression: Callable[..., None]) -> Callable[..., None]:
    """`fused` for an ``expression(xp, *arrays)`` that works in place.

    On the CPU it runs over blocks of rows small enough for all its operands to stay in cache, on several threads
    inside `shared`. Arrays of the shape of the first one are cut into blocks alike; other arguments, scalars say, are passed
    whole to each block.
    """
    @functools.wraps(expression)
    def call(*arrays: Any) -> None:
        first = arrays[0]
        xp = get_array_module(first)
        if xp is not np:
            kernel(xp, expression, xp)(*arrays)
        elif first.size <= BLOCK:
            expression(np, *arrays)
        else:
            threads, share = SHARE.get()
            threads = min(threads, math.ceil(first.size / BLOCK))
            blocks = threads * math.ceil(first.size / (BLOCK * threads))
            alike, rows = [getattr(a, "shape", None) == first.shape for a in arrays], math.ceil(len(first) / blocks)

            def block(i: int) -> None:
                expression(np, *[a[i * rows:(i + 1) * rows] if cut else a for a, cut in zip(arrays, alike)])
            share(block, range(blocks))

    return call


@contextmanager
def shared(team: Any) -> Iterator[None]:
    """Here the threads of a `Team` share out the blocks of `elementwise`."""
    token = SHARE.set((team.threads, team.map))
    try:
        yield
    finally:
        SHARE.reset(token)


def has_avx512() -> bool:
    """Whether NumPy computes with vectors of 512 bits (before version 2.4 it calls them by another name)."""
    simd = np.show_config(mode="dicts").get("SIMD Extensions", {})
    return not {"AVX512_SKX", "X86_V4"}.isdisjoint([*simd.get("baseline", []), *simd.get("found", [])])


AVX512 = has_avx512()


def one_plus_tanh(xp: Any, z: Any, out: Any) -> None:
    """1 + tanh z = 2 / (1 + e^-2z), in the way that takes less time: NumPy's float32 tanh is the faster one with AVX-512 alone."""
    if xp is not np or AVX512:
        xp.tanh(z, out=out)
        out += 1
    else:
        xp.multiply(z, -2, out=out)
        with np.errstate(over="ignore", under="ignore"):    # below z = -44 e^-2z is infinite in float32, and 1 + tanh z is 0
            xp.exp(out, out=out)
        out += 1
        xp.divide(2, out, out=out)


@elementwise
def box_muller(xp: Any, u: Any, v: Any) -> None:
    """From uniform to normal (1958): u, v <- r sin(2 pi v), r cos(2 pi v) with r = sqrt(-2 log(1 - u))."""
    xp.subtract(1, u, out=u)
    xp.log(u, out=u)
    u *= -2
    xp.sqrt(u, out=u)
    v *= 2 * math.pi
    sine = xp.sin(v)
    xp.cos(v, out=v)
    v *= u
    u *= sine


def standard_normal(rng: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Draw independent standard normal numbers of a dtype, on the device of the generator `rng`.

    On the CPU many float32 numbers are made by Box and Muller's formula, which NumPy evaluates sixteen at a
    time: a third of the time of the generator's own rejection method. Its u are multiples of 2^-24, so these
    numbers end at 5.8, beyond which one in a hundred million would lie.
    """
    size = math.prod(shape)
    if size < 2**12 or dtype != np.float32 or not isinstance(rng, np.random.Generator):
        return rng.standard_normal(shape, dtype=dtype)
    uniform = rng.random((2, (size + 1) // 2), dtype=np.float32)
    box_muller(*uniform)
    return uniform.ravel()[:size].reshape(shape)


def running_sums(values: np.ndarray) -> np.ndarray:
    """Running sums as if in twice the precision: each addition's rounding error, by Knuth's TwoSum, is added back.

    Ogita, Rump and Oishi 2005, algorithm 4.4. (Long double is no longer than a double on Windows and on Apple's Arm.)
    """
    sums = np.cumsum(values)
    before = np.append(0.0, sums[:-1])
    added = sums - before
    lost = (before - (sums - added)) + (values - added)
    return np.asarray(sums + np.cumsum(lost))
