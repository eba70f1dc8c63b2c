"""Figures 1 and 2 and Sec. 3: what is exact."""
