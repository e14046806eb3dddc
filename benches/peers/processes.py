"""Starts processes on one processor, reads their processor time and memory from /proc, and ends them."""
import os
import re
import signal
import socket
import subprocess
import sys
import time

PROXY_CPU, LOAD_CPU = "0", "1"
TICK = os.sysconf("SC_CLK_TCK")
STARTED_WITHIN = 60  # seconds; a configuration with 100 000 users takes some to load


def free_port():
    """Returns a port on which no program listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Process:
    """A program with all its child processes."""

    def __init__(self, folder, name, argv, port, cpu=PROXY_CPU):
        self.name, self.log = name, f"{folder}/{name}.log"
        environment = dict(os.environ, GOMAXPROCS="1", HOME=folder, XDG_DATA_HOME=folder)
        with open(self.log, "wb") as log:
            self.child = subprocess.Popen(["taskset", "-c", cpu] + argv, stdin=subprocess.DEVNULL, stdout=log,
                                          stderr=log, env=environment)
        self._await(port)

    def _await(self, port):
        until = time.monotonic() + STARTED_WITHIN
        while time.monotonic() < until and self.child.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 0.2).close()
                return
            except OSError:
                time.sleep(0.05)
        self.stop()
        with open(self.log, encoding="utf-8", errors="replace") as log:
            sys.exit(f"{self.name} did not start:\n{log.read()[-2000:]}")

    def stop(self):
        """Ends the program, and waits until all its processes have ended."""
        self.child.send_signal(signal.SIGTERM)
        try:
            self.child.wait(5)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()

    def _tree(self):
        found, waiting = [self.child.pid], [self.child.pid]
        while waiting:
            parent = waiting.pop()
            for task in _listed(f"/proc/{parent}/task"):
                children = [int(pid) for pid in _read(f"/proc/{parent}/task/{task}/children").split()]
                found += children
                waiting += children
        return found

    def cpu(self):
        """The seconds of processor time so far. The source is schedstat (nanoseconds) if the kernel has it, else stat (ticks),
        which includes threads that have ended."""
        total = 0.0
        for pid in self._tree():
            counted = [_read(f"/proc/{pid}/task/{task}/schedstat").split() for task in _listed(f"/proc/{pid}/task")]
            exact = sum(int(words[0]) for words in counted if words) / 1e9
            fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
            ticks = (int(fields[11]) + int(fields[12])) / TICK if fields else 0
            total += max(exact, ticks)
        return total

    def memory(self, what="VmRSS"):
        """The resident memory in MiB: the current value, or with VmHWM the maximum so far."""
        sizes = [re.search(what + r":\s+(\d+)", _read(f"/proc/{pid}/status")) for pid in self._tree()]
        return sum(int(size[1]) for size in sizes if size) / 1024


def _read(path):
    """Returns the text of a file in /proc; an empty text if the process has just ended."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""


def _listed(path):
    try:
        return os.listdir(path)
    except OSError:
        return []
