"""What a policy is, apart from its language model, and how a file has it."""

from dataclasses import asdict, dataclass
from typing import Any

from smlib.edits.actions import ActionSpace


@dataclass(frozen=True)
class PolicyConfig:
    """What a policy is, apart from its language model.

    Attributes:
        space: the vocabulary with <bos>, <eos> and <bkspc>.
        offset_head: whether the head of App. E is there.
        backspace: False forbids <bkspc> (its logit is -inf): plain maximum likelihood, and the ablation.
        keep_edits: soft deletion: <bkspc> is an input too, and what was deleted stays in the context before it.
    """

    space: ActionSpace
    offset_head: bool = True
    backspace: bool = True
    keep_edits: bool = False

    def written(self) -> dict[str, Any]:
        """As `policy.json` has it: as ever, where there is no soft deletion."""
        return {name: value for name, value in asdict(self).items() if name != "keep_edits" or value}
