"""npddpm: denoising diffusion in NumPy, with every gradient in plain sight."""

from .diffusion import Bound, loss_and_gradient, sample, trajectory, variational_bound
from .mlp import MLP
from .oracle import GaussianMixture
from .schedule import Schedule
from .train import DDPM

__version__ = "0.2.0"
__all__ = ["DDPM", "MLP", "Bound", "GaussianMixture", "Schedule", "loss_and_gradient", "sample",
           "trajectory", "variational_bound"]
