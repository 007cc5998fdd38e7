"""Runs on the scenario's host: writes a document as the application, or prints the one that was written."""

import os
import socket
import sys

import pymongo

client = pymongo.MongoClient(
    f"{socket.gethostname()}.trading.internal",
    replicaSet="trading_rs",
    username="trading_user",
    password=os.environ["PASSWORD"],
    authSource="admin",
    tls=True,
    tlsCAFile="/etc/trading-tls/ca.pem",
    serverSelectionTimeoutMS=20_000,
)
documents = client.trading_platform.scenario
if sys.argv[1] == "write":
    documents.insert_one({"word": "kept"})
else:
    print(documents.find_one()["word"])
