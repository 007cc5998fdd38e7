"""`python -m trading_platform.portfolio`."""

from trading_platform.portfolio.app import create
from trading_platform.service import main

main(create)
