from machine import memory_available, shm_fault

MEMINFO = "MemTotal:  8000000 kB\nMemFree: 1 kB\nMemAvailable:    4000000 kB\n"
HOST = 4_000_000 * 1024


def make(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "meminfo", folder / "cgroup"


def test_the_kernels_figure_counts_outside_a_container(tmp_path):
    files = {"meminfo": MEMINFO, "cgroup/memory.max": "max\n", "cgroup/memory.current": "5\n"}
    assert memory_available(*make(tmp_path, files)) == HOST


def test_a_containers_limit_counts_less_what_can_be_reclaimed(tmp_path):
    files = {
        "meminfo": MEMINFO,
        "cgroup/memory.max": "3000\n",
        "cgroup/memory.current": "2000\n",
        "cgroup/memory.stat": "anon 900\ninactive_file 1100\n",
    }
    assert memory_available(*make(tmp_path, files)) == 2100


def test_the_older_cgroup_layout(tmp_path):
    files = {
        "meminfo": MEMINFO,
        "cgroup/memory/memory.limit_in_bytes": "3000\n",
        "cgroup/memory/memory.usage_in_bytes": "2000\n",
    }
    assert memory_available(*make(tmp_path, files)) == 1000


def test_a_system_without_meminfo_does_not_tell(tmp_path):
    assert memory_available(tmp_path / "none", tmp_path) is None


def test_shm(tmp_path):
    assert shm_fault(tmp_path / "none") == "missing"
    assert shm_fault(tmp_path) == ""
    assert list(tmp_path.iterdir()) == []
