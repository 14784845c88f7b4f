"""The process behind a simulated VM: a machine in memory, in which the real guest agent runs.

Standard library and ``warmboot.guest`` only: it starts with ``python -I -S``, which sees no
installed package. The driver beside it starts it.

``machine``    the "RAM" and the guest's clock, which stops while the VM is paused
``snapshot``   how RAM lies in ``snapshot.mem`` and ``snapshot.state``
``control``    the VMM's side: pause, resume, save
``vsock``      how connections come to the guest's agent
``system``     what the agent asks of its machine
``docker``     the Docker that the agent leads to: ``images``, ``containers``, ``execs``; what runs
               in them: ``programs``
"""
