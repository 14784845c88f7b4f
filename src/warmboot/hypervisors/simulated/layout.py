"""What lies in a simulated VM's folder, under names that are the same for every VM."""

CONTROL_SOCKET = "control.sock"
"""The VMM's: pause, resume, save."""

READY_SOCKET = "ready.sock"
"""The driver's: the VMM tells how its start went."""

VSOCK_SOCKET = "vsock.sock"
"""The host's side of the VM's vsock device."""

DOCKER_SOCKET = "docker.sock"
"""Inside the guest, where the agent finds Docker."""

CONSOLE_LOG = "console.log"
VMM_LOG = "vmm.log"
