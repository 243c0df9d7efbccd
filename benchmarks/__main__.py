"""How fast is it, on the CPU and on the GPU, against the machine's floor and against other frameworks?

    python -m benchmarks             this project on every device there is; writes benchmarks/results/
    python -m benchmarks --peers     and the same step in PyTorch, JAX and scikit-learn, where installed
    python -m benchmarks --quick     the small sizes only, nothing written
    python -m benchmarks threads     a step by 1, 2, 4 ... threads, on a quiet machine and beside another program
    python -m benchmarks ranks       a step by 1, 2, 4 ... ranks of one thread each, against one process with all
    python -m benchmarks quality     seconds until samples are as good as real data; with --peers also tables and digits
                                     beside scikit-learn, and fewer steps; with --images FILE also a file of images
    python -m benchmarks pictures    the two pictures of the README
    python -m benchmarks conformance what npddpm.testing says about other implementations that are installed
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from npddpm import __version__
from npddpm.arrays.backend import device_module

from . import measure, ours, peers, quality, ranks, report, rows, threads
from .ours import Shape

SHAPES = [Shape(2, 128, 3, 32), Shape(2, 128, 3, 256), Shape(64, 256, 3, 256), Shape(64, 512, 3, 512),
          Shape(784, 1024, 3, 512), Shape(784, 2048, 3, 4096)]
PACKAGES = ("numpy", "cupy", "torch", "jax", "scikit-learn")


def describe(device: str) -> dict[str, Any]:
    """The device and the versions, so that a figure can be traced."""
    name = platform.processor() or platform.machine()
    if device == "gpu":
        runtime = device_module("gpu").cuda.runtime
        name = runtime.getDeviceProperties(runtime.getDevice())["name"].decode()
    elif os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            name = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), name)
    versions = {"npddpm": __version__, "Python": platform.python_version()}
    for distribution in importlib.metadata.distributions():
        package = distribution.metadata["Name"].lower()
        if package.startswith("cupy") or package in PACKAGES:
            versions[package] = distribution.version
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"kind": device, "device": name, "cores": cores, "versions": versions,
            "date": datetime.date.today().isoformat()}


def run(device: str, with_peers: bool, quick: bool) -> dict[str, Any]:
    """All measurements on one device."""
    result = describe(device) | {"rates": measure.rates(device), "rows": []}
    if device == "cpu":
        result["launches"] = ours.launches(Shape(2, 16, 3, 8))

    def add(what: str, shape: Shape, times: dict[str, dict[str, float]], flops: float, moved: float = 0) -> None:
        print(f"{device}: {what} {tuple(shape)}: {1e3 * times['npddpm']['median']:.3g} ms", file=sys.stderr, flush=True)
        result["rows"].append({"what": what, "shape": shape, "flops": flops, "bytes": moved, "times": times})

    rounds = 3 if quick else 9
    for shape in SHAPES[:3] if quick else SHAPES:
        runs = {"npddpm": ours.training(shape, device)}
        for name, contestant in peers.PEERS.items() if with_peers else ():
            try:
                runs[name] = contestant(shape, device)
            except ImportError as reason:
                if shape == SHAPES[0]:
                    print(f"{device}: no {name}: {reason}", file=sys.stderr)
        add("training step", shape, measure.interleaved(runs, rounds), ours.training_flops(shape))
        steps = {"npddpm": ours.sampling_step(shape, device)}
        if "PyTorch" in runs:
            steps["PyTorch"] = peers.torch_sampling_step(shape, device)
        add("sampling step", shape, measure.interleaved(steps, rounds), ours.sampling_flops(shape))
        for name, kernel, flops, moved in ours.kernels(shape, device):
            add(name, shape, {"npddpm": measure.alone(kernel, device)}, flops, moved)
    shape = SHAPES[1]
    whole = Shape(*shape[:3], 2000)
    add("2000 samples, T = 1000", whole, measure.interleaved({"npddpm": ours.sampling_run(shape, device)}, rounds=3),
        1000 * ours.sampling_flops(whole))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["speed", "threads", "ranks", "quality", "conformance", "pictures"], default="speed")
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds; writes nothing")
    parser.add_argument("--device", choices=["cpu", "gpu", "all"], default="all")
    parser.add_argument("--peers", action="store_true", help="compare with the frameworks that are installed")
    parser.add_argument("--images", type=Path, help="with quality: also train on this file of images")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    args = parser.parse_args()

    if args.what == "pictures":
        from . import pictures
        pictures.draw()
        return
    if args.what == "conformance":
        from . import conformance
        found = conformance.run()
        text = f"{report.machine(describe('cpu'))}\n\n{conformance.tables(found)}\n"
        if len(found) == len(conformance.ADAPTERS):
            (report.RESULTS / "conformance.md").write_text(text, encoding="utf-8")
        else:
            print("not all libraries are installed: conformance.md stays as it is", file=sys.stderr)
        print(text)
        return
    if args.what in ("threads", "ranks"):
        about, many = describe("cpu"), {"threads": threads, "ranks": ranks}[args.what]
        found = many.run(SHAPES[1:3] if args.quick else SHAPES[:5] if many is threads else SHAPES[2:5], about["cores"], args.peers)
        text = f"{report.machine(about)}\n\n{many.tables(found)}\n"
        if not args.quick:
            (report.RESULTS / f"{args.what}.md").write_text(text, encoding="utf-8")
        print(json.dumps(about | {"rows": found}, indent=1) if args.json else text)
        return
    devices = ["cpu", "gpu"] if args.device == "all" else [args.device]
    try:
        device_module("gpu")
    except RuntimeError as reason:
        if args.device == "gpu":
            sys.exit(f"benchmarks: {reason}")
        print(f"no GPU: {reason}", file=sys.stderr)
        devices = ["cpu"]

    if args.what == "quality":
        result = {device: describe(device) | {"rows": quality.run(device, args.peers, args.quick)} for device in devices}
        pages = {f"quality-{device}.md": f"{report.machine(r)}\n\n{quality.tables(r['rows'])}\n" for device, r in result.items()}
        if args.peers and "cpu" in devices:
            parts = rows.tables(rows.run(args.quick)), rows.planar_table(rows.planar(args.quick))
            pages["rows.md"] = "\n\n".join([report.machine(result["cpu"]), *parts]) + "\n"
        if args.images and "cpu" in devices:
            pages["images.md"] = f"{report.machine(result['cpu'])}\n\n{rows.images(args.images)}\n"
        for name, page in () if args.quick else pages.items():
            (report.RESULTS / name).write_text(page, encoding="utf-8")
        print(json.dumps(result, indent=1) if args.json else "\n".join(pages.values()))
        return
    results = [run(device, args.peers, args.quick) for device in devices]
    if not args.quick:
        for result in results:
            print(f"wrote {report.save(result)}", file=sys.stderr)
        results = report.load()
        (report.RESULTS / "tables.md").write_text(report.tables(results), encoding="utf-8")
        report.plot(report.cpu_and_gpu(results), report.RESULTS / "steps.png")
    print(json.dumps(results, indent=1) if args.json else report.tables(results))


if __name__ == "__main__":
    main()
