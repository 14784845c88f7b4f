"""What containers and engines have in common: each is a tenant, with a VM of its own."""
