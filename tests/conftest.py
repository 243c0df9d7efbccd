"""For all tests: Hypothesis profiles, one thread a process, signals as in a terminal, an empty folder, and a device."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")      # before NumPy is imported: the processes of pytest-xdist share the cores

import signal
import sys

import pytest
import strict_cupy
from hypothesis import Phase, settings

from npddpm.arrays import backend

settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True, max_examples=60)
settings.register_profile("dev", deadline=None)
settings.register_profile("mutations", settings.get_profile("ci"), phases=[Phase.explicit, Phase.generate])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# Signals are answered as in a terminal, also where the tests run under nohup or in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser, pluginmanager):
    """What setup.cfg asks of pytest-xdist means nothing where that is missing or switched off by ``-p no:xdist``."""
    if not pluginmanager.hasplugin("xdist"):
        parser.addoption("--numprocesses")
        parser.addoption("--dist")


@pytest.fixture
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=["stand-in", pytest.param("cupy", marks=pytest.mark.gpu)])
def cupy(request, monkeypatch):
    """The strict stand-in for CuPy, whose results are those of the CPU, and with ``-m gpu`` CuPy itself, equal up to rounding."""
    if request.param == "stand-in":
        monkeypatch.setitem(sys.modules, "cupy", strict_cupy.module())
    else:
        try:
            backend.device_module("gpu")
        except RuntimeError as reason:
            pytest.skip(str(reason))
    return sys.modules["cupy"]
