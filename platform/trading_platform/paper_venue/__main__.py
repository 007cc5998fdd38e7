"""`python -m trading_platform.paper_venue` serves; `… keys --account paper` prints an account's API key and secret."""

import sys

from trading_platform.paper_venue.app import create
from trading_platform.paper_venue.keys_command import keys
from trading_platform.service import main

if len(sys.argv) > 1:
    if sys.argv[1] != "keys":
        sys.exit(f"usage: python -m trading_platform.paper_venue [keys --account ACCOUNT]; found {sys.argv[1]!r}")
    sys.exit(keys(sys.argv[2:]))
main(create)
