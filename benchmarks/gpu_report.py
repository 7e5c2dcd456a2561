"""Everything that needs a GPU, and its table: `python -m benchmarks.gpu_report` writes docs/gpu.md."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.gpu_checks import ENGINES, model, python_of, smi, why_not
from benchmarks.suites import gpu_engines

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "gpu.md"


def main() -> int:
    """The exit code: of the tests, or 2 without a GPU."""
    if not smi("name"):
        print("no NVIDIA GPU on this machine: nothing was run, docs/gpu.md is as it was")
        return 2
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/gpu"], cwd=ROOT, check=False
    )
    page = write(tests.returncode == 0)
    PAGE.write_text(page, encoding="utf-8")
    print(page)
    return tests.returncode


def write(passed: bool) -> str:
    """The page."""
    lines = [
        "# On a GPU",
        "",
        f"Made by `python -m benchmarks.gpu_report` on {datetime.now(UTC):%Y-%m-%d}.",
        "",
        f"* card: {', '.join(smi('name'))}, driver {smi('driver_version')[0]}",
        f"* model: {Path(model()).name}, float16",
        *(f"* {engine}: {why_not(engine) or version(engine)}" for engine in ENGINES),
        f"* tests/gpu: {'passed' if passed else 'FAILED'}",
        "",
        *(f"> {line}" for line in gpu_engines.WORKLOAD.splitlines()),
        "",
        "| metric | value | unit | min | max | n |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in gpu_engines.run("full").items():
        numbers = (
            f"{found.value:.4g} | {found.unit} | {found.min:.4g} | {found.max:.4g} | {found.n}"
        )
        lines.append(f"| {name} | {numbers} |")
    return "\n".join(lines) + "\n"


def version(engine: str) -> str:
    """Of the package, in the environment that it runs in."""
    name = engine.partition("-")[0]
    code = f"import importlib.metadata as m; print(m.version({name!r}))"
    if python_of(engine) == sys.executable:
        return importlib.metadata.version(name)
    return subprocess.check_output([python_of(engine), "-c", code], text=True).strip()


if __name__ == "__main__":
    sys.exit(main())
