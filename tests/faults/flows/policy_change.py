"""The policy is edited while a fine-tune runs and others wait: what waits is judged again, what runs is left alone."""

from faults.stage import SECOND, Stage


async def prepare(stage: Stage) -> None:
    """The policy is older than the operator, as the chart makes both."""
    await stage.policy(limits={"rank": 16})


async def play(stage: Stage) -> None:
    """Run one, refuse two, forbid what runs, allow one of the two, succeed."""
    await stage.tenant.create_finetune()
    run = await stage.run_id()
    await stage.start(run)
    await stage.tenant.until("Running")
    await stage.tenant.create_finetune("wide", adapter={"rank": 64})
    await stage.tenant.create_finetune("wider", adapter={"rank": 128})
    for name in ("wide", "wider"):
        await stage.refused("allows 16", name)
    await stage.policy(limits={"rank": 8})
    for name in ("wide", "wider"):
        await stage.refused("allows 8", name)
    await stage.policy(limits={"rank": 64})
    await stage.end(await stage.run_id(name="wide"), version=SECOND, name="wide")
    await stage.tenant.until("Succeeded", name="wide")
    await stage.refused("allows 64", "wider")
    await stage.end(run)
    await stage.tenant.until("Succeeded")
