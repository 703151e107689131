"""A box that only advertises itself, for tests in a network namespace: NAME ID HOST; orders come by standard input."""

import asyncio
import sys

from edge_runtime.config import DiscoveryConfig
from edge_runtime.transports.mdns import Advertiser


async def main(name: str, device_id: str, host: str) -> None:
    """Advertise; `models a,b` announces new models, `name` says the name taken, `stop` says goodbye."""
    models = ["digits"]
    box = Advertiser(
        DiscoveryConfig(rescan_seconds=0.2),
        device=name,
        device_id=device_id,
        version="0.1.0",
        http_host=host,
        http_port=8700,
        grpc_port=8701,
        models=lambda: list(models),
    )
    await box.start()
    print("started", flush=True)  # noqa: T201 - this is a program
    while (order := (await asyncio.to_thread(sys.stdin.readline)).strip()) not in ("", "stop"):
        if order.startswith("models "):
            models[:] = order.removeprefix("models ").split(",")
            await box.update()
        print(f"{box.name}|{box.problem() or ''}", flush=True)  # noqa: T201
    await box.stop()
    print("stopped", flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
