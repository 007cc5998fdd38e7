"""`python -m trading_platform.risk`."""

from trading_platform.risk.app import create
from trading_platform.service import main

main(create)
