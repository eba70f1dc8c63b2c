"""The paper rebuilt: its items and their results, verdicts, figures, experiments and notebooks.

Nothing outside this folder and the command line imports it.
"""
