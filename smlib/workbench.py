"""`smlib train` and `smlib generate`: train a small policy on a task of your choice, and watch it write and delete.

A folder holds one policy: `settings.json` (what it was trained with), `metrics.jsonl`, checkpoints while it is trained,
and the weights in `policy/` when it is done. A killed run goes on when the same command is given again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from transformers.utils.logging import disable_progress_bar

from smlib.actions import Trajectory
from smlib.data.continuations import inner_decoder
from smlib.data.demonstrations import TaskDemonstrations
from smlib.data.tasks import Task, load_task
from smlib.experiments.answers import answer
from smlib.files import ResultError, canonical_json, read_json, write_atomically
from smlib.loading import load_policy
from smlib.methods import ObjectiveConfig, get_method
from smlib.models import Policy, max_positions, tiny_policy
from smlib.sampling import SamplingConfig
from smlib.streaming import show, stream
from smlib.training import TrainConfig, train


@dataclass(frozen=True)
class Settings:
    """What a policy is trained on and how; written beside it, so that `generate` finds the same tokeniser.

    Attributes:
        task, difficulty, questions, validation: training and validation questions (Sec. 6.1 trains on 5,000).
        noise: `ground_truth`, `random` or `none`.
        training: the run; its `eta` is the noise level.
        dim, layers, heads, positions: shape of the tiny Llama.
    """

    task: str = "add_or_sub_in_base"
    difficulty: str = "easy"
    questions: int = 5_000
    validation: int = 200
    noise: str = "ground_truth"
    training: TrainConfig = field(default_factory=TrainConfig)
    dim: int = 128
    layers: int = 3
    heads: int = 4
    positions: int = 128

    def load_task(self) -> Task:
        """The task with these splits; raises `ResultError` with the known names for an unknown one."""
        try:
            return load_task(
                self.task, difficulty=self.difficulty, n_train=self.questions, n_val=self.validation, n_test=0
            )
        except ValueError as error:
            raise ResultError(str(error)) from None


def settings_for(
    method: str, *, steps: int, eta: float, alpha: float, gamma: float, seed: int, **data: str | int
) -> Settings:
    """Settings of a short run: half of it behavioural cloning, then a quarter to anneal β (App. E's proportions are
    10,000 and 2,000 steps). Methods that take no noise get none. Raises `ResultError` for a value that cannot be used.
    """
    try:
        return _settings(method, steps, eta, alpha, gamma, seed, **data)
    except ValueError as error:
        raise ResultError(str(error)) from None


def _settings(
    method: str, steps: int, eta: float, alpha: float, gamma: float, seed: int, **data: str | int
) -> Settings:
    noisy = get_method(method).noise
    objective = ObjectiveConfig(
        method=method, alpha=alpha, gamma=gamma, bc_steps=steps // 2, anneal_steps=max(1, steps // 4)
    )
    training = TrainConfig(
        objective=objective,
        steps=steps,
        eta=eta if noisy else 0.0,
        learning_rate=2e-3,
        warmup_steps=min(100, steps // 2),
        rollout_tokens=24,
        row_len=128,
        log_every=10,
        checkpoint_every=100,
        seed=seed,
    )
    noise = {"noise": "none"} if not noisy or eta == 0 else {}
    return Settings(training=training, **{**data, **noise})  # type: ignore[arg-type]


def fit(settings: Settings, folder: Path, init: Path | None = None) -> Mapping[str, float]:
    """Train in `folder` and save the policy; returns its validation accuracy at temperature 1 and greedily.

    `init` is a folder of an earlier policy to start from. Raises `ResultError` if the folder holds a policy of other
    settings.
    """
    task = settings.load_task()
    record = canonical_json({"settings": settings, "init": None if init is None else str(init)})
    described = folder / "settings.json"
    if described.exists() and described.read_text(encoding="utf-8") != record:
        raise ResultError(f"{folder} holds a run with other settings, in settings.json; name another folder")
    try:
        data = TaskDemonstrations(task, task.train, settings.noise)
    except ValueError as error:  # before anything is written: a folder belongs to the settings in it
        raise ResultError(f"{error}; --noise says which") from None
    write_atomically(described, record)
    disable_progress_bar()  # of loading and saving weights; training shows its own
    if init is None:
        policy = tiny_policy(
            task.space,
            dim=settings.dim,
            layers=settings.layers,
            heads=settings.heads,
            positions=settings.positions,
            seed=settings.training.seed,
        )
    else:
        policy = Policy.load(_weights(init))
    trained = train(policy, data, settings.training, folder).policy
    trained.save(folder / "policy")
    return {
        decoding: answer(trained, task, task.val, decoding=decoding).accuracy for decoding in ("t1", "greedy_exclude")
    }


def write(folder: Path, prompt: str, config: SamplingConfig, seed: int) -> Trajectory:
    """Sample one completion of a prompt and show it as it is written, deleted tokens struck out."""
    disable_progress_bar()
    settings = read_json(folder / "settings.json")["settings"]
    assert isinstance(settings, dict)
    task = load_task(str(settings["task"]), n_train=0, n_val=0, n_test=0, difficulty=str(settings["difficulty"]))
    ids = np.array([task.tokenizer.bos, *task.tokenizer.encode(prompt)], np.int32)
    policy = Policy.load(_weights(folder))
    return show(stream(policy, ids, config, seed), task.space, task.tokenizer.decode)


def write_text(
    model: str, prompt: str, config: SamplingConfig, seeds: Sequence[int], *, download: bool = False
) -> list[Trajectory]:
    """Sample a completion for each seed from a language model, and show each as it is written.

    Args:
        model: a folder that `smlib.loading.save_policy` wrote, or any other model that `load_policy` takes; what was
            never trained to delete is not allowed to.
        download: whether the hub may be asked.

    Raises:
        ResultError: no such model, a model that cannot be a policy, a prompt that fills the model's context.
    """
    disable_progress_bar()
    try:
        policy, tokenizer = load_policy(model, local_files_only=not download)
    except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
        raise ResultError(str(error)) from None
    if not (Path(model) / "policy.json").is_file():
        policy.forbid_backspace()
    ids = np.array([tokenizer.bos, *tokenizer.encode(prompt)], np.int32)
    room = max_positions(policy.lm) - ids.size
    if room < config.max_new_tokens:
        raise ResultError(
            f"the prompt has {ids.size} tokens and the model reads {max_positions(policy.lm)}: no room for "
            f"{config.max_new_tokens} more; shorten the prompt or lower --max-tokens"
        )
    return [show(stream(policy, ids, config, s), policy.space, inner_decoder(tokenizer)) for s in seeds]


def _weights(folder: Path) -> Path:
    if not (folder / "policy").exists():
        hint = f"; a saved language model is read by --model {folder}" if (folder / "policy.json").exists() else ""
        raise ResultError(f"{folder} holds no finished policy: train one with `smlib train {folder}`{hint}")
    return folder / "policy"
