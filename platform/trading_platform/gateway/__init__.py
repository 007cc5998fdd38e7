"""The gateway: every public path of the platform. Knows who calls, asks the services behind it, answers only what it has checked."""
