"""The shim, on NumPy."""

import subprocess
import sys

import numpy as np
import pytest

from npddpm import backend


def test_package_needs_numpy_alone():
    """Import and train in a process where everything optional is blocked."""
    code = """
import sys
for name in ("matplotlib", "tqdm", "cupy", "scipy", "pytest", "hypothesis"):
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
    assert not loaded & {"matplotlib", "tqdm", "cupy", "scipy"}


def test_cupy_is_named_in_one_file():
    from pathlib import Path
    package = Path(backend.__file__).parent
    naming = [p.name for p in package.glob("*.py") if "cupy" in p.read_text().lower()]
    assert naming == ["backend.py"]


def test_device_without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(RuntimeError, match="device 'gpu' needs CuPy: pip install"):
        backend.device_module("gpu")
    with pytest.raises(ValueError, match="device must be 'cpu' or 'gpu', got 'cuda'"):
        backend.device_module("cuda")
    assert backend.get_array_module(np.ones(1), 2.0) is np


def test_generator_follows_spec_7():
    assert backend.generator(3).random() == np.random.default_rng(3).random()
    own = np.random.default_rng(0)
    assert backend.generator(own) is own
    assert backend.generator(None).random() != backend.generator(None).random()
    with pytest.raises(TypeError):
        backend.generator(1.5)
    with pytest.raises(TypeError):
        backend.generator("seed")


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
