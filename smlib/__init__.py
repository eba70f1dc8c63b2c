"""SequenceMatch (Cundy & Ermon, ICLR 2024): imitation learning for language models, with backtracking.

Nothing heavy is imported here, so that `smlib status` answers at once; import the modules you need, e.g.
`from smlib import actions, losses, results`.
"""

__version__ = "0.1.0"
