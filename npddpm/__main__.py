"""The command line: train, sample, evaluate, plot, check."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import itertools
import json
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NoReturn, Self

import numpy as np

from . import __version__, data
from .checks import did_you_mean
from .evaluate import energy_distance, loss_by_time, nearest
from .files import check_writable, write_whole
from .schedule import Schedule
from .train import DDPM

SAVE_EVERY = 1000     # steps between checkpoints
MOST_COMPARED = 2000  # rows in an energy distance
PICTURES = (".png", ".svg", ".pdf")
FOR_IMAGES = {"hidden": 256, "depth": 5, "steps": 6000}
FOR_OTHERS = {"hidden": 128, "depth": 3, "steps": 10_000}


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, like every other error, and the nearest name beside a wrong one."""
        wrong = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        raise ValueError(message + (did_you_mean(wrong[1], re.findall(r"\w+", wrong[2])) if wrong else ""))


def parser() -> Parser:
    main = Parser(prog="npddpm", description="Denoising diffusion in NumPy.")
    main.add_argument("--version", action="version", version=f"npddpm {__version__}")
    commands = main.add_subparsers(dest="command", required=True, parser_class=Parser)

    train = commands.add_parser("train", help="train a model and write a checkpoint")
    train.add_argument("data", metavar="DATA", help=f"digits, {', '.join(data.PLANAR)}, or a .npy, .npz, .csv file")
    train.add_argument("--steps", type=int, help="training steps (10000; images 6000; ten a row for small tables)")
    train.add_argument("--batch-size", type=int, default=256)
    train.add_argument("--hidden", type=int, help="width of the hidden layers (128; images 256)")
    train.add_argument("--depth", type=int, help="number of hidden layers (3; images 5)")
    train.add_argument("--T", type=int, default=1000, help="diffusion steps")
    train.add_argument("--schedule", choices=["linear", "cosine"], default="linear")
    train.add_argument("--lr", type=float, default=1e-3, help="peak learning rate")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    train.add_argument("--holdout", type=float, default=0.2, help="share of the rows kept for evaluate")
    train.add_argument("--out", type=Path, help="checkpoint (DATA.npz in this folder)")
    train.add_argument("--resume", action="store_true", help="go on from the checkpoint, with its settings")

    sample = commands.add_parser("sample", help="draw samples from a model")
    sample.add_argument("-n", type=int, default=1000, help="number of samples")
    sample.add_argument("--steps", type=int, help="DDIM in this many steps, instead of all T")
    sample.add_argument("--eta", type=float, default=1.0, help="DDIM's noise: 0 none, 1 as DDPM")
    sample.add_argument("--variance", choices=["beta", "posterior"], default="beta")
    sample.add_argument("--out", type=Path, default=Path("samples.npy"))

    evaluate = commands.add_parser("evaluate", help="compare a model with held-out data")
    plot = commands.add_parser("plot", help="draw samples, the reverse process and the losses")
    plot.add_argument("--out", type=Path, help="picture (MODEL.png)")
    plot.add_argument("--animate", metavar="GIF", type=Path, help="also film the reverse process")
    for command in (sample, evaluate, plot):
        command.add_argument("model", metavar="MODEL", type=Path, help="checkpoint")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    for command in (evaluate, plot):
        command.add_argument("data", metavar="DATA", nargs="?", help="by default what the model was trained on")

    check = commands.add_parser("check", help="check an implementation of DDPM against the identities")
    check.add_argument("file", metavar="FILE.py", type=Path, help="the implementation; it is run")
    check.add_argument("--json", action="store_true", help="print a list of objects")
    return main


# ---------------------------------------------------------------- commands

def train(args: argparse.Namespace) -> None:
    out = args.out or Path(Path(args.data).stem + ".npz")
    x = data.load(args.data)
    check_output(out, data=args.data)
    if args.resume:
        model = DDPM.load(out, args.device)
        settings = model.about.get("settings")
        if settings is None:
            raise ValueError(f"--resume: {out} was not written by npddpm train")
        if model.about["sha256"] != digest(x):
            raise ValueError(f"--resume: {args.data} is not the data that {out} was trained on")
        if args.steps is not None:
            settings["steps"] = args.steps
    else:
        given = {name: value for name, value in vars(args).items() if value is not None}
        usual = FOR_IMAGES if data.image_side(x) else FOR_OTHERS
        steps = min(usual["steps"], max(1000, 10 * len(x)))     # a small table is soon known by heart
        args = argparse.Namespace(**(usual | {"steps": steps} | given))
        schedule = {"linear": Schedule.linear, "cosine": Schedule.cosine}[args.schedule](args.T)
        model = DDPM(schedule, args.hidden, args.depth)
        settings = {"steps": args.steps, "batch_size": args.batch_size,
                    "lr": args.lr, "holdout": args.holdout}
        model.about = {"data": args.data, "sha256": digest(x), "settings": settings}
    if not 0 <= settings["holdout"] < 1:
        raise ValueError(f"--holdout must lie in [0, 1), got {settings['holdout']}")
    rows, held = data.split(x, settings["holdout"])
    if len(rows) < 2:
        raise ValueError(f"--holdout {settings['holdout']} leaves {len(rows)} of {len(x)} rows to train on, "
                         "and 2 are needed")
    run = model.training(rows, settings["steps"], settings["batch_size"], settings["lr"], rng=args.seed,
                         device=args.device, resume=args.resume)
    if out.exists() and not args.resume:
        print(f"the {out} that was there is now {put_aside(out)}")
    print(f"{args.data}: {len(rows)} rows of {x.shape[1]} to train on, {len(held)} held out; "
          f"{model.schedule}; checkpoint {out}", flush=True)

    with Interrupt() as interrupt:
        for step in progress(run, settings["steps"], "step", model.step,
                             lambda: f"loss {model.losses[-1]:.4g}" if model.losses else ""):
            if step % SAVE_EVERY == 0 or interrupt.came:
                model.save(out)
            if interrupt.came:
                print(f"interrupted: {out} holds step {step}; --resume goes on from there")
                return
    model.save(out)
    print(f"wrote {out}")


def sample(args: argparse.Namespace) -> None:
    check_output(args.out, [".npy"], model=args.model)
    model = DDPM.load(args.model, args.device)
    chunks = model.sample_chunks(args.n, args.seed, variance=args.variance, steps=args.steps, eta=args.eta)
    with write_whole(args.out) as file:
        for _ in progress(write_rows(file, args.n, model.net.dim, chunks), args.n, "sample"):
            pass
    print(f"wrote {args.out}: {args.n} samples of {model.net.dim} numbers")


def evaluate(args: argparse.Namespace) -> None:
    model = DDPM.load(args.model, args.device)
    source, rows, held = reference(model, args)
    print("loss by t, per dimension, on held-out data (1: no better than guessing 0)")
    print("      t     loss    least   ratio")
    for t, loss, least in losses(model, source, held, args.seed):
        known = f"{least:9.3g}{loss / least:8.3f}" if np.isfinite(least) else "        -       -"
        print(f"{t:7.0f}{loss:9.3g}{known}")

    n = min(len(held), len(rows), MOST_COMPARED)
    drawn, rows, held = (model.standardize(a) for a in (model.sample(n, args.seed), rows, held[:n]))
    print(f"energy distance to {n} held-out rows, data at unit scale (V- and U-statistic)")
    scores = [[energy_distance(a, held, u) for u in (False, True)] for a in (drawn, rows[:n])]
    for name, (v, u) in zip((f"{n} samples", f"{n} training rows"), scores):
        print(f"  {name:22s}{v:10.5f}{u:10.5f}")
    print(f"  ratio                 {ratio(scores[0][0], scores[1][0]):10.3f}")
    near = [nearest(a, rows) for a in (drawn, held)]
    print("median distance to the nearest training row")
    print(f"  samples               {near[0]:10.5f}\n  held-out rows         {near[1]:10.5f}")
    print(f"  ratio                 {ratio(*near):10.3f}")


def plot(args: argparse.Namespace) -> None:
    try:
        from .plot import film, overview
    except ImportError:
        raise ValueError("plot needs matplotlib: pip install 'npddpm[cli]'") from None
    out = args.out or args.model.with_suffix(".png")
    check_output(out, PICTURES, model=args.model, data=args.data)
    if args.animate:
        check_output(args.animate, [".gif"], model=args.model, data=args.data)
    model = DDPM.load(args.model, args.device)
    source, rows, held = reference(model, args)
    figure = overview(model, rows, losses(model, source, held, args.seed), args.seed)
    with write_whole(out) as file:
        figure.savefig(file, format=out.suffix[1:].lower(), dpi=110)
    print(f"wrote {out}")
    if args.animate:
        with write_whole(args.animate) as file:
            file.write(film(model, rows, args.seed))
        print(f"wrote {args.animate}")


def check(args: argparse.Namespace) -> int:
    """Return 1 if a check fails. What the file prints goes to stderr, and hypothesis leaves no folder behind."""
    try:
        from . import testing
    except ImportError as error:
        raise ValueError(str(error)) from None
    results = []
    with tempfile.TemporaryDirectory() as home, testing.storage(home):
        with contextlib.redirect_stdout(sys.stderr):
            found = testing.results(testing.load(args.file))
        while True:
            with contextlib.redirect_stdout(sys.stderr):
                result = next(found, None)
            if result is None:
                break
            results.append(result)
            if not args.json:
                print(result, flush=True)
    failed = sum(result.verdict == "fail" for result in results)
    if args.json:
        print(json.dumps([dataclasses.asdict(result) for result in results], indent=1))
    else:
        passed = sum(result.verdict == "pass" for result in results)
        print(f"{passed} checks passed, {failed} failed, {len(results) - passed - failed} skipped")
    return int(failed > 0)


# ---------------------------------------------------------------- what they share

def check_output(out: Path, suffixes: Sequence[str] = (), **inputs: str | Path | None) -> None:
    """Raise now if `out` cannot be written, is one of the inputs, or has not one of the suffixes, if there are any."""
    check_writable(out)
    for name, path in inputs.items():
        if path is not None and out.exists() and Path(path).exists() and out.samefile(path):
            raise ValueError(f"writing {out} would overwrite the {name}; name another file")
    if suffixes and out.suffix.lower() not in suffixes:
        raise ValueError(f"cannot write {out}: name a {' or '.join(suffixes)} file")


def put_aside(path: Path) -> Path:
    """Rename a file to the first free of path.1, path.2 ...: a run must not cost the result of another."""
    free = next(p for i in itertools.count(1) if not (p := path.with_suffix(f".{i}{path.suffix}")).exists())
    return path.rename(free)


def reference(model: DDPM, args: argparse.Namespace) -> tuple[str, np.ndarray, np.ndarray]:
    """The data a model is compared with: source, the rows it was trained on, the rows held out.

    Where none were held out, two halves of the data stand for both.
    """
    source = args.data or model.about.get("data")
    if source is None:
        raise ValueError(f"{args.model} does not say what it was trained on: name DATA")
    x = data.load(source)
    if x.shape[1] != model.net.dim:
        raise ValueError(f"DATA {source} has {x.shape[1]} columns, the model {model.net.dim}")
    rows, held = data.split(x, model.about.get("settings", {}).get("holdout", 0.0))
    if len(held) < 2:
        print(f"no two rows of {source} were held out: a half of it stands for them")
        rows, held = data.split(x, 0.5)
    if min(len(rows), len(held)) < 2:
        raise ValueError(f"DATA {source} has {len(x)} rows, and 4 are needed to compare a model with")
    return source, rows, held


def ratio(a: float, b: float) -> float:
    return a / b if b > 0 else np.inf


def losses(model: DDPM, source: str, held: np.ndarray, seed: int) -> np.ndarray:
    """`loss_by_time` of a model on held-out rows, beside the least possible loss where it is known."""
    law = data.GAUSSIANS.standardized(model.mean, model.scale) if source == "gaussians" else None
    return loss_by_time(model.denoiser(), model.schedule, model.to_network(held), seed, law)


def digest(x: np.ndarray) -> str:
    return hashlib.sha256(x.tobytes()).hexdigest()


class Interrupt:
    """Within the block Ctrl-C sets `came`, so that a step is finished before the run ends."""

    came = False

    def __enter__(self) -> Self:
        self.before = signal.signal(signal.SIGINT, lambda *_: setattr(self, "came", True))
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self.before)


def write_rows(file: BinaryIO, n: int, d: int, chunks: Iterable[np.ndarray]) -> Iterator[int]:
    """Write a .npy file of n rows chunk by chunk, yielding the number of rows written."""
    header = {"descr": "<f8", "fortran_order": False, "shape": (n, d)}
    np.lib.format.write_array_header_1_0(file, header)
    done = 0
    for chunk in chunks:
        file.write(chunk.astype("<f8").tobytes())
        done += len(chunk)
        yield done


def progress(counts: Iterable[int], total: int, unit: str, first: int = 0,
             note: Callable[[], str] = str) -> Iterator[int]:
    """Pass rising counts on, with a bar on a terminal (if tqdm is there), else a line every tenth of the way."""
    start, shown, bar = time.monotonic(), first, None
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]
            bar = tqdm(total=total, initial=first, unit=unit)
        except ImportError:
            pass
    for count in counts:
        if bar is not None:
            bar.set_postfix_str(note(), refresh=False)
            bar.update(count - bar.n)
        elif count == total or count - shown >= total / 10:
            rate, shown = (count - first) / (time.monotonic() - start), count
            parts = [note(), f"{rate:.0f} {unit}s/s", f"{(total - count) / rate:.0f} s left"]
            print(f"{unit} {count}/{total}: {', '.join(filter(None, parts))}", file=sys.stderr, flush=True)
        yield count
    if bar is not None:
        bar.close()


def main(argv: list[str] | None = None) -> int:
    try:
        args = parser().parse_args(argv)
        commands: dict[str, Callable[[argparse.Namespace], int | None]] = {
            "train": train, "sample": sample, "evaluate": evaluate, "plot": plot, "check": check}
        return commands[args.command](args) or 0
    except MemoryError as error:
        print(f"npddpm: out of memory: {error}; smaller --hidden, --depth, --batch-size or --T need less", file=sys.stderr)
        return 2
    except (ValueError, TypeError, OSError, RuntimeError, FloatingPointError) as error:
        print(f"npddpm: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("npddpm: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
