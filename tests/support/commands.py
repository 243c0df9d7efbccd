"""What tests of the command line share: a small training, and processes of their own."""

import subprocess
import sys

from npddpm.cli.main import main

SMALL = ["--hidden", "8", "--depth", "1", "--T", "10", "--batch-size", "8", "--steps", "50"]     # those that follow count


def train(data="own.npy", *options, out="m.npz"):
    assert main(["train", data, *SMALL, "--out", out, *options]) == 0


def printed(capsys, command):
    """What a command prints."""
    capsys.readouterr()
    assert main(command.split()) == 0
    return capsys.readouterr().out


def python(code, *args):
    """Start a process that runs the code."""
    return subprocess.Popen([sys.executable, "-c", code, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def shell(command):
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60)
