"""npddpm: denoising diffusion in NumPy, with every gradient in plain sight."""

from typing import Any

from ._version import __version__ as __version__
from .diffusion import Bound, loss_and_gradient, variational_bound
from .flow import encode, log_likelihood
from .mixture import GaussianMixture
from .mlp import MLP
from .model.ddpm import DDPM
from .samplers import sample, trajectory
from .schedule import Schedule

__all__ = ["DDPM", "MLP", "Bound", "GaussianMixture", "Schedule", "encode", "log_likelihood", "loss_and_gradient", "sample",
           "trajectory", "variational_bound"]


def __getattr__(name: str) -> Any:
    """`npddpm.testing`, imported when it is first used: it needs hypothesis."""
    if name == "testing":
        import importlib

        return importlib.import_module(".testing", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
