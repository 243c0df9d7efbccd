"""The same training step in other frameworks: network, loss, optimizer and random draws as in `ours`.

Each contestant is a function ``(shape, device) -> run``, or raises ImportError where it does not apply.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from npddpm import MLP

from .ours import LR, READ_EVERY, ROWS, SCHEDULE, Run, Shape, data

Contestant = Callable[[Shape, str], Run]


def coefficients() -> tuple[np.ndarray, ...]:
    """tau, sqrt(abar), sqrt(1 - abar), float32."""
    tau = MLP(1, 1, 1, schedule=SCHEDULE).features.tau
    return tau, SCHEDULE.sqrt_alpha_bars.astype("float32"), SCHEDULE.sqrt_one_minus_alpha_bars.astype("float32")


def initial_weights(shape: Shape, features: int, seed: int = 0) -> list[np.ndarray]:
    """W and b by turns, with the variances of `npddpm.MLP`."""
    rng = np.random.default_rng(seed)
    sizes = [features, *[shape.hidden] * shape.depth]
    layers = [((2 / m) ** 0.5 * rng.standard_normal((n, m)), np.zeros(n)) for m, n in pairwise(sizes)]
    layers.append((np.zeros((shape.d, shape.hidden)), np.zeros(shape.d)))
    return [a.astype("float32") for layer in layers for a in layer]


class Torch:
    """The network of `npddpm.MLP` in PyTorch."""

    def __init__(self, shape: Shape, device: str, fourier: int = 0, seed: int = 0) -> None:
        import torch
        if device == "gpu" and not torch.cuda.is_available():
            raise ImportError("PyTorch finds no GPU")
        torch.set_float32_matmul_precision("highest")    # no TF32
        self.torch, self.device = torch, "cuda" if device == "gpu" else "cpu"
        torch.manual_seed(seed)
        self.tau, self.signal, self.noise = map(self.tensor, coefficients())
        basis = MLP(shape.d, 1, 1, schedule=SCHEDULE, fourier=fourier).features
        self.omega, self.phase = map(self.tensor, (np.kron(np.eye(shape.d, dtype="float32"), basis.octaves), basis.phase))
        width = shape.d + len(self.phase) + self.tau.shape[1]
        self.parameters = [self.tensor(a).requires_grad_() for a in initial_weights(shape, width, seed)]

    def tensor(self, array: np.ndarray) -> Any:
        return self.torch.tensor(array, device=self.device)

    def __call__(self, xt: Any, t: Any) -> Any:
        F = self.torch.nn.functional
        x0 = self.signal[t, None] * xt              # E[x_0 | x_t] for data N(0, I)
        a = [x0, self.tau[t]]
        if len(self.phase):
            a.insert(1, (x0 @ self.omega + self.phase).sin())
        a = self.torch.cat(a, dim=1)
        for W, b in zip(self.parameters[:-2:2], self.parameters[1:-2:2]):
            a = F.silu(F.linear(a, W, b))
        return self.noise[t, None] * xt + self.signal[t, None] * F.linear(a, *self.parameters[-2:])

    def loss(self, x0: Any, power: int = 1) -> Any:
        if power == 1:
            t = self.torch.randint(1, SCHEDULE.T + 1, (len(x0),), device=self.device)
        else:
            t = 1 + (SCHEDULE.T * self.torch.rand(len(x0), device=self.device) ** power).long()
        eps = self.torch.randn_like(x0)
        xt = self.signal[t, None] * x0 + self.noise[t, None] * eps
        return self.torch.nn.functional.mse_loss(self(xt, t), eps)


def torch_run(shape: Shape, device: str, fused: bool = True, compiled: bool = False) -> Run:
    net = Torch(shape, device)
    torch, x = net.torch, net.tensor(data(shape.d))
    adam = torch.optim.Adam(net.parameters, LR, fused=fused)
    loss_of = torch.compile(net.loss) if compiled else net.loss
    taken = 0

    def run(n: int) -> None:
        nonlocal taken
        for _ in range(n):
            adam.zero_grad(set_to_none=True)
            loss = loss_of(x[torch.randint(0, ROWS, (shape.batch,), device=net.device)])
            loss.backward()
            adam.step()
            taken += 1
            if taken % READ_EVERY == 0:
                loss.item()
        if net.device == "cuda":
            torch.cuda.synchronize()
    return run


def torch_graph(shape: Shape, device: str) -> Run:
    """The whole step captured once as a CUDA graph, then replayed."""
    if device != "gpu":
        raise ImportError("CUDA graphs need a GPU")
    net = Torch(shape, device)
    torch, x = net.torch, net.tensor(data(shape.d))
    adam = torch.optim.Adam(net.parameters, LR, capturable=True)

    def step() -> Any:
        adam.zero_grad(set_to_none=True)
        loss = net.loss(x[torch.randint(0, ROWS, (shape.batch,), device=net.device)])
        loss.backward()
        adam.step()
        return loss

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    taken = 0

    def run(n: int) -> None:
        nonlocal taken
        for _ in range(n):
            graph.replay()
            taken += 1
            if taken % READ_EVERY == 0:
                loss.item()
        torch.cuda.synchronize()
    return run


def jax_run(shape: Shape, device: str) -> Run:
    """The whole step under one jit, its state donated."""
    import jax
    import jax.numpy as jnp
    jax.config.update("jax_default_matmul_precision", "highest")    # no TF32
    try:
        home = jax.devices(device)[0]
    except RuntimeError as error:
        raise ImportError(str(error)) from None
    tau, signal, noise = (jax.device_put(a, home) for a in coefficients())
    x = jax.device_put(data(shape.d), home)
    parameters = [jax.device_put(a, home) for a in initial_weights(shape, shape.d + tau.shape[1])]

    def loss_of(parameters: Any, x0: Any, t: Any, eps: Any) -> Any:
        xt = signal[t, None] * x0 + noise[t, None] * eps
        a = jnp.concatenate([signal[t, None] * xt, tau[t]], axis=1)
        for W, b in zip(parameters[:-2:2], parameters[1:-2:2]):
            a = jax.nn.silu(a @ W.T + b)
        W, b = parameters[-2:]
        return ((noise[t, None] * xt + signal[t, None] * (a @ W.T + b) - eps) ** 2).mean()

    def step(state: Any) -> Any:
        parameters, m, v, k, key = state
        key, *keys = jax.random.split(key, 4)
        rows = x[jax.random.randint(keys[0], (shape.batch,), 0, ROWS)]
        t = jax.random.randint(keys[1], (shape.batch,), 1, SCHEDULE.T + 1)
        loss, g = jax.value_and_grad(loss_of)(parameters, rows, t, jax.random.normal(keys[2], rows.shape))
        k = k + 1
        m = [0.9 * a + 0.1 * b for a, b in zip(m, g)]
        v = [0.999 * a + 0.001 * b * b for a, b in zip(v, g)]
        rate, root = LR / (1 - 0.9**k), jnp.sqrt(1 - 0.999**k)
        parameters = [p - rate * a / (jnp.sqrt(b) / root + 1e-8) for p, a, b in zip(parameters, m, v)]
        return (parameters, m, v, k, key), loss

    jitted = jax.jit(step, donate_argnums=0)
    zeros = [[jnp.zeros_like(p) for p in parameters] for _ in range(2)]
    state = jax.device_put((parameters, *zeros, jnp.float32(0), jax.random.key(0)), home)
    taken = 0

    def run(n: int) -> None:
        nonlocal state, taken
        for _ in range(n):
            state, loss = jitted(state)
            taken += 1
            if taken % READ_EVERY == 0:
                float(loss)
        jax.block_until_ready(state)
    return run


def sklearn_run(shape: Shape, device: str) -> Run:
    """MLPRegressor.partial_fit, which knows no SiLU: with relu, and the velocity F as its target."""
    if device != "cpu":
        raise ImportError("scikit-learn runs on the CPU")
    from sklearn.neural_network import MLPRegressor
    tau, signal, noise = coefficients()
    x, rng = data(shape.d), np.random.default_rng(0)
    net = MLPRegressor(hidden_layer_sizes=[shape.hidden] * shape.depth, alpha=0.0, batch_size=shape.batch, learning_rate_init=LR)

    def run(n: int) -> None:
        for _ in range(n):
            x0, t = x[rng.integers(0, ROWS, shape.batch)], rng.integers(1, SCHEDULE.T + 1, shape.batch)
            eps, a, b = rng.standard_normal(x0.shape, dtype="float32"), signal[t, None], noise[t, None]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                net.partial_fit(np.concatenate([a * (a * x0 + b * eps), tau[t]], axis=1), a * eps - b * x0)
    return run


PEERS: dict[str, Contestant] = {
    "PyTorch, fused Adam": torch_run,
    "PyTorch": lambda shape, device: torch_run(shape, device, fused=False),
    "torch.compile": lambda shape, device: torch_run(shape, device, compiled=True),
    "PyTorch, CUDA graph": torch_graph,
    "JAX": jax_run,
    "scikit-learn (relu)": sklearn_run,
}


def torch_sampling_step(shape: Shape, device: str) -> Run:
    net = Torch(shape, device)
    torch, s = net.torch, SCHEDULE
    x = torch.randn(shape.batch, shape.d, device=net.device)

    @torch.inference_mode()
    def run(n: int) -> None:
        y = x
        for t in range(500, 500 - n, -1):
            t = 1 + t % s.T
            eps = net(y, torch.full((shape.batch,), t, device=net.device))
            y = float(s.rsqrt_alphas[t]) * y - float(s.reverse_eps_coefs[t]) * eps + 0.1 * torch.randn_like(y)
        if net.device == "cuda":
            torch.cuda.synchronize()
    return run
