"""The process behind a simulated VM: a guest agent and a Docker Engine API without a guest.

Standard library only, and nothing of the rest of warmboot: it starts with ``python -I -S``, which
sees no installed package. The driver beside it starts it.

``machine``    the "RAM" and the guest's clock, which stops while the VM is paused
``snapshot``   how RAM lies in ``snapshot.mem`` and ``snapshot.state``
``control``    the VMM's side: pause, resume, save
``agent``      the guest agent's requests
``docker``     Docker's requests: ``images``, ``containers``, ``execs``; what runs: ``programs``
``http``       a small HTTP/1.1 server over the vsock socket
"""
