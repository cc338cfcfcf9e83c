"""What the stored answers of a run show."""
