"""An edit while the first run trains: the old run ends, and the new one goes to its success."""

from faults.stage import SECOND, Stage


async def play(stage: Stage) -> None:
    """Apply, run, edit, succeed."""
    await stage.tenant.create_finetune()
    first = await stage.run_id()
    await stage.start(first)
    await stage.tenant.until("Running")
    await stage.tenant.edit({"adapter": {"rank": 8}})
    await stage.end(await stage.run_id(other_than=first), version=SECOND)
    await stage.tenant.until("Succeeded")
