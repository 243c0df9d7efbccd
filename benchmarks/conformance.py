"""What `npddpm.testing` says about other implementations: an adapter of a few lines each, for those that are installed.

Most of them keep their tables in float32, which is a choice: TOLERANCE = 1e-4. Their times are counted from 0; t here is
theirs plus 1. Where one draws noise, it is handed the noise of the example.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import sys
from collections.abc import Iterator
from fractions import Fraction
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from npddpm import testing

from .report import table


@contextlib.contextmanager
def drawing(z: Any, *more: str) -> Iterator[None]:
    """Within the block PyTorch draws z as its normal noise, and so do the functions named."""
    import torch
    with contextlib.ExitStack() as stack:
        for name in ("torch.randn", "torch.randn_like", *more):
            stack.enter_context(mock.patch(name, lambda *args, **kwargs: torch.as_tensor(z)))
        yield


def tensor(x: Any) -> Any:
    import torch
    return torch.as_tensor(x)


def filled(x: Any, t: int) -> Any:
    import torch
    return torch.full((len(x),), t, dtype=torch.long)


class Ancestral:
    """The functions that follow from an adapter's one step of DDPM, step(betas, eps, xt, t, z, variance)."""

    TOLERANCE = 1e-4
    variances: tuple[str, ...] = ("beta", "posterior")

    def reverse_step(self, betas: Any, denoiser: Any, xt: Any, t: int, z: Any, variance: str) -> Any:
        if variance not in self.variances:
            raise NotImplementedError
        return self.step(betas, denoiser(tensor(xt), t), tensor(xt), t, tensor(z), variance)

    def reverse_mean(self, betas: Any, xt: Any, t: int, eps: Any) -> Any:
        return self.step(betas, tensor(eps), tensor(xt), t, tensor(np.zeros_like(xt)), self.variances[0])

    def sample(self, betas: Any, denoiser: Any, x_T: Any, noise: Any, variance: str) -> Any:
        x = x_T
        for t in range(len(betas), 0, -1):
            x = self.reverse_step(betas, denoiser, x, t, noise[t], variance)
        return x


class DiffusersDDPM(Ancestral):
    package, name = "diffusers", "DDPMScheduler"

    def scheduler(self, betas: Any, **options: Any) -> Any:
        from diffusers import DDPMScheduler
        return DDPMScheduler(len(betas), trained_betas=betas, clip_sample=False, **options)

    def linear_betas(self, T: int) -> Any:
        from diffusers import DDPMScheduler
        return DDPMScheduler(T).betas

    def cosine_betas(self, T: int) -> Any:
        from diffusers import DDPMScheduler
        return DDPMScheduler(T, beta_schedule="squaredcos_cap_v2").betas

    def alpha_bars(self, betas: Any) -> Any:
        return self.scheduler(betas).alphas_cumprod

    def q_sample(self, betas: Any, x0: Any, t: int, eps: Any) -> Any:
        return self.scheduler(betas).add_noise(tensor(x0), tensor(eps), filled(x0, t - 1))

    def predict_x0(self, betas: Any, xt: Any, t: int, eps: Any) -> Any:
        return self.scheduler(betas).step(tensor(eps), t - 1, tensor(xt)).pred_original_sample

    def q_posterior(self, betas: Any, x0: Any, xt: Any, t: int) -> Any:
        scheduler = self.scheduler(betas, prediction_type="sample")
        with drawing(np.zeros_like(xt), "diffusers.schedulers.scheduling_ddpm.randn_tensor"):
            return scheduler.step(tensor(x0), t - 1, tensor(xt)).prev_sample, scheduler._get_variance(t - 1)

    def step(self, betas: Any, eps: Any, xt: Any, t: int, z: Any, variance: str) -> Any:
        scheduler = self.scheduler(betas, variance_type={"beta": "fixed_large", "posterior": "fixed_small"}[variance])
        with drawing(z, "diffusers.schedulers.scheduling_ddpm.randn_tensor"):
            return scheduler.step(eps, t - 1, xt).prev_sample

    def times(self, T: int, n: int) -> Any:
        scheduler = self.scheduler(np.full(T, 0.01), timestep_spacing="trailing")
        scheduler.set_timesteps(n)
        return scheduler.timesteps + 1


class DiffusersDDIM:
    package, name, TOLERANCE = "diffusers", "DDIMScheduler", 1e-4

    def ddim_step(self, betas: Any, denoiser: Any, xt: Any, t: int, s: int, eta: float, z: Any) -> Any:
        from diffusers import DDIMScheduler
        scheduler = DDIMScheduler(len(betas), trained_betas=betas, clip_sample=False)
        scheduler.num_inference_steps = Fraction(len(betas), t - s)     # the previous time is T // this before
        eps = denoiser(tensor(xt), t)
        noise = tensor(z) if eta > 0 else None
        return scheduler.step(eps, t - 1, tensor(xt), eta=eta, variance_noise=noise).prev_sample

    def times(self, T: int, n: int) -> Any:
        from diffusers import DDIMScheduler
        scheduler = DDIMScheduler(T, timestep_spacing="trailing")
        scheduler.set_timesteps(n)
        return scheduler.timesteps + 1


class Lucidrains:
    """Its samplers cut the predicted x_0 to [-1, 1] in every step, and are left out."""

    package, name, TOLERANCE = "denoising-diffusion-pytorch", "GaussianDiffusion", 1e-4

    def diffusion(self, betas: Any) -> Any:
        import torch
        from denoising_diffusion_pytorch import denoising_diffusion_pytorch as module
        model = torch.nn.Module()
        model.channels = model.out_dim = 1
        model.self_condition = model.random_or_learned_sinusoidal_cond = False
        with mock.patch.object(module, "linear_beta_schedule", lambda T: torch.as_tensor(betas)):
            return module.GaussianDiffusion(model, image_size=8, timesteps=len(betas), beta_schedule="linear",
                                            objective="pred_noise")

    def linear_betas(self, T: int) -> Any:
        from denoising_diffusion_pytorch import denoising_diffusion_pytorch as module
        return module.linear_beta_schedule(T)

    def cosine_betas(self, T: int) -> Any:
        from denoising_diffusion_pytorch import denoising_diffusion_pytorch as module
        return module.cosine_beta_schedule(T)

    def alpha_bars(self, betas: Any) -> Any:
        return self.diffusion(betas).alphas_cumprod

    def q_sample(self, betas: Any, x0: Any, t: int, eps: Any) -> Any:
        return self.diffusion(betas).q_sample(tensor(x0), filled(x0, t - 1), noise=tensor(eps))

    def predict_x0(self, betas: Any, xt: Any, t: int, eps: Any) -> Any:
        return self.diffusion(betas).predict_start_from_noise(tensor(xt), filled(xt, t - 1), tensor(eps))

    def q_posterior(self, betas: Any, x0: Any, xt: Any, t: int) -> Any:
        return self.diffusion(betas).q_posterior(tensor(x0), tensor(xt), filled(xt, t - 1))[:2]


class SmallDiffusion:
    """It works with x_t / sqrt(abar_t), of noise level sigma_t = sqrt((1 - abar_t) / abar_t)."""

    package, name, TOLERANCE = "smalldiffusion", "samples", 1e-4

    def linear_betas(self, T: int) -> Any:
        from smalldiffusion import ScheduleDDPM
        return self.betas(ScheduleDDPM(T))

    def cosine_betas(self, T: int) -> Any:
        from smalldiffusion.diffusion import ScheduleCosine
        return self.betas(ScheduleCosine(T))

    def betas(self, schedule: Any) -> Any:
        abar = 1 / (1 + schedule.sigmas.double().numpy() ** 2)
        return 1 - abar / np.append(1, abar[:-1])

    def alpha_bars(self, betas: Any) -> Any:
        from smalldiffusion.diffusion import sigmas_from_betas
        return 1 / (1 + sigmas_from_betas(tensor(betas)) ** 2)

    def ddim_step(self, betas: Any, denoiser: Any, xt: Any, t: int, s: int, eta: float, z: Any) -> Any:
        from smalldiffusion import samples
        from smalldiffusion.diffusion import sigmas_from_betas
        if eta not in (0, 1):
            raise NotImplementedError
        sigmas = tensor(np.append(0, sigmas_from_betas(tensor(betas))))
        scale_t, scale_s = (1 / (1 + sigmas[[t, s]] ** 2).sqrt()).tolist()
        model = SimpleNamespace(eval=lambda: None, rand_input=lambda n: tensor(z),
                                predict_eps_cfg=lambda x, *_: tensor(denoiser(x * scale_t, t)))
        run = samples(model, sigmas[[t, s]], gam=1, mu=0.5 * eta, xt=tensor(xt) / scale_t, batchsize=len(xt),
                      accelerator=SimpleNamespace(device="cpu"))
        return next(run) * scale_s

    def times(self, T: int, n: int) -> Any:
        from smalldiffusion import Schedule
        return Schedule(tensor(np.arange(1, T + 1))).sample_sigmas(n)[:-1]


class Azula(Ancestral):
    package, name, variances = "azula", "DDPMSampler, DDIMSampler", ("posterior",)
    TOLERANCE = 1e-8

    def sampler(self, betas: Any, eps: Any, kind: str, **options: Any) -> Any:
        from azula import sample
        abar = np.append(1, np.cumprod(1 - betas))
        alpha, sigma = tensor(np.sqrt(abar)), tensor(np.sqrt(1 - abar))
        denoiser = mock.Mock(side_effect=lambda x, t: SimpleNamespace(mean=(x - sigma[t] * eps) / alpha[t]))
        denoiser.schedule = lambda t: (alpha[t], sigma[t])
        return getattr(sample, kind)(denoiser, silent=True, **options)

    def step(self, betas: Any, eps: Any, xt: Any, t: int, z: Any, variance: str) -> Any:
        with drawing(z):
            return self.sampler(betas, eps, "DDPMSampler").step(xt, tensor(t), tensor(t - 1))

    def ddim_step(self, betas: Any, denoiser: Any, xt: Any, t: int, s: int, eta: float, z: Any) -> Any:
        sampler = self.sampler(betas, denoiser(tensor(xt), t), "DDIMSampler", eta=eta)
        with drawing(z):
            return sampler.step(tensor(xt), tensor(t), tensor(s))


class Monai(Ancestral):
    package, name = "monai", "DDPMScheduler, DDIMScheduler"

    def scheduler(self, betas: Any, kind: str = "DDPMScheduler", **options: Any) -> Any:
        import torch
        from monai.networks import schedulers
        scheduler = getattr(schedulers, kind)(len(betas), clip_sample=False, **options)
        scheduler.betas = torch.as_tensor(betas, dtype=torch.float32)
        scheduler.alphas = 1 - scheduler.betas
        scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, 0)
        return scheduler

    def linear_betas(self, T: int) -> Any:
        from monai.networks import schedulers
        return schedulers.DDPMScheduler(T, beta_start=1e-4, beta_end=0.02).betas

    def q_sample(self, betas: Any, x0: Any, t: int, eps: Any) -> Any:
        return self.scheduler(betas).add_noise(tensor(x0), tensor(eps), filled(x0, t - 1))

    def step(self, betas: Any, eps: Any, xt: Any, t: int, z: Any, variance: str) -> Any:
        kind = {"beta": "fixed_large", "posterior": "fixed_small"}[variance]
        with drawing(z):
            return self.scheduler(betas, variance_type=kind).step(eps, t - 1, xt)[0]

    def predict_x0(self, betas: Any, xt: Any, t: int, eps: Any) -> Any:
        return self.scheduler(betas).step(tensor(eps), t - 1, tensor(xt))[1]

    def ddim_step(self, betas: Any, denoiser: Any, xt: Any, t: int, s: int, eta: float, z: Any) -> Any:
        scheduler = self.scheduler(betas, "DDIMScheduler")
        scheduler.num_inference_steps = Fraction(len(betas), t - s)
        with drawing(z):
            return scheduler.step(denoiser(tensor(xt), t), t - 1, tensor(xt), eta=eta)[0]


class Labml(Ancestral):
    package, name, variances = "labml-nn", "DenoiseDiffusion", ("beta",)

    def diffusion(self, betas: Any, eps: Any = None) -> Any:
        import torch
        from labml_nn.diffusion.ddpm import DenoiseDiffusion
        diffusion = DenoiseDiffusion(lambda x, t: eps, len(betas), torch.device("cpu"))
        diffusion.beta = diffusion.sigma2 = tensor(betas).float()
        diffusion.alpha = 1 - diffusion.beta
        diffusion.alpha_bar = torch.cumprod(diffusion.alpha, 0)
        return diffusion

    def images(self, x: Any) -> Any:
        return tensor(x)[:, :, None, None]

    def q_sample(self, betas: Any, x0: Any, t: int, eps: Any) -> Any:
        return self.diffusion(betas).q_sample(self.images(x0), filled(x0, t - 1), self.images(eps))[:, :, 0, 0]

    def step(self, betas: Any, eps: Any, xt: Any, t: int, z: Any, variance: str) -> Any:
        with drawing(self.images(z)):
            return self.diffusion(betas, self.images(eps)).p_sample(self.images(xt), filled(xt, t - 1))[:, :, 0, 0]


class MhcDdim(Ancestral):
    package, name = "mhc-ddim", "GaussianDiffusion"

    def diffusion(self, betas: Any, variance: str = "beta") -> Any:
        from mhc_ddim import gaussian_diffusion as module
        kind = {"beta": module.ModelVarType.FIXED_LARGE, "posterior": module.ModelVarType.FIXED_SMALL}[variance]
        return module.GaussianDiffusion(betas=betas, model_mean_type=module.ModelMeanType.EPSILON, model_var_type=kind,
                                        loss_type=module.LossType.MSE)

    def linear_betas(self, T: int) -> Any:
        from mhc_ddim.gaussian_diffusion import get_named_beta_schedule
        return get_named_beta_schedule("linear", T)

    def cosine_betas(self, T: int) -> Any:
        from mhc_ddim.gaussian_diffusion import get_named_beta_schedule
        return get_named_beta_schedule("cosine", T)

    def alpha_bars(self, betas: Any) -> Any:
        return self.diffusion(betas).alphas_cumprod

    def q_sample(self, betas: Any, x0: Any, t: int, eps: Any) -> Any:
        return self.diffusion(betas).q_sample(tensor(x0), filled(x0, t - 1), tensor(eps))

    def q_posterior(self, betas: Any, x0: Any, xt: Any, t: int) -> Any:
        return self.diffusion(betas).q_posterior_mean_variance(tensor(x0), tensor(xt), filled(xt, t - 1))[:2]

    def predict_x0(self, betas: Any, xt: Any, t: int, eps: Any) -> Any:
        return self.diffusion(betas)._predict_xstart_from_eps(tensor(xt), filled(xt, t - 1), tensor(eps))

    def step(self, betas: Any, eps: Any, xt: Any, t: int, z: Any, variance: str) -> Any:
        diffusion = self.diffusion(betas, variance)
        with drawing(z):
            return diffusion.p_sample(lambda x, t: eps, xt, filled(xt, t - 1), clip_denoised=False)["sample"]

    def ddim_step(self, betas: Any, denoiser: Any, xt: Any, t: int, s: int, eta: float, z: Any) -> Any:
        if s != t - 1:
            raise NotImplementedError
        with drawing(z):
            return self.diffusion(betas).ddim_sample(lambda x, _: denoiser(x, t), tensor(xt), filled(xt, t - 1),
                                                     clip_denoised=False, eta=eta)["sample"]


ADAPTERS: list[type] = [DiffusersDDPM, DiffusersDDIM, Lucidrains, SmallDiffusion, Azula, Monai, Labml, MhcDdim]


def run() -> list[dict[str, Any]]:
    """A row for each adapter whose package is installed, with the results of all checks."""
    rows = []
    for adapter in ADAPTERS:
        package: str = adapter.package  # type: ignore[attr-defined]
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            print(f"no {package}", file=sys.stderr)
            continue
        found = testing.check(adapter())
        rows.append({"name": f"{package} {version}, {adapter.name}", "results": found})     # type: ignore[attr-defined]
        print(f"{package}: {sum(r.verdict == 'fail' for r in found)} failed", file=sys.stderr, flush=True)
    return rows


def cell(results: list[testing.Result]) -> str:
    """The digits of the worst example, or what failed."""
    failed = [r for r in results if r.verdict == "fail"]
    reached = [r.digits for r in results if r.verdict == "pass" and r.digits is not None]
    passed = any(r.verdict == "pass" and r.check != "calls" for r in results)
    if failed:
        return "differs: " + ", ".join(r.check for r in failed)
    return f"{min(reached):.0f}" if reached else "yes" if passed else ""


def tables(rows: list[dict[str, Any]]) -> str:
    """Digits by function, and below what differs."""
    found = [r for row in rows for r in row["results"]]
    functions = [f for f in testing.FUNCTIONS if any(r.function == f and r.verdict != "skipped" for r in found)]
    body = [[row["name"], *(cell([r for r in row["results"] if r.function == f]) for f in functions)] for row in rows]
    text = table(["library", *functions], body)
    notes = []
    for row in rows:
        for r in row["results"]:
            if r.verdict == "fail":
                notes.append(f"- {row['name']}: `{r.function}`, {r.check}: {r.example}: got {r.got}"
                             + f", exact {r.exact}" * (r.exact is not None)
                             + f". Looks like: {r.looks_like}" * (r.looks_like is not None))
    return text + "\n\n" + "\n".join(notes)
