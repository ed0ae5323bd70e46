"""The client for threads. Generated from `_async` by tools/unasync.py, but for `shims`."""
