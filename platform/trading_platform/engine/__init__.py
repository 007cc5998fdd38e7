"""Engine: the life of every order, from a signal to the venue's last word. The only writer of orders, their events and fills."""
