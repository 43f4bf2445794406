"""Worker processes end with their parent, even one that is killed, and keep the memory they work in."""

import os
import signal
import subprocess
import sys
import time

import psutil

from lib.core.paths import ROOT


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_killed_parent_leaves_no_worker(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text("import os, time\nfrom lib.core.workers import processes\n\n\ndef pid(_):\n    time.sleep(0.1)\n"
                      "    return os.getpid()\n\n\nif __name__ == '__main__':\n"
                      "    print(*set(processes(2).map(pid, range(8))), flush=True)\n    time.sleep(600)\n")
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True,
                              env={**os.environ, "PYTHONPATH": str(ROOT)})
    workers = [int(word) for word in parent.stdout.readline().split()]
    assert workers and all(map(alive, workers))
    os.kill(workers[0], signal.SIGINT)  # is not theirs to heed
    time.sleep(0.3)
    assert alive(workers[0])
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, workers))


def test_memory_that_is_taken_again_and_again_is_given_once():
    script = ("import resource\nfrom lib.core.workers import keep_memory\nkept = keep_memory()\n"
              "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\nbefore = faults()\n"
              "for _ in range(8):\n    b'x' * (40 << 20)\nprint(int(kept), faults() - before)")
    said = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}).stdout.split()
    pages = (40 << 20) // os.sysconf("SC_PAGESIZE")
    assert said[0] == "0" or int(said[1]) < 2 * pages  # without it all eight blocks come empty from the system
