"""`python -m freerun`: what this installation can do on this machine, and why."""

from __future__ import annotations

import sys

from . import build_info


def main() -> None:
    """Print the build information."""
    sys.stdout.write(f"{build_info()}\n")


if __name__ == "__main__":
    main()
