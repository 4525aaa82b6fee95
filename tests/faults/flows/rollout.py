"""A new version of a served adapter is trained and rolled out."""

from faults.stage import FIRST, SECOND, Stage


async def play(stage: Stage) -> None:
    """Deploy, train, serve, edit, train, serve the new version."""
    async with stage.pods.running():
        await stage.deploy()
        await stage.tenant.create_finetune()
        first = await stage.trained()
        await stage.served(FIRST)
        await stage.tenant.edit({"adapter": {"rank": 8}})
        await stage.end(await stage.run_id(other_than=first), version=SECOND)
        await stage.served(SECOND)
