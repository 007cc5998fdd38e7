"""`python -m trading_platform.engine`."""

from trading_platform.engine.app import create
from trading_platform.service import main

main(create)
