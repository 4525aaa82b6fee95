"""A suspension while the run trains, and its end."""

from faults.stage import Stage


async def play(stage: Stage) -> None:
    """Apply, run, suspend, resume, succeed."""
    await stage.tenant.create_finetune()
    run = await stage.run_id()
    await stage.start(run)
    await stage.tenant.until("Running")
    await stage.tenant.edit({"suspend": True})
    await stage.tenant.until("Suspended")
    await stage.no_pods()
    await stage.tenant.edit({"suspend": False})
    await stage.end(run)
    await stage.tenant.until("Succeeded")
