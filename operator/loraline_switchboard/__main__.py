"""Runs the switchboard's command line as `python -m loraline_switchboard`."""

import sys

from loraline_switchboard.main import main

if __name__ == "__main__":
    sys.exit(main())
