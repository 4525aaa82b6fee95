"""Writes the image of a pod's sandbox, localhost/pause:1, around a static program that waits and reaps.

pause_image.py PROGRAM OUT.tar. The archive is what `ctr images import` reads. All other images are built by
tests/images.
"""

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path


def archive(files: dict[str, bytes], mode: int) -> bytes:
    """Returns a tar of these files; the same files give the same bytes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mode = mode
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def pause_image(program: bytes) -> bytes:
    """Returns the image in the layout of `docker save`."""
    layer = archive({"pause": program}, mode=0o755)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": ["/pause", "-P"], "User": "65535:65535"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": ["localhost/pause:1"], "Layers": ["layer.tar"]}]
    return archive(
        {"layer.tar": layer, config_name: config, "manifest.json": json.dumps(manifest).encode()}, mode=0o644
    )


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(pause_image(Path(sys.argv[1]).read_bytes()))
