"""The site that every proxy serves: certificate, blobs, user, and the configuration of each proxy."""
import os
import subprocess

from processes import LOAD_CPU, Process, free_port

HERE = os.path.dirname(os.path.abspath(__file__))
USER, PASSWORD = "alice", "correct-horse-battery"
BLOB, SMALL = "sha256:" + "b" * 64, "sha256:" + "a" * 64
SMALL_SIZE = 16 * 1024
PROFILED = "tidegate-profiled"
SOURCES = {
    "nginx": ("nginx.conf", None),
    "nginx-tuned": ("nginx.conf", "nginx-tuned.conf"),
    "haproxy": ("haproxy.cfg", None),
    "haproxy-tuned": ("haproxy.cfg", "haproxy-tuned.cfg"),
    "caddy": ("Caddyfile", None),
    "tidegate": ("tidegate.toml", None),
    PROFILED: ("tidegate.toml", None),
}


class Site:
    """A folder with the files of the site, and the two upstreams that all proxies use."""

    def __init__(self, folder, ours, blob_mib):
        self.folder, self.ours = folder, ours
        # The workers of nginx run as another user.
        os.chmod(folder, 0o755)
        for name in "blobs", "temp":
            os.mkdir(f"{folder}/{name}")
        self._certificate()
        self.hashes = {"apr1": _shell(f"htpasswd -nbm {USER} {PASSWORD}").partition(":")[2],
                       "bcrypt": _shell(f"htpasswd -nbBC 10 {USER} {PASSWORD}").partition(":")[2],
                       "sha256": _shell(f"openssl passwd -5 {PASSWORD}")}
        self.write_users("htpasswd-apr1", self.hashes["apr1"], 0)
        self.write_users("htpasswd-bcrypt", self.hashes["bcrypt"], 0)
        _shell(f"head -c {blob_mib}M /dev/urandom > {folder}/blobs/{BLOB}")
        _shell(f"head -c {SMALL_SIZE} /dev/urandom > {folder}/blobs/{SMALL}")
        temp = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        self.words = {
            "DIR": folder,
            "USER": USER,
            "TEMP": " ".join(f"{kind}_temp_path {folder}/temp/{kind};" for kind in temp),
            "UPSTREAM": free_port(),
        }
        self.words["SINK"] = free_port()
        self.upstreams = []

    def open(self):
        """Starts the two upstreams."""
        self.upstreams.append(self._upstream())
        sink = ["python3", f"{HERE}/sockets.py", "sink", str(self.words["SINK"])]
        self.upstreams.append(Process(self.folder, "sink", sink, self.words["SINK"], LOAD_CPU))

    def _certificate(self):
        here = self.folder
        _shell(f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost "
               f"-addext subjectAltName=DNS:localhost,DNS:*.example.com -keyout {here}/key.pem -out {here}/cert.pem")
        _shell(f"cat {here}/cert.pem {here}/key.pem > {here}/both.pem")

    def _upstream(self):
        file = self._write("upstream", self._filled("upstream.conf", {}))
        return Process(self.folder, "upstream", ["nginx", "-c", file], self.words["UPSTREAM"], LOAD_CPU)

    def close(self):
        """Ends the two upstreams."""
        for upstream in self.upstreams:
            upstream.stop()

    def write_users(self, name, stored, more):
        """Writes a password file in which the user follows this number of other users."""
        with open(f"{self.folder}/{name}", "w", encoding="utf-8") as file:
            file.writelines(f"user{number}:{stored}\n" for number in range(more))
            file.write(f"{USER}:{stored}\n")
        os.chmod(file.name, 0o644)

    def start(self, peer, login="open", cpu="0", **more):
        """Starts a proxy, and returns it with its port. `login` is open, auth (the usual hash of the proxy) or bcrypt; `more` is added to the
        configuration of tidegate."""
        port = free_port()
        if peer == "relay":
            argv = ["python3", f"{HERE}/sockets.py", "relay", str(port), str(self.words[more["relay_to"]])]
            return Process(self.folder, peer, argv, port, cpu), port
        program = peer.partition("-")[0]
        words = {"PORT": port, **self._login(program, login)}
        source, tuned = SOURCES[peer]
        if program == "tidegate":
            words = {"WORKERS": 1, "SITES": "", "GRANTS": "", **words, **more}
        else:
            words["TUNED"] = self._filled(tuned, {}) if tuned else ""
        file = self._write(peer, self._filled(source, words))
        argv = {"nginx": ["nginx", "-c", file],
                "haproxy": ["haproxy", "-f", file],
                "caddy": ["caddy", "run", "--adapter", "caddyfile", "--config", file],
                "tidegate": [word.replace("{config}", file) for word in self.ours.get(peer, [])]}[program]
        return Process(self.folder, peer, argv, port, cpu), port

    def _login(self, program, login):
        """Returns the authentication part of the configuration of each proxy."""
        scheme = "bcrypt" if login == "bcrypt" else "apr1"
        users, is_open = f"{self.folder}/htpasswd-{scheme}", login == "open"
        words = {
            "nginx": f'auth_basic "Registry"; auth_basic_user_file {users};',
            "haproxy": "http-request auth realm Registry unless { http_auth(people) }",
            # Go accepts bcrypt hashes with the older prefix $2a$ only.
            "caddy": f"basicauth {{\n{USER} {self.hashes['bcrypt'].replace('$2y', '$2a')}\n}}",
            "tidegate": f'{{ mode = "basic", htpasswd = "{users}" }}',
        }
        nobody = '{ mode = "none" }' if program == "tidegate" else ""
        crypt = self.hashes["bcrypt" if login == "bcrypt" else "sha256"]
        return {"AUTH": nobody if is_open else words[program], "CRYPT": crypt}

    def _filled(self, source, words):
        with open(f"{HERE}/configs/{source}", encoding="utf-8") as file:
            lines = file.readlines()
        text = "".join(line for line in lines if not line.startswith("#"))
        for word, value in {**self.words, **words}.items():
            text = text.replace(f"@{word}@", str(value))
        return text

    def _write(self, name, text):
        path = f"{self.folder}/{name}.conf"
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path


def _shell(command):
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout.strip()
