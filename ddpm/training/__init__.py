"""Training: the loop, and all that a run needs to be resumed."""
