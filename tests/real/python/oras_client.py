"""Runs one operation of the Python client oras: `oras_client.py push|pull|tags REFERENCE [FILE|FOLDER]`.

The tests with real clients run this program; python-dxf has a command of its own. Environment variables: ORAS_CA is the file of
the CA to trust, ORAS_AUTH is the authentication backend of oras ("token" or "basic"), and ORAS_USERNAME and ORAS_PASSWORD are
the credentials, if any.
"""

import os
import sys
import time

import oras.client

# After any error oras makes five attempts and waits 131 s between them in total.
time.sleep = lambda seconds: None


def main():
    action, reference, *rest = sys.argv[1:]
    client = oras.client.OrasClient(
        hostname=reference.split("/")[0],
        tls_verify=os.environ["ORAS_CA"],
        auth_backend=os.environ.get("ORAS_AUTH", "token"),
    )
    if "ORAS_USERNAME" in os.environ:
        client.auth.set_basic_auth(os.environ["ORAS_USERNAME"], os.environ["ORAS_PASSWORD"])
    if action == "push":
        client.push(reference, files=rest, disable_path_validation=True)
    elif action == "pull":
        print("\n".join(client.pull(reference, outdir=rest[0])))
    elif action == "tags":
        print("\n".join(client.get_tags(reference)))
    else:
        sys.exit(f"no such action: {action}")


main()
