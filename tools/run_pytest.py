"""Run pytest on the installed package and leave its summary line where ./dev repeats it at the end.

Usage: run_pytest.py LABEL [pytest arguments]
"""

import os
import re
import sys
import sysconfig
from pathlib import Path

import pytest


class Summary:
    """Appends pytest's last line, with the interpreter's name, to the file that FREERUN_SUMMARY names."""

    def __init__(self, label: str) -> None:
        self.label = label

    def pytest_report_header(self) -> str:
        kind = "free-threaded" if sysconfig.get_config_var("Py_GIL_DISABLED") else "with the GIL"
        return f"interpreter: {self.label} {kind}, {sys.executable}"

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self, config: pytest.Config) -> None:
        path = os.environ.get("FREERUN_SUMMARY")
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if path and reporter:
            counts = ", ".join(text for text, _ in reporter.build_summary_stats_line()[0])
            line = f" Python {self.label}: {re.sub('no tests ran', 'NO TESTS RAN', counts)} "
            with Path(path).open("a") as file:
                file.write(f"{line:=^100}\n")


if __name__ == "__main__":
    sys.exit(pytest.main(sys.argv[2:], plugins=[Summary(sys.argv[1])]))
