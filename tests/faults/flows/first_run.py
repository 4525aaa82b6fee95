"""A fine-tune's first run, to its success."""

from faults.stage import Stage


async def play(stage: Stage) -> None:
    """Apply, run, succeed."""
    await stage.tenant.create_finetune()
    run = await stage.run_id()
    await stage.start(run)
    await stage.tenant.until("Running")
    await stage.end(run)
    await stage.tenant.until("Succeeded")
