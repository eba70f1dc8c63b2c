"""Tables 5, 6 and 7: translation, multiplication, prime factors."""
