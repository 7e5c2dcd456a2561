"""Finds the compiled tree, or makes it: one C file, compiled once a machine where there is a compiler.

A wheel may bring `libprefix.so` beside this file. Else the first use compiles `prefix.c` (a second)
into the user's cache (or, where there is no home to write to, into a folder of the user's own among
the temporary files), under a name that says which source and which compiler made it. Where neither
works, the tree in Python does the same thing, slower; docs/adr/0020 has the figures.
`SAGE_LLM_OPS_NATIVE=0` asks for that.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

log = logging.getLogger("sage_llm_ops.prefix_reuse")

SOURCE = Path(__file__).with_name("prefix.c")
SHIPPED = Path(__file__).with_name("libprefix.so")
FLAGS = ("-O3", "-std=gnu99", "-shared", "-fPIC")
COMPILERS = ("cc", "gcc", "clang")
COMPILE_S = 60.0


@functools.cache
def library() -> ctypes.PyDLL | None:
    """The compiled functions, or None. PyDLL: they keep the GIL, so that to other threads each call
    happens at once, and nobody waits for a busy thread's turn in the middle of a decision."""
    if os.environ.get("SAGE_LLM_OPS_NATIVE") == "0":
        return None
    try:
        return ctypes.PyDLL(str(found()))
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("the prefix index runs in Python, several times slower: %s", error)
        return None


def found() -> Path:
    """The library's file, compiled if need be; an error says what is in the way."""
    if os.environ.get("SAGE_LLM_OPS_NATIVE") == "0":
        raise OSError("SAGE_LLM_OPS_NATIVE=0 asks for it")
    if sys.byteorder != "little":
        raise OSError("it is written for little-endian machines")
    return SHIPPED if SHIPPED.is_file() else compiled()


def compiled() -> Path:
    """Where the library lies, after compiling it if nobody has; OSError says what is in the way."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, COMPILERS), None)
    if compiler is None:
        raise OSError(f"no C compiler ({', '.join(COMPILERS)} or CC) and no {SHIPPED.name}")
    source = SOURCE.read_bytes()
    made_of = (source, compiler.encode(), platform.machine().encode(), *map(str.encode, FLAGS))
    name = hashlib.sha256(b"\0".join(made_of)).hexdigest()[:24]
    directory = _directory()
    wanted = directory / f"prefix-{name}.so"
    if not wanted.is_file():
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            fresh = Path(scratch) / "prefix.so"
            command = [*compiler.split(), *FLAGS, "-o", str(fresh), str(SOURCE)]
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=COMPILE_S, check=False
            )
            if done.returncode:
                raise OSError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
            os.replace(fresh, wanted)  # whole or not at all, whoever else compiles it now
    return wanted


def _directory() -> Path:
    """Ours alone: what lies there is loaded as code."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        directory = base / "sage-llm-ops" / "native"
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        writable = os.access(directory, os.W_OK)
    except (OSError, RuntimeError):  # RuntimeError: a container's made-up user has no home at all
        writable = False
    if not writable:
        directory = Path(tempfile.gettempdir()) / f"sage-llm-ops-{os.getuid()}"
        directory.mkdir(exist_ok=True, mode=0o700)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise OSError(f"{directory} is no directory: remove it or set XDG_CACHE_HOME")
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise OSError(f"{directory} is writable by others: remove it or set XDG_CACHE_HOME")
    return directory
