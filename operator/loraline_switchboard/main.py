"""The command line: `serve` runs the switchboard, `fetch-base` brings the base model before it, and `preflight` checks
an adapter in a pod of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from loraline_api import pods, routing
from loraline_switchboard import check, fetch_base, s3, serve
from loraline_switchboard.errors import SwitchboardError
from loraline_switchboard.heartbeat import HeartbeatPace
from loraline_switchboard.worker import Pace

log = logging.getLogger("loraline.switchboard")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("botocore").setLevel(logging.WARNING)
    options = _parser().parse_args(arguments)
    try:
        match options.command:
            case "serve":
                asyncio.run(serve.serve(_settings(options)))
            case "preflight":
                _check(options)
            case _:
                _fetch(options)
    except (SwitchboardError, FileNotFoundError, ValueError) as error:
        log.error("%s", error)  # noqa: TRY400 (a sentence, not a trace)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="loraline-switchboard", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    storage = argparse.ArgumentParser(add_help=False)
    storage.add_argument("--endpoint", help="URL of the S3 service, for services other than AWS")
    storage.add_argument("--region", help=f"region of the bucket (default: {s3.DEFAULT_REGION})")
    storage.add_argument("--secrets", type=Path, default=Path(pods.SECRETS_DIR), help="folder of the mounted Secrets")

    serving = commands.add_parser("serve", parents=[storage], help="serve the routes of a routing table")
    serving.add_argument("--base-name", required=True, help="model name of the base model")
    serving.add_argument("--base-path", type=Path, required=True, help="folder of the base model")
    serving.add_argument("--table", type=Path, required=True, help="file with the routing table")
    serving.add_argument("--adapters", type=Path, required=True, help="folder for adapters; vLLM reads it too")
    serving.add_argument("--engine", default=f"http://127.0.0.1:{routing.ENGINE_PORT}", help="URL of vLLM")
    serving.add_argument("--host", default="0.0.0.0", help="address to listen on")
    serving.add_argument("--port", type=int, default=routing.SWITCHBOARD_PORT, help="port to listen on")
    serving.add_argument(
        "--files-grace-seconds",
        type=float,
        default=Pace().files_grace_s,
        help="seconds that an adapter's files outlive its unload",
    )

    serving.add_argument("--pod", default=socket.gethostname(), help="name of this pod")
    serving.add_argument(
        "--proof-seconds", type=float, default=Pace().proof_s, help="seconds from one proof of a version to the next"
    )
    serving.add_argument(
        "--hang-seconds",
        type=float,
        default=HeartbeatPace().limit_s,
        help="seconds without a token after which vLLM counts as hung",
    )

    checking = commands.add_parser("preflight", parents=[storage], help="check an adapter before pods load it")
    checking.add_argument("--version", required=True, help="version of the adapter")
    checking.add_argument("--uri", required=True, help="its place, s3://bucket/prefix/adapters/<version>")
    checking.add_argument("--base", type=Path, required=True, help="file that describes the base model")
    checking.add_argument("--base-digest", required=True, help="digest of the base model that is served")
    checking.add_argument("--max-lora-rank", type=int, required=True, help="highest rank that the server takes")
    checking.add_argument("--verdict", type=Path, default=Path(pods.TERMINATION_LOG), help="file for the verdict")

    fetching = commands.add_parser("fetch-base", parents=[storage], help="bring the base model into a folder")
    fetching.add_argument("--uri", required=True, help="hf://org/name or s3://bucket/prefix")
    fetching.add_argument("--revision", help="branch, tag or commit (hf:// only)")
    fetching.add_argument("--to", type=Path, required=True, help="the folder")
    return parser


def _settings(options: argparse.Namespace) -> serve.Settings:
    return serve.Settings(
        base_name=options.base_name,
        base_path=options.base_path,
        table=options.table,
        adapters=options.adapters,
        engine=options.engine.rstrip("/"),
        storage=_storage(options, "storage"),
        host=options.host,
        port=options.port,
        pod=options.pod,
        pace=Pace(files_grace_s=options.files_grace_seconds, proof_s=options.proof_seconds),
        heartbeat=HeartbeatPace(min(HeartbeatPace().quiet_s, options.hang_seconds), options.hang_seconds),
    )


def _storage(options: argparse.Namespace, secret: str) -> s3.S3Settings:
    return s3.S3Settings(options.endpoint, options.region, options.secrets / secret)


def _check(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        verdict = check.check(
            check.Settings(
                version=options.version,
                uri=options.uri,
                base=options.base,
                base_digest=options.base_digest,
                max_lora_rank=options.max_lora_rank,
                folder=Path(folder),
                storage=_storage(options, "storage"),
            )
        )
    verdict_file: Path = options.verdict
    verdict_file.write_text(verdict.model_dump_json(by_alias=True, exclude_none=True), encoding="utf-8")


def _fetch(options: argparse.Namespace) -> None:
    own: Path = options.secrets / "base-model"
    token = own / "HF_TOKEN"
    fetch_base.fetch(
        options.uri,
        options.revision,
        options.to,
        _storage(options, "base-model" if (own / "AWS_ACCESS_KEY_ID").is_file() else "storage"),
        token.read_text(encoding="utf-8").strip() if token.is_file() else None,
    )


if __name__ == "__main__":
    sys.exit(main())
