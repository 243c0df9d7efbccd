"""The network of many columns: `MLP` with a correction of what it memorises and, for images, a gate for each pixel."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays.backend import to_host
from ..arrays.checks import check_directions
from ..features import at
from ..mlp import MLP
from ..samplers import sample

DRAWN = 2000    # samples from which the drift is measured
STEPS = 20      # in which they are drawn


class GatedMLP(MLP):
    """An `MLP` whose correction is F = F_0 + (G * (m U)) U^T - drift sin(theta) m / sqrt(lambda).

    U (d, p) is fixed, with a column for each pixel in `DDPM`, so that m U is E[x_0 | x_t] there, and the network sets G (B, p),
    like F_0 (B, d): [F_0, G] = A_D W_{D+1}. The target f contains m itself, pixel by pixel; layers of some hundreds cannot carry
    it through, and so G multiplies it by factors.

    Parameters
    ----------
    directions : (d, p) array_like, or None
        U; with p = 0 there are no gates. None stands for I, which is not stored.
    *args, **options
        As in `MLP`.

    Attributes
    ----------
    drift : (d,) array
        0 in training, then see `measure_drift`.
    """

    def __init__(self, dim: int, *args: Any, directions: Any, **options: Any) -> None:
        self.directions = None if directions is None else check_directions(directions, dim)
        super().__init__(dim, *args, **options)
        self.U = None if directions is None else self.xp.asarray(self.directions, dtype=self.dtype)
        self.drift = self.xp.zeros(dim, dtype=self.dtype)
        sin, _, sd = self.schedule.rotation(self.variances)
        self._pull = self.xp.asarray(sin / sd[0], dtype=self.dtype)         # sin(theta) / sqrt(lambda)

    def _outputs(self) -> int:
        return 2 * self.dim if self.directions is None else sum(self.directions.shape)

    def __reduce__(self) -> tuple[Any, ...]:
        make, nothing, parameters = super().__reduce__()
        make.keywords["directions"] = self.directions
        return make, nothing, (parameters, self.drift)

    def __setstate__(self, state: Any) -> None:
        self.parameters[...], self.drift[...] = state

    # What `MLP` calls F, and dF, is H = [F_0, G] here, and dH, (B, d + p).
    def correction(self, x: Any, t: Any, of_m: Any = 1.0) -> Any:
        H = super().correction(x, t, of_m)
        arrays, d = self._last.arrays, self.dim
        arrays.mU = arrays.m if self.U is None else arrays.m @ self.U
        Y = H[:, d:] * arrays.mU                                            # Y = G * (m U)
        F = H[:, :d] + (Y if self.U is None else Y @ self.U.T)              # F = F_0 + Y U^T
        return F - self.drift * at(self._pull, t) * arrays.m

    def correction_backward(self, dF: Any, out: Any) -> Any:
        dG = (dF if self.U is None else dF @ self.U) * self._last.arrays.mU   # dY = dF U, dG = dY * (m U)
        return super().correction_backward(self.xp.concatenate([dF, dG], axis=1), out)


def measure_drift(net: GatedMLP) -> Any:
    """The drift with which samples vary as much as the data, (d,).

    Along the way down du = F dtheta, so that d E[u^2] = 2 E[u F] dtheta, and the variance of u stays 1 if E[u F] = 0. So it is
    for the exact F = E[f | x_t], whatever the law: E[u F] = E[u f] = 0 (`schedule.Rotation`). A network that has memorised some of
    its rows pulls what it has not seen towards them: there E[u F] > 0, and samples lose variance. With -k sin(theta) cos(theta) u
    added to F (m is sqrt(lambda) cos(theta) u), which is 0 where F must be, at both ends, the logarithm of E[u^2] grows by k on the
    way from theta = pi/2 to 0, as far as the rest of F stays the same. So k is minus the logarithm of the variance of u_0, but at
    least 0, and once more from there.
    """
    s, dim = net.schedule, net.dim
    x_T = np.random.default_rng(0).standard_normal((DRAWN, dim))
    x_T = (x_T - x_T.mean(0)) / x_T.std(0)
    lam = np.maximum(net.variances, 1e-30)
    for _ in range(2):
        drawn = to_host(sample(net, s, DRAWN, dim, x_T=x_T, steps=min(STEPS, s.T))).astype(float)
        net.drift -= net.xp.asarray(np.log(drawn.var(0) / lam), dtype=net.dtype)
        net.drift[...] = net.xp.maximum(net.drift, 0)
    return net.drift
