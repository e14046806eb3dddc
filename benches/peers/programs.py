"""The programs that the measurements need: where they are, and their versions."""
import datetime
import os
import platform
import re
import shutil
import subprocess
import sys

from sites import PROFILED

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PACKAGES = {
    "nginx": "nginx",
    "haproxy": "haproxy",
    "caddy": "caddy",
    "wrk": "wrk",
    "h2load": "nghttp2-client",
    "curl": "curl",
    "htpasswd": "apache2-utils",
    "openssl": "openssl",
    "taskset": "util-linux",
}
VERSIONS = {"nginx": ["nginx", "-v"], "haproxy": ["haproxy", "-v"], "caddy": ["caddy", "version"]}


def demand(names):
    """Exits with a list of the missing programs, if any. Daemons may be in a folder that is not in the PATH of users."""
    os.environ["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"
    missing = [name for name in names if not shutil.which(name)]
    for name in missing:
        print(f"missing: {name} (Debian package {PACKAGES[name]})", file=sys.stderr)
    if missing:
        sys.exit(f"apt-get install {' '.join(sorted({PACKAGES[name] for name in missing}))}")


def ours(command, profiled):
    """Returns the commands that start tidegate, as lists: the given one or the release build, and a build with a profile if one is given."""
    commands = {"tidegate": _ours(command)}
    if profiled:
        commands[PROFILED] = profiled.split()
    return commands


def _ours(command):
    if command:
        return command.split()
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
    program = os.path.join(target, "release", "tidegate")
    if not os.path.exists(program):
        sys.exit(f"missing: {program} (cargo build --release; or name another one with --ours)")
    return [program, "serve", "-c", "{config}"]


def versions(peers, ours_commands):
    """Returns one line with the date, the kernel, and the version of each program."""
    words = [datetime.date.today().isoformat(), f"Linux {platform.release().split('-')[0]}"]
    programs = dict.fromkeys(peer.split("-")[0] for peer in peers)
    for name in programs:
        argv = [ours_commands["tidegate"][0], "--version"] if name == "tidegate" else VERSIONS.get(name)
        if argv:
            done = subprocess.run(argv, capture_output=True, text=True, check=True)
            number = re.search(r"\d+\.\d+[\d.]*", done.stdout + done.stderr)
            words.append(f"{name} {number[0] if number else '?'}")
    return ", ".join(words)
