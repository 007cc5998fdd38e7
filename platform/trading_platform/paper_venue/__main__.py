"""`python -m trading_platform.paper_venue` serves; `… keys --account paper` prints an account's API key and secret."""

import argparse
import sys

from trading_platform import config, venue_keys
from trading_platform.paper_venue.app import create
from trading_platform.service import main


def keys(arguments: list[str]) -> int:
    """For an operator who has the credential: with what the account signs its requests."""
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


if len(sys.argv) > 1:
    if sys.argv[1] != "keys":
        sys.exit(f"usage: python -m trading_platform.paper_venue [keys --account ACCOUNT]; found {sys.argv[1]!r}")
    sys.exit(keys(sys.argv[2:]))
main(create)
