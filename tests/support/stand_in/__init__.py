"""What stands in for Qdrant's image where that cannot be had; see `server.py`."""
