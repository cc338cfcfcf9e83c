"""Wire formats: JSON requests to questions, outcomes to JSON and events."""
