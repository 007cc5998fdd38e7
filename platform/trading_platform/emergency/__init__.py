"""Emergency stop: one procedure for the risk service and for the script on a host, and what they reach the platform with."""
