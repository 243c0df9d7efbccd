"""Results as tables and as a plot."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from npddpm.data.files import write_whole

RESULTS = Path(__file__).parent / "results"


def device(result: dict[str, Any]) -> str:
    """Its name, of a CPU with the number of cores."""
    return result["device"] + f", {result['cores']} cores" * (result["kind"] == "cpu")


def save(result: dict[str, Any]) -> Path:
    """Write results/<device>.json."""
    name = re.sub(r"[^a-z0-9]+", "-", device(result).lower()).strip("-")
    path = RESULTS / f"{name}.json"
    with write_whole(path) as file:
        file.write((json.dumps(result, indent=1) + "\n").encode())
    return path


def load() -> list[dict[str, Any]]:
    """The results of all devices, in the order of their dates."""
    found = (json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json")))
    return sorted((result for result in found if "kind" in result), key=lambda r: r["date"])


def cpu_and_gpu(results: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The newest GPU, and the CPU to compare it with: that of the same machine, by its versions, or else the newest."""
    newest = {result["kind"]: result for result in results}
    if "gpu" in newest:
        for result in results:
            if result["kind"] == "cpu" and result["versions"] == newest["gpu"]["versions"]:
                newest["cpu"] = result
    return newest


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def milliseconds(timing: dict[str, float] | None) -> str:
    """Median, and half the distance of the quartiles."""
    if timing is None:
        return "not measured"
    return f"{1e3 * timing['median']:.3g} ± {500 * (timing['high'] - timing['low']):.1g}"


def machine(about: dict[str, Any]) -> str:
    """The device, the versions and the date, on a line."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return f"{about['kind'].upper()}: {about['device']}, {about['cores']} cores, {versions}; {about['date']}"


def by_size(result: dict[str, Any]) -> dict[tuple[str, tuple[int, ...]], dict[str, Any]]:
    return {(row["what"], tuple(row["shape"])): row for row in result["rows"]}


def tables(found: list[dict[str, Any]]) -> str:
    """Markdown: the machines, CPU against GPU and the floor, and on each machine the peers."""
    parts = []
    for r in found:
        parts.append(f"{machine(r)}. Best matrix product {r['rates']['sgemm'] / 1e9:.0f} GFLOP/s, copy "
                     f"{r['rates']['copy'] / 1e9:.1f} GB/s.")
    results = cpu_and_gpu(found)
    if "gpu" not in results:
        parts.append("GPU: none was measured.")
    if "launches" in results.get("cpu", {}):
        parts.append(f"A training step of depth 3 starts {results['cpu']['launches']} kernels, "
                     "counted on the tests' stand-in for CuPy.")
    parts.append("npddpm on " + " and ".join(map(device, results.values())) + ": median ± half the distance of the quartiles")

    both = {kind: by_size(r) for kind, r in results.items()}
    keys = list(dict.fromkeys(key for rows in both.values() for key in rows))
    lines: list[list[str]] = []
    for what, shape in keys:
        pair = [both.get(kind, {}).get((what, shape)) for kind in ("cpu", "gpu")]
        times = [row and row["times"]["npddpm"] for row in pair]
        speedup = f"{times[0]['median'] / times[1]['median']:.2f}" if all(times) else "not measured"
        rate, share = [], []
        for kind, row in zip(("cpu", "gpu"), pair):
            if row:
                seconds = row["times"]["npddpm"]["median"]
                floor = row["flops"] / results[kind]["rates"]["sgemm"] + row["bytes"] / results[kind]["rates"]["copy"]
                rate.append(f"{row['flops'] / seconds / 1e9:.0f}" if row["flops"] else "-")
                share.append(f"{floor / seconds:.0%}")
        lines.append([f"{what} {shape}", *map(milliseconds, times), speedup, " / ".join(rate), " / ".join(share)])
    parts.append(table(["(d, hidden, depth, batch)", "CPU, ms", "GPU, ms", "speed-up", "GFLOP/s", "share of the floor"], lines))

    for r in found:
        rows = by_size(r)
        rivals = list(dict.fromkeys(name for row in rows.values() for name in row["times"] if name != "npddpm"))
        if rivals:
            lines = [[f"{what} {shape}", milliseconds(row["times"]["npddpm"]),
                      *(f"{row['times'][name]['ratio']:.2f}" if name in row["times"] else "-" for name in rivals)]
                     for (what, shape), row in rows.items() if len(row["times"]) > 1]
            parts.append(f"Time of the others over npddpm's, {r['device']}, {r['cores']} cores (above 1: npddpm is faster)\n\n"
                         + table(["(d, hidden, depth, batch)", "npddpm, ms", *rivals], lines))
    return "\n\n".join(parts) + "\n"


def plot(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Time of a training step against its size on a CPU and a GPU, with the size where they cross."""
    import numpy as np
    from matplotlib.figure import Figure
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes, lines = figure.subplots(), {}
    for kind, r in results.items():
        points = sorted((row["flops"], row["times"]["npddpm"]["median"]) for row in r["rows"] if row["what"] == "training step")
        flops, seconds = np.array(points).T
        lines[kind] = flops, seconds
        axes.loglog(flops, 1e3 * seconds, "o-", label=f"{kind.upper()}: {device(r)}")
        axes.loglog(flops, 1e3 * flops / r["rates"]["sgemm"], ":", color=axes.lines[-1].get_color(), label="its floor")
    if len(lines) == 2:
        (x, cpu), (_, gpu) = lines["cpu"], lines["gpu"]
        lead = np.log(cpu / gpu)
        for i in np.flatnonzero(lead[:-1] * lead[1:] < 0):
            share = lead[i] / (lead[i] - lead[i + 1])
            axes.axvline(x[i] ** (1 - share) * x[i + 1] ** share, color="0.6", linestyle="--", label="they cross")
    axes.set(xlabel="floating-point operations in a step", ylabel="milliseconds", title="One training step")
    axes.legend(frameon=False)
    with write_whole(path) as file:
        figure.savefig(file, format="png", dpi=110)
