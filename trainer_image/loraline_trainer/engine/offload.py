"""Layer inputs in pinned host memory, copied beside the computation: out on the way forward, back one layer early."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(slots=True)
class Parked:
    """A tensor that lies in host memory.

    Attributes:
        host: its copy; a buffer that the next pass uses again.
        coming: the tensor on the GPU again, once it was asked for.
    """

    host: torch.Tensor
    device: torch.device
    coming: torch.Tensor | None = None


class Offload:
    """Host buffers, one a layer, and the stream of the copies."""

    def __init__(self) -> None:
        self._buffers: dict[int, torch.Tensor] = {}
        self._stream: torch.cuda.Stream | None = None

    def park(self, number: int, tensor: torch.Tensor) -> Parked:
        """Copies a layer's input to host memory; the GPU memory is free when the copy is done."""
        host = self._buffer(number, tensor)
        if not tensor.is_cuda:
            host.copy_(tensor)
            return Parked(host, tensor.device)
        stream = self._copies(tensor.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            host.copy_(tensor, non_blocking=True)
        tensor.record_stream(stream)
        return Parked(host, tensor.device)

    def prefetch(self, parked: Parked) -> None:
        """Starts the way back."""
        if parked.coming is not None or parked.device.type != "cuda":
            return
        stream = self._copies(parked.device)
        # Memory that this allocation reuses may still be read by the computation so far.
        parked.coming = torch.empty_like(parked.host, device=parked.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            parked.coming.copy_(parked.host, non_blocking=True)
        parked.coming.record_stream(stream)

    def fetch(self, parked: Parked) -> torch.Tensor:
        """The tensor, on its device."""
        if parked.device.type != "cuda":
            return parked.host.clone()
        self.prefetch(parked)
        assert parked.coming is not None
        torch.cuda.current_stream().wait_stream(self._copies(parked.device))
        return parked.coming

    def _buffer(self, number: int, tensor: torch.Tensor) -> torch.Tensor:
        count = tensor.numel()
        buffer = self._buffers.get(number)
        if buffer is None or buffer.numel() < count or buffer.dtype is not tensor.dtype:
            buffer = torch.empty(count, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._buffers[number] = buffer
        return buffer[:count].view(tensor.shape)

    def _copies(self, device: torch.device) -> torch.cuda.Stream:
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)
        return self._stream
