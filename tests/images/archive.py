"""Writes images of an OCI layout as one archive for `ctr images import`, less the layers that a node has already.

archive.py LAYOUT [--without FOLDER] NAME... >ARCHIVE. FOLDER holds blobs by digest: the content store of a node. What
is written is an OCI layout too, with the names where containerd looks for them.
"""

import argparse
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any, BinaryIO

REFERENCE = "org.opencontainers.image.ref.name"  # where the layout has the name
CONTAINERD_NAME = "io.containerd.image.name"  # where containerd looks first


def named_manifests(layout: Path, names: list[str]) -> list[dict[str, Any]]:
    """Returns the descriptors of these images, named for containerd.

    Raises:
        KeyError: the layout has no image of a name.
    """
    index = json.loads((layout / "index.json").read_text())
    by_name = {descriptor["annotations"][REFERENCE]: descriptor for descriptor in index["manifests"]}
    return [{**by_name[name], "annotations": {CONTAINERD_NAME: name}} for name in names]


def blobs(layout: Path, manifest_digest: str) -> list[str]:
    """Returns the digests of all blobs of an image, its manifest first."""
    manifest = json.loads(blob_path(layout, manifest_digest).read_text())
    return [manifest_digest, manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])]


def blob_path(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def write_archive(out: BinaryIO, layout: Path, names: list[str], present: set[str]) -> None:
    """Writes the archive to `out`; layers, configurations and manifests whose hex digest is in `present` stay out."""
    manifests = named_manifests(layout, names)
    digests = dict.fromkeys(digest for descriptor in manifests for digest in blobs(layout, descriptor["digest"]))
    own = {descriptor["digest"] for descriptor in manifests}
    with tarfile.open(fileobj=out, mode="w|") as tar:
        add(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": manifests}).encode())
        for digest in digests:
            if digest in own or digest.partition(":")[2] not in present:
                tar.add(blob_path(layout, digest), f"blobs/{digest.replace(':', '/')}")


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("layout", type=Path)
    parser.add_argument("--without", type=Path, metavar="FOLDER")
    parser.add_argument("names", nargs="+", metavar="NAME")
    arguments = parser.parse_args()
    there = {path.name for path in arguments.without.iterdir()} if arguments.without else set()
    write_archive(sys.stdout.buffer, arguments.layout, arguments.names, there)
