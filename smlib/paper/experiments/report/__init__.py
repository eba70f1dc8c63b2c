"""Every item side by side, and the errors of the paper."""
