"""Print what the wheel takes from the source tree, for meson.build: a new file needs no edit there.

Usage: list_package_files.py SOURCE_ROOT
"""

import sys
from pathlib import Path

SUFFIXES = {".py", ".pyi"}


def package_files(root: Path) -> list[str]:
    """The package's Python files, stubs and markers, relative to *root*, in a stable order."""
    found = [
        path.relative_to(root).as_posix()
        for path in (root / "freerun").rglob("*")
        if (path.suffix in SUFFIXES or path.name == "py.typed") and path.is_file()
    ]
    return sorted(name for name in found if "__pycache__" not in name and "/_core/tests/" not in name)


if __name__ == "__main__":
    print("\n".join(package_files(Path(sys.argv[1]))))
