"""The host agent: VMs, networks, disks, snapshot files and processes of one machine.

``agent.HostAgent`` is the door; its methods take and return plain frozen models.
"""
