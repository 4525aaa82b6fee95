"""A new version of a served adapter is trained and rolled out."""

from faults.stage import SECOND, Stage


async def play(stage: Stage) -> None:
    """Deploy, train, serve, edit, train, serve the new version."""
    async with stage.pods.running():
        await stage.train_two_versions()
        await stage.served(SECOND)
