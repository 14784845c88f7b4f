"""The front: serves the engines' sockets, a process of its own that outlives the manager.

    client ──socket──▶ Conversation ──▶ agent of the guest ──▶ its dockerd
                       every request is seen, of every connection

A real dockerd answers. What is looked at is what the host must know of; everything else passes as
it came. The manager tells the front what there is (``model.conventions.engine_front``); while no
manager runs, sockets and streams go on.
"""
