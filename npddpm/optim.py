"""Updates of one flat vector of parameters: Adam, its learning rate, gradient clipping and averaging.

Parameters, gradients and averages are (P,) arrays, on one device and of one floating-point dtype.
"""

import math
from typing import Any

import numpy as np

from .arrays.backend import elementwise, get_array_module
from .arrays.layout import zeros


@elementwise
def adam_step(xp: Any, p: Any, m: Any, v: Any, g: Any, rate: Any, beta1: Any, beta2: Any, eps: Any) -> None:
    m *= beta1
    m += g                              # M <- beta1 M + g
    v *= beta2
    v += g * g                          # V <- beta2 V + g^2
    step = xp.sqrt(v)
    step += eps
    xp.divide(m, step, out=step)
    step *= rate
    p -= step                           # p <- p - rate M / (sqrt(V) + eps)


@elementwise
def move_average(xp: Any, average: Any, p: Any, decay: Any) -> None:
    average -= p                        # average <- p + decay (average - p), in place: new arrays of this length in every step
    average *= decay                    # cost up to a quarter of the time
    average += p


class Adam:
    """Adam with bias correction (Kingma and Ba 2015, arXiv:1412.6980, Algorithm 1).

    With sums M and V in place of the paper's averages m = (1 - beta1) M and v = (1 - beta2) V,

        m_hat = M / N1,   v_hat = V / N2,   N1, N2 = (1 - beta^t) / (1 - beta) for beta1, beta2
        p <- p - lr m_hat / (sqrt(v_hat) + eps)  =  p - lr sqrt(N2)/N1  M / (sqrt(V) + sqrt(N2) eps)

    so that the bias corrections are two scalars.

    Attributes
    ----------
    parameters, m, v : (P,) arrays
        What `step` changes in place, and the sums M and V.
    beta1, beta2, eps : float
        As in the paper: 0 <= beta < 1 and eps > 0.
    t : int
        Steps taken.
    """

    def __init__(self, parameters: Any, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> None:
        xp = get_array_module(parameters)
        self.parameters = parameters
        self.m, self.v = (zeros(xp, parameters.shape, parameters.dtype) for _ in range(2))
        self.beta1, self.beta2, self.eps, self.t = beta1, beta2, eps, 0

    def step(self, gradient: Any, lr: float) -> None:
        """Update the parameters by a gradient and the learning rate `lr`."""
        self.t += 1
        n1, n2 = ((1 - beta**self.t) / (1 - beta) for beta in (self.beta1, self.beta2))
        adam_step(self.parameters, self.m, self.v, gradient, lr * math.sqrt(n2) / n1,
                  self.beta1, self.beta2, math.sqrt(n2) * self.eps)


def clip_norm(gradient: Any, max_norm: float) -> None:
    """Shorten the gradient, in place, to a norm of at most `max_norm`."""
    xp = get_array_module(gradient)
    norm = xp.sqrt(gradient @ gradient)
    if xp is not np or norm > max_norm:     # the test would wait for the GPU
        gradient *= max_norm / xp.maximum(max_norm, norm)


def update_average(average: Any, parameters: Any, t: int, decay: float = 0.999) -> None:
    """Exponential moving average: decay_t average + (1 - decay_t) parameters, in place, for an `average` with memory of its own.

    decay_t = min(decay, t / (t + 9)), where t = 1, 2, ... counts Adam's steps, this one too: it is smaller at first, so that
    the initial parameters are soon forgotten.
    """
    move_average(average, parameters, min(decay, t / (t + 9)))


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """A warmed-up half cosine for step = 0 ... steps - 1, peak min(1, (step + 1)/warmup) (1 + cos(pi step/steps))/2."""
    return peak * min(1.0, (step + 1) / max(warmup, 1)) * 0.5 * (1 + math.cos(math.pi * step / steps))
