"""The lab: real systemd hosts on this very machine, for trying and testing the playbooks.

It supplies hosts, SSH, names, packages and an ACME server, and nothing of the platform itself: what runs on
the hosts is the business of the roles. Standard library only, so that it starts before anything is installed.
"""
