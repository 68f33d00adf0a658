"""Time the two set-up commands of the README in a fresh clone, each in an empty virtual environment.

    python -m benchmarks.setup_commands

Downloads come from the package index and pip's cache, as they do for anybody. The result is kept in
benchmarks/results/.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from benchmarks.machine import machine
from experiments.results.files import write_json

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Run both commands, print and write what they took."""
    commands = re.findall(
        r"^python -m pip install .*&&.*$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    rows = {}
    for command in commands:
        install, _, work = command.partition(" && ")
        with tempfile.TemporaryDirectory() as folder:
            clone, environment = Path(folder) / "clone", Path(folder) / "environment"
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
            subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
            path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
            seconds = []
            for part in (install, work):
                start = time.perf_counter()
                subprocess.run(part, shell=True, check=True, cwd=clone, env={**os.environ, "PATH": path})
                seconds.append(time.perf_counter() - start)
            size = sum(file.lstat().st_size for file in environment.rglob("*") if not file.is_dir())
        rows[command] = {
            "install_seconds": round(seconds[0], 1),
            "work_seconds": round(seconds[1], 1),
            "environment_gigabytes": round(size / 1e9, 2),
        }
    content = {"date": date.today().isoformat(), **machine(), "commands": rows}
    write_json(ROOT / "benchmarks" / "results" / "setup_commands.json", content)
    for command, row in rows.items():
        print(command, row, sep="\n")


if __name__ == "__main__":
    main()
