"""pip's settings, handed to uv.

uv reads its own settings and not pip's. On a machine behind a mirror, or with a folder of wheels,
usually only pip was told of it; so what pip knows is passed on. What uv was told itself (a UV_
variable) wins.
"""

from __future__ import annotations

import ast
import os
import subprocess
from dataclasses import dataclass, field
from typing import Iterable, Mapping

# From weakest to strongest, as pip reads them.
SECTIONS = ("global", "install", ":env:")
# pip's option -> the uv variables that mean the same (we set the first), and how uv separates values.
# Variables rather than flags: an index address may hold a password, and every user can read arguments.
FORWARDED = {
    "index-url": (("UV_DEFAULT_INDEX", "UV_INDEX_URL"), ""),
    "extra-index-url": (("UV_EXTRA_INDEX_URL", "UV_INDEX"), " "),
    "find-links": (("UV_FIND_LINKS",), ","),
    "cert": (("SSL_CERT_FILE",), ""),
    "client-cert": (("SSL_CLIENT_CERT",), ""),
    "proxy": (("ALL_PROXY", "HTTPS_PROXY", "https_proxy"), ""),
    "default-timeout": (("UV_HTTP_TIMEOUT",), ""),
    "timeout": (("UV_HTTP_TIMEOUT",), ""),
}
SOURCES = ("index-url", "extra-index-url", "find-links")


@dataclass
class UvSettings:
    env: dict[str, str] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    # True where something beside the default index is offered: torch's CPU build may come from there.
    own_sources: bool = False


def read(python: str, env: Mapping[str, str]) -> dict[str, str]:
    """pip's effective settings; empty where pip cannot be asked, because uv may still succeed without."""
    try:
        out = subprocess.run(
            [python, "-m", "pip", "config", "list"],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(env),
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return parse(out.stdout.decode("utf-8", "replace").splitlines())


def parse(lines: Iterable[str]) -> dict[str, str]:
    """`section.option='value'`, with pip's precedence: environment, then `install`, then `global`."""
    by_section: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for line in lines:
        name, separator, quoted = line.partition("=")
        section, _, option = name.rpartition(".")
        if not separator or section not in by_section:
            continue
        try:
            value = ast.literal_eval(quoted)
        except (ValueError, SyntaxError):
            continue
        by_section[section][option] = str(value)
    return {k: v for section in SECTIONS for k, v in by_section[section].items()}


def forward(pip: Mapping[str, str], env: Mapping[str, str]) -> UvSettings:
    uv = UvSettings()
    for option, (names, separator) in FORWARDED.items():
        values = pip.get(option, "").split()
        if option == "find-links":
            values = [v for v in values if _exists(v)]
        if values and not any(env.get(name) for name in names):
            uv.env[names[0]] = separator.join(values) if separator else values[0]
    for host in pip.get("trusted-host", "").split():
        uv.flags += ["--allow-insecure-host", host]
    if pip.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        uv.flags.append("--no-index")
    if "UV_EXTRA_INDEX_URL" in uv.env and not env.get("UV_INDEX_STRATEGY"):
        # pip merges all its indexes; uv looks no further than the first that knows a package's name.
        uv.env["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    both = {**env, **uv.env}
    sources = [name for option in SOURCES for name in FORWARDED[option][0]]
    uv.own_sources = any(both.get(name) for name in [*sources, "UV_TORCH_BACKEND"])
    return uv


def _exists(link: str) -> bool:
    """A folder that is gone is a warning to pip and an error to uv."""
    path = link[len("file://") :] if link.startswith("file://") else link
    return "://" in path or os.path.exists(os.path.expanduser(path))
