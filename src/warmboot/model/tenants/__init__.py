"""What has a VM of its own: how it is booted, and engines; containers are beside this folder."""
