"""Worker processes end with their parent, even one that is killed, and keep the memory they work
in.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from lib.core import executor, workers
from lib.core.paths import ROOT
from lib.core.store import Store


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_killed_parent_leaves_no_worker(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\nfrom lib.core.workers import processes\n\n\n"
        "def pid(_):\n    time.sleep(0.1)\n"
        "    return os.getpid()\n\n\nif __name__ == '__main__':\n"
        "    print(*set(processes(2).map(pid, range(8))), flush=True)\n    time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True,
                              env={**os.environ, "PYTHONPATH": str(ROOT)})
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert pids and all(map(alive, pids))
    os.kill(pids[0], signal.SIGINT)  # is not theirs to heed
    time.sleep(0.3)
    assert alive(pids[0])
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, pids))


def test_memory_that_is_taken_again_and_again_is_given_once():
    script = (
        "import resource\nfrom lib.core.workers import keep_memory\nkept = keep_memory()\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\nbefore = faults()\n"
        "for _ in range(8):\n    b'x' * (40 << 20)\nprint(int(kept), faults() - before)"
    )
    said = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).stdout.split()
    pages = (40 << 20) // os.sysconf("SC_PAGESIZE")
    # without it all eight blocks come empty from the system
    assert said[0] == "0" or int(said[1]) < 2 * pages


def test_a_script_without_a_main_guard_is_told_what_to_write(tmp_path):
    """It once hung for ever: every worker began the script anew and waited for the lock of the
    first.
    """
    script = tmp_path / "script.py"
    work = (
        "from lib.core import executor\nfrom lib.core.store import Store\nfrom tests import steps\n"
        f"store = Store({str(tmp_path / 'store')!r}, workers=2)\n"
        f"executor.make(store, [steps.numbers({{'count': 2}})])\n"
    )
    script.write_text(work)
    answer = subprocess.run(
        [sys.executable, script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert answer.returncode == 1 and 'if __name__ == "__main__":' in answer.stderr
    assert (
        "WorkerError: Worker processes import the script" in answer.stderr
        and str(script) in answer.stderr
    )


def test_a_worker_that_still_imports_its_parent_s_script_makes_nothing(monkeypatch):
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(workers.WorkerError, match="__main__"):
        executor.make(Store("nowhere"), [])
