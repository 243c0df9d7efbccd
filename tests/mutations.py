"""Mutation testing: break the code in small ways, and see that the tests notice each one.

    python tests/mutations.py            all of them, a Markdown table at the end
    python tests/mutations.py mlp.py     those of one file

Each mutation is made in a copy of the project, where the whole suite then runs until its first failure,
the file's own tests first. The copy without a mutation must pass.
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

ROOT = Path(__file__).parents[1]

MUTATIONS = [line.split(" | ") for line in r"""
backend.py | u *= -2 | u *= -1.97 | the 2 of Box and Muller
backend.py | u *= sine | u *= v | the sine of Box and Muller
backend.py | if xp is not np and not out.flags.c_contiguous: | if False: | a product that CuPy would copy
schedule.py | np.log1p(-self.betas) | np.log1p(self.betas) | a sign in log alpha
schedule.py | _frozen(0 - np.expm1(self.log_alpha_bars)) | _frozen(1 - np.exp(self.log_alpha_bars)) | 1 - abar with cancellation
schedule.py | _frozen(np.exp(0.5 * self.log_alpha_bars)) | _frozen(np.exp(self.log_alpha_bars)) | abar for sqrt(abar)
schedule.py | _frozen(np.sqrt(self.one_minus_alpha_bars)) | _frozen(self.one_minus_alpha_bars) | sqrt(1 - abar) without the root
schedule.py | _from_1(self.betas[1:] * self._one_minus_ratio) | _from_1(self.alphas[1:] * self._one_minus_ratio) | alpha for beta in rho_t
schedule.py | self.one_minus_alpha_bars[:-1] / self.one_minus_alpha_bars[1:] | self.one_minus_alpha_bars[1:] / self.one_minus_alpha_bars[1:] | t for t-1 in rho_t
schedule.py | self.sqrt_alpha_bars[:-1] * self.betas[1:] | self.sqrt_alpha_bars[1:] * self.betas[1:] | t for t-1 in the weight of x_0
schedule.py | np.sqrt(self.alphas[1:]) * self._one_minus_ratio | self.alphas[1:] * self._one_minus_ratio | alpha for sqrt(alpha) in the weight of x_t
schedule.py | np.sqrt(self.alphas[1:] * self.one_minus_alpha_bars[1:]) | np.sqrt(self.alpha_bars[1:] * self.one_minus_alpha_bars[1:]) | abar for alpha in step 7
schedule.py | _frozen(1 / np.sqrt(self.alphas)) | _frozen(1 / np.sqrt(self.alpha_bars)) | 1/sqrt(abar) for 1/sqrt(alpha), the slip of step 7
schedule.py | (2 * self.alphas[1:] * self.one_minus_alpha_bars[1:]) | (2 * self.alpha_bars[1:] * self.one_minus_alpha_bars[1:]) | abar for alpha in step 8
schedule.py | self.betas[1:] / (2 * self.alphas[1:] | self.betas[1:] / (self.alphas[1:] | the 2 of step 8
schedule.py | x0, self.at("sqrt_one_minus_alpha_bars", t, x0), eps) | x0, -self.at("sqrt_one_minus_alpha_bars", t, x0), eps) | a sign in q_sample
schedule.py | self.log_alphas[s + 1:t + 1] | self.log_alphas[s:t + 1] | a step too many from s to t
schedule.py | cross = math.sqrt(self.alphas[t]) * before | cross = self.alphas[t] * before | alpha for sqrt(alpha) in step 4
schedule.py | * x0) / self.at("sqrt_one_minus_alpha_bars", t, xt) | * x0) / self.at("one_minus_alpha_bars", t, xt) | predict_eps without the root
schedule.py | -self.at("reverse_eps_coefs", t, xt), eps) | self.at("reverse_eps_coefs", t, xt), eps) | a sign in step 7
schedule.py | sigma2 = eta**2 * v * noise_s / noise_t | sigma2 = eta * v * noise_s / noise_t | eta for eta^2
schedule.py | b = (sigma2 + a**2 * v) | b = (sigma2 + a * v) | a for a^2 in DDIM
schedule.py | lost += (big - new) + small | lost += 0 | sums without compensation
schedule.py | np.sin(a + b) / np.cos(a) ** 2 | np.sin(a + b) / np.cos(b) ** 2 | t for t-1 in the cosine
gaussian.py | ((x - mean) ** 2 / variance + xp.log | ((x - mean) ** 2 / variance - xp.log | the sign of the normaliser
gaussian.py | 0.5 * d * math.log(2 * math.pi * math.e | 0.5 * math.log(2 * math.pi * math.e | d forgotten in the entropy
gaussian.py | + ratio - 1 - xp.log(ratio)).sum(-1) | + ratio - 1 + xp.log(ratio)).sum(-1) | a sign in KL
gaussian.py | 0.5 * ((mean_q - mean_p) ** 2 / variance_p | 0.5 * ((mean_q - mean_p) ** 2 / variance_q | KL the other way round
gaussian.py | scale_2**2 * variance_1 + variance_2 | scale_2 * variance_1 + variance_2 | a scale not squared
gaussian.py | (noise * mean + scale * variance * y) / total | (noise * mean + variance * y) / total | a scale forgotten in Bayes' rule
mlp.py | A[:, -1] = 1 | A[:, -1] = 0 | the biases switched off
mlp.py | u += 1 | u += 2 | the 1 of 1 + tanh
mlp.py | slope = 2 - u | slope = 2 + u | a sign in silu'
mlp.py | slope += u | slope += 0 | the first term of silu'
mlp.py | multiply(self._signal, grad_out, | multiply(self._noise, grad_out, | the wrong factor into F
mlp.py | matmul(A[-1].T, dF, out=dW_out) | matmul(A[-1].T, dF, out=dW_out); dW_out[-1] = 0 | a bias gradient dropped
mlp.py | A[i + 1][:, -1] = 1 | pass | the ones not set again
mlp.py | dF = self._dF | dF = self._dF; dF += 1 | the example of zeros not left out
mlp.py | matmul(A[i].T, dZ, out=dWs[i]) | matmul(A[i + (i > 0)].T, dZ, out=dWs[i]) | the wrong layer's input
mlp.py | self.tau[self._t][:, None] * dW_1[-1] | dW_1[-1] | the time features forgotten
mlp.py | return self._noise * self._grad_out + dphi | return dphi | dx without its linear term
mlp.py | (dphi[:, d:] * slope) | dphi[:, d:] | the cosine forgotten in dx
mlp.py | axpby(self._noise, xt, self._signal, F) | axpby(self._signal, xt, self._noise, F) | signal and noise exchanged
optim.py | v += g * g | v += g | g for g^2
optim.py | step = xp.sqrt(v) | step = v.copy() | the root in Adam
optim.py | lr * math.sqrt(n2) / n1 | lr * math.sqrt(n2) | the first bias correction
optim.py | math.sqrt(n2) * self.eps | self.eps | eps not scaled with V
optim.py | max(1 - decay, 9 / (t + 9)) | 1 - decay | the average without its warm-up
optim.py | xp.minimum(1, max_norm / | xp.maximum(1, max_norm / | clipping upside down
diffusion.py | residual = predict(net, xt, t) - eps | residual = predict(net, xt, t) - x0 | x_0 for eps in the loss
diffusion.py | grad = (2 / residual.size) * weighted | grad = (1 / residual.size) * weighted | the 2 of the derivative
diffusion.py | grad = (2 / residual.size) * weighted | grad = (2 / residual.size) * residual | the weight left out of the gradient
diffusion.py | math.sqrt(variances[t]) * noise(t) | variances[t] * noise(t) | a variance for a deviation
diffusion.py | math.sqrt(variances[t]) * noise(t) | math.sqrt(variances[t - 1]) * noise(t) | t-1 for t in the sampler
diffusion.py | if t > 1:\n | if t > 0:\n | noise in the last step
diffusion.py | x = a * x - b * predict_clipped | x = a * x + b * predict_clipped | a sign in DDIM
diffusion.py | abar, log_v = s.alpha_bars[-1] | abar, log_v = s.alpha_bars[-2] | T-1 for T in the prior term
diffusion.py | d * (-abar - log_v) | (-abar - log_v) | d forgotten in the prior term
diffusion.py | 0.5 * d * math.log(2 * math.pi * s.betas[1]) | 0.5 * math.log(2 * math.pi * s.betas[1]) | d forgotten in the normaliser, the slip of step 6
diffusion.py | s.loss_weights[t], 0.5 * d * (-u - math.log1p(-u)) | s.loss_weights[t], 0.5 * (-u - math.log1p(-u)) | d forgotten in rho_t / beta_t, the slip of step 6
diffusion.py | terms[t] = -(float(weight) * error + constant) | terms[t] = float(weight) * error + constant | an upper bound, the slip of step 2
diffusion.py | s.loss_weights[t] * s.betas[t] / s.posterior_variances[t] | s.loss_weights[t] | the posterior's weight
oracle.py | total = a * lam + b | total = a * lam + 1 | S_k without 1 - abar
oracle.py | y = xp.einsum("bki,kij->bkj", x[:, None] - root * m, axes) | y = xp.einsum("bki,kij->bkj", x[:, None] - a * m, axes) | abar for sqrt(abar) in a mean
oracle.py | xp.log(w) - 0.5 * (y**2 / total + | xp.log(w) - 0.5 * (y**2 / total - | the sign of the normaliser
oracle.py | xp.log(w) - 0.5 | xp.log(1 / w) - 0.5 | a weight upside down
oracle.py | return -(_softmax(log_joint) | return (_softmax(log_joint) | the sign of the score
oracle.py | (variance + ((eps_k - eps[:, None]) ** 2).sum(-1)) | (variance) | the spread between components
oracle.py | * np.sqrt(self.variances[k])\n | * self.variances[k]\n | a variance for a deviation in sampling
oracle.py | return float(np.mean(a * self.variances / (a * self.variances + b))) | return float(np.mean(b / (a * self.variances + b))) | the least loss of one Gaussian
""".strip().splitlines()]


def killer(file: str, old: str, new: str) -> str | None:
    """Run the suite on the mutated copy; return the test that failed first, or None if all passed."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "*.egg-info", "__pycache__"))
        path, old, new = copy / "npddpm" / file, old.replace(r"\n", "\n"), new.replace(r"\n", "\n")
        text = path.read_text()
        assert text.count(old) == 1, f"{file}: {old!r} occurs {text.count(old)} times"
        path.write_text(text.replace(old, new))
        environment = {**os.environ, "PYTHONPATH": str(copy), "OPENBLAS_NUM_THREADS": "1",
                       "HYPOTHESIS_PROFILE": "mutations"}
        own_first = sorted((copy / "tests").glob("test_*.py"), key=lambda test: test.stem != f"test_{path.stem}")
        suite = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *map(str, own_first)]
        run = subprocess.run(suite, check=False, cwd=copy, env=environment, capture_output=True, text=True)
    failed = re.search(r"^(?:FAILED|ERROR) tests/(.+?)(?: - |$)", run.stdout, re.MULTILINE)
    return None if run.returncode == 0 else failed[1] if failed else run.stdout[-200:]


def main(only: list[str]) -> None:
    assert killer("mlp.py", "import math", "import math") is None, "the tests fail without a mutation"
    mutations = [m for m in MUTATIONS if not only or m[0] in only]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        killers = list(pool.map(lambda m: killer(*m[:3]), mutations))
    print("| file | mutation | killed by |\n|---|---|---|")
    for (file, _, _, what), test in zip(mutations, killers):
        print(f"| {file} | {what} | {test or '**survived**'} |")
    print(f"\n{len(mutations) - killers.count(None)} of {len(mutations)} killed")
    sys.exit(None in killers)


if __name__ == "__main__":
    main(sys.argv[1:])
