"""What tests of the model share: a training by hand, copies, and all that a model knows."""

import copy
import pickle

import numpy as np
import pytest

from npddpm import MLP, loss_and_gradient
from npddpm.arrays.backend import standard_normal
from npddpm.model.axes import PrincipalAxes
from npddpm.optim import Adam, learning_rate


@pytest.fixture(params=[copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["copy", "deepcopy", "pickle"])
def twin(request):
    return request.param


@pytest.fixture
def content(tmp_path_factory):
    """All that a model knows, its generator too, in the bytes of its checkpoint."""
    path = tmp_path_factory.mktemp("content") / "m.npz"

    def of(model):
        model.save(path)
        return path.read_bytes()
    return of


@pytest.fixture
def by_hand():
    """The loop of `fit`: network, average and loss of each step, and the norms of the gradients before clipping."""
    def fit(s, x, steps, batch_size, lr, rng, weighting, shares=None, dtype="float32"):
        """With `shares` ranks draw, each its share of a batch from a stream of its own."""
        rng = np.random.default_rng(np.random.default_rng(rng).integers(2**63))
        axes = PrincipalAxes.of(x)
        net = MLP(2, 16, 2, schedule=s, variances=axes.variances, fourier=4, rng=rng, dtype=dtype)
        average, adam, losses, norms = net.parameters.copy(), Adam(net.parameters), [], []
        z = ((x - x.mean(0)) / x.std(0) @ axes.V).astype(dtype)

        def draw(rng, n):
            x0 = z[np.floor(len(z) * rng.random(n)).astype(int)]
            t = 1 + np.floor(s.T * rng.random(n) ** (1 if weighting else 2)).astype(int)     # small t more often by default
            return x0, t, standard_normal(rng, x0.shape, z.dtype)

        for step in range(steps):
            draws = [draw(np.random.Generator(rng.bit_generator.jumped(1 + rank + step * 2**20)), n) for rank, n in enumerate(shares or [])]
            x0, t, eps = map(np.concatenate, zip(*draws or [draw(rng, batch_size)]))
            loss, gradient = loss_and_gradient(net, s, x0, t, eps, weighting or "simple")
            norms.append(np.sqrt(gradient @ gradient))
            gradient *= 1 / np.maximum(1, norms[-1])                                # clipped first,
            adam.step(gradient, learning_rate(step, steps, lr))                     # then Adam,
            average = net.parameters + min(0.999, (step + 1) / (step + 10)) * (average - net.parameters)     # and last the average
            losses.append(loss)
        return net, average, losses, norms
    return fit
