"""Trained policies that a run leaves for others: they are no result, git ignores them, and a seed brings them back."""

from pathlib import Path

from smlib.files import config_hash, resolve
from smlib.policies.deletion_head import DeletionHeadPolicy
from smlib.policies.policy import Policy


def weights_of(config: object, name: str, weights_dir: str | Path) -> Path:
    """Folder of the policy of a run: of its name and of all of its configuration."""
    return resolve(weights_dir) / f"{name}-{config_hash(config)}"


def kept_policy(config: object, name: str, weights_dir: str | Path) -> Policy | None:
    """The policy that `fine_tune` left in `weights_dir`; None where there is none."""
    folder = weights_of(config, name, weights_dir)
    kind = DeletionHeadPolicy if getattr(config, "deletion_head", False) else Policy
    return kind.load(folder) if folder.exists() else None
