"""The field's rules, pure: orders, matching, positions, ledger, risk, performance. No I/O, no framework, no clock, no randomness."""
