"""Runs the phases of the install in turn, shows their time and size, keeps their output in a log."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Mapping, Sequence

MB = 10**6
# Between two signs of life: on a terminal, and in a CI log, where each is a line.
TERMINAL_S, LOG_S = 0.5, 20.0


class PhaseFailed(Exception):
    def __init__(self, title: str, code: int, output: str) -> None:
        super().__init__("%s failed (exit code %d)" % (title, code))
        self.output = output


class Phases:
    """`log` is the bootstrap's open lock file: children inherit it, so the lock outlives a killed parent."""

    def __init__(self, log: IO[bytes], folder: Path) -> None:
        self._log = log
        self._folder = folder
        self._terminal = sys.stdout.isatty()

    def run(self, title: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self._log.seek(0, os.SEEK_END)
        begin = self._log.tell()
        self._log.write(("\n$ %s\n" % " ".join(argv)).encode())
        self._log.flush()
        start = time.monotonic()
        free = shutil.disk_usage(str(self._folder)).free
        code = self._wait(self._start(argv, env), title, start, free)
        if code:
            self._line("%-34s failed" % title)
            raise PhaseFailed(title, code, self._tail(begin))
        self.done(title, start)

    def done(self, title: str, start: float, size: str = "") -> None:
        self._line("%-34s %5.1f s  %s" % (title, time.monotonic() - start, size))

    def _start(self, argv: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=str(self._folder),
            pass_fds=(self._log.fileno(),),
        )

    def _wait(self, child: subprocess.Popen[bytes], title: str, start: float, free: int) -> int:
        try:
            while True:
                try:
                    return child.wait(timeout=TERMINAL_S if self._terminal else LOG_S)
                except subprocess.TimeoutExpired:
                    written = max(0, free - shutil.disk_usage(str(self._folder)).free) // MB
                    seconds = time.monotonic() - start
                    self._sign("%-34s %5.0f s  %d MB written" % (title, seconds, written))
        except BaseException:
            _stop(child)
            raise

    def _sign(self, text: str) -> None:
        if self._terminal:
            print("\r\033[K%s" % text, end="", flush=True)
        else:
            print(text, flush=True)

    def _line(self, text: str) -> None:
        print(("\r\033[K" if self._terminal else "") + text.rstrip(), flush=True)

    def _tail(self, begin: int) -> str:
        with open(self._log.name, "rb") as file:
            file.seek(begin)
            return file.read().decode("utf-8", "replace")


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Interrupted: the child must be gone before the lock is, else it would write under the next run."""
    child.send_signal(signal.SIGINT)
    try:
        child.wait(timeout=5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def size_of(folder: Path) -> str:
    """Bytes in use below a folder; files shared with uv's cache (hard links) count as well."""
    total, stack = 0, [str(folder)]
    while stack:
        with os.scandir(stack.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    return "%d MB" % (total // MB)
