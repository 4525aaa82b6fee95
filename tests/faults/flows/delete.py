"""A deletion while the run trains: everything goes."""

from faults.stage import Stage
from harness.operator_process import eventually
from loraline_operator.actions import Kind


async def play(stage: Stage) -> None:
    """Apply, run, delete."""
    await stage.tenant.create_finetune()
    run = await stage.run_id()
    await stage.start(run)
    await stage.tenant.until("Running")
    await stage.tenant.delete(Kind.FINE_TUNE, "tickets")

    async def all_gone() -> bool:
        kinds = (Kind.FINE_TUNE, Kind.JOB, Kind.POD, Kind.CONFIG_MAP)
        return not [name for kind in kinds for name in await stage.tenant.names(kind)]

    await eventually(all_gone, "nothing is left")
