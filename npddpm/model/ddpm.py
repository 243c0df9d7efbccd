"""A model that learns: the network with its data's scale, trained, sampled, saved and loaded."""

from __future__ import annotations

import copy
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .. import diffusion, flow, samplers
from ..arrays.backend import generator, shared, standard_normal, to_host, use_gpu
from ..arrays.checks import (
    LARGE,
    MOST_LAYERS,
    MOST_OCTAVES,
    check_clip,
    check_count,
    check_dtype,
    check_finite,
    check_json,
    check_shaped,
)
from ..arrays.declared import checked, choice, count, instance, optional, real
from ..arrays.threads import MOST_THREADS, Team
from ..data.files import Outputs, open_to_read
from ..data.table import Mapped, as_images, as_rows, moments, without_far
from ..mlp import MLP
from ..optim import Adam, clip_norm, learning_rate, update_average
from ..schedule import Schedule
from . import checkpoint, rules, stopping
from .axes import ROUNDING, PrincipalAxes, tell_columns
from .checkpoint import FORMAT
from .gates import GatedMLP, measure_drift
from .ranks import Ranks, by_first, check_comm, in_turns, streams

LOSS_EVERY = 100   # steps in one entry of DDPM.losses
CHUNK = {"cpu": 500, "gpu": 10_000}     # samples drawn at a time: fewer leave a GPU idle; more do not fit in a CPU's cache, or leave cores without a chunk
DIVERGED = 10      # times the loss of a guess of 0


OPTIONS = {"batch_size": count(), "lr": optional(real(0)), "weighting": optional(choice("simple", "elbo")), "device": choice("cpu", "gpu"),
           "threads": optional(count(most=MOST_THREADS))}      # of a training


def warn(line: str) -> None:
    """Warn at the line of the user that led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("npddpm."):
        frame, level = frame.f_back, level + 1
    warnings.warn(line, stacklevel=level)


def tell_signal(s: Schedule, variances: Any) -> None:
    """Warn where samples cannot be as wide as the data: they begin with N(0, I), and x_T has another variance."""
    v = s.rotation(variances).sd[s.T] ** 2
    i = int(np.abs(np.log(v)).argmax())
    if not 0.9 < v[i] < 1.1:
        warn(f"x_T is no noise: its variance is {v[i]:.3g} along an axis, where samples begin with 1, since abar_T = "
             f"{s.alpha_bars[-1]:.3g}; more steps or larger betas leave less of the data (Schedule.linear(T) chooses betas for T)")


class DDPM:
    """A denoising diffusion model of the rows of an array.

    Parameters
    ----------
    schedule : Schedule, optional
        By default `Schedule.linear()`, 1000 steps.
    hidden, depth, fourier, gated : int, int, int, bool, optional
        Of the network, an `MLP`, or with gates or more than 32 axes a `npddpm.model.gates.GatedMLP`. By default `fit` chooses them by the rules of `npddpm.model.rules`.
    dtype : {"float32", "float64"}

    Attributes
    ----------
    net : MLP
        The network that is trained.
    average : (P,) array
        The exponential moving average of its parameters, with which `denoiser` samples.
    image : tuple of ints
        The shape of an image, if the rows are images; else ().
    axes : PrincipalAxes
        The units of the network: the principal axes of the scaled training rows, and the variances it starts from.
    step : int
        Training steps taken.
    losses : list of float
        The mean loss of every 100 steps, per dimension, with the weights and the times of the training.
    about : dict
        Notes that travel with the checkpoint, such as where the data came from: what JSON can hold.
    outputs : Outputs
        The checkpoints that `save` replaces, since they are this model's own.
    schedule
        As given; `shape` holds hidden, depth, fourier, gated and dtype.
    optimizer : Adam

    Raises
    ------
    ValueError
        If `hidden`, `depth`, `fourier` or `dtype` cannot be used.
    TypeError
        If `schedule` is no Schedule, `gated` no bool, or `about` is set to what JSON cannot hold.

    Notes
    -----
    `net`, `average`, `axes` and `optimizer` exist once the model is trained or loaded.
    """

    net: MLP
    optimizer: Adam
    average: Any
    axes: PrincipalAxes
    image: tuple[int, ...]
    _rng: Any

    @checked(schedule=optional(instance(Schedule)), hidden=optional(count()), depth=optional(count(most=MOST_LAYERS)),
             fourier=optional(count(0, MOST_OCTAVES)), gated=optional(instance(bool)))
    def __init__(self, schedule: Schedule | None = None, hidden: int | None = None, depth: int | None = None, *,
                 fourier: int | None = None, gated: bool | None = None, dtype: str = "float32") -> None:
        self.schedule = Schedule.linear() if schedule is None else schedule
        self.shape: dict[str, Any] = {"hidden": hidden, "depth": depth, "fourier": fourier, "gated": gated,
                                      "dtype": check_dtype(dtype, "float32", "float64").name}
        self.step, self.image = 0, ()
        self.losses: list[float] = []
        self.about, self._noted = {}, dict[str, Any]()      # `_noted` is what a file says of its own training
        self.outputs = Outputs()
        self._loss_sum: Any = 0.0
        self._run = 0   # which of the calls of `training` the model belongs to
        self._drift: tuple[int, Any] = 0, None      # a hash of parameters, and what `measure_drift` found

    @property
    def about(self) -> dict[str, Any]:
        return self._about

    @about.setter
    def about(self, notes: dict[str, Any]) -> None:
        self._about = copy.deepcopy(check_json("about", notes))

    def __copy__(self) -> DDPM:
        return copy.deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy, or for a pickle: the files are those of this model, none of the copy's."""
        return vars(self) | {"outputs": Outputs()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The optimizer moves the parameters of this network."""
        vars(self).update(state)
        if self.step > 0:
            self.optimizer.parameters = self.net.parameters

    # ---- training

    def fit(self, x: Any, steps: int | None = None, batch_size: int = 256, lr: float | None = None, *, rng: Any = None,
            device: str = "cpu", weighting: str | None = None, resume: bool = False, threads: int | None = None,
            comm: Any = None) -> DDPM:
        """Train on the rows of x, and return the model.

        The data are scaled. A step draws rows of them, times t and noise, and follows the gradient of `loss_and_gradient`.
        `npddpm.model.rules` say how t is drawn and the loss weighted. The loop adds three things: a gradient longer than 1 is
        shortened to length 1; the learning rate follows half a cosine from `lr` down to 0, times a warm-up over 100 steps; and
        `average` follows the parameters after each of Adam's steps: in step k it forgets 9/(k+9) of itself, but at least a
        thousandth.

        Parameters
        ----------
        x : (n, d) array_like
            Finite numbers; a memory map (``np.load(path, mmap_mode="r")``) is read row by row and may be larger than
            the memory. Columns are brought to zero mean and unit variance, and turned into principal axes. An array (n, h, w)
            or (n, h, w, c) is images, whose numbers share one scale; samples have its shape, and rows that other methods take may.
        steps : int, optional
            Training steps, from the first one on, also with `resume`; by default `usual_steps`.
        batch_size : int
            Rows in a batch, drawn with replacement.
        lr : float, optional
            The learning rate, before warm-up and decay; by default `npddpm.model.rules.lr`.
        rng : None, int or Generator
            For the initial weights, the batches, the times and the noise. With `comm` that of rank 0 counts.
        device : {"cpu", "gpu"}
        weighting : {"simple", "elbo"}, optional
            See `loss_and_gradient`, with t uniform on 1..T. By default `npddpm.model.rules` choose: for up to eight axes "simple", with
            more of the small t; for up to 128 "simple"; and for more `npddpm.model.rules.weighting`.
        resume : bool
            Go on from `step` to `steps`, with the generator as it was left; rng and device are not used. On the CPU,
            and with the other arguments as before, the result is bit-identical to a run that was never interrupted. (Ctrl-C may end
            `fit` within a step; who wants to go on leaves `training` between two.)
        threads : int, optional
            How many threads work on the slices of a batch, on the CPU, see `npddpm.model.ranks`; each has one thread of BLAS. By default as
            many as BLAS has. The result is the same to the bit. More than one need threadpoolctl, which the extra "cli" brings.
        comm : communicator, optional
            Of mpi4py, ``MPI.COMM_WORLD`` say: all its ranks train one model. Each calls `fit` with the same arguments, draws
            its share of every batch from a stream of its own, and keeps the whole model, which is the same to the bit on
            all of them. With as many ranks as before `resume` is bit-identical here too. If `device` is "gpu" a rank uses
            the one with its number, modulo their count; to go on with a model, choose that GPU before it is loaded.

        Returns
        -------
        DDPM
            The model itself.

        Raises
        ------
        ValueError
            For data or arguments that cannot be used.
        TypeError
            If `rng` is nothing that a generator is made from, or `comm` is no communicator.
        RuntimeError
            If `device` is "gpu" and there is none, another training of this model began in the meantime, or two ranks do
            not have the same parameters any more, which is looked at every 100 steps.
        FloatingPointError
            If the loss becomes NaN or infinite, or stays above ten times that of a guess of 0 (a thousand times in the first
            200 steps).

        Warns
        -----
        UserWarning
            If rows are left out since a cell stands apart, a column is taken for constant, `resume` is given rows off the plane, or
            no step to take, or x_T is no noise: its variance along some axis differs from 1 by more than a tenth.
        """
        x, image = as_rows(x)
        if not image:
            x = without_far(x, warn)
            tell_columns(x, warn)
        with Team():    # once for all steps, each of which would set the threads of BLAS and restore them
            run = self.training(as_images(x, image), steps, batch_size, lr, rng=rng, device=device, weighting=weighting,
                                resume=resume, threads=threads, comm=comm)
            del x       # `training` has rows of its own
            for _ in run:
                pass
        return self

    @checked(steps=optional(count()), **OPTIONS, resume=instance(bool))
    def training(self, x: Any, steps: int | None = None, batch_size: int = 256, lr: float | None = None, *,
                 rng: Any = None, device: str = "cpu", weighting: str | None = None,
                 resume: bool = False, threads: int | None = None, comm: Any = None) -> Iterator[int]:
        """`fit` as a generator that yields the number of steps taken, after each step; parameters and errors are those of `fit`.

        Rows are taken as they are, also where a cell stands apart.

        Between two steps the model is whole: it can be sampled, saved, or left as it is. Until the first it is what
        it was before the call. Ranks must all take the same number of steps, and one of them is enough to save.
        """
        x, image = as_rows(x)
        check_json("about", self.about)
        check_comm(comm, x=x.shape, steps=steps, batch_size=batch_size, lr=lr, weighting=weighting, resume=resume,
                   schedule=self.schedule, step=self.step if resume else 0, **self.shape)
        if steps is None:
            steps = by_first(comm, lambda: self.usual_steps(as_images(x, image), batch_size=batch_size, lr=lr, weighting=weighting,
                                                            device=device, threads=threads))
        team, fresh = Team(threads), dict[str, Any]()
        if resume:
            self._check_resumed(x, image, steps)
        else:
            with team:      # the axes are the same for any number of threads too
                fresh = self._fresh(x, image, rng, device, comm)
        axes: PrincipalAxes = fresh["axes"] if fresh else self.axes
        tell_signal(self.schedule, axes.variances)
        return team.during(self._steps(x, steps, batch_size, rules.lr(len(x)) if lr is None else lr, weighting, comm, team, fresh))

    @checked(**OPTIONS)
    def usual_steps(self, x: Any, batch_size: int = 256, lr: float | None = None, *, weighting: str | None = None, device: str = "cpu",
                    threads: int | None = None) -> int:
        """`npddpm.model.rules.steps`, at most 10,000; for fewer than 1,000 rows at most `npddpm.model.stopping.last_good_step`.

        The options are those of the training that is meant.
        """
        x, image = as_rows(x)
        most = rules.steps(*x.shape)
        if not rules.few(len(x)):
            return most
        models = [DDPM(self.schedule, **self.shape) for _ in range(stopping.FOLDS)]
        lr = rules.lr(len(x)) if lr is None else lr         # that of all rows
        return stopping.last_good_step(models, as_images(x[:], image), most, batch_size=batch_size, lr=lr, weighting=weighting,
                                       device=device, threads=threads)

    def _fresh(self, x: Any, image: tuple[int, ...], rng: Any, device: str, comm: Any) -> dict[str, Any]:
        """What a new training begins with."""
        axes, seed = by_first(comm, lambda: (PrincipalAxes.of(x, bool(image)), generator(rng).integers(2**63)))
        rng = np.random.default_rng(seed)   # a generator of our own, whose state is known to fit into a checkpoint
        if comm is not None and device == "gpu":
            use_gpu(comm.rank)
        shape = rules.network(len(axes.variances)) | {name: value for name, value in self.shape.items() if value is not None}
        return self._untrained(axes, shape, rng, device) | {
            "_rng": rng, "step": 0, "losses": [], "_loss_sum": 0.0, "outputs": Outputs(), "image": image}

    def _untrained(self, axes: PrincipalAxes, shape: dict[str, Any], rng: Any, device: str) -> dict[str, Any]:
        """A network for these axes, and what goes with it."""
        r = len(axes.variances)
        options = {**shape, "schedule": self.schedule, "variances": axes.variances, "rng": rng, "device": device}
        if options.pop("gated"):
            options["directions"] = None if axes.V is None else axes.V[axes.V.any(1)].T
        elif rules.kept_wide(r):
            options["directions"] = np.empty((r, 0))
        net = GatedMLP(r, **options) if "directions" in options else MLP(r, **options)
        return {"axes": axes, "net": net, "average": net.parameters.copy(), "optimizer": Adam(net.parameters)}

    def _vectors(self) -> dict[str, Any]:
        """Of the length of the parameters, by their names in a checkpoint."""
        return {"parameters": self.net.parameters, "average": self.average, "m": self.optimizer.m, "v": self.optimizer.v}

    def _steps(self, x: Any, steps: int, batch_size: int, lr: float, weighting: Any, comm: Any, team: Team,
               fresh: dict[str, Any]) -> Iterator[int]:
        if fresh:
            vars(self).update(fresh)
            self._about, self._noted = {name: note for name, note in self.about.items() if self._noted.get(name) != note}, {}
        self._run += 1
        run, net, s = self._run, self.net, self.schedule
        of_zero = float(s.loss_weights[1:].mean()) if weighting == "elbo" else 1.0
        power = 1
        if weighting is None:
            weighting, power = rules.weighting(net.cos), rules.time_power(net.dim)
        with team:
            rows_of_x, dtype = self._rows(x), net.dtype
        ranks = Ranks(comm, net, batch_size, self._rng, self.step, team)
        while self.step < steps:
            if self._run != run:
                raise RuntimeError("another training of this model has begun, so that this one cannot go on")
            with team:
                rng = ranks.rng(self.step)
                u = rng.random((2, ranks.rows))
                x0 = rows_of_x((len(x) * u[0]).astype(int))
                t = rules.draw_times(u[1], s.T, power)
                eps = standard_normal(rng, (ranks.rows, net.dim), dtype)
                loss, gradient = ranks.loss_and_gradient(net, s, x0, t, eps, weighting)
                if isinstance(loss, float):
                    self._check_finite(loss)
                with shared(team):
                    clip_norm(gradient, 1.0)
                    self.optimizer.step(gradient, learning_rate(self.step, steps, lr))
                    update_average(self.average, net.parameters, self.optimizer.t)
            self.step += 1
            self._loss_sum += loss
            if self.step % LOSS_EVERY == 0:  # the one moment at which the GPU is waited for
                self.losses.append(float(self._loss_sum) / LOSS_EVERY)
                self._check_finite(self.losses[-1])
                ranks.check_alike(net.parameters, self.step)
                few = len(self.losses) < 3      # one extreme row may be in them
                if min(self.losses[-3:]) > (100 if few else 1) * DIVERGED * of_zero:
                    raise FloatingPointError(f"the loss became {self.losses[-1]:.4g} at step {self.step}, where a guess "
                                             f"of 0 has {of_zero:.3g}: the learning rate is too high (lower lr)")
                self._loss_sum = 0.0
            yield self.step

    def _rows(self, x: Any) -> Callable[[Any], Any]:
        """Rows by their numbers, as the network sees them: of an array from a copy of it, of a file from where they are."""
        if isinstance(x, Mapped):
            return lambda numbers: self.to_network(x[to_host(numbers)])
        data = self.to_network(x)
        return lambda numbers: data.take(numbers, axis=0)

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss became {loss} at step {self.step + 1}: "
                                     "the learning rate is too high (lower lr), or the data too extreme")

    # ---- use

    def to_network(self, x: Any) -> Any:
        """x in its principal axes, in the precision and on the device of the network."""
        return self.net.xp.asarray(self.axes.standardize(x), dtype=self.net.dtype)

    def denoiser(self) -> MLP:
        """A network with the averaged parameters, for x_t in the units of `axes`.

        For more than 32 axes the first call with new parameters, after a training step or `load`, draws 2000 samples in 20 steps, twice, so that
        samples vary as much as the data, see `npddpm.model.gates.measure_drift`. Later calls use what it found. Neither the training nor
        its draws are changed.

        Raises
        ------
        ValueError
            If the model is not trained.
        """
        self._check_trained()
        net = copy.deepcopy(self.net)
        net.parameters[...] = self.average
        if isinstance(net, GatedMLP):
            key = hash(to_host(net.parameters).tobytes())
            if self._drift[0] != key:
                with Team():
                    self._drift = key, measure_drift(net)
            net.drift[...] = self._drift[1]
        return net

    def sample(self, n: int, rng: Any = None, *, threads: int | None = None, comm: Any = None, **options: Any) -> np.ndarray:
        """Draw n samples in the units of the data, (n, d) float64.

        They are drawn in chunks of 500 (on a GPU 10,000), each from a stream of its own: the first 500 of a larger n are
        those of n = 500.

        Parameters
        ----------
        n : int
        rng : None, int or Generator
            Chunk i = 0, 1, ... has its stream from i jumps ahead, and it is left where the next chunk's would begin.
        threads : int, optional
            How many threads draw, a chunk each, on the CPU; by default as many as BLAS has. It changes nothing in the samples.
        comm : communicator, optional
            Of mpi4py: its ranks, which all call `sample` with the same arguments, share the chunks out, and all get all
            samples. How many ranks there are changes nothing in them.
        **options
            x_T=None, start=None, noise=None, variance="gaussian", steps=None, eta=None and clip=None, see `npddpm.trajectory`.
            All steps with the default variance, and `steps` alone, draw each axis as wide as the data, if x_T is noise; the others lose
            what is thin beside the noise of their last step, and with `eta` and few steps every axis is too narrow: one of variance 1
            comes out 0.85 as wide with 20 steps of eta = 1, 0.96 with 50 of eta = 0.5; thin axes lose more.
            `clip` is in the units of the data, where it has the last word; x_T and `noise` are in those of `axes`: rows x with
            the noise of time t removed are ``sample(len(x), x_T=schedule.q_sample(axes.standardize(x), t, eps), start=t)``.

        Raises
        ------
        ValueError
            If the model is not trained, or an argument is out of range.
        TypeError
            If `rng` is nothing that a generator is made from, or `comm` is no communicator.
        FloatingPointError
            If the network gives NaN or infinity.
        """
        return np.concatenate([*self.sample_chunks(n, rng, threads=threads, comm=comm, **options)])

    def sample_chunks(self, n: int, rng: Any = None, *, threads: int | None = None, comm: Any = None,
                      **options: Any) -> Iterator[np.ndarray]:
        """`sample` as a generator of chunks of at most 500 rows (on a GPU 10,000), for any n in bounded memory."""
        check_comm(comm, n=n)
        n, team, net = check_count("n", n), Team(threads), self.denoiser()
        if callable(options.get("clip")) or net.device == "gpu":        # a function may keep an array of its own
            team = Team(1)
        size, axes, image = CHUNK[net.device], self.axes, self.image     # as they are now: a training may begin meanwhile
        chunks = math.ceil(n / size)
        stream = streams(generator(rng), chunks)
        given: dict[str, Any] = {"variance": "gaussian", **options}
        if np.iterable(steps := given.get("steps")) and not isinstance(steps, (str, bytes)):
            given["steps"] = list(steps)      # each chunk goes through them
        cut: Callable[[Any], Any] = lambda x: x
        if given.get("clip") is not None:
            cut = check_clip(given["clip"], np, np.float64, len(axes.mean))
            given["clip"] = lambda z: net.xp.asarray(axes.standardize(cut(axes.restore(z))), dtype=net.dtype)
        shapes = {"x_T": (n, net.dim), "noise": (net.schedule.T + 1, n, net.dim)}
        arrays = {name: check_shaped(name, given[name], net.xp, None, *shape) for name, shape in shapes.items() if given.get(name) is not None}

        def chunk(i: int) -> Any:
            rows = slice(i * size, min((i + 1) * size, n))
            own = given | {name: array[..., rows, :] for name, array in arrays.items()}
            z = None
            for _, z in samplers.trajectory(net, net.schedule, rows.stop - rows.start, net.dim, stream(i), **own):
                if team.stopped:        # else this would be `samplers.sample`
                    return None
            return as_images(cut(axes.restore(check_finite(z, x_T=own.get("x_T")))), image)

        return team.during(in_turns(comm, team, chunks, chunk))

    def encode(self, x: Any, steps: int | None = None) -> np.ndarray:
        """The x_T, (B, r) in the units of `axes`, from which ``sample(B, x_T=x_T, steps=steps)`` comes back to rows x.

        Rows off the plane of the training rows come back as the nearest points of it.

        Parameters
        ----------
        x : (B, d) array_like
        steps : int, optional
            By default min(100, T), see `npddpm.encode`; `sample` has to be given the same number.

        Raises
        ------
        ValueError
            If the model is not trained, x is not (B, d) finite numbers, is images of another shape, or lies too far from the
            training rows for the precision of the network, or `steps` is out of range.
        """
        _, z = self._in_axes(x)
        x_T: np.ndarray = to_host(flow.encode(self.denoiser(), self.schedule, z, steps))
        return x_T

    def bound(self, x: Any, rng: Any = None, variance: str = "gaussian", n: int = 1) -> np.ndarray:
        """Estimate a lower bound of log p(x) for each row of x, (B,) nats, in the units of the data.

        p is the law from which `sample` draws with all steps and the same `variance`.

        If the training rows lie in a plane, because a column is constant or a linear function of others, the model's
        density lives on it, and is that for the plane's own volume; the bound of a row that is off the plane is -inf.

        Parameters
        ----------
        x : (B, d) array_like
        rng, variance, n
            See `variational_bound`, whose estimate this is.

        Raises
        ------
        ValueError
            If the model is not trained, x is not (B, d) finite numbers, is images of another shape, or lies too far from the
            training rows for the precision of the network, or an argument is out of range.
        TypeError
            If `rng` is nothing that a generator is made from.
        """
        x, z = self._in_axes(x)
        of_z = diffusion.variational_bound(self.denoiser(), self.schedule, z, rng, variance, n)
        return self._nats(x, of_z.nats)

    def log_likelihood(self, x: Any, steps: int | None = None, *, probes: int | None = None, rng: Any = None) -> Any:
        """log p(x) for each row of x, (B,) nats, in the units of the data; p is the law from which ``sample(steps=steps)`` draws.

        With few steps it is rough: its exp need not integrate to 1. Compare two numbers of steps.

        Rows off the plane of the training rows have -inf, as in `bound`.

        Parameters
        ----------
        x : (B, d) array_like
        steps : int, optional
            By default min(100, T).
        probes, rng
            See `npddpm.log_likelihood`: with `probes` a pair is returned, the estimate and its standard error.

        Raises
        ------
        ValueError
            If the model is not trained, x is not (B, d) finite numbers, is images of another shape, or lies too far from the
            training rows, or an argument is out of range.
        TypeError
            If `rng` is nothing that a generator is made from.
        """
        x, _ = self._in_axes(x)
        z, net = self.axes.standardize(x), self.denoiser()
        found = flow.log_likelihood(net, self.schedule, net.xp.asarray(z), steps, probes=probes, rng=rng)
        return self._nats(x, found) if probes is None else (self._nats(x, found[0]), to_host(found[1]))

    def _nats(self, x: np.ndarray, of_z: Any) -> np.ndarray:
        """log p(x) of log p(z): p(x) = p(z) |dz/dx| in the plane of the training rows, and 0 off it."""
        return np.where(self.axes.contain(x), to_host(of_z) - self.axes.log_volume(), -np.inf)

    def _in_axes(self, x: Any) -> tuple[np.ndarray, Any]:
        """Rows x of a user, checked, and the same in the units of the network."""
        self._check_trained()
        x = self._check_width(*as_rows(x, least=1))[:]
        with np.errstate(over="ignore", invalid="ignore"):
            z = self.to_network(x)
            far = ~(np.abs(to_host(z)).max(1) < LARGE)
        if far.any():
            raise ValueError(f"x must lie near the training rows, got {np.abs(x[far][0]).max():.3g} in row {far.argmax()}")
        return x, z

    def _check_width(self, x: Any, image: tuple[int, ...]) -> Any:
        """x, if it has the columns of the training rows and is no images of another shape; else ValueError."""
        if x.shape[1] != len(self.axes.mean):
            raise ValueError(f"x must have {len(self.axes.mean)} columns as the training rows, got {x.shape[1]}")
        if image not in ((), self.image):
            wanted = f"images of {self.image}" if self.image else "a table"
            raise ValueError(f"x must be {wanted} as the training rows, got images of {image}")
        return x

    def _check_resumed(self, x: Any, image: tuple[int, ...], steps: int) -> None:
        """Raise ValueError if rows to go on with are not like those before: units, and the Gaussian that F corrects, are theirs."""
        if self.step == 0:
            raise ValueError("resume needs a model that was trained or loaded")
        self._check_width(x, image)
        _, mean, variance, _, _ = moments(x)
        before, now, rounding = self.axes.deviations(), np.sqrt(variance), ROUNDING * np.abs(mean)
        off = np.abs(mean - self.axes.mean)
        if self.image:      # which have one scale, and whose shrunk variances are right together alone
            before, now, off = (np.full_like(a, np.sqrt(np.mean(a**2))) for a in (before, now, off))
        other = (off > before / 2 + rounding) | (now > 1.5 * before + rounding) | (before > 1.5 * now + rounding)
        if other.any():
            i = other.argmax()
            raise ValueError(f"x must be rows like those that the model was trained on: column {i} has mean {mean[i]:.4g} and deviation "
                             f"{now[i]:.4g}, where they had {self.axes.mean[i]:.4g} and {before[i]:.4g}; fit without resume begins anew")
        if outside := int((~self.axes.contain(x[:1000])).sum()):
            warn(f"x: {outside} of the first {min(len(x), 1000)} rows lie off the plane of the rows that the model was "
                 "trained on, in which its samples stay; fit without resume begins anew")
        if self.step >= steps:
            warn(f"the model has had {self.step} steps, so that nothing is done up to steps = {steps}: they count from the "
                 "first one on")

    def _check_trained(self) -> None:
        if self.step == 0:
            raise ValueError("the model is not trained: call fit, or DDPM.load")

    # ---- checkpoints

    def save(self, path: str | os.PathLike[str]) -> Path | None:
        """Write a checkpoint (.npz): everything that sampling, and going on with the training, need.

        It appears whole or not at all; the file that was there before survives a crash. A checkpoint that this model
        wrote in this training, or was loaded from, is replaced. Any other file is put aside as path.1, path.2 ...

        Its arrays are config, which is JSON; parameters, average, m and v (P,); betas (T,); losses; mean and scale (d,);
        variances (r,); and V (d, r), where the data are turned into axes.

        Returns
        -------
        Path or None
            Where the file that was put aside is now.

        Raises
        ------
        ValueError
            If the model is not trained.
        TypeError
            If `path` is no str or Path, or `about` holds what JSON cannot.
        OSError
            If the file cannot be written, or what is there is no regular file.
        FloatingPointError
            If the last step made NaN or infinity of the parameters; what is there is left as it is.
        """
        self._check_trained()
        check_json("about", self.about)
        net = self.net
        config = {"format": FORMAT, "hidden": net.hidden, "depth": net.depth, "fourier": net.fourier,
                  "gated": net.shapes[-1][1] > net.dim,       # the last layer sets them too
                  "dtype": net.dtype.name, "step": self.step, "optimizer_t": self.optimizer.t, "loss_sum": float(self._loss_sum),
                  "rng": self._rng.bit_generator.state, "about": self.about, "image": list(self.image)}
        arrays = {**self._vectors(), "betas": self.schedule.betas[1:], "losses": np.asarray(self.losses, dtype=float),
                  **{name: array for name, array in self.axes._asdict().items() if array is not None}}
        with self.outputs.write(path) as file:
            checkpoint.write(file, config, arrays)
        return self.outputs.aside

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str = "cpu") -> DDPM:
        """Read a checkpoint.

        Raises
        ------
        ValueError
            If the file is damaged, is no checkpoint, or has the format of another version. Nothing in it is
            executed: pickled objects are refused.
        TypeError
            If `path` is no str or Path.
        OSError
            If it cannot be opened.
        RuntimeError
            If `device` is "gpu" and there is none.
        """
        with open_to_read(path) as file:
            config, arrays = checkpoint.read(file)
            model = cls(Schedule(arrays["betas"]), **{name: config[name] for name in ("hidden", "depth", "fourier", "gated", "dtype")})
            model._rng = np.random.Generator(np.random.PCG64())
            model._rng.bit_generator.state = config["rng"]
            model.about = model._noted = config["about"]
            model.outputs.adopt(path, file)
        model.step, model._loss_sum = config["step"], float(config["loss_sum"])
        model.losses, model.image = arrays["losses"].tolist(), tuple(config["image"])
        axes = PrincipalAxes._make(arrays.get(name) for name in PrincipalAxes._fields)
        vars(model).update(model._untrained(axes, model.shape, 0, device))      # out here, since a fault of the device is none of the file
        model.optimizer.t = config["optimizer_t"]
        for name, home in model._vectors().items():
            home[...] = model.net.xp.asarray(arrays[name])
        return model
