"""The wires: requests' JSON to questions, outcomes to JSON and events."""
