"""A policy as a standard checkpoint of transformers, which is used without smlib.

    export_policy(policy, tokenizer, "mine")
    model = AutoModelForCausalLM.from_pretrained("mine")          # its logits are the action logits
    model.generate(**inputs, custom_generate="mine", trust_remote_code=True)
    policy, tokenizer = load_policy("mine")                       # and back

The folder is written beside its final name, loaded once by transformers alone, compared with the policy and then
renamed: it is whole and right, or there is none.
"""

import ast
import json
import os
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from smlib.chatter import without_bars
from smlib.data.tokenizers import BKSPC_TEXT, TextTokenizer
from smlib.files import whole_folder
from smlib.policies.exported_tokenizer import with_bkspc
from smlib.policies.model_card import LOCK, UNKNOWN, Card, licence_of, lock, render
from smlib.policies.policy import Policy
from smlib.policies.probing import ModelError, tolerance
from smlib.policies.sources import check_dtype, check_switch
from smlib.policies.standard_form import ADAPTERS, rounds_inputs, standard_model

MINIMUM = "5.0.0"
"""The oldest transformers that reads the folder as it is meant: earlier ones do not know `rope_parameters`."""

CODE = "custom_generate/generate.py"
HEADER = '''"""Generation with deletion, for `generate(..., custom_generate=<this folder>, trust_remote_code=True)`.

Written by smlib {version} (Apache-2.0). It needs torch, numpy and transformers alone; see README.md of the checkpoint.
"""

import transformers

if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < {minimum}:
    raise ImportError(
        f"this checkpoint needs transformers {minimum_text} or newer, found {{transformers.__version__}}: "
        "pip install --upgrade transformers"
    )
'''


def export_policy(
    policy: Policy,
    tokenizer: TextTokenizer,
    folder: str | os.PathLike[str],
    *,
    bkspc: str = BKSPC_TEXT,
    merge: bool = True,
    dtype: torch.dtype | None = None,
    card: Card | None = None,
    check: bool = True,
) -> Path:
    """Writes weights, tokeniser, generation configuration, decoding loop, card and lock; complete or not at all.

    Args:
        policy: is left as it is; a copy of its weights is held meanwhile, and a second one while it is checked.
        folder: a new or empty one.
        bkspc: what the deletion is called in the tokeniser.
        merge: adds adapters to the weights; False writes them to `adapter/` beside weights without them.
        dtype: of the weights; that of the model's embeddings when omitted.
        card: what the card says of method, data, command, results and licence.
        check: load the result and compare its logits with the policy's.

    Raises:
        FileExistsError: something is at `folder`. ModelError: weights that cannot be written out, or logits that differ
            after loading. ValueError: a name that a token has already, a policy without `<bkspc>`.

    >>> export_policy(*smlib.load_shipped("sm-arithmetic"), "mine-hf")
    PosixPath('mine-hf')
    """
    check_dtype(dtype)
    check_switch("merge", merge)
    target = Path(folder)
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise FileExistsError(f"{target} exists: choose a new folder, or remove it first")
    adapters = hasattr(policy.lm, "peft_config")
    if not merge and not adapters:
        raise ValueError("merge=False keeps adapters apart, and this policy has none: leave it out")
    vocab = policy.space.vocab_size
    words = with_bkspc(tokenizer, vocab, bkspc)
    model = standard_model(policy, merge=merge, dtype=dtype)
    model.generation_config = _generation(policy, words)
    with whole_folder(target, CODE) as scratch, without_bars():
        model.save_pretrained(scratch)
        words.save_pretrained(scratch)
        if not merge:
            policy.lm.save_pretrained(scratch / ADAPTERS, save_embedding_layers=False)
            _forget_base(scratch / ADAPTERS / "adapter_config.json")
        (scratch / CODE).parent.mkdir()
        (scratch / CODE).write_text(standalone_source(), encoding="utf-8")
        (scratch / "custom_generate" / "requirements.txt").write_text(f"transformers>={MINIMUM}\n")
        (scratch / LOCK).write_text(lock(), encoding="utf-8")
        text = render(
            _completed(card or Card(), policy),
            bkspc=bkspc,
            bkspc_id=vocab,
            context=policy.max_positions,
            dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
            minimum=MINIMUM,
            kept=not merge,
            root=_root(tokenizer, words),
            chat=bool(getattr(words, "chat_template", None)),
        )
        (scratch / "README.md").write_text(text, encoding="utf-8")
        if check:
            del model
            _check(policy, scratch, words, bkspc)
    return target


def standalone_source() -> str:
    """The source of `custom_generate/generate.py`: one file, without smlib.

    `smlib.generation.custom_generate`, each module of smlib that it imports in place of the import. The file is read
    and not imported, since generation builds on policies.
    """
    from smlib import __version__

    package = Path(__file__).resolve().parents[1]
    minimum = tuple(int(part) for part in MINIMUM.split(".")[:2])
    parts = [HEADER.format(version=__version__, minimum=minimum, minimum_text=MINIMUM)]
    parts += _with_imports(package, "generation/custom_generate.py", set())
    return "\n\n".join(parts)


def _with_imports(package: Path, path: str, seen: set[str]) -> list[str]:
    """The sources of a module of smlib and, before it, of those that it imports; docstrings of modules left out."""
    source = (package / path).read_text(encoding="utf-8")
    first = ast.parse(source).body[0]
    body = "\n".join(source.splitlines()[first.end_lineno :]).strip("\n")
    before: list[str] = []
    for module in re.findall(r"^from smlib\.([\w.]+) import [\w, ]+$", body, re.MULTILINE):
        if module not in seen:
            seen.add(module)
            before += _with_imports(package, module.replace(".", "/") + ".py", seen)
    own = re.sub(r"^from smlib\..*\n", "", body, flags=re.MULTILINE)
    return [*before, f"# --- smlib/{path}\n\n{own.strip()}\n"]


def _generation(policy: Policy, words: Any) -> Any:
    """Temperature 1 and no filters, as the paper samples (App. E)."""
    from transformers import GenerationConfig

    return GenerationConfig(
        bos_token_id=policy.space.bos,
        eos_token_id=policy.space.eos,
        pad_token_id=words.pad_token_id,
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
    )


def _completed(card: Card, policy: Policy) -> Card:
    """The card with base and licence, where the policy knows them and the card does not."""
    name = getattr(getattr(policy.lm, "smlib_source", None), "name", "")
    if card.base == UNKNOWN and name:
        card = replace(card, base=Path(name).name if Path(name).is_dir() else name)
    return replace(card, licence=licence_of(name)) if card.licence == UNKNOWN and name else card


def _root(tokenizer: TextTokenizer, words: Any) -> str | None:
    """The token before every prompt in training, where transformers' tokeniser does not write it by itself."""
    ids = words("x").input_ids
    return None if ids and ids[0] == tokenizer.bos else str(words.convert_ids_to_tokens(tokenizer.bos))


def _forget_base(path: Path) -> None:
    """Kept adapters belong to the model that they lie beside, not to a path on this machine."""
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "base_model_name_or_path": None}, indent=2))
    (path.parent / "README.md").unlink(missing_ok=True)  # peft's own, a form without entries


def _check(policy: Policy, folder: Path, words: Any, bkspc: str) -> None:
    """Raises ModelError unless transformers alone reads the policy's logits and the action's id from `folder`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    found, text = loaded.convert_tokens_to_ids(bkspc), words.decode(_some_tokens(policy)[0], skip_special_tokens=True)
    if found != policy.space.bkspc or loaded(text).input_ids != words(text).input_ids:
        raise ModelError(
            f"transformers opens the tokeniser as a {type(loaded).__name__}, which reads text otherwise than this "
            f"{type(words).__name__} or gives {bkspc} another id ({found}, expected {policy.space.bkspc})"
        )
    with without_bars():
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
    if (folder / ADAPTERS).is_dir():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.load_adapter(str(folder / ADAPTERS))
    tokens = _some_tokens(policy)
    ours = action_logits(policy, tokens).float().cpu()
    theirs = model.eval()(tokens).logits[0].detach().float()
    if theirs.shape != ours.shape:
        raise ModelError(f"the head has {theirs.shape[-1]} rows after loading: expected {ours.shape[-1]}")
    gap, scale = float((theirs - ours).abs().max()), max(float(ours.abs().max()), 1.0)
    coarse = model.dtype in (torch.bfloat16, torch.float16) or rounds_inputs(policy.lm)
    if not gap <= (0.1 if coarse else tolerance(ours.dtype, policy)) * scale:
        raise ModelError(
            f"after loading, logits are off by {gap:.2g} (of {scale:.2g}) from the policy's: {type(model).__name__} "
            "does more with its head than a policy knows, or shares it with its embeddings whatever it is configured to"
        )


def action_logits(policy: Policy, tokens: Tensor) -> Float[Tensor, "S A"]:
    """The policy's action logits after each prefix of one row of tokens, the offset left out."""
    length = tokens.shape[1]
    device = policy.device
    places = torch.arange(length, device=device)[None]
    mask = torch.ones(1, 1, length, length, dtype=torch.bool, device=device).tril()
    modes = {module: module.training for module in policy.modules()}
    policy.eval()
    try:
        with torch.no_grad():
            return policy.logits(policy.hidden(tokens.to(device), places, mask)[0], None)
    finally:
        for module, training in modes.items():
            module.training = training


def _some_tokens(policy: Policy) -> Tensor:
    space = policy.space
    ordinary = [i for i in range(min(space.vocab_size, 16)) if i not in (space.eos, space.bos)] or [space.eos]
    return torch.tensor([[space.eos if space.bos is None else space.bos, *ordinary]])
