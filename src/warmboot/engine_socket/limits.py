"""What the front takes and waits for at most: nothing that a client does may grow without end."""

from __future__ import annotations

from warmboot.model.conventions.engine_front import WAKE_TIMEOUT_S

CHUNK_BYTES = 256 << 10
"""Read at once; a direction keeps about twice as much while the other side does not take it."""

READ_AHEAD_BYTES = CHUNK_BYTES // 2
"""asyncio stops reading when it has twice as much."""

MOST_HEAD_BYTES = 30 << 10
"""Of a request: the guest's agent, which adds a token to it, takes 32 KiB."""

MOST_ANSWER_HEAD_BYTES = 256 << 10

HEAD_TIMEOUT_S = 30.0
"""From the first byte of a head to its last."""

MOST_CONNECTIONS = 1024
"""Of one engine. One too many takes the place of the one that has said nothing for longest."""

MOST_IN_GUEST = 500
"""Requests and streams of one engine at a time, idle connections among them: the guest's agent has
512 threads, and the manager needs some, too."""

ROOM_TIMEOUT_S = 10.0
"""How long a request waits for room in the guest."""

HANDSHAKE_TIMEOUT_S = 10.0
"""Of TLS. Who is in the middle of it says nothing yet, and makes room for others."""

CONNECT_TIMEOUT_S = 10.0

START_TIMEOUT_S = 600.0
"""How long a request waits for an engine that is being created."""

GREETED_TIMEOUT_S = 1.0
"""How long the manager waits at most until those are answered who only ask for a greeting."""

IDLE_IN_GUEST = 8
"""Connections to a guest that are kept for the next request."""

IDLE_IN_GUEST_S = 60.0

LINGER_S = 5.0
"""How long is read on after a refusal: with unread data a close would cut off the answer."""

FIRST_WORDS_TIMEOUT_S = 1.0
"""How long who has just connected to a front that is retired may take to ask for something."""

LAST_WORDS_TIMEOUT_S = 1.0
"""How long the removal of an engine waits at most until its clients have been told of it."""

MOST_CREATE_BYTES = 4 << 20
"""Of the body of a request that creates a container, and of what dockerd is asked by us."""

WATCH_AFTER_S = 0.05
"""How long an answer may take before is looked whether its client is still there."""

ASK_TIMEOUT_S = 60.0
"""For what dockerd is asked by us, its whole answer included."""

MOST_LOG_BYTES = 1 << 20
"""Of the front's log, and as much of what was there before."""

MOST_BODIES = 32
"""Of such requests of one engine at a time: others wait, and are not read meanwhile."""

BODY_TIMEOUT_S = 60.0
"""For the body of such a request, and as long for its turn."""

MOST_HELD_BYTES = 256 << 10
"""Of an answer that is held until the manager was told of it: an id, or a few words."""

MOST_PORTS = 1024
"""That one container can publish: each is a socket of the manager's."""

MOST_MOUNTS, MOST_PATH_LENGTH = 1024, 4096
"""Of one container, those that name a path: each is looked at; and how long such a path may be."""

MOST_LOOKS, LOOK_TIMEOUT_S = 8, 20.0
"""Of one engine at a time, for its mounts in file systems of this machine, and how long each is
waited for: its thread goes on."""

MANAGER_TIMEOUT_S = 30.0
"""How long what needs the manager waits for one that is being restarted, and for its answer."""

MANAGER_ANSWER_TIMEOUT_S = {"wake-engine": WAKE_TIMEOUT_S + MANAGER_TIMEOUT_S}
"""For what takes a manager longer."""
