"""Workers: containers of the host's own Docker engine that pause and resume."""
