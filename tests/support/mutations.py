"""Slips, made on purpose: mistake one formula for another that looks like it, and see that the tests notice.

    python tests/support/mutations.py              all of them, a Markdown table at the end
    python tests/support/mutations.py gaussian.py  those of one file

Each mutation is made in a copy of the project. Where tests are named, those must fail, by themselves: for the four
slips of the README the very test that stands beside them there, and where d is dropped a test of step 2, 3 or 6.
Else the whole suite runs until its first failure, the file's own tests first. The copy without a mutation must pass.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORKERS = 2

#  file | the line's part | what it becomes | what that is | tests that must notice, if not any
MUTATIONS = [[part.replace(r"\n", "\n") for part in line.split(" | ")] for line in r"""
diffusion.py | return Bound(check_finite(terms.sum(0), x0=x0), terms) | return Bound(-terms.sum(0), -terms) | slip 1: an upper bound | test_step_2_is_a_lower_bound
diffusion.py | else -gaussian.kl(apart, rho, 0.0, sigma2_t) | else -((apart**2 / (2 * sigma2_t)).sum(-1) + (rho / (2 * sigma2_t)).sum()) + x0.shape[1] / 2 * (1 + np.log(rho / sigma2_t).mean()) | slip 2: rho_t for d rho_t, in the bound | test_step_6_the_mean_square_splits
gaussian.py | / variance_p + (e - log_ratio)).sum(-1) | / variance_p - log_ratio).sum(-1) + 0.5 * e | slip 2: rho_t for d rho_t, in KL | test_step_6_the_mean_square_splits
gaussian.py | return -0.5 * ((x - mean) ** 2 / variance + xp.log(2 * math.pi * xp.asarray(variance))).sum(-1) | return -0.5 * (((x - mean) ** 2 / variance).sum(-1) + xp.log(2 * math.pi * xp.asarray(variance))) | slip 3: 1/sqrt(2 pi rho) for (2 pi rho)^(-d/2) | test_step_6_the_normaliser_has_a_power_of_d
schedule.py | return axpby(a, xt, -b, eps) | return (xt - b / a * eps) / self.signal(t, xt) | slip 4: 1/sqrt(abar) for 1/sqrt(alpha) | test_step_7_the_mean_in_terms_of_the_noise
gaussian.py | return 0.5 * ((mean_q - mean_p) ** 2 / variance_p + (e - log_ratio)).sum(-1) | return 0.5 * (((mean_q - mean_p) ** 2 / variance_p).sum(-1) + (e - log_ratio)) | d dropped in KL's constant | test_step_2 or test_step_3 or test_step_6
gaussian.py | + xp.log(2 * math.pi * xp.asarray(variance))).sum(-1) | ).sum(-1) - 0.5 * xp.log(2 * math.pi * xp.asarray(variance)) | d dropped in the normaliser | test_step_2 or test_step_3 or test_step_6
diffusion.py | terms[0] = -gaussian.kl(*s.q_mean_variance(x0, s.T), 0.0, 1.0) | m, v = s.q_mean_variance(x0, s.T); terms[0] = -0.5 * ((m**2).sum(-1) + v - 1 - np.log(v)) | d dropped in the prior | test_step_2 or test_step_3 or test_step_6
diffusion.py | - (cos**4 + of_x0**2) | - (cos**4 + of_x0**2) / x0.shape[1] | d dropped in the control variate's mean | test_step_2 or test_step_3 or test_step_6
gaussian.py | ((x - mean) ** 2 / variance + xp.log | ((x - mean) ** 2 / variance - xp.log | the sign of the normaliser
gaussian.py | 0.5 * ((mean_q - mean_p) ** 2 / variance_p | 0.5 * ((mean_q - mean_p) ** 2 / variance_q | KL the other way round
gaussian.py | (e - log_ratio)).sum(-1) | (e + log_ratio)).sum(-1) | a sign in KL
gaussian.py | xp.where(xp.abs(e) < 0.5, xp.log1p(xp.maximum(e, -0.5)), xp.log(ratio)) | xp.log(ratio) | log for log1p in KL
gaussian.py | scale_2**2 * variance_1 + variance_2 | scale_2 * variance_1 + variance_2 | a scale not squared
gaussian.py | [[variance, scale * variance] | [[variance, scale**2 * variance] | a scale squared in a covariance
gaussian.py | return (noise_variance * mean + scale * variance * y) / total | return (noise_variance * mean + variance * y) / total | a scale forgotten in Bayes' rule
schedule.py | np.log1p(-self.betas) | np.log1p(self.betas) | a sign in log alpha
schedule.py | 0 - np.expm1(log_alpha_bars) | 1 - np.exp(log_alpha_bars) | 1 - abar with cancellation
schedule.py | sqrt_alpha_bars = np.exp(0.5 * log_alpha_bars) | sqrt_alpha_bars = np.exp(log_alpha_bars) | abar for sqrt(abar)
schedule.py | = np.sqrt(self.one_minus_alpha_bars) | = self.one_minus_alpha_bars | 1 - abar for its root
schedule.py | posterior_variances = self.betas * (before / after) | posterior_variances = self.alphas * (before / after) | alpha for beta in rho_t
schedule.py | posterior_variances = self.betas * (before / after) | posterior_variances = self.betas * (before > 0) | beta_t for rho_t
schedule.py | np.append(0.0, self.sqrt_alpha_bars[:-1]) * self.betas / after | self.sqrt_alpha_bars * self.betas / after | t for t-1 in the weight of x_0
schedule.py | np.sqrt(self.alphas) * (before / after) | self.alphas * (before / after) | alpha for sqrt(alpha) in the weight of x_t
schedule.py | self.betas / np.sqrt(self.alphas * after) | self.betas / np.sqrt(self.alpha_bars * after) | abar for alpha in step 7
schedule.py | rsqrt_alphas = 1 / np.sqrt(self.alphas) | rsqrt_alphas = 1 / self.sqrt_alpha_bars | 1/sqrt(abar) for 1/sqrt(alpha) in step 7
schedule.py | self.betas / (2 * self.alphas * after) | self.betas / (2 * self.alpha_bars * after) | abar for alpha in step 8
schedule.py | self.betas / (2 * self.alphas * after) | self.betas / (self.alphas * after) | the 2 of step 8
schedule.py | return axpby(signal, x0, noise, eps) | return axpby(signal, x0, noise**2, eps) | a variance for a deviation in q_sample
schedule.py | self.log_alphas[r + 1:t + 1] | self.log_alphas[r:t + 1] | a step too many from r to t
schedule.py | cross = math.sqrt(self.alphas[t]) * v | cross = self.alphas[t] * v | alpha for sqrt(alpha) in step 4
schedule.py | (xt - self.noise(t, xt) * eps) / self.signal(t, xt) | (xt - self.noise(t, xt) * eps) / self.signal(t, xt)**2 | abar for sqrt(abar) in the predicted x_0
schedule.py | axpby(a, xt, -b, eps) | axpby(a, xt, b, eps) | a sign in step 7
samplers.py | sigma2 = eta**2 * beta * (before / after) | sigma2 = eta * beta * (before / after) | eta for eta^2
samplers.py | sigma2 = eta**2 * beta * (before / after) | sigma2 = eta**2 * beta | beta_t for rho_t in DDIM
samplers.py | (beta + scale**2 * sigma2) | (beta + scale * sigma2) | a scale not squared in DDIM
schedule.py | np.sin(a + b) / np.cos(a) ** 2 | np.sin(a + b) / np.cos(b) ** 2 | t for t-1 in the cosine
arrays/backend.py | (values - added)\n | 0\n | sums without compensation
mlp.py | slope = 2 - s | slope = 1 - s | a factor of 2 lost in sigma'
mlp.py | slope += s | slope += 1 | 1 for S in g'
mlp.py | dF = arrays.cos * d_eps_hat | dF = 1.0 * d_eps_hat | the factor of F forgotten backwards
mlp.py | axpby(of_e, xt, cos, F) | axpby(of_m, xt, cos, F) | E[x_0] for E[eps]
mlp.py | cos * np.sqrt(self.variances) | cos | lambda forgotten in E[x_0]
mlp.py | np.divide(sin, sd, out=sin) | np.divide(sin, sd**2, out=sin) | a variance for a deviation in e
schedule.py | root = np.sqrt(np.maximum(variances, 1e-30)) | root = np.maximum(variances, 1e-30) | a variance for a deviation in the angle
features.py | W_1[-1:] + tau[t] @ W_1[:k] | W_1[-1:] | the time features forgotten
model/gates.py | dF @ self.U) * self._last.arrays.mU | dF @ self.U) * 1.0 | a gate's derivative without what it multiplies
mlp.py | math.sqrt(2 / len(block)) / 2 | math.sqrt(2 / len(block)) | He's deviation not halved
optim.py | v += g * g | v += g | g for g^2
optim.py | lr * math.sqrt(n2) / n1 | lr * n2 / n1 | n2 for its root in Adam
optim.py | math.sqrt(n2) * self.eps | self.eps | eps not scaled with V
optim.py | max_norm / xp.maximum(max_norm, | max_norm / xp.minimum(max_norm, | clipping upside down
optim.py | parameters, min(decay, | parameters, max(decay, | max and min of the average's decay
arrays/backend.py | u *= -2 | u *= -1 | the 2 of Box and Muller
diffusion.py | residual = predict(net, xt, t) - eps | residual = predict(net, xt, t) - x0 | x_0 for eps in the loss
diffusion.py | d_eps_hat = (2 / residual.size) * weighted | d_eps_hat = (1 / residual.size) * weighted | the 2 of the derivative
diffusion.py | d_eps_hat = (2 / residual.size) * weighted | d_eps_hat = (2 / residual.size) * residual | the weight left out of the gradient
samplers.py | math.sqrt(beta if variance | float(beta if variance | a variance for a deviation in the sampler
samplers.py | variance == "beta" and r > 0 else | variance == "beta" else | noise in the last step
flow.py | a = np.where(near, sin_h + b * cos_g, a) | a = np.where(near, sin_h, a) | the weights do not add up
flow.py | sin_h**2 / (1 + cos_h) / np.where | sin_h**2 / 2 / np.where | exact no more for a point
flow.py | u + a / 2 * F(u, r) | u + a * F(u, r) | the end of the first step up for its mean
flow.py | xp.log(axes.sd(s.T) / axes.sd(0)) | xp.log(axes.sd(s.T)) | a volume forgotten
flow.py | integral = end[1:].sum(-1) | integral = -end[1:].sum(-1) | the divergence with the wrong sign
flow.py | z * (F.imag / h) | F.imag / h | the sum of a row of dF/du for its diagonal
schedule.py | self.betas[1:, None] * v[:-1] / v[1:] | self.betas[1:, None] * v[1:] / v[:-1] | a ratio upside down
schedule.py | return Rotation(noise / sd, signal / sd, sd) | return Rotation(signal / sd, noise / sd, sd) | sin and cos exchanged
model/gates.py | arrays.m @ self.U | u @ self.U | u for m in the gates
model/gates.py | net.drift -= | net.drift += | a drift with the wrong sign
flow.py | sin_g, cos_g = self.turn(before, t) | sin_g, cos_g = self.turn(t, before) | two times exchanged
samplers.py | np.sqrt(s.gaussian_variances(variances_of(denoiser, dim))) | s.gaussian_variances(variances_of(denoiser, dim)) | a variance for a deviation in the sampler
diffusion.py | s.q_mean_variance(x0, s.T), 0.0 | s.q_mean_variance(x0, s.T - 1), 0.0 | T-1 for T in the prior
diffusion.py | apart = b * (eps | apart = np.sqrt(s.betas[t]) * (eps | beta_t for the coefficient of eps in step 7
diffusion.py | b**2 / (2 * sigma2_t) | float(s.loss_weights[t]) | the weight of beta_t for that of rho_t
diffusion.py | (cos**2 * eps - of_x0) | (cos**2 * eps + of_x0) | a sign in the control variate
diffusion.py | (term + (b**2 | (term - (b**2 | the control variate added twice
diffusion.py | control).sum(-1)) / n | control).sum(-1)) | n draws summed
model/rules.py | (T * u**power).astype(int) | (T * u).astype(int) | times that are uniform for few axes too
model/ranks.py | self._share = self.rows / batch_size | self._share = 1 / size | slices of unequal length weighted alike
model/ranks.py | jumped(1 + self._rank + MOST_RANKS * step) | jumped(1 + MOST_RANKS * step) | ranks that all draw the same
model/ranks.py | total += share * other | total += other | slices added without their weights
model/ranks.py | shares = [(rows.stop - rows.start) / self.rows | shares = [1 / len(self.slices) | slices of a thread weighted alike
arrays/threads.py | if not self._inside:\n                self._set(self._before) | if True:\n                self._set(self._before) | BLAS has its threads again while another team is at work
arrays/threads.py | clear(force=True)\n            library | library | threads of BLAS that only one thread of Python can set
data/table.py | permuted(rows, keys[::-1]) | permuted(rows, keys) | a permutation for its inverse
data/table.py | place - start, -1) | place, -1) | places of the whole for those of a part
mixture.py | total = signal**2 * lam + noise**2 | total = lam + noise**2 | C_k without abar
mixture.py | x - signal * m, axes) | x - signal**2 * m, axes) | abar for sqrt(abar) in a mean
mixture.py | ** 2 / total + xp.log( | ** 2 / total - xp.log( | the sign of the normaliser
mixture.py | return -(_softmax(log_joint) | return (_softmax(log_joint) | the sign of the score
mixture.py | * np.sqrt(self.variances[k])\n | * self.variances[k]\n | a variance for a deviation in sampling
mixture.py | self.weights @ (signal**2 * self.variances / (signal | self.weights @ (noise**2 / (signal | the other share in the least loss
mixture.py | found = known + B * mean | found = known | what is lost by not knowing k, forgotten
mixture.py | needed = max(FEWEST, (deviation / tolerance) ** 2, unseen / tolerance) | needed = FEWEST | a tolerance that is not kept
""".strip().splitlines()]


def killer(file: str, old: str, new: str, _: str = "", named: str = "") -> str | None:
    """Run the tests on the mutated copy; return the one that failed first, or None if all passed."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "*.egg-info", "__pycache__"))
        path = copy / "npddpm" / file
        text = path.read_text()
        assert text.count(old) == 1, f"{file}: {old!r} occurs {text.count(old)} times"
        path.write_text(text.replace(old, new))
        environment = {**os.environ, "PYTHONPATH": str(copy), "OPENBLAS_NUM_THREADS": "1",
                       "HYPOTHESIS_PROFILE": "mutations"}
        order = ["test_derivation", f"test_{path.stem}"]
        tests = sorted((copy / "tests").rglob("test_*.py"), key=lambda test: test.stem not in order)
        chosen = ["-k", named, "tests/derivation/test_derivation.py"] if named else map(str, tests)
        itself = "tests/test_readme.py::test_the_slips_can_still_be_made"
        run = subprocess.run([sys.executable, "-m", "pytest", "-n0", "-x", "-q", "-p", "no:cacheprovider", "--deselect", itself, *chosen],
                             check=False, cwd=copy, env=environment, capture_output=True, text=True)
    failed = re.search(r"^(?:FAILED|ERROR) tests/(.+?)(?: - |$)", run.stdout, re.MULTILINE)
    assert run.returncode == 0 or failed and (not named or "::" in failed[1]), run.stdout[-1000:]
    return failed and failed[1]


def main(only: list[str]) -> None:
    assert killer("mlp.py", "import math", "import math") is None, "the tests fail without a mutation"
    mutations = [m for m in MUTATIONS if not only or m[0] in only]
    print("| file | slip | noticed by |\n|---|---|---|", flush=True)
    noticed = 0
    with ThreadPoolExecutor(WORKERS) as pool:
        for (file, _, _, what, *_), test in zip(mutations, pool.map(lambda m: killer(*m), mutations)):
            print(f"| {file} | {what} | {test or '**nothing**'} |", flush=True)
            noticed += test is not None
    print(f"\n{noticed} of {len(mutations)} noticed")
    sys.exit(noticed < len(mutations))


if __name__ == "__main__":
    main(sys.argv[1:])
