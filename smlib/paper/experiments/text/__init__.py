"""Tables 2 and 8: text."""
