"""`smlib train` and `smlib generate`: train a small policy on a task of your choice, and watch it write and delete.

A folder holds one policy: `settings.json` (what it was trained with), `metrics.jsonl`, checkpoints while it is trained,
and the weights in `policy/` when it is done. A killed run goes on when the same command is given again.
"""

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from smlib.cli.checks import check_sampling, check_seed, told
from smlib.cli.completions import complete
from smlib.cli.started import SETTINGS, check_same
from smlib.data.continuations import inner_decoder
from smlib.data.demonstrations import TaskDemonstrations
from smlib.data.encoding import lost_characters
from smlib.data.mathematics import as_prompt
from smlib.data.tasks import Task, load_task
from smlib.edits.actions import ActionSpace, Trajectory
from smlib.environment import RefusedEnvironmentError, check_environment
from smlib.files import ResultError, canonical_json, read_json, write_atomically
from smlib.generation.sampling import SamplingConfig
from smlib.objectives.methods import ObjectiveConfig, get_method
from smlib.paper.experiments.runs.answers import answer
from smlib.paper.experiments.runs.pretraining import PretrainConfig, TinyModel, pretrained, weights_file
from smlib.policies import shipped
from smlib.policies.loading import load_policy
from smlib.policies.policy import SAVED, Policy
from smlib.training.algorithm_1 import NonFiniteLossError, TrainConfig, train
from smlib.training.background import RolloutWorkerError
from smlib.training.checkpoints import CheckpointError, reason
from smlib.training.configuration import GROUP
from smlib.training.folder import LOCK, FolderInUseError, held, usable_folder
from smlib.training.memory import DeviceMemoryError
from smlib.training.metrics import MetricsError

BASE = "base"
"""What `smlib train --init` calls the base model of a task that the repository has."""
RATE, RATE_ON = 2e-3, 3e-4
"""Learning rates: from random weights, and from trained ones, as in Figure 3."""
ETA = 0.1
"""Noise level of the demonstrations where none is asked for."""


NO_OPTION = (
    ". That is a setting of smlib.train, which this command has no option for: its policies are small, and "
    "CUDA_VISIBLE_DEVICES= before the command trains on the processor"
)


@dataclass(frozen=True)
class Settings:
    """What a policy is trained on and how; written beside it, so that `generate` finds the same tokeniser.

    Attributes:
        task, difficulty, questions, validation: training and validation questions (Sec. 6.1 trains on 5,000).
        noise: `ground_truth`, `random` or `none`.
        training: the run; its `eta` is the noise level.
        dim, layers, heads, positions: shape of the tiny Llama.

    Raises:
        ValueError: a noise level that the noise cannot have; a seed that torch does not take.
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

    def __post_init__(self) -> None:
        eta = self.training.eta
        if self.noise == "none" and eta > 0.0:
            raise ValueError(f"the noise `none` has eta = 0, not {eta}: leave eta out, or choose a noise")
        if eta == 1.0:
            raise ValueError("eta = 1 never reaches the end of an answer: choose one below 1")
        check_seed(self.training.seed)

    def load_task(self) -> Task:
        """The task with these splits; raises `ResultError` with the known names for an unknown one."""
        with told(ValueError, OSError, ModuleNotFoundError):
            return load_task(
                self.task, difficulty=self.difficulty, n_train=self.questions, n_val=self.validation, n_test=0
            )


def settings_for(
    method: str,
    *,
    steps: int,
    eta: float | None,
    alpha: float,
    gamma: float,
    seed: int,
    learning_rate: float = RATE,
    **data: str | int,
) -> Settings:
    """Settings of a short run: half of it behavioural cloning, then a quarter to anneal β (App. E's proportions are
    10,000 and 2,000 steps). Without `eta` it is `ETA`, and 0 with the noise `none`. Methods that take no noise get
    none. Raises `ResultError` for a value that cannot be used.
    """
    with told(ValueError):
        return _settings(method, steps, eta, alpha, gamma, seed, learning_rate, **data)


def _settings(
    method: str,
    steps: int,
    eta: float | None,
    alpha: float,
    gamma: float,
    seed: int,
    learning_rate: float,
    **data: str | int,
) -> Settings:
    noisy = get_method(method).noise
    if eta is None:
        eta = 0.0 if data.get("noise") == "none" else ETA
    objective = ObjectiveConfig(
        method=method, alpha=alpha, gamma=gamma, bc_steps=steps // 2, anneal_steps=max(1, steps // 4)
    )
    training = TrainConfig(
        objective=objective,
        steps=steps,
        eta=eta if noisy else 0.0,
        learning_rate=learning_rate,
        warmup_steps=min(100, steps // 2),
        rollout_tokens=24,
        row_len=128,
        log_every=10,
        checkpoint_every=100,
        seed=seed,
    )
    if get_method(method).on_policy:
        training = training.on_policy(GROUP if method == "exact" else None)
    noise = {"noise": "none"} if not noisy or eta == 0 else {}
    return Settings(training=training, **{**data, **noise})  # type: ignore[arg-type]


def fit(settings: Settings, folder: Path, init: Path | None = None) -> Mapping[str, float]:
    """Train in `folder` and save the policy; returns its validation accuracy at temperature 1 and greedily.

    `init` is a folder of an earlier policy to start from, the name of one that ships, or `base`. Raises `ResultError`
    if the folder holds a policy of other settings, if the settings cannot be used, and if the training stops at a
    checkpoint or a loss that is none.
    """
    with told(RefusedEnvironmentError):
        check_environment()
    task = settings.load_task()
    record = canonical_json({"settings": settings, "init": None if init is None else str(init)})
    with told(OSError):
        check_same(folder, record)
    # All this before anything is written: a folder belongs to the settings in it.
    with told(ValueError, after="; --noise says which"):
        data = TaskDemonstrations(task, task.train, settings.noise)
    policy = _new(settings, task) if init is None else _earlier(init, settings, task)
    with _folder_of_its_own(folder):
        with told(OSError, before=f"{folder} cannot be written: "):
            write_atomically(folder / SETTINGS, record)
        stops = (CheckpointError, NonFiniteLossError, MetricsError, RolloutWorkerError)
        with told(*stops), told(DeviceMemoryError, after=NO_OPTION):
            trained = train(policy, data, settings.training, folder).policy
        try:
            trained.save(folder / "policy")
        except (OSError, SafetensorError) as error:
            raise ResultError(
                f"the policy cannot be written to {folder}: {reason(error)}; free some space, and the same command "
                "goes on from the last checkpoint"
            ) from error
    rules = ("t1", "greedy_exclude")
    return {rule: answer(trained, task, task.val, decoding=rule).accuracy for rule in rules}


@contextmanager
def _folder_of_its_own(folder: Path) -> Iterator[None]:
    """`folder`, held against other processes; one made for this that holds nothing is removed after an error."""
    new = not folder.exists()
    try:
        with told(OSError, FolderInUseError), held(usable_folder(folder)):
            yield
    except BaseException:
        if new and folder.is_dir() and {path.name for path in folder.iterdir()} <= {LOCK}:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _new(settings: Settings, task: Task) -> Policy:
    shape = TinyModel(settings.dim, settings.layers, settings.heads, settings.positions, settings.training.seed)
    return shape.build(task)


def _earlier(folder: Path, settings: Settings, task: Task) -> Policy:
    """The policy in `folder`, or the one of that name (`base`, or one that ships), if the run can start from it."""
    if str(folder) == BASE:
        policy = _base(settings, task)
    elif str(folder) in shipped.names():
        policy = _of_task(shipped.load(str(folder))[0], folder, task.space)
    else:
        policy = _load(folder, task.space)
    method = settings.training.objective.method
    if get_method(method).backspace and not policy.config.backspace:
        raise ResultError(f"the policy in {folder} has no <bkspc>: {method} starts from one of a method that has it")
    return policy


def _base(settings: Settings, task: Task) -> Policy:
    """The base model from which the paper's runs of a task start, of the checkout's committed weights."""
    config = PretrainConfig(task=settings.task)
    weights = weights_file(config, "full")
    if settings.difficulty != config.difficulty or not weights.exists():
        known = sorted(path.name.rsplit("-", 1)[0] for path in weights.parent.glob("*.safetensors"))
        raise ResultError(
            f"no base model of {settings.task} ({settings.difficulty}) is committed in {weights.parent}; there are "
            f"those of {', '.join(known) or 'no task'}, {config.difficulty}: train without --init"
        )
    return pretrained(config, task, preset="full")


def write(
    folder: Path, prompt: str, config: SamplingConfig, seeds: Sequence[int], *, html: Path | None = None
) -> list[Trajectory]:
    """Sample a completion of a prompt for each seed and show it as it is written, deleted tokens struck out.

    A question is completed to the form that the policy was trained on (`as_prompt`); an empty prompt stays empty.

    Raises:
        ResultError: no finished policy, a damaged one, a prompt that fills its context, a seed that is none.
    """
    task = _task_of(folder)
    policy = _load(folder, task.space)
    ids = np.array([task.tokenizer.bos, *task.tokenizer.encode(as_prompt(prompt))], np.int32)
    check_sampling(policy, ids.size, config, seeds)
    return complete(policy, task.tokenizer, ids.tolist(), config, seeds, html=html, title=folder.name)


def finished(folder: Path) -> tuple[Policy, Task, Mapping[str, object]]:
    """The policy that `smlib train` left in `folder`, its task without questions, its settings; or `ResultError`."""
    task = _task_of(folder)
    settings = read_json(folder / SETTINGS)["settings"]
    assert isinstance(settings, Mapping)  # `_task_of` has looked
    return _load(folder, task.space), task, settings


def _task_of(folder: Path) -> Task:
    """The task that the policy in `folder` was trained on, without questions."""
    _weights(folder)
    described = folder / SETTINGS
    settings = read_json(described).get("settings")
    if not isinstance(settings, Mapping) or not {"task", "difficulty"} <= set(settings):
        raise ResultError(f"{described} is none of `smlib train`: it does not name the task")
    with told(ValueError, ModuleNotFoundError, before=f"{described}: "):
        return load_task(str(settings["task"]), n_train=0, n_val=0, n_test=0, difficulty=str(settings["difficulty"]))


def write_text(
    model: str,
    prompt: str,
    config: SamplingConfig,
    seeds: Sequence[int],
    *,
    download: bool = False,
    html: Path | None = None,
) -> list[Trajectory]:
    """Sample a completion for each seed from a language model, and show each as it is written.

    Args:
        model: a folder that `smlib.policies.loading.save_policy` wrote, or any other model that `load_policy` takes;
            what was never trained to delete is not allowed to.
        download: whether the hub may be asked.

    Raises:
        ResultError: no such model, a model that cannot be a policy, a prompt that fills the model's context, a seed
            that is none.
    """
    with told(OSError, ModuleNotFoundError, ValueError, SafetensorError):
        policy, tokenizer = load_policy(model, local_files_only=not download)
    if not (Path(model) / SAVED).is_file():
        policy.forbid_backspace()
    if lost := lost_characters(tokenizer, prompt):
        shown = ", ".join(map(repr, lost))
        print(f"the vocabulary of {model} has no token for {shown}: the model does not see it", file=sys.stderr)
    ids = np.array([tokenizer.bos, *tokenizer.encode(prompt)], np.int32)
    check_sampling(policy, ids.size, config, seeds)
    decode = inner_decoder(tokenizer)
    return complete(policy, tokenizer, ids.tolist(), config, seeds, decode=decode, html=html, title=Path(model).name)


def _weights(folder: Path) -> Path:
    if not (folder / "policy").exists():
        hint = f"; a saved language model is read by --model {folder}" if (folder / SAVED).exists() else ""
        if not folder.exists():
            hint = f". No policy of that name comes with smlib either; there are {', '.join(shipped.names())}"
        raise ResultError(f"{folder} holds no finished policy: train one with `smlib train {folder}`{hint}")
    return folder / "policy"


def _load(folder: Path, space: ActionSpace) -> Policy:
    """The finished policy in `folder`, which has to have these actions."""
    with told(OSError, ValueError, SafetensorError, before=f"the policy in {folder} cannot be read: "):
        policy = Policy.load(_weights(folder))
    return _of_task(policy, folder, space)


def _of_task(policy: Policy, folder: Path, space: ActionSpace) -> Policy:
    """The same policy; `ResultError` if its actions are those of another task."""
    if policy.space != space:
        raise ResultError(f"the policy in {folder} has the actions of another task: {policy.space}, not {space}")
    return policy
