"""Packages that are installed as far as `importlib.metadata` can tell."""

from __future__ import annotations

from pathlib import Path


def install(site: Path, package: str, group: str, points: dict[str, str], source: str) -> None:
    """A package of one module with entry points, as an installer would leave it in `site`."""
    (site / f"{package}.py").write_text(source)
    info = site / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = "".join(f"{name} = {package}:{value}\n" for name, value in points.items())
    (info / "entry_points.txt").write_text(f"[sage_llm_ops.{group}]\n{lines}")
