"""Images: read from what a user gives, checked by their headers, decoded in a child process."""
