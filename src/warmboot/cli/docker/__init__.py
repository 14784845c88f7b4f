"""Docker's forms on the command line: options, ports, templates."""
