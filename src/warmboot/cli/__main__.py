"""``python -m warmboot.cli``."""

from warmboot.cli.main import main

main()
