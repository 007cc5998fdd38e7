"""Risk: may this order be sent, and how much is at stake now. In the order path; what it does not know, it refuses."""
