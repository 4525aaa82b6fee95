"""Serving pods are added while a new version is rolled out."""

from faults.stage import SECOND, Stage


async def play(stage: Stage) -> None:
    """Deploy, train, serve, edit, train, scale while the version moves."""
    async with stage.pods.running():
        await stage.train_two_versions()
        await stage.scale(3)
        await stage.served(SECOND, ready=3)
