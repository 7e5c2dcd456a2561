"""What the machine has to give."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SHM = Path("/dev/shm")
MEND_SHM = "sudo mount -t tmpfs -o mode=1777 tmpfs /dev/shm (docker run --shm-size=1g)"
MEND_INDEX = (
    "install a C compiler (apt-get install gcc) or set CC to one; unset SAGE_LLM_OPS_NATIVE"
)
MIB = 1 << 20


def shared_memory() -> str:
    """A file in it, mapped and written, as engines with several processes do."""
    import mmap

    from sage_llm_ops.cli.doctor.checks import Absent

    if not SHM.is_dir():
        raise Absent("not there: engines of several processes cannot run", MEND_SHM)
    with tempfile.TemporaryFile(dir=SHM) as file:
        file.truncate(MIB)
        with mmap.mmap(file.fileno(), MIB) as memory:
            memory[:] = b"\1" * MIB
    return f"writable, {shutil.disk_usage(SHM).free // MIB} MiB free"


def ipc_socket() -> str:
    """A message to ourselves, through a socket file like a worker's."""
    import zmq

    from sage_llm_ops.engines.child import private_directory

    folder = private_directory()
    context = zmq.Context()
    try:
        address = f"ipc://{folder}/doctor"
        with context.socket(zmq.PAIR) as one, context.socket(zmq.PAIR) as two:
            one.linger = two.linger = 0
            one.bind(address)
            two.connect(address)
            two.send(b"hello")
            if not one.poll(2000):
                raise TimeoutError("a message took more than two seconds")
            one.recv()
        return f"works in {os.path.dirname(folder)} (ZeroMQ {zmq.zmq_version()})"
    finally:
        context.term()
        shutil.rmtree(folder, ignore_errors=True)


def prefix_index() -> str:
    """The library that is compiled at first use; it is, here."""
    from sage_llm_ops.cli.doctor.checks import Absent
    from sage_llm_ops.prefix_reuse import native

    try:
        library = native.found()
    except (OSError, subprocess.SubprocessError) as error:
        said = f"runs in Python, about forty times slower: {error}"
        raise Absent(said, MEND_INDEX) from None
    return f"compiled: {library}"


def gpus() -> str:
    """As the driver lists them: asking torch would load it."""
    from sage_llm_ops.cli.doctor.checks import Absent

    program = shutil.which("nvidia-smi")
    if program is None:
        raise Absent("none: no NVIDIA driver here")
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise RuntimeError(f"nvidia-smi: {(done.stderr or done.stdout).strip()[:200]}")
    names = done.stdout.strip().splitlines()
    if not names:
        raise Absent("none seen by the driver")
    return "; ".join(names)
