"""Health of everything, from this host's point of view: one loop looks, everybody else reads what it saw."""
