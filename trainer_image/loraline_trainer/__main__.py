"""Runs loraline-train as `python -m loraline_trainer`."""

import sys

from loraline_trainer import cli

sys.exit(cli.main())
