"""Send many prompts at once from one event loop; the server puts them into one batch.

Run it with a server on this machine: ``python clients/examples/many_at_once.py``.
"""

import asyncio
import sys
import time

from attendant_client import AsyncClient, QueueFullError

NUM_REQUESTS = 32


async def main(url: str = "127.0.0.1:9000") -> None:
    """Complete the same opening with different seeds and print the first words of each."""
    async with AsyncClient(url, timeout_s=120) as client:
        await client.wait_ready()
        model = next(model.id for model in await client.list_models() if "completion" in model.tasks)

        async def complete(seed: int) -> str:
            while True:
                try:
                    answer = await client.complete(model, "Once upon a time", max_tokens=32, seed=seed)
                except QueueFullError as error:
                    # A full queue is the one error that only the caller can decide about: wait, or do something else.
                    await asyncio.sleep(error.retry_after_s or 1.0)
                else:
                    return answer.completions[0].text

        start_s = time.perf_counter()
        texts = await asyncio.gather(*(complete(seed) for seed in range(NUM_REQUESTS)))
        for seed, text in enumerate(texts):
            print(f"{seed:3}  {' '.join(text.split())[:100]}")
        print(f"{NUM_REQUESTS} answers in {time.perf_counter() - start_s:.2f} s")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
