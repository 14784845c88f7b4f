"""The host's side of a guest: clients of its guest agent and of Docker in the guest."""
