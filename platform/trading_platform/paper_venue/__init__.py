"""The paper venue: a service that speaks a subset of Binance spot's API and matches orders against our own market."""
