"""The engine's Triton kernels, run by Triton's interpreter on the CPU, against their torch references.

The interpreter is chosen when Triton is imported, so the checks run in a process of their own; `bench.gpu.smoke` runs
the same checks on a GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys


def test_every_kernel_equals_its_torch_reference() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "bench.gpu.kernel_checks"],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    checks = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(checks) > 100, done.stderr
    assert [check for check in checks if not check["passed"]] == []
    assert done.returncode == 0, done.stderr
