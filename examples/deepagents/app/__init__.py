"""What the three examples share."""
