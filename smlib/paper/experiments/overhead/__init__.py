"""Tables 3 and 4: what SequenceMatch costs."""
