"""Images: loaded from user input, checked by their headers, decoded in a child process."""
