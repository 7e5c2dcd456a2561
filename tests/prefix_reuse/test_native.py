"""How the compiled tree is found, made, or done without."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sage_llm_ops.prefix_reuse import native

WHICH = """
import logging
logging.basicConfig(format="%(message)s")
from sage_llm_ops.prefix_reuse import PrefixReuseIndex
index = PrefixReuseIndex(4)
index.insert(range(8), "w")
print(type(index.tree).__name__, index.lookup(range(9)).of("w"))
"""


def run(**environment: str) -> tuple[str, str]:
    """What another process uses, and what it says of it."""
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", WHICH],
        env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip(), done.stderr


@pytest.fixture
def compiler() -> None:
    if native.library() is None:
        pytest.skip("no C compiler")


def test_it_is_compiled_once(tmp_path: Path, compiler: None) -> None:
    assert run(XDG_CACHE_HOME=str(tmp_path))[0] == "CompiledTree 8"
    (made,) = (tmp_path / "sage-llm-ops" / "native").iterdir()
    before = made.stat().st_mtime_ns
    assert run(XDG_CACHE_HOME=str(tmp_path), PATH="/nowhere", CC="cc")[0] == "CompiledTree 8"
    assert made.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"PATH": "/nowhere"}, "no C compiler"),
        ({"CC": "false"}, "false -O3"),
        ({"CC": "/nowhere/cc"}, "No such file"),
    ],
)
def test_without_a_compiler_it_runs_in_python_and_says_so(
    tmp_path: Path, environment: dict[str, str], said: str
) -> None:
    out, warned = run(XDG_CACHE_HOME=str(tmp_path), **environment)
    assert out == "PythonTree 8"
    assert "runs in Python" in warned
    assert said in warned


def test_without_a_home_it_is_compiled_among_the_temporary_files(
    tmp_path: Path, compiler: None
) -> None:
    for _ in range(2):
        assert run(HOME="/proc/nobody", TMPDIR=str(tmp_path)) == ("CompiledTree 8", "")
    (directory,) = tmp_path.iterdir()
    assert directory.stat().st_mode & 0o077 == 0
    (made,) = directory.iterdir()
    made.unlink()
    directory.rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(0o700)
    directory.symlink_to(elsewhere)
    out, warned = run(HOME="/proc/nobody", TMPDIR=str(tmp_path))
    assert out == "PythonTree 8"
    assert "is no directory" in warned


def test_a_user_without_a_home_at_all(
    tmp_path: Path, compiler: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert native.compiled().parent.parent == tmp_path


def test_a_fleet_compiles_before_its_first_worker(tmp_path: Path, compiler: None) -> None:
    """A worker comes up in the middle of the graph's work."""
    program = "from sage_llm_ops.prefix_reuse import PrefixFleet; PrefixFleet()"
    subprocess.run(
        [sys.executable, "-c", program],
        env={
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
            "PATH": "/usr/bin:/bin",
            "XDG_CACHE_HOME": str(tmp_path),
        },
        check=True,
    )
    assert list((tmp_path / "sage-llm-ops" / "native").iterdir())


SHORT = """
import resource, sys
from itertools import count
from sage_llm_ops.prefix_reuse import PrefixReuseIndex
from sage_llm_ops.types.prefix import Salt
what = sys.argv[1]
index = PrefixReuseIndex(16, max_blocks=1 << 30)
for number in range(500):
    index.insert(range(2000 * number, 2000 * number + 1600), "w")
before = resource.getrlimit(resource.RLIMIT_AS)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
tree = index.tree
resource.setrlimit(resource.RLIMIT_AS, (used + (24 << 20), before[1]))
told, copies = "", []
try:
    for number in count(1000):
        tokens = range(2000 * number, 2000 * number + 1600)
        data = index._data(tokens)
        root = tree.root(index.digest(Salt()), True)
        if what == "insert":
            index.insert(tokens, "w")
        elif what == "expect":
            tree.expect(root, data, 100, 0)
        elif what == "stored":
            tree.stored(root, None, data[:800], data, 100, 0, 1)
        elif what == "clone":
            copies.append(index.snapshot())
        elif what == "holders":
            tree.ensure_holders(1000 * number)
except MemoryError as error:
    told = str(error)
copies.clear()
resource.setrlimit(resource.RLIMIT_AS, before)
index.check_integrity()
assert index.lookup(range(1600)).of("w") == 1600
index.insert(range(10, 170), "v")
index.evict_lru(1000)
index.check_integrity()
index.remove("w")
index.remove("v")
index.check_integrity()
print(told)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on address space")
@pytest.mark.parametrize("what", ["insert", "expect", "stored", "clone", "holders"])
def test_where_memory_is_short_it_says_so_and_stays_whole(
    what: str, tmp_path: Path, compiler: None
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHORT, what],
        env={
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
            "PATH": "/usr/bin:/bin",
            "XDG_CACHE_HOME": str(tmp_path),
            "OPENBLAS_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("no memory for")


def test_what_is_asked_for_and_not_there_is_refused(tmp_path: Path) -> None:
    program = "from sage_llm_ops.prefix_reuse import PrefixReuseIndex as P; P(4, compiled=True)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
            "PATH": "/nowhere",
            "XDG_CACHE_HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert "CapabilityError: there is no compiled prefix index here" in done.stderr


def test_python_on_request(tmp_path: Path) -> None:
    assert run(XDG_CACHE_HOME=str(tmp_path), SAGE_LLM_OPS_NATIVE="0") == ("PythonTree 8", "")
    assert not list(tmp_path.iterdir())


def test_no_code_is_loaded_from_where_others_can_write(tmp_path: Path) -> None:
    directory = tmp_path / "sage-llm-ops" / "native"
    directory.mkdir(parents=True)
    directory.chmod(0o777)
    out, warned = run(XDG_CACHE_HOME=str(tmp_path))
    assert out == "PythonTree 8"
    assert "writable by others" in warned
