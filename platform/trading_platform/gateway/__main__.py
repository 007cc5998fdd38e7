"""Runs the gateway."""

from trading_platform.gateway.app import create
from trading_platform.service import main

if __name__ == "__main__":
    main(create)
