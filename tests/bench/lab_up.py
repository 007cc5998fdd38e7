#!/usr/bin/env python3
"""How long a newcomer waits: `bin/lab up` from nothing, on this machine, beside the limit.

    .venv/bin/python tests/bench/lab_up.py [--name NAME]

Removes every image and package cache of the lab first (`bin/lab down --all --purge`): the cold path.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 480


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--name", default="default")
    given = arguments.parse_args()
    lab = str(ROOT / "bin/lab")
    subprocess.run([lab, "down", "--all", "--purge"], check=True)
    began = time.monotonic()
    subprocess.run([lab, "up", "--name", given.name], check=True)
    print(f"\n{'figure':42} {'measured':>10} {'limit':>10}")
    print(f"{'bin/lab up from nothing (s)':42} {time.monotonic() - began:10.0f} {LIMIT_SECONDS:10}")


if __name__ == "__main__":
    main()
