import time
from dataclasses import replace
from pathlib import Path

import pytest
from builds import BUILDS
from interpreter import Interpreter
from machine import GB, measure
from preflight import checks

CPU, SIM = BUILDS["cpu"], BUILDS["sim"]


def faults(machine, build, python, seen=(), installed=False):
    found = checks(machine, build, python, list(seen), installed)
    return {check.name: check for check in found if not check.ok}


def test_a_good_machine_has_no_faults(linux, python311):
    assert faults(linux, CPU, python311) == {}


def test_a_too_old_python_is_shown_with_the_range_and_a_way_out(linux):
    old = Interpreter("python3", "/usr/bin/python3", (3, 8, 18))
    check = faults(linux, CPU, None, [old])["python"]
    assert check.value == "python3 is 3.8.18"
    assert "3.11 to 3.13" in check.limit
    assert "PYTHON=" in check.fix


def test_no_python_at_all(linux):
    assert faults(linux, CPU, None)["python"].value == "none found"


def test_a_python_without_venv_names_the_package_that_brings_it(linux):
    half = Interpreter("python3", "/usr/bin/python3", (3, 12, 3), ("ensurepip",))
    check = faults(linux, CPU, None, [half])["python"]
    assert check.value == "python3 is 3.12.3 without ensurepip"
    assert "apt-get install python3.12-venv" in check.fix


def test_a_small_disk_offers_the_smaller_build(linux, python311):
    check = faults(replace(linux, disk_free=5 * GB), CPU, python311)["disk"]
    assert (check.value, check.limit) == ("5.0 GB free", "6.0 GB")
    assert "SAGE_LLM_OPS_BUILD=sim" in check.fix
    assert faults(replace(linux, disk_free=5 * GB), SIM, python311) == {}


def test_an_installed_environment_needs_room_for_changes_only(linux, python311):
    assert faults(replace(linux, disk_free=3 * GB), CPU, python311, installed=True) == {}


def test_little_memory(linux, python311):
    check = faults(replace(linux, memory_available=int(3.5 * GB)), CPU, python311)["memory"]
    assert (check.value, check.limit) == ("3.5 GB available", "4.0 GB")


def test_memory_that_is_not_told_is_not_checked(linux, python311):
    mac = replace(linux, system="Darwin", memory_available=None)
    assert faults(mac, SIM, python311) == {}


@pytest.mark.parametrize("fault", ["missing", "not writable (Permission denied)"])
def test_shm_is_needed_by_vllm_only(linux, python311, fault):
    machine = replace(linux, shm_fault=fault)
    check = faults(machine, CPU, python311)["shm"]
    assert fault in check.value
    assert "mount -t tmpfs" in check.fix
    assert faults(machine, SIM, python311) == {}


def test_the_cpu_build_asked_for_on_a_mac_is_refused(linux, python311):
    check = faults(replace(linux, system="Darwin"), CPU, python311)["platform"]
    assert "Darwin" in check.value
    assert "SAGE_LLM_OPS_BUILD=sim" in check.fix


def test_windows_is_sent_to_wsl(linux, python311):
    assert "wsl" in faults(replace(linux, system="Windows"), SIM, python311)["platform"].fix


def test_every_fault_prints_value_limit_and_fix(linux, python311):
    broken = replace(linux, disk_free=0, memory_available=0, shm_fault="missing")
    for check in faults(broken, CPU, None).values():
        first, second = check.lines()
        assert first.startswith("FAIL")
        assert check.value in first
        assert check.limit in first
        assert second.strip() == "mend it: " + check.fix


def test_measuring_this_machine_is_quick():
    start = time.monotonic()
    measure(Path(__file__).parent)
    assert time.monotonic() - start < 2
