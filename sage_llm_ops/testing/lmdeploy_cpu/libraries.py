"""Loads TurboMind's binary on a machine without CUDA.

The loader wants the libraries that it names, though with lazy binding almost none of their functions;
empty ones of the same names satisfy it. The CUDA runtime is the real one, from LMDeploy's own
requirements. Nothing in it may be *run* here: only its Python types are used.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from sage_llm_ops.types.errors import EngineStartError

DRIVER = (
    "cuDeviceGetAttribute cuGetErrorString cuMemAddressFree cuMemAddressReserve cuMemCreate "
    "cuMemGetAllocationGranularity cuMemMap cuMemRelease cuMemRetainAllocationHandle cuMemSetAccess "
    "cuMemUnmap cuMulticastAddDevice cuMulticastBindMem cuMulticastCreate "
    "cuMulticastGetGranularity cuMulticastUnbind"
)
LIBRARIES = {
    "libcuda.so.1": DRIVER,
    "libnccl.so.2": "ncclGetVersion",
    "libcublas.so.12": "",
    "libcublasLt.so.12": "",
}
"""By name: the symbols that must be there when it is loaded. All of them answer "error"."""


@cache
def install() -> None:
    """Once per process."""
    if shutil.which("cc") is None:
        raise EngineStartError("TurboMind's test harness needs a C compiler, `cc`, and found none")
    with tempfile.TemporaryDirectory() as folder:
        for name, symbols in LIBRARIES.items():
            # What is loaded under a name is found by it; the file may go.
            ctypes.CDLL(str(_compile(Path(folder) / name, symbols)), mode=ctypes.RTLD_GLOBAL)
    sys.setdlopenflags(os.RTLD_LAZY)
    known = sys.modules.get("lmdeploy.turbomind")
    if known is not None:
        importlib.reload(known)  # it was looked for when LMDeploy was imported, and not found


def _compile(target: Path, symbols: str) -> Path:
    source = "".join(f"int {symbol}(void) {{ return 1; }}\n" for symbol in symbols.split())
    command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{target.name}", "-o", str(target)]
    subprocess.run([*command, "-x", "c", "-"], input=source.encode(), check=True)
    return target
