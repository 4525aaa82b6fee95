"""Layer inputs in pinned host memory, copied beside the computation: out on the way forward, back one layer early.

The last layers' inputs stay on the GPU by the planner's choice (`footprint.ON_GPU`). Streams and memory are behind
`Copies`, so that the order of things can be tested without a GPU.
"""

from __future__ import annotations

import mmap
import weakref
from dataclasses import dataclass
from typing import Protocol

import torch


class Copies(Protocol):
    """Copies between the memories."""

    def buffer(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Host memory for so many elements."""

    def drop(self, buffer: torch.Tensor) -> None:
        """Gives host memory back."""

    def out(self, tensor: torch.Tensor, host: torch.Tensor) -> None:
        """Begins to copy a tensor to the host; its memory is free again when the copy is done."""

    def back(self, host: torch.Tensor) -> torch.Tensor:
        """Begins to copy it back, into new memory of the device."""

    def wait(self) -> None:
        """What is computed from here on waits for the copies."""


@dataclass(slots=True)
class Parked:
    """A tensor that lies in host memory.

    Attributes:
        host: its copy; a buffer that the next pass uses again.
        coming: the tensor on the device again, once it was asked for.
    """

    host: torch.Tensor
    device: torch.device
    coming: torch.Tensor | None = None


class Offload:
    """Host buffers, one a layer; they grow with the longest pass and stay."""

    def __init__(self, copies: Copies | None = None) -> None:
        self._copies = copies
        self._buffers: dict[int, torch.Tensor] = {}

    def park(self, number: int, tensor: torch.Tensor) -> Parked:
        """Copies a layer's input to host memory."""
        copies = self._copies_for(tensor.device)
        host = self._buffer(number, tensor, copies)
        copies.out(tensor, host)
        return Parked(host, tensor.device)

    def prefetch(self, parked: Parked) -> None:
        """Starts the way back, unless it has begun."""
        if parked.coming is None:
            parked.coming = self._copies_for(parked.device).back(parked.host)

    def fetch(self, parked: Parked) -> torch.Tensor:
        """The tensor, on its device."""
        self.prefetch(parked)
        assert parked.coming is not None
        self._copies_for(parked.device).wait()
        return parked.coming

    def _buffer(self, number: int, tensor: torch.Tensor, copies: Copies) -> torch.Tensor:
        count = tensor.numel()
        buffer = self._buffers.get(number)
        if buffer is None or buffer.numel() < count or buffer.dtype is not tensor.dtype:
            if buffer is not None:
                copies.drop(buffer)
            buffer = self._buffers[number] = copies.buffer(count, tensor.dtype)
        return buffer[:count].view(tensor.shape)

    def _copies_for(self, device: torch.device) -> Copies:
        if self._copies is None:
            self._copies = CudaCopies(device) if device.type == "cuda" else PlainCopies()
        return self._copies


class PlainCopies:
    """Where there is one memory only, a copy is a copy."""

    def buffer(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Memory for so many elements."""
        return torch.empty(count, dtype=dtype)

    def drop(self, buffer: torch.Tensor) -> None:
        """Nothing to give back by hand."""

    def out(self, tensor: torch.Tensor, host: torch.Tensor) -> None:
        """Copies."""
        host.copy_(tensor)

    def back(self, host: torch.Tensor) -> torch.Tensor:
        """Copies."""
        return host.clone()

    def wait(self) -> None:
        """It is done already."""


class CudaCopies:
    """Copies on a stream of their own, from and to memory that is pinned block by block.

    torch's pinned memory comes in powers of two: 3.3 GB of a layer's input at 400,000 tokens would take 4.3 GB, and
    30 layers more than 128 GB. A block has pages of its own, and is unpinned before they are given back: CUDA refuses
    pages that it holds already ("resource already mapped"), in whatever call meets them next.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pinned: dict[int, mmap.mmap] = {}
        weakref.finalize(self, _unpin_all, self._pinned).atexit = False  # CUDA itself ends then

    def buffer(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Pinned memory for so many elements."""
        size = max(count * dtype.itemsize, 1)
        pages = mmap.mmap(-1, size)
        made = torch.frombuffer(pages, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)
        if count:
            torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(made.data_ptr(), size, 0))
            self._pinned[made.data_ptr()] = pages
        return made

    def drop(self, buffer: torch.Tensor) -> None:
        """Unpins memory once no copy uses it."""
        self._stream.synchronize()
        if self._pinned.pop(buffer.data_ptr(), None) is not None:
            _unpin(buffer.data_ptr())

    def out(self, tensor: torch.Tensor, host: torch.Tensor) -> None:
        """Copies when the tensor is computed."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            host.copy_(tensor, non_blocking=True)
        tensor.record_stream(self._stream)

    def back(self, host: torch.Tensor) -> torch.Tensor:
        """Copies after what was computed so far: it may still read the memory that the new tensor is given."""
        coming = torch.empty_like(host, device=self._device)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            coming.copy_(host, non_blocking=True)
        coming.record_stream(self._stream)
        return coming

    def wait(self) -> None:
        """The computation waits for the stream."""
        torch.cuda.current_stream(self._device).wait_stream(self._stream)


def _unpin(address: int) -> None:
    torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(address))


def _unpin_all(pinned: dict[int, mmap.mmap]) -> None:
    """Unpins what an `Offload` that is gone has left."""
    torch.cuda.synchronize()
    for address in pinned:
        _unpin(address)
    pinned.clear()
