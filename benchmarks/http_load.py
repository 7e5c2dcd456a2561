"""Load on an HTTP server: wrk for rates, a plain socket for single calls."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROMPT_BYTES = 8192
WORDS = "the control plane of serving decides where each request goes and why it went there "
PATH = "/v1/chat/completions"


def body(*, stream: bool = False, bytes_: int = PROMPT_BYTES) -> dict[str, Any]:
    """A chat of one long turn, one token to answer."""
    text = (WORDS * (bytes_ // len(WORDS) + 1))[:bytes_]
    asked = {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 1}
    return {**asked, "stream": True} if stream else asked


@dataclass(frozen=True, slots=True)
class Rate:
    """What wrk said."""

    rps: float
    p50_ms: float


def wrk(port: int, connections: int, seconds: int) -> Rate:
    """Requests per second with so many connections; raises if any answer was no 2xx."""
    if shutil.which("wrk") is None:
        raise RuntimeError("wrk is not installed: apt-get install wrk")
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "post.lua"
        script.write_text(
            'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n'
            f"wrk.body = [==[{json.dumps(body())}]==]\n"
        )
        done = subprocess.run(
            [
                *("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"),
                *("-s", str(script), f"http://127.0.0.1:{port}{PATH}"),
            ],
            capture_output=True,
            text=True,
            timeout=seconds + 30,
            check=True,
        )
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise RuntimeError(f"port {port} did not answer every request:\n{done.stdout}")
    rate = re.search(r"Requests/sec:\s*([\d.]+)", done.stdout)
    p50 = re.search(r"50%\s+([\d.]+)(us|ms|s)", done.stdout)
    assert rate is not None and p50 is not None, done.stdout
    unit = {"us": 1e-3, "ms": 1.0, "s": 1e3}[p50[2]]
    return Rate(float(rate[1]), float(p50[1]) * unit)


class Caller:
    """One connection, one call at a time: the time to an answer, or to a stream's first token."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def whole_ms(self) -> float:
        """To the end of an answer."""
        return self._call(body(), _whole)

    def first_token_ms(self) -> float:
        """To the first content of a stream; the rest is read before this returns."""
        return self._call(body(stream=True), lambda data: b'"content":"' in _contents(data))

    def _call(self, asked: dict[str, Any], there: Any) -> float:
        raw = json.dumps(asked).encode()
        head = (
            f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            f"content-length: {len(raw)}\r\n\r\n"
        )
        data, took = b"", None
        began = time.perf_counter()
        self._socket.sendall(head.encode() + raw)
        while True:
            chunk = self._socket.recv(1 << 16)
            if not chunk:
                raise RuntimeError(f"the server hung up after {data[:300]!r}")
            data += chunk
            if took is None and there(data):
                took = time.perf_counter() - began
            if data.endswith(b"\r\n0\r\n\r\n") or (b"chunked" not in data and _whole(data)):
                break
        if took is None or not data.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"no token in {data[:500]!r}")
        return took * 1e3


def _contents(data: bytes) -> bytes:
    """Without the event that only says who speaks."""
    return data.replace(b'"content":""', b"").replace(b'"content": "', b'"content":"')


def _whole(data: bytes) -> bool:
    head, end, rest = data.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    if not end:
        return False
    if length is None:
        return data.endswith(b"\r\n0\r\n\r\n")
    return len(rest) >= int(length[1])
