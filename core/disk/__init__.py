"""What is on the disk is whole, and one writer is at work at a time."""
