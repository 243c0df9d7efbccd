"""npddpm through its public names, as `npddpm.testing` wants it; with another array module, on a device."""

import numpy as np

import npddpm
from npddpm.arrays.backend import to_host

PARAMETERS = 298


class Rows:
    """Stands in for a random generator, and returns rows 1, 2 ... of given noise."""

    def __init__(self, noise):
        self.rows = iter(noise[1:])

    def standard_normal(self, shape, dtype=float):
        return next(self.rows)


class Npddpm:
    def __init__(self, xp=np):
        self.xp, self.device = xp, "cpu" if xp is np else "gpu"

    def denoiser(self, f):
        """f takes arrays of the host; samplers look at `device`."""
        def on_device(xt, t):
            return self.xp.asarray(f(to_host(xt), t))
        on_device.device = self.device
        return on_device

    def linear_betas(self, T):
        return npddpm.Schedule.linear(T).betas[1:]

    def cosine_betas(self, T):
        return npddpm.Schedule.cosine(T).betas[1:]

    def alpha_bars(self, betas):
        return npddpm.Schedule.from_betas(betas).alpha_bars[1:]

    def q_sample(self, betas, x0, t, eps):
        return npddpm.Schedule.from_betas(betas).q_sample(self.xp.asarray(x0), t, self.xp.asarray(eps))

    def q_posterior(self, betas, x0, xt, t):
        return npddpm.Schedule.from_betas(betas).q_posterior(self.xp.asarray(x0), self.xp.asarray(xt), t)

    def predict_x0(self, betas, xt, t, eps):
        return npddpm.Schedule.from_betas(betas).predict_x0(self.xp.asarray(xt), t, self.xp.asarray(eps))

    def reverse_mean(self, betas, xt, t, eps):
        return npddpm.Schedule.from_betas(betas).reverse_mean(self.xp.asarray(xt), t, self.xp.asarray(eps))

    def first_step(self, betas, denoiser, xt, t, z, **options):
        """x_t and then what follows it, on the schedule that ends at t."""
        run = npddpm.trajectory(self.denoiser(denoiser), npddpm.Schedule.from_betas(betas[:t]), *xt.shape, x_T=xt,
                                noise=np.broadcast_to(z, (t + 1, *z.shape)), **options)
        next(run)
        return next(run)[1]

    def reverse_step(self, betas, denoiser, xt, t, z, variance):
        return self.first_step(betas, denoiser, xt, t, z, variance=variance)

    def ddim_step(self, betas, denoiser, xt, t, s, eta, z):
        return self.first_step(betas, denoiser, xt, t, z, steps=[t, s] if s else [t], eta=eta)

    def times(self, T, n):
        run = npddpm.trajectory(lambda xt, t: xt, npddpm.Schedule.from_betas(np.full(T, 0.5)), 1, 1, steps=n)
        return [t for t, _ in run][:-1]

    def sample(self, betas, denoiser, x_T, noise, variance):
        return npddpm.sample(self.denoiser(denoiser), npddpm.Schedule.from_betas(betas), *x_T.shape, x_T=x_T,
                             noise=noise, variance=variance)

    def loss_weights(self, betas):
        return npddpm.Schedule.from_betas(betas).loss_weights[1:]

    def variational_bound(self, betas, denoiser, x0, noise):
        return npddpm.variational_bound(self.denoiser(denoiser), npddpm.Schedule.from_betas(betas), self.xp.asarray(x0),
                                        rng=Rows(self.xp.asarray(noise))).nats

    def parameters(self, rng):
        return 0.3 * rng.standard_normal(PARAMETERS)

    def loss_and_gradient(self, parameters, betas, x0, t, eps):
        """In the precision of the parameters, which may be complex."""
        s, asarray = npddpm.Schedule.from_betas(betas), self.xp.asarray
        net = npddpm.MLP(2, 4, 2, schedule=s, rng=0, dtype=parameters.dtype, device=self.device)
        net.parameters[...] = asarray(parameters)
        x0, eps = asarray(x0.astype(parameters.dtype)), asarray(eps.astype(parameters.dtype))
        return npddpm.loss_and_gradient(net, s, x0, asarray(t), eps)

    def loss(self, parameters, betas, x0, t, eps):
        return self.loss_and_gradient(parameters, betas, x0, t, eps)[0]

    def gradient(self, parameters, betas, x0, t, eps):
        return self.loss_and_gradient(parameters, betas, x0, t, eps)[1]
