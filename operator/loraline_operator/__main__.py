"""The command line: `loraline-operator run`, every option also as an environment variable LORALINE_..."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import gc
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import kopf

from loraline_operator import errors
from loraline_operator import main as operator
from loraline_operator.settings import Settings

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

REQUIRED = ("trainer_image", "switchboard_image", "server_image")

GC_THRESHOLDS = (20_000, 20, 20)
"""Fewer collections of garbage than Python's 700 allocations: with 5,000 objects they took 6 % of the time."""

HELP = {
    "trainer_image": "image of the training pods",
    "switchboard_image": "image of the switchboard: the operator's own",
    "server_image": "image of vLLM, unless an AdapterDeployment names its own",
    "image_pull_policy": "pull policy of these images",
    "server_cpu_env": "environment of vLLM on CPUs, as a JSON object",
    "trainer_env": "environment of training pods, as a JSON object",
    "progress_interval_s": "least seconds between two looks at a running attempt",
    "progress_per_s": "looks at running attempts in a second, over all of them",
    "dataset_interval_s": "seconds between two looks for a ConfigMap that is not there",
    "resync_interval_s": "seconds after which every object is looked at again",
    "first_retry_delay_s": "seconds from the end of a run's first attempt to its second; it doubles with each one",
    "gang_timeout_s": "seconds in which all pods of an attempt on several nodes have to get a node",
    "workers": "objects that are reconciled at once",
    "namespaces": "namespaces to watch, with commas; empty watches all",
    "namespace": "the operator's own namespace, where its Lease lives",
    "policy": "ConfigMap of that namespace with the policy",
    "listen": "address of /metrics, /healthz and /readyz",
    "lease_duration_s": "seconds without a renewal after which another replica takes over",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the operator; returns the exit code."""
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    logging.basicConfig(
        level=options["log_level"].upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("kopf").setLevel(logging.WARNING)
    missing = [name for name in REQUIRED if not options[name]]
    if missing:
        parser.error("needs " + ", ".join("--" + name.replace("_", "-") for name in missing))
    gc.set_threshold(*GC_THRESHOLDS)
    code = 0
    try:
        asyncio.run(operator.run(_settings(options)))
    except* (errors.NotLeader, kopf.LoginError) as group:
        for sentence in _sentences(group):
            logging.getLogger(__name__).critical("%s", sentence)  # no stack trace: the sentence says it all
        code = 1
    return code


def _sentences(group: BaseExceptionGroup[Exception]) -> Iterator[str]:
    """What each error in a group, or in the groups in it, says."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _sentences(error)
        else:
            yield str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="loraline-operator", description="The Loraline operator for Kubernetes.")
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="watch and reconcile until SIGTERM")
    for field in dataclasses.fields(Settings):
        default = field.default if field.default is not dataclasses.MISSING else None
        run.add_argument(
            "--" + field.name.replace("_", "-"),
            default=os.environ.get("LORALINE_" + field.name.upper(), default),
            help=HELP[field.name] + ("" if default in (None, ()) else f" (default {default})"),
        )
    run.add_argument("--log-level", default=os.environ.get("LORALINE_LOG_LEVEL", "info"), help="info or debug")
    return parser


def _settings(options: Mapping[str, object]) -> Settings:
    """The settings of these options, each made from its text."""
    values: dict[str, object] = {}
    for field in dataclasses.fields(Settings):
        value = options[field.name]
        if not isinstance(value, str):
            values[field.name] = value if value is not None else {}
            continue
        match field.name:
            case "server_cpu_env" | "trainer_env":
                values[field.name] = json.loads(value or "{}")
            case "namespaces":
                values[field.name] = tuple(name for name in value.split(",") if name)
            case "workers":
                values[field.name] = int(value)
            case name if name.endswith("_s"):  # seconds, and numbers in a second
                values[name] = float(value)
            case name:
                values[name] = value
    if os.environ.get("LORALINE_NAMESPACE") is None and NAMESPACE_FILE.exists():
        values["namespace"] = NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    return Settings(**values)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
