"""Runs in the demo's client pod: makes adapters that must never be served out of one that is.

    forge.py BUCKET SOURCE TARGET KIND    SOURCE and TARGET are prefixes (SOURCE ends in adapters/<version>); prints the
                                          URI of the forged adapter

Each is published as the trainer would, manifest last, with digests that agree, unless the digest is what is wrong.
It runs from its text; loraline_api is in the pod's image.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import boto3

from loraline_api import artifact

SECRET = Path("/secrets/adapter-storage")
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
bucket, source, target, kind = sys.argv[1:]
s3 = boto3.client(
    "s3",
    endpoint_url=os.environ["S3_ENDPOINT"],
    region_name="us-east-1",
    aws_access_key_id=(SECRET / "AWS_ACCESS_KEY_ID").read_text(),
    aws_secret_access_key=(SECRET / "AWS_SECRET_ACCESS_KEY").read_text(),
)


def read(name: str) -> bytes:
    """A file of the source."""
    content: bytes = s3.get_object(Bucket=bucket, Key=f"{source}/{name}")["Body"].read()
    return content


manifest = json.loads(read(artifact.MANIFEST))
files = {file["path"]: read(file["path"]) for file in manifest["files"]}
weights = bytearray(files[WEIGHTS])
config = json.loads(files[CONFIG]) | {"revision": f"forged: {kind}"}  # another version, whatever else is changed
published = None

match kind:
    case "nan":  # all bits set is NaN in float32, float16 and bfloat16
        begin = 8 + int.from_bytes(weights[:8], "little")
        weights[begin : begin + 4] = b"\xff" * 4
    case "truncated":
        del weights[len(weights) // 2 :]
    case "rank":
        config["r"] = manifest["rank"] = 32
    case "base":
        manifest["baseModel"]["digest"] = "0" * 64
    case "digest":
        published = bytes(weights[:-1]) + bytes([weights[-1] ^ 1])
    case other:
        sys.exit(f"forge.py knows nan, truncated, rank, base and digest, not: {other}")

files |= {WEIGHTS: bytes(weights), CONFIG: json.dumps(config).encode()}
digests = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
manifest["version"] = artifact.adapter_version(digests)
manifest["files"] = [{"path": path, "sha256": digests[path], "size": len(files[path])} for path in sorted(files)]
prefix = f"{target}/adapters/{manifest['version']}"
for path, content in files.items():
    body = published if published is not None and path == WEIGHTS else content
    s3.put_object(Bucket=bucket, Key=f"{prefix}/{path}", Body=body)
s3.put_object(Bucket=bucket, Key=f"{prefix}/{artifact.MANIFEST}", Body=json.dumps(manifest).encode())
print(f"s3://{bucket}/{prefix}")
