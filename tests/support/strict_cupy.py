"""A stand-in for CuPy without a GPU, stricter than CuPy itself.

Its arrays refuse to be converted by NumPy functions and to mix with arrays of the host; reductions give
0-d arrays; every transfer, every kernel launch and every fused kernel is counted.
"""

import sys
import types

import numpy as np

COUNTS = {"to_device": 0, "to_host": 0, "launches": 0, "fused": 0}
VIEWS = {"reshape", "ravel", "transpose", "swapaxes", "view", "empty", "empty_like"}   # start no kernel
USED: list[int] = []    # numbers of the GPUs that were chosen
FUSING: list[str] = []  # names of the kernel whose expression is being evaluated
REFLECTED = "add sub mul truediv pow matmul"
COMPARISONS = "lt le gt ge eq ne"


def device(value):
    """Wrap what NumPy returns; scalars too, since CuPy's reductions stay on the device."""
    if isinstance(value, (np.ndarray, np.generic)):
        return ndarray(np.asarray(value))
    if isinstance(value, (tuple, list)):
        return type(value)(map(device, value))
    return value


def host(value):
    """Unwrap an argument, and refuse arrays of the host."""
    if isinstance(value, ndarray):
        return value._values
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>: a host array meets the device")
    if isinstance(value, (tuple, list)):
        return type(value)(map(host, value))
    if isinstance(value, dict):
        return {k: host(v) for k, v in value.items()}
    return value


def launch():
    COUNTS["launches"] += not FUSING


def copy_gaps(*operands):
    """CuPy copies an operand of a product that is not contiguous, one launch each."""
    for a in operands:
        if isinstance(a, ndarray) and not (a._values.flags.c_contiguous or a._values.flags.f_contiguous):
            launch()


class ndarray:
    __array_ufunc__ = None
    __hash__ = None

    def __init__(self, values):
        self._values = values

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_function__(self, *args):
        raise TypeError("a NumPy function was called on a device array")

    def _read(self):
        COUNTS["to_host"] += 1
        return self._values

    def __float__(self):
        return float(self._read())

    def __int__(self):
        return int(self._read())

    def __bool__(self):
        return bool(self._read())

    def item(self):
        return self._read().item()

    def __len__(self):
        return len(self._values)

    def __getitem__(self, index):
        if isinstance(index, ndarray):
            launch()
        return device(self._values[host(index)])

    def __setitem__(self, index, value):
        launch()
        self._values[host(index)] = host(value)

    def __neg__(self):
        launch()
        return device(-self._values)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        attribute = getattr(self._values, name)
        return _wrapped(attribute, name) if callable(attribute) else device(attribute)


def _operator(name):
    def method(self, other):
        launch()
        if "matmul" in name:
            copy_gaps(self, other)
        result = getattr(self._values, name)(host(other))
        if name.startswith("__i"):
            assert result is self._values
            return self
        return device(result)
    return method


for _name in REFLECTED.split():
    for _prefix in ("", "r", "i"):
        setattr(ndarray, f"__{_prefix}{_name}__", _operator(f"__{_prefix}{_name}__"))
for _name in COMPARISONS.split():
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))


def _wrapped(function, name):
    def call(*args, **kwargs):
        if name not in VIEWS:
            launch()
        out = kwargs.get("out")
        if name == "matmul":
            copy_gaps(*args)
            if out is not None and not out._values.flags.c_contiguous:   # it multiplies into another array, then copies
                launch()
        result = function(*host(args), **host(kwargs))
        return device(result) if out is None else out
    return call


def asarray(value, dtype=None):
    if isinstance(value, ndarray):
        return device(value._values.astype(dtype, copy=False)) if dtype is not None else value
    COUNTS["to_device"] += 1
    return ndarray(np.array(value, dtype=dtype))


def asnumpy(array):
    return array._read().copy()


class Generator:
    """The methods of cupy.random.Generator that the package may use."""

    def __init__(self, seed):
        self._rng = np.random.default_rng(seed)

    def standard_normal(self, size=None, dtype=float):
        launch()
        return device(self._rng.standard_normal(size, dtype=dtype))

    def random(self, size=None):
        launch()
        return device(self._rng.random(size))

    def integers(self, low, high=None, size=None):
        launch()
        launch()    # CuPy adds `low` by a kernel of its own
        return device(self._rng.integers(low, high, size))


class Device:
    """Of a machine with two GPUs; `USED` notes which were taken."""

    def __init__(self, number):
        assert number in (0, 1)
        self.number = number

    def use(self):
        USED.append(self.number)


def fuse(*, kernel_name):
    def decorate(function):
        def call(*args):
            launch()
            COUNTS["fused"] += 1
            assert all(isinstance(a, (ndarray, float, int)) for a in args)
            FUSING.append(kernel_name)
            result = function(*args)
            FUSING.pop()
            return result
        return call
    return decorate


def module():
    """A module object to be put into sys.modules as ``cupy``."""
    cupy = types.ModuleType("cupy")
    own = sys.modules[__name__]
    for name in ("ndarray", "asarray", "asnumpy", "fuse"):
        setattr(cupy, name, getattr(own, name))
    cupy.random = types.SimpleNamespace(default_rng=Generator)
    stream = types.SimpleNamespace(synchronize=lambda: None)
    runtime = types.SimpleNamespace(getDeviceCount=lambda: 2)
    cupy.cuda = types.SimpleNamespace(get_current_stream=lambda: stream, runtime=runtime, Device=Device)
    cupy.__getattr__ = lambda name: _wrapped(getattr(np, name), name)
    return cupy


def counts(cupy, run):
    """What `run` adds to the counters; None where `cupy` is CuPy itself."""
    before = dict(COUNTS)
    run()
    return {name: n - before[name] for name, n in COUNTS.items()} if cupy.ndarray is ndarray else None
