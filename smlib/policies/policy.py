"""The policy: a causal language model, one unembedding row for `<bkspc>`, and the logit offset head of App. E.

Nothing of the model itself changes: `<bkspc>` is an action and never an input, so it needs an output row beside the
head and no embedding. The logits of the vocabulary stay bit-identical, tied or not, with adapters or 4-bit weights; a
16-bit head alone is multiplied in float32, and its logits are then more exact than the model's own.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from smlib.edits.actions import ActionSpace
from smlib.edits.packing import PackedBatch
from smlib.files import whole_folder
from smlib.policies.attention import check_attention, use_pieces
from smlib.policies.block_masks import packed_mask
from smlib.policies.decoder import decoder, last_hidden
from smlib.policies.edit_token import EditToken
from smlib.policies.four_bit import with_gradients
from smlib.policies.head_in_parts import labels_and_values
from smlib.policies.independence import independent_context
from smlib.policies.llama import llama_config
from smlib.policies.offset_head import OffsetHead
from smlib.policies.policy_config import PolicyConfig
from smlib.policies.postprocessing import measured
from smlib.policies.reading import load_lm, save_lm
from smlib.policies.requirements import check_model, fit_experts, max_positions, why_shorter
from smlib.policies.unembedding import TrainedHead, token_logits, unrounded, wide
from smlib.policies.window_checks import smallest_unkept

__all__ = ["FORMAT", "SAVED", "Policy", "PolicyConfig", "tiny_policy"]

FORMAT = "smlib-policy-1"
SAVED = "policy.json"  # in every saved policy
DAMAGED = (
    json.JSONDecodeError,
    UnicodeDecodeError,
    RecursionError,
    KeyError,
    TypeError,
    AttributeError,
    SafetensorError,
)
"""What files that are torn, or are something else, lead to."""


class Policy(nn.Module):
    """p(a|s) over the vocabulary and `<bkspc>`, from any causal language model of transformers.

    Args:
        lm: the model, loaded with `attn_implementation="sdpa"`.
        config: action space and options; the vocabulary must fit the model's output head.

    Raises:
        ValueError: an attention that ignores or misreads bool 4-D masks; a head smaller than the vocabulary; logits
            that are more than the head's, scaled or capped; a configuration without a context length.

    >>> policy = tiny_policy(ActionSpace(vocab_size=10, eos=0), dim=16, layers=1, heads=2)
    >>> policy.space.n_actions
    11
    """

    file_format = FORMAT

    def __init__(self, lm: Any, config: PolicyConfig) -> None:
        super().__init__()
        check_attention(lm)
        use_pieces(lm)
        with_gradients(lm)
        head = check_model(lm)
        fit_experts(lm)
        if head.out_features < config.space.vocab_size:
            raise ValueError(
                f"the head has {head.out_features} rows but the vocabulary has {config.space.vocab_size} tokens"
            )
        dim = head.in_features  # of OPT-350m it is not the hidden size
        self.lm = lm
        self.config = config
        self.behind = measured(lm)
        self.window = smallest_unkept(lm)
        self.context = min(filter(None, (independent_context(lm, max_positions(lm)), self.window)))
        weight = head.weight
        mean_row = weight.detach().float().mean(0) if weight.is_floating_point() else torch.zeros(dim)
        dtype = weight.dtype if weight.is_floating_point() else torch.float32
        self.w_bkspc = nn.Parameter(mean_row.to(dtype))  # starts as the mean row: an average token
        self.offset = OffsetHead(dim, max_positions(lm)).to(weight.device) if config.offset_head else None
        # How it is computed, and no part of what it is: see `chosen_tile` and `packed_mask`.
        self.vocabulary_tile: int | None = None
        self.flex_from: int | None = None
        self.edit_token = EditToken(lm.get_input_embeddings(), config.space.bkspc) if config.keep_edits else None
        self.critic: nn.Module | None = None  # beside it while it is trained by `gail`, and in no saved policy

    def _apply(self, fn: Any, recurse: bool = True) -> "Policy":  # what `double()` and `to()` call
        moved = super()._apply(fn, recurse)
        fit_experts(self.lm)
        return moved

    @property
    def space(self) -> ActionSpace:
        """The action space."""
        return self.config.space

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.w_bkspc.device

    @property
    def max_positions(self) -> int:
        """The context, in tokens: the model's, or the part of it in which a state is what it is by itself."""
        return self.context

    def hidden(
        self,
        tokens: Int[Tensor, "R S"],
        positions: Int[Tensor, "R S"],
        mask: Bool[Tensor, "R 1 S K"] | BlockMask,
        cache: Any = None,
    ) -> Float[Tensor, "R S d"]:
        """Last hidden vector of each slot. The 4-D mask is always given: transformers guesses one otherwise.

        Raises:
            ValueError: positions beyond a context that is shorter than the model's own.
        """
        if self.context < max_positions(self.lm) and int(positions.max()) >= self.context:
            raise ValueError(
                f"a state of {int(positions.max()) + 1} tokens, and this policy's context is {self.context} of the "
                f"model's {max_positions(self.lm)}: {self.why_shorter()}"
            )
        embedded = self.edit_token(self.lm.get_input_embeddings(), tokens) if self.edit_token is not None else None
        return last_hidden(decoder(self.lm), tokens, positions, mask, cache, embedded)

    def logits(self, hidden: Float[Tensor, "N d"], positions: Int[Tensor, " N"] | None) -> Float[Tensor, "N A"]:
        """Logits l(a|s) over the vocabulary and, last, `<bkspc>`; the offset added to all of them.

        Without positions the offset is left out: p(a|s) is the same, V(s) is not. Sampling asks for that.
        """
        tokens = self.behind(token_logits(self.lm.get_output_embeddings(), hidden, self.space.vocab_size))
        row = wide(self.w_bkspc)
        with unrounded(hidden):
            edit = self.behind((hidden.to(row.dtype) @ row)[:, None].to(tokens.dtype))
        if not self.config.backspace:
            edit = torch.full_like(edit, -torch.inf)
        logits = torch.cat([tokens, edit], dim=1)
        if self.offset is not None and positions is not None:
            logits = logits + self.offset(hidden.to(self.w_bkspc.dtype), positions).to(logits.dtype)
        return logits

    def why_shorter(self) -> str:
        """Why the context is shorter than the model's own; empty if it is not."""
        return why_shorter(self.context, max_positions(self.lm), self.window)

    def state_hidden(self, batch: PackedBatch) -> tuple[Float[Tensor, "U d"], Int[Tensor, " U"]]:
        """One forward pass over a packed batch: hidden vector and position of each needed state."""
        mask = packed_mask(batch.expiry, batch.positions, self.flex_from)
        hidden = self.hidden(batch.tokens, batch.positions, mask)
        return hidden.flatten(0, 1)[batch.slots], batch.positions.flatten()[batch.slots]

    def state_logits(self, batch: PackedBatch) -> Float[Tensor, "U A"]:
        """Logits at each needed state of a packed batch."""
        return self.logits(*self.state_hidden(batch))

    def forward(self, batch: PackedBatch, chunk: int | None = None, logits: bool = False) -> Any:
        """Logit of each visit's label [N] and V of each needed state [U]; or, with `logits`, all logits [U, A].

        Args:
            chunk: number of states whose logits exist at a time. The rest is recomputed in the backward pass, so that
                memory is chunk x vocabulary instead of U x vocabulary. None keeps all logits, unless the vocabulary is
                cut too (`vocabulary_tile`).
        """
        if logits:
            return self.state_logits(batch)
        hidden, positions = self.state_hidden(batch)
        return labels_and_values(self, hidden, positions, batch, chunk)

    def extra_state(self) -> dict[str, Tensor]:
        """What the language model does not save: the `<bkspc>` row, the offset head, a head trained beside adapters."""
        extra = {"w_bkspc": self.w_bkspc.detach()}
        for part, module in self._extra_modules().items():
            extra |= {f"{part}.{k}": v.detach() for k, v in module.state_dict().items()}
        return extra

    def _extra_modules(self) -> dict[str, nn.Module]:
        head = self.lm.get_output_embeddings()
        alone = hasattr(self.lm, "peft_config") and isinstance(head, TrainedHead)  # peft saves adapters and no more
        found = {"offset": self.offset, "edit_token": self.edit_token, "unembedding": head if alone else None}
        return {part: module for part, module in found.items() if module is not None}

    def save(self, path: Path | str) -> None:
        """Writes the language model (or its adapter) and the rest as safetensors; complete or not at all."""
        with whole_folder(Path(path), SAVED) as scratch:
            options: dict[str, Any] = {"safe_serialization": True}
            if hasattr(self.lm, "peft_config") and hasattr(self.lm, "smlib_source"):
                # `load_policy` resizes no embeddings; peft would ask the hub for the base's vocabulary to see that.
                options["save_embedding_layers"] = False
            save_lm(self.lm, scratch / "lm", **options)
            save_file({k: v.contiguous().cpu() for k, v in self.extra_state().items()}, scratch / "policy.safetensors")
            (scratch / SAVED).write_text(json.dumps({"format": self.file_format, **self.config.written()}, indent=1))

    @classmethod
    def load(cls, path: Path | str, base: Callable[[Path], Any] | None = None) -> "Policy":
        """Reads what `save` wrote, in evaluation mode. No pickle, no code from the checkpoint.

        Args:
            path: the directory.
            base: makes the language model from the `lm` directory; needed for adapters, whose base model is not in it.

        Raises:
            FileNotFoundError: no such checkpoint. ValueError: corrupt, or not written by smlib.
        """
        folder = Path(path)
        meta = folder / SAVED
        if not meta.is_file():
            raise FileNotFoundError(f"{folder} is no smlib policy (policy.json is missing); `smlib train` writes one")
        try:
            stored = json.loads(meta.read_text())
            if stored.pop("format", None) != cls.file_format:
                raise ValueError(f"{meta} is not of the format {cls.file_format!r}")
            config = PolicyConfig(**{**stored, "space": ActionSpace(**stored["space"])})
            extra = load_file(folder / "policy.safetensors")
        except DAMAGED as error:
            raise ValueError(f"{folder} is a corrupt or foreign checkpoint: {error}") from error
        policy = cls((base or load_lm)(folder / "lm"), config)
        policy.load_extra_state(extra, folder)
        return policy.eval()

    def load_extra_state(self, extra: dict[str, Tensor], source: Path | str = "checkpoint") -> None:
        """Puts the `extra_state` of another run in place; raises ValueError where it does not fit."""
        expected = {name: tuple(value.shape) for name, value in self.extra_state().items()}
        found = {name: tuple(value.shape) for name, value in extra.items()}
        if expected != found:
            raise ValueError(f"{source}: expected the tensors {expected}, found {found}")
        with torch.no_grad():
            self.w_bkspc.copy_(extra["w_bkspc"])
        for part, module in self._extra_modules().items():
            module.load_state_dict(
                {k.removeprefix(f"{part}."): v for k, v in extra.items() if k.startswith(f"{part}.")}
            )

    def forbid_backspace(self) -> "Policy":
        """The same policy with `<bkspc>` switched off, in place, until `allow_backspace` switches it on again."""
        self.config = replace(self.config, backspace=False)
        return self

    def allow_backspace(self) -> "Policy":
        """The same policy with `<bkspc>` switched on, in place; its row is as it was when it was switched off."""
        self.config = replace(self.config, backspace=True)
        return self

    def keep_edits(self) -> "Policy":
        """The same policy with soft deletion, in place: <bkspc> gets an embedding, once, and is read like a token."""
        if not self.config.keep_edits:
            self.edit_token = EditToken(self.lm.get_input_embeddings(), self.space.bkspc)
            self.config = replace(self.config, keep_edits=True)
        return self

    def remove_offset_head(self) -> "Policy":
        """The same policy without the head of App. E, in place: V(s) is then the language model's own."""
        self.config, self.offset = replace(self.config, offset_head=False), None
        return self

    def shift_value(self, by: float) -> "Policy":
        """The same policy with `by` added to every V(s), in place; ValueError without an offset head."""
        if self.offset is None:
            raise ValueError("V(s) is moved by the offset head, and this policy has none")
        self.offset.outer.bias.data += by
        return self


def tiny_policy(
    space: ActionSpace,
    *,
    dim: int = 128,
    layers: int = 4,
    heads: int = 4,
    mlp: int | None = None,
    positions: int = 256,
    seed: int = 0,
    offset_head: bool = True,
    backspace: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Policy:
    """A small `LlamaForCausalLM` with random weights, the architecture of Llama-2 in miniature.

    Args:
        dim, layers, heads, mlp: width, depth, attention heads, width of the gated MLP (8/3 dim when omitted).
        positions: context length. seed: of the initial weights; the global generator is left as it was.

    >>> policy = tiny_policy(ActionSpace(vocab_size=10, eos=0), dim=16, layers=1, heads=2)
    >>> sum(p.numel() for p in policy.lm.parameters())
    3408
    """
    from transformers import LlamaForCausalLM

    config = llama_config(space, dim=dim, layers=layers, heads=heads, mlp=mlp, positions=positions)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = Policy(LlamaForCausalLM(config), PolicyConfig(space, offset_head, backspace))
    return policy.to(dtype)
