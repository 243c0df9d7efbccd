"""The file of a model: an .npz of its arrays and of `config`, which is JSON. What is read is checked before anything is made of it."""

from __future__ import annotations

import json
import math
import zipfile
from typing import Any, BinaryIO

import numpy as np

from ..arrays.backend import to_host
from ..arrays.checks import check_count, check_real, check_sizes, check_type
from ..data.files import load_arrays
from ..mlp import layer_shapes
from ..schedule import Schedule
from .axes import MOST_TURNED

FORMAT = 12
OF_PARAMETERS = "parameters", "average", "m", "v"


def write(file: BinaryIO, config: dict[str, Any], arrays: dict[str, Any]) -> None:
    """Write what ``np.savez`` would, without its copies: there is always enough memory to save what has been trained.

    Raises
    ------
    FloatingPointError
        If the last step made NaN or infinity of the parameters.
    """
    for name in OF_PARAMETERS:
        low, high = float(arrays[name].min()), float(arrays[name].max())       # NaN, if there is one
        if not (math.isfinite(low) and math.isfinite(high)):
            raise FloatingPointError(f"the {name} became NaN or infinite at step {config['step']}: "
                                     "the learning rate is too high (lower lr)")
    with zipfile.ZipFile(file, "w") as content:
        for name, array in {"config": np.asarray(json.dumps(config)), **arrays}.items():
            host = np.asarray(to_host(array), order="C")
            with content.open(f"{name}.npy", "w", force_zip64=True) as part:
                np.lib.format.write_array_header_1_0(part, np.lib.format.header_data_from_array_1_0(host))
                part.write(host.data)


def read(file: BinaryIO) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config and the arrays that `write` was given; but whether a model takes config["rng"] and config["about"] is left to be seen.

    Any error means that the file is damaged, or is no checkpoint of this format.
    """
    arrays = load_arrays(file)
    if "config" not in arrays:
        raise ValueError("it is no npddpm checkpoint")
    config = json.loads(str(arrays.pop("config")))
    if config["format"] != FORMAT:
        raise ValueError(f"it has format {config['format']}, this version of npddpm reads format {FORMAT}; "
                         "use the version that wrote it, or train again")
    check_config(config)
    check_arrays(config, arrays)
    return config, arrays


def check_config(config: dict[str, Any]) -> None:
    """Raise an error unless it is as `DDPM.save` notes it, but for what the model looks at itself: sizes, dtype, generator and notes."""
    check_type("its gated", config["gated"], bool)
    check_count("its step", config["step"])
    check_count("its optimizer_t", config["optimizer_t"])
    check_real("its loss_sum", config["loss_sum"], -math.inf, math.inf)
    for size in config.setdefault("image", []):
        check_count("its image", size)


def check_arrays(config: dict[str, Any], arrays: dict[str, Any]) -> None:
    """Raise an error unless the arrays are those of a network of these sizes, which is small enough to be made."""
    T = Schedule(arrays["betas"]).T
    d, r = arrays["scale"].size, arrays["variances"].size
    known = {"betas"}

    def check(shape: tuple[int, ...], dtype: str, *names: str) -> None:
        known.update(names)
        for name in names:
            array = arrays[name]
            if array.shape != shape or array.dtype != dtype or not np.isfinite(array).all():
                raise ValueError(f"its {name} must be finite numbers of {dtype}, of shape {shape}, "
                                 f"and are {array.dtype} of shape {array.shape}")

    if config["image"] and (len(config["image"]) not in (2, 3) or math.prod(config["image"]) != d):
        raise ValueError(f"its image must be the shape of {d} numbers, and is {config['image']}")
    check((d,), "float64", "mean", "scale")
    check((r,), "float64", "variances")
    check((arrays["losses"].size,), "float64", "losses")
    if "V" in arrays or d <= MOST_TURNED or r != np.count_nonzero(arrays["scale"]):
        check((d, r), "float64", "V")
    p = 0 if not config["gated"] else int(arrays["V"].any(1).sum()) if "V" in arrays else r
    r, hidden, depth, fourier = check_sizes(r, config["hidden"], config["depth"], config["fourier"], T)
    P = sum(m * n for m, n in layer_shapes(r, hidden, depth, fourier, r + p))
    check((P,), config["dtype"], *OF_PARAMETERS)
    for name in ("scale", "variances", "v"):
        if (arrays[name] < 0).any():
            raise ValueError(f"its {name} must not be negative")
    if unknown := arrays.keys() - known:
        raise ValueError(f"it holds {', '.join(unknown):.80}, which no checkpoint has")
