"""Runs the market data service."""

from trading_platform.market_data.app import create
from trading_platform.service import main

if __name__ == "__main__":
    main(create)
