"""What tests of the command line share: a small training, and processes of their own."""

import subprocess
import sys

SMALL = ["--hidden", "8", "--depth", "1", "--T", "10", "--batch-size", "8", "--steps", "50"]     # those that follow count


def python(code, *args):
    """Start a process that runs the code."""
    return subprocess.Popen([sys.executable, "-c", code, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def shell(command):
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60)
