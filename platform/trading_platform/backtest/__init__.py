"""The backtest: recorded or synthetic ticks through the engine's core and the simulated market, on their own time.

No service and no database. It hosts the engine's core (engine/core.py); everything else it shares with the services.
"""
