"""`python -m trading_platform.strategy`."""

from trading_platform.service import main
from trading_platform.strategy.app import create

main(create)
