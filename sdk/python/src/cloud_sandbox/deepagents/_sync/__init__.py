"""What backends do with sandboxes of a server, for threads."""
