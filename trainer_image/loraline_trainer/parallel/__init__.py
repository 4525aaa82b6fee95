"""Training in several processes: starting them, and what they say to each other."""
