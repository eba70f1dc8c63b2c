"""Masked-error fine-tuning: likelihood on data with mistakes in them, whose own labels are left out.

The demonstrations have wrong tokens that stand (`smlib.edits.standing`): the model reads them, is asked for the right
continuation after them, and is never trained at the place of a mistake. There is no `<bkspc>`. It teaches to go on, not
to go back, and what was written wrong stays wrong.

This is not behavioural cloning whose labels `<bkspc>` are left out (`edit_weight=0`). There a mistake is deleted
before anything else happens, so the only label after it is `<bkspc>`: once that is left out no state with a mistake is
in the loss, which is maximum likelihood with clean states counted once more for each mistake that struck them. Here
the states with mistakes are what is added.
"""

from jaxtyping import Bool
from torch import Tensor

from smlib.edits.packing import PackedBatch
from smlib.objectives.losses import Loss, VisitValues, mass


def mistakes(batch: PackedBatch) -> Bool[Tensor, " N"]:
    """Where the token that stands is another than the label; of trajectories without `<bkspc>`."""
    written = batch.tokens.flatten()[batch.slots[batch.visit_next]]
    return written != batch.label


def masked_likelihood(visits: VisitValues, wrong: Bool[Tensor, " N"]) -> Loss:
    """-sum log p(label_i | s_i) over the data's visits but those that are mistakes, divided by the number of all."""
    data = ~visits.model
    ones = data.to(visits.logit.dtype)
    total = -(visits.log_prob * (data & ~wrong)).sum() / mass(visits, ones, 1.0)
    return Loss(total, {"nll": total.detach()})
