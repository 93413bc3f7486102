"""`python -m tests.support.pulling DATA REF`: a process that downloads as the daemon does, to be killed by a test."""

import asyncio
import sys
from pathlib import Path

from app.db import Store
from app.events import Bus
from app.jobs.download import Download
from app.jobs.runner import Jobs
from app.jobs.transfer import Policy
from app.paths import DataDir
from app.registry.catalog import Catalog
from app.registry.registry import Registry
from app.schema.manage import DownloadRequest
from app.settings import Settings

POLICY = Policy(connections=2, chunk_bytes=64 << 10, attempts=3, backoff_s=0.01, stall_s=20, checkpoint_s=0.02)


async def build(data: DataDir, store: Store, bus: Bus, catalog: Catalog, settings: Settings) -> tuple[Jobs, Registry]:
    registry = Registry(store, data, bus)
    await registry.load()
    handler = Download(settings, data, registry, catalog, POLICY)
    jobs = Jobs(store, bus, settings, data.logs / "jobs", {"download": handler})
    await jobs.start()
    return jobs, registry


async def main(root: str, ref: str) -> None:
    data = DataDir(Path(root)).create()
    store = Store(data.database)
    jobs, _ = await build(data, store, Bus(), Catalog([]), Settings())
    job = await jobs.submit(DownloadRequest(ref=ref))
    await jobs.wait(job.id)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
