"""The load of the Swarm test: clients of several kinds, which write one JSON line for each operation to standard output.

usage: load.py HOST CA USERS SKOPEO_DIR DOCKER_SOCKET

USERS is a file with lines USER:PASSWORD. SKOPEO_DIR has the folder "image" with an image in skopeo's form "dir", and
"trust" with the CA. The daemon of DOCKER_SOCKET has the image "load" and a login. The load ends when standard input closes, after
the operations that have begun.

A line has kind, begin and end (seconds of the clock), ok, and, if the operation failed, error. An operation is tried once.
The one exception is that of every HTTP client: a request on a connection that was open before, and that closes before the
first byte of a response, is sent again on a new connection.
"""

import base64
import hashlib
import http.client
import json
import os
import random
import select
import socket
import ssl
import subprocess
import sys
import threading
import time

HOST, CA, USERS, SKOPEO_DIR, DOCKER_SOCKET = sys.argv[1:]
LOGINS = [line.strip().split(":", 1) for line in open(USERS)]
MIB = 1 << 20
# A transfer takes several seconds, so that some are in progress whenever a copy stops.
PIECES, PIECE, PAUSE = 10, MIB, 0.4
TIMEOUT = 60
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"

context = ssl.create_default_context(cafile=CA)
stopping = threading.Event()
printing = threading.Lock()


def report(kind, begin, error):
    line = {"kind": kind, "begin": begin, "end": time.time(), "ok": error is None}
    if error is not None:
        line["error"] = str(error)[:400]
    with printing:
        print(json.dumps(line), flush=True)


def connect():
    return http.client.HTTPSConnection(HOST, context=context, timeout=TIMEOUT)


class Client:
    """One connection at a time, which is opened again after the server closed it."""

    def __init__(self):
        self.connection = None

    def request(self, method, path, headers=None, body=None, status=200):
        was_open = self.connection is not None
        if not was_open:
            self.connection = connect()
        try:
            self.connection.request(method, path, body=body, headers=headers or {})
            response = self.connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, ssl.SSLEOFError):
            self.close()
            if was_open:
                return self.request(method, path, headers, body, status)
            raise
        data = response.read() if method != "HEAD" else b""
        if response.status != status:
            raise RuntimeError(f"{method} {path}: {response.status} {data[:200]!r}")
        if response.will_close:
            self.close()
        return response, data

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def token(self, scope, login):
        headers = {}
        if login:
            credentials = base64.b64encode(":".join(login).encode()).decode()
            headers["Authorization"] = f"Basic {credentials}"
        _, data = self.request("GET", f"/v2/_token?service={HOST}&scope={scope}", headers)
        return {"Authorization": "Bearer " + json.loads(data)["token"]}


def ping_of_a_new_connection():
    client = Client()
    client.request("GET", "/v2/", status=401)
    client.close()


kept = Client()


def ping_of_an_open_connection():
    kept.request("GET", "/v2/", status=401)


def login():
    client = Client()
    client.token("repository:team/app:pull", random.choice(LOGINS))
    client.close()


def anonymous_pull():
    client = Client()
    token = client.token("repository:public/app:pull", None)
    _, manifest = client.request("GET", "/v2/public/app/manifests/latest", {**token, "Accept": MANIFEST})
    digest = json.loads(manifest)["layers"][0]["digest"]
    _, layer = client.request("GET", f"/v2/public/app/blobs/{digest}", token)
    if "sha256:" + hashlib.sha256(layer).hexdigest() != digest:
        raise RuntimeError("the layer has other bytes")
    client.close()


def push():
    """An upload of several requests, whose bytes arrive slowly."""
    client = Client()
    repository = f"team/load{random.randrange(20)}"
    token = client.token(f"repository:{repository}:pull,push", LOGINS[0])
    response, _ = client.request("POST", f"/v2/{repository}/blobs/uploads/", token, status=202)
    digest = hashlib.sha256()

    def pieces():
        for _ in range(PIECES):
            piece = os.urandom(PIECE)
            digest.update(piece)
            yield piece
            time.sleep(PAUSE)

    def location(response):
        return response.getheader("Location").removeprefix(f"https://{HOST}")

    headers = {**token, "Content-Type": "application/octet-stream"}
    response, _ = client.request("PATCH", location(response), headers, pieces(), 202)
    path = location(response) + f"&digest=sha256:{digest.hexdigest()}"
    client.request("PUT", path, token, status=201)
    response, _ = client.request("HEAD", f"/v2/{repository}/blobs/sha256:{digest.hexdigest()}", token)
    if int(response.getheader("Content-Length")) != PIECES * PIECE:
        raise RuntimeError("the blob has another length")
    client.close()
    return repository, digest.hexdigest()


pushed = [None]


def pull():
    """A download that is read slowly."""
    if pushed[0] is None:
        pushed[0] = push()
    repository, digest = pushed[0]
    client = Client()
    token = client.token(f"repository:{repository}:pull", LOGINS[0])
    connection = connect()
    connection.request("GET", f"/v2/{repository}/blobs/sha256:{digest}", headers=token)
    # A small window: the server cannot write the blob into the kernel's buffers at once.
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"{response.status} {response.read()[:200]!r}")
    received = hashlib.sha256()
    while piece := response.read(PIECE):
        received.update(piece)
        time.sleep(PAUSE)
    if received.hexdigest() != digest:
        raise RuntimeError("the blob has other bytes, or is cut short")
    connection.close()


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)


def skopeo_round_trip():
    user, password = random.choice(LOGINS)
    name = f"docker://{HOST}/team/skopeo{random.randrange(1 << 30)}:latest"
    trust = f"{SKOPEO_DIR}/trust"
    run("skopeo", "copy", "--dest-cert-dir", trust, "--dest-creds", f"{user}:{password}", f"dir:{SKOPEO_DIR}/image", name)
    run("skopeo", "copy", "--src-cert-dir", trust, "--src-creds", f"{user}:{password}", name, f"dir:{SKOPEO_DIR}/copy")


def docker_round_trip():
    docker = ["docker", "-H", f"unix://{DOCKER_SOCKET}"]
    name = f"{HOST}/team/docker{random.randrange(1 << 30)}:latest"
    run(*docker, "tag", "load", name)
    run(*docker, "push", name)
    run(*docker, "rmi", name)
    run(*docker, "pull", name)
    run(*docker, "rmi", name)


def repeat(kind, interval, operation):
    while not stopping.is_set():
        begin = time.time()
        error = None
        try:
            operation()
        except Exception as failure:  # every failure is a result
            error = f"{type(failure).__name__}: {failure}"
        report(kind, begin, error)
        stopping.wait(max(0.0, interval - (time.time() - begin)))


def pings_of_http2():
    """curl sends one request after the other on one connection, and opens another when the server sends GOAWAY."""
    template = "%{stderr}%{http_code} %{http_version} %{time_total} %{exitcode} %{errormsg}\n"
    while not stopping.is_set():
        url = f"https://{HOST}/v2/#[1-100]"
        options = ["--silent", "--http2", "--cacert", CA, "--rate", "10/s", "--max-time", "60", "--output", "/dev/null"]
        curl = subprocess.Popen(["curl", *options, "--write-out", template, url], stderr=subprocess.PIPE, text=True)
        for line in curl.stderr:
            words = line.rstrip("\n").split(" ", 4)
            ok = words[:2] == ["401", "2"] and words[3] == "0"
            report("ping HTTP/2", time.time() - float(words[2]), None if ok else line)
        curl.wait()


KINDS = [
    ("ping", 0.05, ping_of_a_new_connection),
    ("ping, open connection", 0.05, ping_of_an_open_connection),
    ("login", 0.2, login),
    ("anonymous pull", 0.2, anonymous_pull),
    ("push", 0.5, push),
    ("push", 0.5, push),
    ("pull", 0.5, pull),
    ("pull", 0.5, pull),
    ("skopeo push and pull", 1.0, skopeo_round_trip),
    ("docker push and pull", 1.0, docker_round_trip),
]
threads = [threading.Thread(target=repeat, args=kind) for kind in KINDS]
threads.append(threading.Thread(target=pings_of_http2))
pushed[0] = push()
for thread in threads:
    thread.start()
while sys.stdin.buffer.read(1):
    pass
stopping.set()
for thread in threads:
    thread.join()
