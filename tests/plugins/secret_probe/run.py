#!/usr/bin/env -S python3 -IBS
"""Answers with the name, SHA-256 and length in bytes of each secret in its request.

`result` is a JSON object as text: {"<name>": {"sha256": "<hex>", "length": <n>}}, names sorted.
No value ever leaves this process.
"""

import hashlib
import json
import sys


def answer(response, code=0):
    sys.stdout.write(json.dumps(response) + "\n")
    sys.exit(code)


def fail(text):
    answer({"status": "error", "error": text, "retry": False, "logs": [{"level": "error", "message": text}]}, 1)


try:
    request = json.loads(sys.stdin.buffer.read())
except ValueError:
    fail("invalid JSON input")
if not isinstance(request, dict):
    fail("request is not an object")

secrets = request.get("secrets", {})
if not isinstance(secrets, dict) or not all(isinstance(value, str) for value in secrets.values()):
    fail("secrets are not an object of strings")
# The rest of the request must have arrived whole as well: it comes from another process.
if request.get("protocol") != 2 or not isinstance(request.get("config"), dict):
    fail("the request lacks protocol or config")

seen = {}
for name in sorted(secrets):
    value = secrets[name].encode()
    seen[name] = {"sha256": hashlib.sha256(value).hexdigest(), "length": len(value)}
answer({"status": "ok", "result": json.dumps(seen), "logs": []})
