"""A new version that the serving pods refuse: the old one goes on answering."""

from faults.stage import FIRST, SECOND, Stage


async def play(stage: Stage) -> None:
    """Deploy, train, serve, edit, train, refuse."""
    stage.pods.refused.add(SECOND)
    async with stage.pods.running():
        await stage.deploy()
        await stage.tenant.create_finetune()
        first = await stage.trained()
        await stage.served(FIRST)
        await stage.tenant.edit({"adapter": {"rank": 8}})
        await stage.end(await stage.run_id(other_than=first), version=SECOND)
        await stage.served(FIRST, phase="Degraded")
