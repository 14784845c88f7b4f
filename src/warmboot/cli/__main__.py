"""``python -m warmboot.cli``."""

from warmboot.cli.entry import main

main()
