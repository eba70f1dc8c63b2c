"""From the results of runs to estimates, tests, tables of methods and verdicts."""
