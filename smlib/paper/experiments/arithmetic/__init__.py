"""Figure 3, Table 1 and App. G.1: arithmetic in a base."""
