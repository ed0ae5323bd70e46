"""What backends do with sandboxes of a server, for asyncio. `_sync` is made from it by tools/unasync.py."""
