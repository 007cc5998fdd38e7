"""`python3 -m lab`: what bin/lab hands over to."""

import sys

from lab.cli import main

sys.exit(main())
