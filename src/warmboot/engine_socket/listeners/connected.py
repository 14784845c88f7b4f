"""Who is connected: a conversation each, and not more than there is room for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from warmboot.engine_socket.conversation import Conversation, Find
from warmboot.engine_socket.limits import (
    FIRST_WORDS_TIMEOUT_S,
    LAST_WORDS_TIMEOUT_S,
    MOST_CONNECTIONS,
)
from warmboot.engine_socket.relay import Stream
from warmboot.system.concurrency import end

log = logging.getLogger("warmboot.engine_socket")


class Connected:
    """``accept`` clients, who are led to what ``find`` finds; ``close`` hangs up on all.

    ``on_quiet`` is called when nobody is connected any more, ``on_accept`` when somebody is.
    """

    def __init__(
        self,
        find: Find,
        on_quiet: Callable[[], None],
        on_accept: Callable[[], object] = lambda: None,
    ) -> None:
        self._find = find
        self._on_quiet = on_quiet
        self._on_accept = on_accept
        self._conversations: dict[Conversation, asyncio.Task[None]] = {}
        self._hanging_up: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """Somebody is connected."""
        return bool(self._conversations)

    def accept(self, stream: Stream) -> None:
        conversation = Conversation(self._find, stream)
        if len(self._conversations) >= MOST_CONNECTIONS and not self._make_room():
            conversation.abort()
            return
        task = asyncio.create_task(conversation.run())
        self._conversations[conversation] = task
        task.add_done_callback(lambda done: self._ended(conversation, done))
        self._on_accept()

    def let_go(self) -> None:
        """Nobody has more than one request answered from now on; who comes again is another's."""
        for conversation in self._conversations:
            conversation.is_last = True
        loop = asyncio.get_running_loop()
        self._hanging_up = loop.call_later(FIRST_WORDS_TIMEOUT_S, self._hang_up_on_silent)

    def _hang_up_on_silent(self) -> None:
        for conversation in self._conversations:
            if conversation.silent_since_s is not None:
                conversation.abort()

    async def told(self) -> None:
        """Return when all who have something under way were told how it ends; soon anyway."""
        busy = [task for one, task in self._conversations.items() if one.silent_since_s is None]
        if busy:
            await asyncio.wait(busy, timeout=LAST_WORDS_TIMEOUT_S)

    async def close(self) -> None:
        if self._hanging_up is not None:
            self._hanging_up.cancel()
        for conversation in self._conversations:
            conversation.abort()
        await end(*self._conversations.values())

    def _make_room(self) -> bool:
        """Hang up on the one that has said nothing for longest; whether there is one."""
        silent = [
            (one.silent_since_s, one)
            for one in self._conversations
            if one.silent_since_s is not None
        ]
        if not silent:
            return False
        _, longest = min(silent, key=lambda pair: pair[0])
        self._conversations[longest].cancel()
        del self._conversations[longest]
        longest.abort()
        return True

    def _ended(self, conversation: Conversation, task: asyncio.Task[None]) -> None:
        self._conversations.pop(conversation, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a conversation met a bug", exc_info=error)
        if not self._conversations:
            self._on_quiet()
