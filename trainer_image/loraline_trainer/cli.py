"""The command line: `loraline-train job`, `delete`, `run`, `check` and `estimate`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from loraline_api.finetune import Checkpoint, MemoryProfile
from loraline_api.progress import PROGRESS_PORT
from loraline_trainer import __version__, importing
from loraline_trainer.parallel import launch
from loraline_trainer.settings import Settings

NOISY_LIBRARIES = (
    "bitsandbytes",
    "boto3",
    "botocore",
    "datasets",
    "filelock",
    "fsspec",
    "httpcore",
    "httpcore2",
    "httpx",
    "httpx2",
    "huggingface_hub",
    "torch",
    "urllib3",
)


def before_torch() -> None:
    """Settings that libraries read when they are imported."""
    # Threads that wait for each other spin by default. On 2 cores that others use too, a training step of SmolLM2 took
    # 25 s that takes 5 s when they sleep.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Batches differ in length: with segments of fixed size the holes between blocks add up to gigabytes.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)  # of transformers to TRL, nothing a user could mend


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code (`loraline_api.outcome.ExitCode`)."""
    options = parser().parse_args(arguments)
    before_torch()
    quiet = options.command not in ("job", "delete") and not options.verbose
    _log_to_stderr(logging.WARNING if quiet else logging.INFO)
    if options.command == "job":
        if launch.is_asked():
            return launch.main(list(sys.argv[1:] if arguments is None else arguments), options.root)
        with importing.without_collector():
            from loraline_trainer import job

        return job.main(_settings(options), options.root, options.port, is_last=True)
    if options.command == "delete":
        from loraline_trainer import deleting

        return deleting.main(options.uri, options.endpoint, options.region, dict(options.run))
    with importing.without_collector():
        from rich.console import Console

        from loraline_trainer import local

    given = local.Options(
        file=options.file,
        name=options.name,
        work=options.workdir,
        secrets=dict(options.secret),
        claims=dict(options.pvc),
        data=dict(options.data),
        output=options.output,
    )
    if options.command == "estimate":
        from loraline_trainer import estimate

        return estimate.show(given, options.policy, Console())
    command = local.train if options.command == "run" else local.check
    return command(given, Console())


def _settings(options: argparse.Namespace) -> Settings:
    checkpoint = Checkpoint(interval=options.checkpoint_interval, keep=options.checkpoint_keep)
    profile = MemoryProfile(options.memory_profile)
    return Settings(attempt=options.attempt, gpus=options.gpus, checkpoint=checkpoint, memory_profile=profile)


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(prog="loraline-train", description=f"QLoRA fine-tuning, version {__version__}.")
    commands = top.add_subparsers(dest="command", required=True)
    job = commands.add_parser("job", help="one attempt in a training pod: reads the mounted run.json")
    _add_job_options(job)
    delete = commands.add_parser("delete", help="delete what runs published, when their fine-tune is deleted")
    delete.add_argument("--uri", required=True, help="the fine-tune's output.uri")
    delete.add_argument("--endpoint", help="the fine-tune's output.endpoint")
    delete.add_argument("--region", help="the fine-tune's output.region")
    delete.add_argument(
        "--run",
        type=_run,
        action="append",
        default=[],
        metavar="ID[=VERSION]",
        help="a run, and the version that it published if it did",
    )
    run = commands.add_parser("run", help="run a LoraFineTune manifest on this machine")
    check = commands.add_parser("check", help="check a manifest's data and show its loss mask")
    estimate = commands.add_parser("estimate", help="say what a manifest's fine-tune takes on every GPU")
    estimate.add_argument("--policy", type=Path, metavar="FILE", help="policy.yaml with your GPUs and prices")
    for command in (run, check, estimate):
        command.add_argument("-f", "--file", type=Path, required=True, help="YAML file with a LoraFineTune")
        command.add_argument("--name", help="which LoraFineTune of the file, when it holds several")
        command.add_argument("--workdir", type=Path, help="scratch folder (default: below ~/.cache/loraline/runs)")
        command.add_argument(
            "--secret",
            type=_pair,
            action="append",
            default=[],
            metavar="NAME=FOLDER",
            help="folder with one file per key of a Secret (default: the environment's AWS_* and HF_TOKEN)",
        )
        command.add_argument(
            "--pvc",
            type=_pair,
            action="append",
            default=[],
            metavar="CLAIM=FOLDER",
            help="folder that stands for a claim of pvc:// URIs",
        )
        command.add_argument(
            "--data",
            type=_pair,
            action="append",
            default=[],
            metavar="CONFIGMAP/KEY=FILE",
            help="file that stands for a configmap:// dataset",
        )
        command.add_argument("-v", "--verbose", action="store_true", help="show the log, as a pod writes it")
        command.set_defaults(output=None)
    run.add_argument("--output", type=Path, metavar="FOLDER", help="publish to a folder instead of output.uri")
    return top


def _add_job_options(job: argparse.ArgumentParser) -> None:
    job.add_argument("--gpus", type=int, default=0, help="GPUs that the pod was given; seeing fewer is an error")
    job.add_argument("--attempt", type=int, help="number of the attempt, from 1")
    job.add_argument(
        "--checkpoint-interval", type=int, default=Checkpoint().interval, help="optimizer steps between checkpoints"
    )
    job.add_argument(
        "--memory-profile",
        choices=[profile.value for profile in MemoryProfile],
        default=MemoryProfile.AUTO.value,
        help="how training spends GPU memory: the recipe's memoryProfile",
    )
    job.add_argument("--root", type=Path, default=Path("/"), help="folder that stands for the pod's root folder")
    job.add_argument("--port", type=int, default=PROGRESS_PORT, help="port of /progress and /metrics")
    job.add_argument("--checkpoint-keep", type=int, default=Checkpoint().keep, help="newest checkpoints that stay")


def _pair(text: str) -> tuple[str, Path]:
    name, found, path = text.partition("=")
    if not name or not found or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH")
    return name, Path(path)


def _run(text: str) -> tuple[str, str | None]:
    run_id, _, version = text.partition("=")
    return run_id, version or None


def _log_to_stderr(level: int) -> None:
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    for name in NOISY_LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
