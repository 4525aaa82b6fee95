"""Compiling that waits for the first call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from loraline_trainer.model import compiling


def test_what_is_compiled_within_is_compiled_once_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []

    def at_once(function: Callable[..., int], **options: Any) -> Callable[..., int]:
        compiled.append(options)
        return lambda value: -function(value)

    monkeypatch.setattr(torch, "compile", at_once)
    with compiling.later():
        plain = torch.compile(abs, dynamic=False)
        decorated = torch.compile(dynamic=True)(abs)
    assert vars(torch)["compile"] is at_once
    assert compiled == []
    assert [plain(3), plain(4), decorated(5)] == [-3, -4, -5]
    assert compiled == [{"dynamic": False}, {"dynamic": True}]
