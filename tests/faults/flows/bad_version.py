"""A new version that the serving pods refuse: the old one goes on answering."""

from faults.stage import FIRST, SECOND, Stage


async def play(stage: Stage) -> None:
    """Deploy, train, serve, edit, train, refuse."""
    stage.pods.refused.add(SECOND)
    async with stage.pods.running():
        await stage.train_two_versions()
        await stage.served(FIRST, phase="Degraded")
