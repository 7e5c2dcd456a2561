"""Other people's routers, in a virtual environment of their own under `.bench/`.

Their pins contradict each other's and ours, so none of them is a dependency. What cannot be
installed or does not come up is absent: named in the output, never replaced by a number.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sage_llm_ops.testing.servers import free_port

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".bench" / "routers"
INSTALL_S = 900
START_S = 90.0


@dataclass(frozen=True, slots=True)
class Router:
    """How it is installed and started; `{bin}`, `{port}` and the like are filled in."""

    name: str
    requirement: str
    command: tuple[str, ...]
    python: bool
    config: str = ""
    """Contents of `{file}`."""


_LISTEN = ("--host", "127.0.0.1", "--port", "{port}", "--prometheus-port", "{metrics}")
_RUST = (*_LISTEN, "--policy", "round_robin")
_URLS = ("--worker-urls", "http://127.0.0.1:{one}", "http://127.0.0.1:{two}")
ROUTERS = (
    Router(
        "litellm",
        "litellm[proxy]==1.106.2",
        ("{bin}/litellm", "--config", "{file}", "--host", "127.0.0.1", "--port", "{port}"),
        python=True,
        config="""\
model_list:
  - model_name: m
    litellm_params: {{model: openai/m, api_base: "http://127.0.0.1:{one}/v1", api_key: x}}
  - model_name: m
    litellm_params: {{model: openai/m, api_base: "http://127.0.0.1:{two}/v1", api_key: x}}
# Loopback, and nothing behind it; a key would make it check keys, which nobody else here does.
general_settings: {{dangerously_permit_weak_or_unset_master_key: true}}
""",
    ),
    Router("vllm-router", "vllm-router==0.1.17", ("{bin}/vllm-router", *_RUST, *_URLS), False),
    Router(
        "sglang-router",
        "sglang-router==0.3.2",
        ("{bin}/python", "-m", "sglang_router.launch_router", *_RUST, *_URLS),
        False,
    ),
)
UNKNOWN_PACKAGE = "production-stack (this suite knows no package to install its router from)"


def install(router: Router) -> str:
    """Empty where it is there now, else why not."""
    pip = HOME / router.name / "bin" / "pip"
    done = HOME / router.name / router.requirement.replace("/", "_")
    if done.exists():
        return ""
    try:
        subprocess.run([sys.executable, "-m", "venv", str(HOME / router.name)], check=True)
        said = subprocess.run(
            [pip, "install", "-q", router.requirement],
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"not installed: {type(error).__name__}"
    if said.returncode:
        return f"not installed: {(said.stderr.strip().splitlines() or ['pip failed'])[-1][:120]}"
    done.touch()
    return ""


@contextmanager
def running(router: Router, port: int, one: int, two: int) -> Iterator[None]:
    """A started router that has answered once."""
    with tempfile.TemporaryDirectory() as directory:
        fills = {
            "bin": str(HOME / router.name / "bin"),
            "port": port,
            "one": one,
            "two": two,
            "metrics": free_port(),
            "file": str(Path(directory) / "config.yaml"),
        }
        Path(str(fills["file"])).write_text(router.config.format(**fills))
        command = [part.format(**fills) for part in router.command]
        log = Path(directory) / "log"
        with started(command, log) as child:
            try:
                wait_for_answer(port, child=child)
            except TimeoutError as error:
                last = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise TimeoutError(f"{error}; its log ends: {' '.join(last)[:200]}") from None
            yield


@contextmanager
def started(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child process, ended whatever happens."""
    with log.open("wb") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT)
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def wait_for_answer(
    port: int, timeout_s: float = START_S, child: subprocess.Popen[bytes] | None = None
) -> None:
    """Until a chat is answered with 200, or the child that should do it is gone."""
    import json

    from benchmarks.http_load import PATH, body

    until = time.monotonic() + timeout_s
    raw = json.dumps(body(bytes_=8)).encode()
    headers = {"content-type": "application/json"}
    while True:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{PATH}", raw, headers)
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except OSError as error:
            gone = child is not None and child.poll() is not None
            if gone or time.monotonic() > until:
                raise TimeoutError(f"nothing answers on port {port}: {error}") from None
            time.sleep(0.1)
