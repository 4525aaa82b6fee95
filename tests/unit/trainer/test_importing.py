"""Imports that neither collect garbage nor compile."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch

from loraline_trainer import importing


@pytest.mark.parametrize("was_on", [True, False])
def test_no_garbage_is_collected_within_and_afterwards_as_before(was_on: bool) -> None:
    if not was_on:
        gc.disable()
    try:
        with importing.without_collector():
            assert not gc.isenabled()
        assert gc.isenabled() is was_on
    finally:
        gc.enable()


def test_what_is_compiled_within_is_compiled_once_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []

    def at_once(function: Callable[..., int], **options: Any) -> Callable[..., int]:
        compiled.append(options)
        return lambda value: -function(value)

    monkeypatch.setattr(torch, "compile", at_once)
    with importing.compiling_later():
        plain = torch.compile(abs, dynamic=False)
        decorated = torch.compile(dynamic=True)(abs)
    assert vars(torch)["compile"] is at_once
    assert compiled == []
    assert [plain(3), plain(4), decorated(5)] == [-3, -4, -5]
    assert compiled == [{"dynamic": False}, {"dynamic": True}]
