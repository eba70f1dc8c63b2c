"""The edit MDP made explicit: exact occupancies, values, divergences and the objective J, without sampling."""
