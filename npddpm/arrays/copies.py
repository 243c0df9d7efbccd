"""Values, which cannot be changed, and networks, whose weights are views of one vector: how both are made, copied and assigned to."""

from __future__ import annotations

from functools import partial
from typing import Any, Self

import numpy as np

from .backend import device_module
from .checks import check_dtype, check_shaped, check_sizes, check_variances


class Value:
    """What was made of some arrays. It cannot be changed, is equal to one that was made of the same, and is copied by making it again.

    Attributes
    ----------
    _made : tuple
        The class and its arguments; set last, since no other attribute can be set from then on.
    """

    _made: tuple[Any, tuple[np.ndarray, ...]]

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(self, "_made"):      # what was computed would not follow
            raise AttributeError(f"a {type(self).__name__} cannot be changed: make another one, instead of setting {name}")
        super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        made, given = self._made
        return (type(self) if type(self).__init__ is made.__init__ else made), given        # a subclass may be made in another way

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Value):
            return NotImplemented
        (own, mine), (its, others) = self._made, other._made
        return own is its and all(map(np.array_equal, mine, others))

    def __hash__(self) -> int:
        return hash(tuple((array + 0.0).tobytes() for array in self._made[1]))      # 0 and -0 are equal


class Network:
    """A network whose `weights` are views of its `parameters`, (P,), and stay so: a copy is another network."""

    parameters: Any
    _fixed = "variances", "schedule"        # of which its tables are made
    _given = "fourier", "schedule", "variances", "dtype", "device"      # besides the sizes

    def __init__(self, dim: int, hidden: int, depth: int, fourier: int, schedule: Any, variances: Any, dtype: Any, device: str) -> None:
        self.dim, self.hidden, self.depth, self.fourier = check_sizes(dim, hidden, depth, fourier, schedule.T)
        self.xp, self.schedule, self.device = device_module(device), schedule, device
        self.dtype = check_dtype(dtype, "float32", "float64", "complex128")
        self.variances = np.ones(self.dim) if variances is None else check_variances(variances, self.dim).copy()
        self.variances.flags.writeable = False

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._fixed and name in vars(self):
            raise AttributeError(f"an MLP keeps its {name}, of which its tables are made: make another one")
        if name == "parameters" and "weights" in vars(self):
            self.parameters[...] = check_shaped(name, value, self.xp, self.dtype, len(self.parameters))
        else:
            super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        cls: Any = type(self)
        options = {name: getattr(self, name) for name in self._given}
        return partial(cls, self.dim, self.hidden, self.depth, **options, rng=0), (), self.parameters

    def __setstate__(self, parameters: Any) -> None:
        self.parameters[...] = parameters

    def astype(self, dtype: Any) -> Self:
        """A copy of another precision."""
        make, _, state = self.__reduce__()
        net: Self = make(dtype=dtype)
        net.__setstate__(state)
        return net
