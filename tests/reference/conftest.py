"""For the tests of the reference on a device."""

import numpy as np
import pytest

from npddpm import Schedule
from npddpm.model.gates import GatedMLP


@pytest.fixture
def gated_on_both(cupy):
    """The same network on CPU and GPU, with gates and no weight at zero."""
    U, s = np.random.default_rng(2).standard_normal((3, 4)), Schedule.linear(20)
    pair = [GatedMLP(3, 6, 2, schedule=s, fourier=1, directions=U, rng=0, dtype="float64", device=device) for device in ("cpu", "gpu")]
    values = 0.2 * np.random.default_rng(1).standard_normal(len(pair[0].parameters))
    for net in pair:
        net.parameters[...] = net.xp.asarray(values)
        net.drift += 0.1
    return pair
