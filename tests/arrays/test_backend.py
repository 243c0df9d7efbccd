"""The shim between NumPy and CuPy, on NumPy, on the stand-in for CuPy, and with ``-m gpu`` on CuPy itself."""

import itertools
import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import strict_cupy
from pytest import approx

import npddpm
from npddpm.arrays import backend

# ---- what is imported, and from where


def test_package_needs_numpy_alone():
    """Import and train in a process where everything optional is blocked."""
    code = """
import sys
for name in ("matplotlib", "tqdm", "threadpoolctl", "cupy", "scipy", "pytest", "hypothesis"):
    sys.modules[name] = None
import npddpm, numpy
x = npddpm.data.load("moons", 50)
npddpm.DDPM(hidden=4, depth=1).fit(x, steps=2, rng=0).sample(2, rng=0, steps=2)
third_party = {name.split(".")[0] for name in sys.modules if sys.modules[name]} - set(sys.stdlib_module_names)
print(sorted(name for name in third_party if not name.startswith("_")))
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(eval(done.stdout))
    assert {"npddpm", "numpy"} <= loaded
    assert not loaded & {"matplotlib", "tqdm", "threadpoolctl", "cupy", "scipy"}


def test_cupy_is_named_in_one_file():
    package = Path(npddpm.__file__).parent
    assert [path.name for path in package.rglob("*.py") if "cupy" in path.read_text(encoding="utf-8").lower()] == ["backend.py"]


def test_device_without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(RuntimeError, match="device 'gpu' needs CuPy: pip install"):
        backend.device_module("gpu")
    with pytest.raises(ValueError, match="device must be 'cpu' or 'gpu', got 'cuda'"):
        backend.device_module("cuda")
    assert backend.get_array_module(np.ones(1), 2.0) is np


@pytest.mark.parametrize("lacking", [ImportError("no libcublasLt.so"), OSError("no libnvrtc.so"), Exception("no driver")])
def test_cupy_without_what_it_needs(lacking, monkeypatch):
    """CuPy can be imported with no driver and none of CUDA's libraries; only work shows that they are missing."""
    def ones(shape):
        raise lacking
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(ones=ones))
    with pytest.raises(RuntimeError, match=rf"finds no usable GPU \({lacking}\); 'npddpm\[cuda12\]' .* use device 'cpu'"):
        backend.device_module("gpu")


# ---- random numbers


def test_generator_follows_spec_7():
    assert backend.generator(3).random() == np.random.default_rng(3).random()
    own = np.random.default_rng(0)
    assert backend.generator(own) is own
    assert backend.generator(None).random() != backend.generator(None).random()
    for rng in (1.5, "seed", "7", [1.5], np.random, np.random.standard_normal):
        with pytest.raises(TypeError, match="rng must be None, an int of at least 0 or a Generator, got"):
            backend.generator(rng)


@pytest.mark.parametrize("n", [2**18, 2**20 + 1])
def test_many_normal_numbers_are_normal_and_independent(n):
    """The variance, Kolmogorov and Smirnov's distance, and the correlations that pairs could have, at 1e-6."""
    z = backend.standard_normal(np.random.default_rng(0), (n,), np.dtype("float32"))
    assert z.shape == (n,) and z.dtype == np.float32
    assert abs((z.astype(float)**2).mean() - 1) < 4.9 * math.sqrt(2 / n)
    half = n // 2
    u, v = z[:half].astype(float), z[-half:].astype(float)
    for part in (u, v):
        cdf = 0.5 * (1 + np.array([*map(math.erf, np.sort(part) / math.sqrt(2))]))
        distance = np.abs(cdf - (np.arange(half) + 0.5) / half).max() + 0.5 / half
        assert distance < math.sqrt(math.log(2 / 1e-6) / 2 / half)
    for of_u, of_v in itertools.product(*[(x, x**2 - 1, x**3 - 3 * x, np.abs(x)) for x in (u, v)]):
        assert abs(np.corrcoef(of_u, of_v)[0, 1]) < 4.9 / math.sqrt(half)


def test_few_or_precise_normal_numbers_are_the_generators_own():
    for shape, dtype in (((63, 65), np.float32), ((80, 80), np.float64)):
        drawn = backend.standard_normal(np.random.default_rng(1), shape, np.dtype(dtype))
        assert (drawn == np.random.default_rng(1).standard_normal(shape, dtype=dtype)).all()


# ---- kernels


@pytest.mark.parametrize("avx512", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_plus_tanh_is_the_same_in_both_ways(monkeypatch, avx512, dtype):
    monkeypatch.setattr(backend, "AVX512", avx512)
    z = np.concatenate([np.linspace(-500, 500, 2001), np.linspace(-1, 1, 2001)]).astype(dtype)
    out = np.empty_like(z)
    with np.errstate(all="raise"):      # far below 0 e^-2z overflows
        backend.one_plus_tanh(np, z, out)
    exact = np.array([2 / (1 + math.exp(-2 * v)) if v > -300 else 0 for v in z.astype(float)])
    assert np.abs(out - exact).max() <= 2 * np.finfo(dtype).eps


@pytest.mark.parametrize("found, expected", [
    ({"baseline": ["SSE"], "found": ["AVX2", "AVX512F", "AVX512_SKX"]}, True), ({"baseline": ["X86_V4"]}, True),
    ({"baseline": ["X86_V2"], "found": ["X86_V3"], "not found": ["X86_V4"]}, False), ({}, False)])
def test_vectors_of_512_bits_by_the_names_of_all_versions(monkeypatch, found, expected):
    monkeypatch.setattr(np, "show_config", lambda mode: {"SIMD Extensions": found} if found else {})
    assert backend.has_avx512() is expected


@backend.elementwise
def blend(xp, out, a, row, scalar):
    out += a * scalar
    out *= row


@pytest.mark.parametrize("shape", [(3, 5), (1000, 370), (1, 600_000), (600_001, 1), (1001, 700)])
def test_elementwise_blocks_cover_the_array_once(shape):
    rng = np.random.default_rng(0)
    out, a, row = rng.standard_normal(shape), rng.standard_normal(shape), rng.standard_normal(shape[1:])
    expected = (out + a * 2.5) * row
    blend(out, a, row, 2.5)
    assert (out == expected).all()


# ---- sums

def test_running_sums_are_exact_to_the_last_digit():
    values = np.random.default_rng(0).uniform(-1, 1, 2000) * 10.0 ** np.random.default_rng(1).integers(-9, 0, 2000)
    exact = np.cumsum([Fraction(v) for v in values])
    assert backend.running_sums(values) == approx(np.array([float(e) for e in exact]), rel=1e-15, abs=1e-17)


# ---- devices


def test_the_stand_in_is_strict():
    cupy = strict_cupy.module()
    a = cupy.asarray(np.ones((2, 2)))
    for mixed in (lambda: a + np.ones((2, 2)), lambda: np.ones((2, 2)) * a, lambda: np.sin(a), lambda: np.asarray(a),
                  lambda: cupy.matmul(a, np.ones((2, 2))), lambda: np.concatenate([a, a]), lambda: a[np.array([0])]):
        with pytest.raises(TypeError):
            mixed()
    assert isinstance(a.sum(), cupy.ndarray) and strict_cupy.counts(cupy, lambda: float(a.sum()))["to_host"] == 1


def test_shim(cupy):
    x = np.random.default_rng(0).standard_normal((20, 2))
    device = cupy.asarray(x)
    assert backend.get_array_module(1.0, device) is cupy and backend.get_array_module(x) is np
    assert (backend.to_host(device) == x).all()
    backend.synchronize(cupy)
    draws = [backend.to_host(backend.generator(seed, cupy).standard_normal((4,), dtype=np.dtype("float32")))
             for seed in (3, 3, np.random.default_rng(3))]
    assert (draws[0] == draws[1]).all() and (draws[0] != draws[2]).any() and draws[0].dtype == np.float32
