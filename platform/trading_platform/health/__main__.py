"""Runs the health service."""

from trading_platform.health.app import create
from trading_platform.service import main

if __name__ == "__main__":
    main(create)
