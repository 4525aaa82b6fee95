"""Checks one adapter off the serving pods, and leaves the verdict as the pod's termination message.

The bytes are downloaded and judged exactly as in a serving pod; the base model is described by a file. Nothing is kept.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path

from loraline_api import preflight as api_preflight
from loraline_api.conditions import Reason
from loraline_api.outcome import MAX_MESSAGE_CHARS
from loraline_api.preflight import Verdict
from loraline_switchboard import base_model, preflight, s3
from loraline_switchboard.errors import Rejected, SwitchboardError, Unavailable
from loraline_switchboard.store import AdapterStore

log = logging.getLogger("loraline.switchboard")


@dataclass(frozen=True, slots=True)
class Settings:
    """What `loraline-switchboard preflight` is told."""

    version: str
    uri: str
    base: Path
    base_digest: str
    max_lora_rank: int
    folder: Path
    storage: s3.S3Settings


def check(settings: Settings) -> Verdict:
    """The verdict on the adapter."""
    try:
        _judge(settings)
    except SwitchboardError as error:
        is_final = isinstance(error, Rejected)
        verdict = _verdict(settings, error.reason, error.message, is_final=is_final)
    except Exception as error:  # whatever an adapter holds, the verdict names it
        log.exception("unforeseen error of %s", settings.version)
        message = f"adapter {settings.version} cannot be judged: {error!r}; publish it again"
        verdict = _verdict(settings, Reason.ADAPTER_INVALID, message)
    else:
        verdict = Verdict(version=settings.version)
    log.info("%s: %s", settings.version, verdict.message or "passed")
    return verdict


def _judge(settings: Settings) -> None:
    try:
        card = api_preflight.parse_card(settings.base.read_bytes())
    except (OSError, ValueError) as error:
        raise Unavailable(Reason.CHECK_FAILED, f"{error}; it is tried again") from error
    if card.digest != settings.base_digest:
        raise Unavailable(
            Reason.CHECK_FAILED,
            f"the base model is described as {card.digest[:12]}, but {settings.base_digest[:12]} is served; "
            "it is tried again",
        )
    settings.folder.mkdir(parents=True, exist_ok=True)
    store = AdapterStore(settings.folder, functools.partial(s3.client, settings.storage))
    manifest = store.fetch(settings.version, settings.uri)
    base = base_model.from_card(card)
    preflight.check(store.path(settings.version), manifest, base, settings.max_lora_rank)


def _verdict(settings: Settings, reason: Reason, message: str, *, is_final: bool = True) -> Verdict:
    """A refusal. Names of tensors can be of any letters, and the kubelet cuts by bytes."""
    cut = message.encode()[: MAX_MESSAGE_CHARS * 2].decode(errors="ignore")[:MAX_MESSAGE_CHARS]
    return Verdict(version=settings.version, reason=reason, message=cut, is_final=is_final)
