"""The client's methods for containers."""

from warmboot.client.containers.containers import Containers as Containers
from warmboot.client.containers.conveniences import Finished as Finished
