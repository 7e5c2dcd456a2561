import pytest
from interpreter import Interpreter
from machine import GB, Machine


@pytest.fixture
def linux() -> Machine:
    """A machine that takes the CPU build."""
    return Machine(
        system="Linux",
        arch="x86_64",
        glibc=(2, 36),
        disk_free=50 * GB,
        memory_available=16 * GB,
        shm_fault="",
        gpu="",
    )


@pytest.fixture
def python311() -> Interpreter:
    return Interpreter("python3", "/usr/bin/python3.11", (3, 11, 7))
