"""Every Triton kernel of the engine compiles for a Hopper GPU, on a machine that has none."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from loraline_trainer.engine.attention import Rules
from loraline_trainer.engine.kernels import attention, cross_entropy, embedding, fp8, gated, group, nf4, norm, rotary

BF16, FLOAT, BYTES, INT, LONG = "*bf16", "*fp32", "*u8", "*i32", "*i64"
POINTERS = {
    "packed_ptr": BYTES, "scales_ptr": BYTES, "code_ptr": FLOAT, "nested_code_ptr": FLOAT, "nested_scales_ptr": FLOAT,
    "offset_ptr": FLOAT, "scale_ptr": FLOAT, "cos_ptr": FLOAT, "sin_ptr": FLOAT, "losses_ptr": FLOAT,
    "row_scale_ptr": FLOAT, "column_scale_ptr": FLOAT, "targets_ptr": LONG, "ids_ptr": LONG,
    "log_sum_ptr": FLOAT, "dot_ptr": FLOAT, "positions_ptr": LONG, "bounds_ptr": INT,
    **{f"{name}{part}": BYTES for name in ("packed", "scales") for part in range(3)},
    **{f"{name}{part}": FLOAT for name in ("nested", "offset", "a", "b") for part in range(3)},
    **{f"bias{part}": BF16 for part in range(3)},
    # the second layer of the group has no adapter: any pointer stands there
    "a1": BYTES, "b1": BYTES,
}  # fmt: skip
FLOAT8_OUT = ("activations in fp8", "nf4 to fp8", "nf4 to fp8, turned")
FLOATS = ("smallest", "eps", "plus", "cap", "inner", "outer", "scale", "scale0", "scale1", "scale2")

CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "nf4": (
        nf4._dequantize,
        {"BLOCK_BYTES": 2048, "QUANT_BLOCK": 64, "NESTED_BLOCK": 256, "NESTED": True, "ROUNDED": tl.bfloat16},
    ),
    "matrix": (
        group._assemble,
        {
            "BIAS0": True, "BIAS1": True, "BIAS2": False, "BLOCK_BYTES": 2048, "QUANT_BLOCK": 64, "NESTED_BLOCK": 256,
            "ROUNDED": tl.bfloat16, "BLOCK_ROWS": 32, "BLOCK_FOLD": 64, "BLOCK_COLUMNS": 128,
        },
    ),
    "border": (
        group._border,
        {"BIAS0": True, "BIAS1": True, "BIAS2": False, "BLOCK_ROWS": 32, "BLOCK_FOLD": 64, "BLOCK_COLUMNS": 128},
    ),
    "activations in fp8": (fp8._quantize, {"LARGEST": 448.0, "BLOCK": 32768}),
    "nf4 to fp8": (
        fp8._rows,
        {"BLOCK_BYTES": 2048, "QUANT_BLOCK": 64, "NESTED_BLOCK": 256, "NESTED": True, "ROUNDED": tl.bfloat16},
    ),
    "nf4 to fp8, turned": (
        fp8._columns,
        {
            "BLOCK_ROWS": 64, "BLOCK_COLUMNS": 128, "QUANT_BLOCK": 64, "NESTED_BLOCK": 256, "NESTED": True,
            "ROUNDED": tl.bfloat16,
        },
    ),
    "add and norm": (norm._add_norm, {"ADD": True, "BLOCK": 4096}),
    "norm": (norm._add_norm, {"ADD": False, "BLOCK": 4096}),
    "norm backward": (norm._norm_backward, {"ADD": True, "BLOCK": 4096}),
    "rotate": (
        rotary._rotate,
        {"BACKWARD": False, "NORM": False, "REST": False, "HEADS_BLOCK": 32, "BLOCK": 64, "REST_BLOCK": 1},
    ),
    "rotate normed heads, in part": (
        rotary._rotate,
        {"BACKWARD": False, "NORM": True, "REST": True, "HEADS_BLOCK": 32, "BLOCK": 64, "REST_BLOCK": 32},
    ),
    "rotate backward": (
        rotary._rotate,
        {"BACKWARD": True, "NORM": False, "REST": True, "HEADS_BLOCK": 8, "BLOCK": 64, "REST_BLOCK": 32},
    ),
    "rotate normed heads backward": (
        rotary._rotate,
        {"BACKWARD": True, "NORM": True, "REST": False, "HEADS_BLOCK": 8, "BLOCK": 128, "REST_BLOCK": 1},
    ),
    "swiglu": (gated._gated, {"GELU": False, "BLOCK_COLUMNS": 1024}),
    "geglu": (gated._gated, {"GELU": True, "BLOCK_COLUMNS": 1024}),
    "swiglu backward": (gated._gated_backward, {"GELU": False, "BLOCK_COLUMNS": 1024}),
    "geglu backward": (gated._gated_backward, {"GELU": True, "BLOCK_COLUMNS": 1024}),
    "loss": (cross_entropy._loss_and_gradient, {"CAP": False, "BLOCK_COLUMNS": 8192}),
    "capped loss": (cross_entropy._loss_and_gradient, {"CAP": True, "BLOCK_COLUMNS": 8192}),
    "gather": (embedding._gather, {"BLOCK": 1024}),
}  # fmt: skip


def kind(name: str) -> str:
    """The type of a kernel's argument, by its name."""
    if name in POINTERS:
        return POINTERS[name]
    if name.endswith("_ptr"):
        return BF16
    return "fp32" if name in FLOATS else "i32"


@pytest.mark.parametrize("case", CASES)
def test_every_kernel_compiles_for_hopper(case: str) -> None:
    kernel, constants = CASES[case]
    signature = {name: "constexpr" if name in constants else kind(name) for name in kernel.arg_names}
    if case in FLOAT8_OUT:
        signature["out_ptr"] = "*fp8e4nv"
    source = ASTSource(kernel, signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8})
    assert compiled.asm["cubin"]


HOPPER, ADA = GPUTarget("cuda", 90, 32), GPUTarget("cuda", 89, 32)
MOST_SPILLED_BYTES = 64
"""Of a thread: 16 of its 255 registers. Tiles that are too large spill hundreds of bytes."""

KEYS_AND_VALUES = {"OF_K": True, "OF_V": True, "BOUNDS": attention.BOUNDS}
ATTENTIONS: dict[str, tuple[GPUTarget, int, Any, str, dict[str, Any]]] = {
    "forward": (HOPPER, 256, attention._forward, "forward", {}),
    "queries": (HOPPER, 256, attention._of_queries, "of_queries", {}),
    "keys": (HOPPER, 256, attention._of_keys, "of_keys", KEYS_AND_VALUES | {"OF_V": False}),
    "values": (HOPPER, 256, attention._of_keys, "of_keys", KEYS_AND_VALUES | {"OF_K": False}),
    "keys and values, heads of 96": (HOPPER, 96, attention._of_keys, "of_keys", KEYS_AND_VALUES),
    "forward, small": (ADA, 256, attention._forward, "forward", {}),
    "queries, small": (ADA, 256, attention._of_queries, "of_queries", {}),
    "keys and values, small": (ADA, 256, attention._of_keys, "of_keys", KEYS_AND_VALUES),
}  # fmt: skip


@pytest.mark.parametrize("case", ATTENTIONS)
def test_tiles_of_capped_attention_fit_shared_memory_and_registers(case: str, tmp_path: Path) -> None:
    target, width, kernel, name, more = ATTENTIONS[case]
    table, most = (
        (attention.TILES, attention.LARGE_BYTES) if target is HOPPER else (attention.SMALL_TILES, attention.SMALL_BYTES)
    )
    tiles = table[triton.next_power_of_2(width)]
    if more:
        assert tiles.apart == (more["OF_K"] != more["OF_V"])
    constants = attention._constants(width, getattr(tiles, name), Rules(0.0625, cap=50.0)) | more
    options = {option: constants.pop(option) for option in ("num_warps", "num_stages")}
    signature = {one: "constexpr" if one in constants else kind(one) for one in kernel.arg_names}
    # Rows and heads begin at multiples of 16 bytes, as Triton sees at run time: only then are tiles fetched ahead.
    aligned = [at for at, one in enumerate(kernel.arg_names) if one.endswith(("_ptr", "_row", "_head"))]
    source = ASTSource(kernel, signature, constants, attrs={(at,): [["tt.divisibility", 16]] for at in aligned})
    compiled = triton.compile(source, target=target, options=options)
    assert compiled.metadata.shared <= most
    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(compiled.asm["cubin"])
    usage = subprocess.run(
        [triton.knobs.nvidia.cuobjdump.path, "-res-usage", binary], capture_output=True, text=True, check=True
    ).stdout
    assert int(re.findall(r"STACK:(\d+)", usage)[0]) <= MOST_SPILLED_BYTES, usage
