"""What a worker imports: a session that survives being paused. Needs httpx and nothing else.

from warmboot.worker import Session

async with Session() as session:
    session.on_restored(lambda away_s: print("back after", away_s, "s"))
    await session.post("https://example.org/jobs/1/done", json={"result": 42})
    await session.report("progress", {"done": 3, "of": 10})
    await session.ask_pause()
"""

from warmboot.worker.session import GaveUp, NotAWorker, RetryPolicy, Session

__all__ = ["GaveUp", "NotAWorker", "RetryPolicy", "Session"]
