"""What happens on one machine: VMs, networks, disks, snapshot files, processes.

``agent.HostAgent`` is the door; its methods take and return plain frozen models.
"""
