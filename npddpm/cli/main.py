"""The command line: train, sample, evaluate, plot, check."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import dataclasses
import functools
import json
import math
import os
import re
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from .. import data
from .._version import __version__
from ..arrays.backend import use_gpu
from ..arrays.checks import check_count, did_you_mean
from ..arrays.threads import Team
from ..data.files import Outputs, check_output, follow, free_names
from ..flow import times_up
from ..gaussian import log_density
from ..model import rules
from ..model.axes import tell_columns
from ..model.ddpm import DDPM
from ..model.ranks import by_first, signalled, world
from ..schedule import Schedule
from .columns import Columns, check_names, csv_writer, note, npy_writer
from .evaluate import (
    energy_distance,
    loss_by_time,
    nearest,
    nearly_copies,
    one_nearest_neighbour,
    precision_recall,
    to_nearest,
)
from .notes import Notes, Reference, check_settings, digest, known_law
from .terminal import (
    LOST,
    failed,
    handled,
    interrupt,
    is_first,
    open_streams,
    progress,
    quiet,
    raise_if_lost,
    say,
    silence,
)

SAVE_EVERY = 1000     # steps between checkpoints
MOST_COMPARED = 2000  # rows in an energy distance
MOST_SHOWN = 10_000   # rows in a picture; they are shuffled
MOST_RATED = 100      # rows whose log-likelihood is taken: seconds
MOST_EQUAL = 0.05       # of the rows may have one value, by rounding; with more a column has no density
MOST_NEAR = 0.1         # of new rows, more than of training rows
MOST_EXACT, PROBES = 16, 2      # axes of which each is differentiated; beyond, random directions
DEFAULTS: dict[str, Any] = {"batch_size": 256, "T": 1000, "schedule": "linear", "seed": 0, "holdout": 0.2}
BROKEN = "break a relation that all training rows keep, such as a fixed sum or a constant column"
PICTURES = (".png", ".svg", ".pdf")
NO_DATE: dict[str, Any] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


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
    train.add_argument("data", metavar="DATA", help=f"digits, {', '.join(data.PLANAR)}, or a .npy, .npz, .csv, .tsv, .txt file")
    train.add_argument("--steps", type=int, help="training steps (four a row, at least 1000; beyond 128 columns one a row, at least 500; at most 10000; for fewer than 1000 rows as many as help)")
    train.add_argument("--batch-size", type=int, help="rows in a batch (256)")
    train.add_argument("--hidden", type=int, help="width of the hidden layers (from 128 for few principal axes to 512 for many)")
    train.add_argument("--depth", type=int, help="number of hidden layers (3; 5 for 33 to 128 principal axes)")
    train.add_argument("--T", type=int, help="diffusion steps (1000)")
    train.add_argument("--schedule", choices=["linear", "cosine"])
    train.add_argument("--lr", type=float, help="peak learning rate (0.001; for fewer than 250 rows 0.0005)")
    train.add_argument("--seed", type=int)
    train.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    train.add_argument("--threads", type=int, help="cores to use at most (all; the result is the same)")
    train.add_argument("--image", metavar="HxW[xC]", help="rows are images of this shape; none: a table (images are arrays (n, h, w) or (n, h, w, c))")
    train.add_argument("--holdout", type=float, help="share of the rows kept for evaluate (0.2)")
    train.add_argument("--out", type=Path, help="checkpoint (DATA.npz in this folder)")
    train.add_argument("--resume", action="store_true", help="go on from the checkpoint, with its settings; --steps may be new")

    sample = commands.add_parser("sample", help="draw samples from a model")
    sample.add_argument("-n", type=int, default=1000, help="number of samples")
    sample.add_argument("--out", type=Path, default=Path("samples.npy"), help="a .npy or .csv file (samples.npy)")
    evaluate = commands.add_parser("evaluate", help="compare a model with held-out data")
    for command in (sample, evaluate):
        command.add_argument("--steps", type=int, help="in this many steps, instead of all T: 20 cost a little")
        command.add_argument("--eta", type=float, help="the steps are DDIM's, with this share of noise: 0 none, 1 as DDPM")
        command.add_argument("--variance", choices=["gaussian", "beta", "posterior"], help="of all T steps (gaussian); fewer steps have --eta in its place")
        command.add_argument("--clip", action="store_true", help="stay within the least and the greatest value of each training column")
        command.add_argument("--round", action="store_true", help="whole numbers in columns that held nothing else")
        command.add_argument("--threads", type=int, help="cores to use at most, one for each 500 samples (all; the samples are the same)")

    plot = commands.add_parser("plot", help="draw samples, the reverse process and the losses")
    plot.add_argument("--out", type=Path, help="picture (MODEL.png)")
    plot.add_argument("--animate", metavar="GIF", type=Path, help="also film the reverse process")
    for command in (sample, evaluate, plot):
        command.add_argument("model", metavar="MODEL", type=Path, help="checkpoint")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    for command in (evaluate, plot):
        command.add_argument("data", metavar="DATA", nargs="?", help="by default what the model was trained on")

    check = commands.add_parser("check", help="compare an implementation of DDPM with exact values")
    check.add_argument("file", metavar="FILE.py", type=Path, help="the implementation; it is run")
    check.add_argument("--json", action="store_true", help="print a list of objects")
    return main


# ---------------------------------------------------------------- commands

def train(args: argparse.Namespace) -> int:
    out = args.out or Path(Path(args.data).stem + ".npz")
    x, image = data.load_rows(args.data, tell=say)
    found = x       # the digest is of all rows
    comm, ranks = args.comm, 1 if args.comm is None else args.comm.size
    by_first(comm, lambda: check_output(out, data=args.data))
    given = {name: value for name in ("hidden", "depth", "steps", "lr", "image", *DEFAULTS) if (value := getattr(args, name)) is not None}
    if args.resume:
        model = DDPM.load(out, args.device)
        noted = Notes.of(model, out)
        settings = noted.settings
        check_names(args.data, Columns.of(model, out).names)
        if not settings:
            raise ValueError(f"--resume: {out} was not written by npddpm train")
        if not by_first(comm, lambda: noted.is_of(args.data, x)):
            raise ValueError(f"--resume: {args.data} is not the data that {out} was trained on")
        check_settings(out, model, settings, given)
        image = model.image
        if model.step >= check_count("steps", given.get("steps", settings["steps"])):
            say(f"{out} has had {model.step} steps: nothing to do; --steps with a larger number goes on")
            return 0
        if "steps" in given and given["steps"] != settings["steps"]:
            say(f"--steps {given['steps']} instead of {settings['steps']}: from step {model.step} on the learning rate is another one, and "
                f"falls to 0 at step {given['steps']}")
            settings["steps"] = given["steps"]
        if ranks != (before := settings.get("ranks", 1)):
            say(f"{ranks} rank{'s' * (ranks > 1)} instead of {before}: from here on the draws are others than in a run that was "
                "not interrupted")
    else:
        settings = DEFAULTS | given
        image = image if args.image is None else image_of(args.image, x.shape[1])
        schedule = {"linear": Schedule.linear, "cosine": Schedule.cosine}[settings["schedule"]](settings["T"])
        model = DDPM(schedule, settings.get("hidden"), settings.get("depth"))
    if not 0 <= settings["holdout"] < 1:
        raise ValueError(f"--holdout must lie in [0, 1), got {settings['holdout']}")
    if not image:
        x = data.without_far(x, say, args.data)
        tell_columns(x, say, args.data)
    rows, held = data.split(x, settings["holdout"])
    if len(rows) < 2:
        raise ValueError(f"--holdout {settings['holdout']} leaves {len(rows)} of {len(x)} rows to train on, "
                         "and 2 are needed")
    shaped = data.as_images(rows, image)
    if "steps" not in settings:
        if rules.few(len(rows)):
            say(f"{len(rows)} rows: three trials, each without a fifth of them, show how long to train")
        settings["steps"] = by_first(comm, lambda: model.usual_steps(shaped, batch_size=settings["batch_size"], lr=settings.get("lr"),
                                                                     device=args.device, threads=args.threads))
        if settings["steps"] < rules.steps(*rows.shape):
            say(f"from step {settings['steps']} on rows held back are predicted worse than by one Gaussian: training ends there, before "
                "it knows its rows by heart; --steps trains longer")
    settings = {"lr": rules.lr(len(rows))} | settings
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        run = model.training(shaped, settings["steps"], settings["batch_size"], settings["lr"], rng=settings.get("seed"),
                             device=args.device, resume=args.resume, threads=args.threads, comm=comm)
    for warning in told:
        say(str(warning.message))
    if ranks > 1 or "ranks" in settings:
        settings["ranks"] = ranks
    model.about = {**model.about, "data": args.data, "sha256": by_first(comm, lambda: digest(found)), "settings": settings,
                   "columns": model.about.get("columns") if args.resume else by_first(comm, lambda: note(rows, args.data))}
    what = f"images of {data.sizes(image)}, with one scale for all numbers," if image else f"rows of {x.shape[1]}"
    say(f"{args.data}: {len(rows)} {what} to train on, {len(held)} held out; "
        f"{model.schedule}; checkpoint {out}" + (f"; {ranks} ranks" if ranks > 1 else ""))
    if ranks > 1 and (threads := Team(args.threads).threads) > 1:
        say(f"each rank takes up to {threads} cores: for one each give --threads 1, or set OPENBLAS_NUM_THREADS=1")

    came: list[int] = []

    def finish_the_step(number: int, _: Any) -> None:
        if number == signal.SIGINT in came:
            raise KeyboardInterrupt     # the second does not wait
        came.append(number)

    begun = step = model.step
    with handled(finish_the_step, "SIGINT", "SIGTERM", "SIGHUP"):
        try:
            for step in progress(run, settings["steps"], "step", begun,
                                 lambda: f"loss {model.losses[-1]:.4g}" if model.losses else ""):
                if signalled(comm, came):
                    break
                if step % SAVE_EVERY == 0 and step < settings["steps"]:
                    try:
                        out = by_first(comm, functools.partial(save, model, out))
                    except OSError as error:        # a disk that is full now may have room later
                        say(f"{error}; step {step} is not saved, the training goes on")
        except (ValueError, OSError) as error:      # a step that cannot be taken: the rows of a mapped file have changed, say
            if model.step == begun or comm is not None:
                raise
            raise ValueError(f"{error}; {save_at_last(model, out)} holds step {model.step}") from None
        out = by_first(comm, lambda: save_at_last(model, out))
    if (number := signalled(comm, came)) and step < settings["steps"]:
        say(f"interrupted: {out} holds step {step}; --resume goes on from there")
    else:
        say(f"wrote {out}")
    if model.losses and model.losses[-1] > 1:
        say(f"its loss, {model.losses[-1]:.4g}, is worse than 1, that of a guess of 0: lower --lr")
    return 128 + number if number else 0


def image_of(text: str, d: int) -> tuple[int, ...]:
    """The shape that --image tells, of d numbers; () for none."""
    if text == "none":
        return ()
    image = tuple(map(int, text.split("x"))) if re.fullmatch(r"\d+x\d+(x\d+)?", text) else ()
    if not image or math.prod(image) != d:
        raise ValueError(f"--image must be HxW or HxWxC, whose product is {d}, the numbers in a row, or none; got {text}")
    return image


def sample(args: argparse.Namespace) -> None:
    model = DDPM.load(args.model, args.device)
    known, done, off = columns_of(model, args), 0, 0
    shape, text = model.image or (len(known.low),), args.out.suffix.lower() == ".csv"
    size = (2 if text else 8) * args.n * len(known.low)     # at least: text has a digit and a separator for each number
    by_first(args.comm, lambda: check_output(args.out, [".npy", ".csv"], size, model=args.model, data=model.about.get("data")))

    def counts() -> Iterator[int]:
        nonlocal done, off
        write = csv_writer(file, known.names, known.whole & args.round) if text else npy_writer(file, (args.n, *shape))
        for chunk in drawn_by(model, known, args, args.n, args.comm):
            write(chunk)
            done, off = done + len(chunk), off + broken(model, args, chunk)
            yield done

    with written(args.out) if is_first(args.comm) else open(os.devnull, "wb") as file:
        for _ in progress(counts(), args.n, "sample"):
            pass
    say(f"wrote {args.out}: {args.n} samples of {data.sizes(shape)} numbers")
    if off:
        say(f"{off} of them {BROKEN}: --clip and --round change each column by itself")


def columns_of(model: DDPM, args: argparse.Namespace) -> Columns:
    """What the options of `drawn_by` need to know, checked with them."""
    if args.variance and (args.steps is not None or args.eta not in (None, 1)):
        raise ValueError("--variance has no effect with --steps, or --eta below 1: leave it out")
    return Columns.of(model, args.model, [f"--{option}" for option in ("clip", "round") if getattr(args, option)])


def drawn_by(model: DDPM, known: Columns, args: argparse.Namespace, n: int, comm: Any = None) -> Iterator[Any]:
    """The samples that the options ask for, in chunks."""
    chunks = model.sample_chunks(n, args.seed, variance=args.variance or "gaussian", steps=args.steps, eta=args.eta,
                                 clip=(known.low, known.high) if args.clip else None, threads=args.threads, comm=comm)
    return map(known.rounded, chunks) if args.round else chunks


def broken(model: DDPM, args: argparse.Namespace, x: np.ndarray) -> int:
    """How many samples --clip or --round has taken off the plane of the training rows."""
    return int((~model.axes.contain(x.reshape(len(x), -1))).sum()) if args.clip or args.round else 0


def evaluate(args: argparse.Namespace) -> None:
    model = DDPM.load(args.model, args.device)
    columns, real = columns_of(model, args), Reference.of(model, args)
    n = min(len(real.held), len(real.others), MOST_COMPARED)
    samples = np.concatenate([*drawn_by(model, columns, args, n)]).reshape(n, -1)
    if off := n - int(model.axes.contain(real.held[:n]).sum()):
        say(f"{off} of {n} {real.name} lie off the plane of the training rows, in which a column is constant or depends on others: "
            "the distances below do not see how far")
    say(f"loss by t, per dimension, on {real.name} (1: no better than guessing 0)")
    say("      t     loss    least   ratio")
    for t, loss, least in losses(model, real, args.seed):
        say(f"{t:7.0f}{loss:9.3g}" + (f"{least:9.3g}{loss / least:8.3f}" if np.isfinite(least) else "        -       -"))

    if whole := int((columns.whole & (model.axes.scale > 0)).sum()) if not (args.round or model.image) else 0:
        say(f"{whole} of {len(columns.whole)} columns hold whole numbers, which these samples do not: --round compares rounded ones")
    if off := broken(model, args, samples):
        say(f"{off} of {n} samples {BROKEN}, since --clip and --round change each column by itself: the distances below do not see how far")
    drawn, held, others = (model.axes.standardize(a) for a in (samples, real.held[:n], real.others[:n]))
    compared = {f"{n} samples": drawn, f"{n} {real.name_of_others}": others}
    say(f"energy distance to {n} {real.name}, data at unit scale (V- and U-statistic; sees the large shapes, no fine ones)")
    scores = []
    for name, a in compared.items():
        scores.append(energy_distance(a, held, unbiased=False))
        say(f"  {name:22s}{scores[-1]:10.5f}{energy_distance(a, held):10.5f}")
    say(f"  ratio                 {ratio(*scores)}")
    say(f"told apart from {n} {real.name} by the nearest other row (0.5: not at all; sees blur and fine shapes)")
    error = 0.64 / math.sqrt(2 * n)
    shares = [one_nearest_neighbour(a, held) for a in compared.values()]
    for name, share in zip(compared, shares):
        say(f"  {name:22s}{share:10.3f} +- {error:.3f}")
    if shares[1] > 0.5 + 5 * error and real.apart:
        say(f"  {real.source} is unlike the training rows: ratios compare with a distance between the two, and tell little of the model")
    say(f"precision and recall: share near {real.name}, share of {real.name} near (see strays, and what is missing)")
    for name, a in compared.items():
        say(f"  {name:22s}{{:10.3f}}{{:10.3f}}".format(*precision_recall(a, held, min(3, n - 1))))
    if real.rows is None:
        say("distance to the nearest training row: not known, since the training rows are not")
    else:
        say_nearest(real, drawn, held, model.axes.standardize(real.rows))
    say_nats(model, real, args.seed)
    raise_if_lost()


def say_nearest(real: Reference, drawn: np.ndarray, held: np.ndarray, rows: np.ndarray) -> None:
    near = nearest(drawn, rows)
    say(f"median distance to the nearest training row (sees copies, and blur)\n  samples               {near:10.5f}")
    if real.apart:
        apart = to_nearest(held, rows)
        usual = float(np.median(apart))
        say(f"  {real.name:22s}{usual:10.5f}\n  ratio                 {ratio(near, usual)}")
        if (share := nearly_copies(apart, rows)) > MOST_NEAR:
            say(f"  {share:.0%} of {len(held)} {real.name} are almost equal to a training row, beyond what training rows are to each other: they may "
                "be copies with fewer digits; then the comparisons say nothing")
    else:
        say("  held-out rows         none: what is far or near is not known")


def say_nats(model: DDPM, real: Reference, seed: int) -> None:
    """Mean log-likelihoods of the first rows that lie in the plane of the training rows; of images also in bits a pixel."""
    held, axes = real.held[:MOST_RATED], model.axes
    inside = held[axes.contain(held)]
    say(f"log-likelihood of {len(inside)} {real.name}, nats a row in the units of the data "
        f"(higher is better; computed in {len(times_up(model.schedule, None)) - 1} steps without noise)")
    if len(inside) == 0:
        return
    varies = axes.scale > 0
    if not model.image:
        some = np.concatenate([real.held[:MOST_SHOWN], real.others[:MOST_SHOWN]])
        counts = [np.unique(column, return_counts=True)[1] for column in some.T]
        repeated = np.array([2 * len(of) <= of.sum() or of.max() > max(2, MOST_EQUAL * of.sum()) for of in counts])
        if (steps := np.flatnonzero(varies & (repeated | (held == np.rint(held)).all(0)))).size:
            say("  no score where columns hold whole numbers, few values again and again or one often, on which a density has no bound: column "
                + ", ".join(map(str, steps[:5])) + ", ..." * (steps.size > 5) + " (from 0)")

    def of_model(x: np.ndarray) -> Any:
        if axes.variances.size > MOST_EXACT:
            return model.log_likelihood(x, probes=PROBES, rng=seed)[0]
        return model.log_likelihood(x)

    densities = {"one Gaussian": lambda z: log_density(z, 0.0, axes.variances)}
    if law := known_law(model, real):
        densities["the law itself"] = law.log_density
    laws = {"model": of_model} | {name: lambda x, of=of: of(axes.standardize(x)) - axes.log_volume() for name, of in densities.items()}
    for name, of in laws.items():
        nats = of(inside)
        mean, error, middle = (f"{v:.3f}" if abs(v) < 1e6 else f"{v:.3g}" for v in (nats.mean(), nats.std() / math.sqrt(len(nats)), np.median(nats)))
        say(f"  {name:22s}{mean:>10} +- {error}, median {middle}")
    if model.image and (inside == np.round(inside)).all() and axes.variances.size == varies.sum():
        x = inside + np.where(varies, np.random.default_rng(seed).random(inside.shape) - 0.5, 0)
        say("bits for each pixel that varies, dequantised with uniform numbers in -1/2..1/2 (lower is better; an upper bound, loose "
            "where pixels hardly vary)")
        for name, of in laws.items():
            say(f"  {name:22s}{-of(x).mean() / varies.sum() / math.log(2):10.3f}")


def plot(args: argparse.Namespace) -> None:
    try:
        from matplotlib import rc_context

        from .plot import film, overview
    except ImportError:
        raise ValueError("plot needs matplotlib: pip install 'npddpm[cli]'") from None
    out = args.out or args.model.with_suffix(".png")
    inputs = {"model": args.model, "data": args.data}
    check_output(out, PICTURES, **inputs)
    if args.animate:
        check_output(args.animate, [".gif"], **inputs)
    model = DDPM.load(args.model, args.device)
    real = Reference.of(model, args)
    shown = (real.held if real.rows is None or real.name == "rows of DATA" else real.rows)[:MOST_SHOWN]
    figure = overview(model, shown, losses(model, real, args.seed), args.seed)
    with written(out) as file, rc_context({"svg.hashsalt": "npddpm"}):      # the same picture has the same bytes
        figure.savefig(file, format=out.suffix[1:].lower(), dpi=110, metadata=NO_DATE.get(out.suffix.lower()))
    say(f"wrote {out}")
    if args.animate:
        with written(args.animate) as file:
            file.write(film(model, shown, args.seed))
        say(f"wrote {args.animate}")


def check(args: argparse.Namespace) -> int:
    """Return 1 if a check fails. What the file and its commands print goes to stderr, and hypothesis leaves no folder behind."""
    try:
        from .. import testing
    except ImportError as error:
        raise ValueError(str(error)) from None
    results = []
    with tempfile.TemporaryDirectory() as home, testing.storage(home), contextlib.ExitStack() as stack:
        found = testing.results(stack.enter_context(testing.loaded(args.file)))
        while True:
            with testing.lent():
                result = next(found, None)
            if result is None:
                break
            results.append(result)
            if not args.json:
                say(str(result))
            raise_if_lost()
    failed = sum(result.verdict == "fail" for result in results)
    if args.json:
        say(json.dumps([dataclasses.asdict(result) for result in results], indent=1))
    else:
        passed = sum(result.verdict == "pass" for result in results)
        say(f"{passed} checks passed, {failed} failed, {len(results) - passed - failed} skipped")
    raise_if_lost()
    atexit.register(setattr, sys, "stdout", sys.stderr)     # before what the file has registered
    return int(failed > 0)


# ---------------------------------------------------------------- what they share

def save(model: DDPM, out: Path) -> Path:
    """Save a run's checkpoint; where another run has taken its name it goes on under another one. Return the name."""
    if model.outputs.lost(out):
        free = out.with_name(next(free_names(follow(out))).name)
        say(f"{out} is no longer this run's, since another has written it: going on in {free}")
        out = free
    model.about["step"] = model.step        # the notes are of all the steps so far
    tell_aside(out, model.save(out))
    return out


def save_at_last(model: DDPM, out: Path) -> Path:
    """`save`, but where that fails the training is kept in this folder or a temporary one that nobody else can read, as the OSError says."""
    try:
        return save(model, out)
    except OSError as error:
        where = f"nor can this folder or the temporary one take step {model.step}"
        for folder in (os.getcwd, functools.partial(tempfile.mkdtemp, prefix="npddpm-")):
            with contextlib.suppress(OSError):
                where = f"step {model.step} is in {save(model, Path(folder(), out.name))}"
                break
        raise OSError(f"{error}; {where}") from None


@contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """`write_whole` for a command's output; what was there is kept."""
    outputs = Outputs()
    with outputs.write(path) as file:
        yield file
    tell_aside(path, outputs.aside)


def tell_aside(path: Path, aside: Path | None) -> None:
    if aside:
        say(f"the {path} that was there is now {aside if path.is_symlink() else path.with_name(aside.name)}")


def ratio(a: float, b: float) -> str:
    return f"{a / b:10.3f}" if b > 0 else "         - (the real rows lie at distance 0)"


def losses(model: DDPM, real: Reference, seed: int) -> np.ndarray:
    """`loss_by_time` of a model on real rows, beside the least possible loss where it is known."""
    return loss_by_time(model.denoiser(), model.schedule, model.to_network(real.held), seed, known_law(model, real))


def main(argv: list[str] | None = None) -> int:
    open_streams()
    less, comm = "", None
    try:
        comm = world()
        # Signals would leave temporary files behind; what overflows ends in one line of its own; several threads of BLAS are slow
        # beside other programs, and training and sampling have threads of their own.
        with quiet(not is_first(comm)), handled(interrupt, "SIGINT", "SIGTERM", "SIGHUP"), np.errstate(all="ignore"), Team():
            args = parser().parse_args(argv)
            if args.command == "train":
                less = "; smaller --hidden, --depth, --batch-size or --T need less"
            if getattr(args, "seed", None) is not None:
                check_count("--seed", args.seed, least=0)
            args.comm = comm
            if comm is not None and getattr(args, "device", "cpu") == "gpu":
                use_gpu(comm.rank)
            command = {"train": train, "sample": sample, "evaluate": evaluate, "plot": plot, "check": check}[args.command]
            code = command(args) if is_first(comm) or args.command in ("train", "sample") else 0
    except BrokenPipeError:
        return 128 + 13     # as if SIGPIPE had ended the command
    except MemoryError as error:
        return failed(comm, f"out of memory: {error}{less}", 2)
    except (ValueError, TypeError, OSError, RuntimeError, FloatingPointError) as error:
        line = f"cannot print: {error.args[-1]}" if error in LOST.values() else str(error)
        return failed(comm, " ".join(line.split()), 2)
    except KeyboardInterrupt as error:
        return failed(comm, "interrupted", 128 + (error.args[0] if error.args else signal.SIGINT))
    except Exception:
        if comm is None:
            raise
        return failed(comm, traceback.format_exc(), 1)      # Python would wait for the other ranks before it ends
    finally:
        try:
            sys.stdout.flush()      # of --help, say, which else fails at the exit
        except (OSError, ValueError):
            silence("stdout")
    return code or 0


