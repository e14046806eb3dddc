"""Validates Kubernetes objects against the schemas of several versions, and prints them as one JSON list.

usage: validate.py VERSION... < objects.yaml

The schemas of kubernetes-validate are strict: an unknown field is an error. Kinds of custom resources have no schema.
"""

import json
import sys

import kubernetes_validate
import yaml

objects = [found for found in yaml.safe_load_all(sys.stdin) if found]
for version in sys.argv[1:]:
    for found in objects:
        name = f"{found['kind']} {found['metadata']['name']}"
        if found["apiVersion"].startswith("monitoring.coreos.com/"):
            continue
        try:
            kubernetes_validate.validate(found, version, strict=True)
        except Exception as error:
            sys.exit(f"{name}, Kubernetes {version}: {error}")
print(json.dumps(objects))
