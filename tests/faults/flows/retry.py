"""An attempt fails with what a retry can mend, and the second succeeds."""

from faults.stage import Stage


async def play(stage: Stage) -> None:
    """Apply, fail with exit code 40, succeed."""
    await stage.tenant.create_finetune()
    run = await stage.run_id()
    await stage.end(run, 40)
    await stage.end(run, attempt=2)
    await stage.tenant.until("Succeeded")
