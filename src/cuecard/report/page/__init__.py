"""What all pages are made of: HTML, canvas, labels, time lines, formats."""
