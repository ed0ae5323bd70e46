"""The asyncio client. Everything here but `shims` has a generated twin in `_sync`."""
