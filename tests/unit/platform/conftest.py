"""Hypothesis on machines that are slow at times: no deadline, and slow generation is no failure of what is tested."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("platform", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("platform")
