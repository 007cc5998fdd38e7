"""`python -m trading_platform.paper_venue keys --account paper`: with what an account signs its requests, for an operator."""

from __future__ import annotations

import argparse
import sys

from trading_platform import config, venue_keys


def keys(arguments: list[str]) -> int:
    """Print the account's API key and secret; needs the credential paper-venue-secret. The exit status."""
    parser = argparse.ArgumentParser(prog="python -m trading_platform.paper_venue keys")
    parser.add_argument("--account", required=True)
    account_id = parser.parse_args(arguments).account
    try:
        settings = config.load()
        account = settings.account(account_id)
        if account is None or not settings.venues[account.venue].paper:
            known = ", ".join(account.id for account in settings.accounts if settings.venues[account.venue].paper) or "none"
            raise config.ConfigError(f"--account {account_id}: no account at the paper venue; there are: {known}")
        key = venue_keys.paper(account_id, config.secret("paper-venue-secret"))
    except config.ConfigError as error:
        print(f"paper-venue keys: {error}", file=sys.stderr)
        return 78
    print(f"key: {key.key}\nsecret: {key.secret}")
    return 0
