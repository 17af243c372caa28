"""Compile the operators ahead of use, as a cluster's set-up does.

    python -m lacray.ops.build            builds what this machine uses (the CUDA part too where a GPU is usable)
    python -m lacray.ops.build --cuda     builds the CUDA part even without a GPU

Where the libraries lie, and why an interrupted build does no harm: lacray/ops/library.py, lacray/native.py.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch

from lacray.exits import guarded
from lacray.ops.library import BuildError, library, library_path


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lacray.ops.build", description="Compile lacray's operators ahead of use."
    )
    parser.add_argument("--cuda", action="store_true", help="build the CUDA part even where no GPU is usable")
    parser.add_argument("--force", action="store_true", help="build again what is there already")
    arguments = parser.parse_args()
    devices = ["cpu"] + (["cuda"] if arguments.cuda or torch.cuda.is_available() else [])
    for device in devices:
        if arguments.force:
            library_path(device).unlink(missing_ok=True)
        start = time.perf_counter()
        try:
            path = library(device)
        except BuildError as error:
            print(f"{device}: {error}", file=sys.stderr)
            return 2
        print(f"{device}: {path} ({time.perf_counter() - start:.1f} s)")
    return 0


if __name__ == "__main__":
    guarded(lambda argv: main())
