"""What the embedded pair is trained on and with."""
