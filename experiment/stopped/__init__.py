"""What a run that was stopped leaves on the disk, so that the next one goes on from there."""
