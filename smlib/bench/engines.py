"""What SequenceMatch costs with its sampling, where rollouts are sampled between two steps and where beside them.

A turn of each rival is what one refill is learned from: `Shape.interval` gradient steps, and for SM one refill. The
clock is the wall's, whatever the threads, since the seconds of another process are not this one's; on a machine with a
core to spare the second engine hides the sampling, and where there is none it cannot.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from smlib.bench.steps import GradientStep
from smlib.bench.timing import figure, in_turns, wall_seconds_of
from smlib.bench.workloads import Shape, dataset, groups, policy_for, sampling_job
from smlib.edits.actions import ActionSpace
from smlib.policies.policy import Policy
from smlib.training.background import BackgroundEngine
from smlib.training.dataset import Dataset
from smlib.training.rollouts import SamplingTask


def with_each_engine(name: str, shape: Shape, *, turns: int) -> dict[str, dict[str, object]]:
    """Amortised SM steps over MLE steps, with each engine, in turns.

    Args:
        name: of the workload, in the names of the figures.
    """
    data, space = dataset(shape)
    steps = gradient_steps(shape, data, space)
    policy, prompts, sampling, seeds = sampling_job(shape, data, space, [i % len(data) for i in range(shape.refill)], 0)
    task = SamplingTask(prompts, seeds, None, sampling, None)
    with _started(policy) as beside:

        def learn(method: str) -> None:
            step: GradientStep = steps[method]
            for _ in range(shape.interval):
                step()

        def between() -> None:
            task.sampled(policy)
            learn("sm")

        def meanwhile() -> None:
            beside.refresh(0)
            beside.submit(0, task)
            learn("sm")
            beside.collect(0)

        rivals: dict[str, Callable[[], object]] = {
            "mle": lambda: learn("mle"),
            "sm": lambda: learn("sm"),
            "in_process": between,
            "background": meanwhile,
        }
        times = in_turns(rivals, turns, measure=wall_seconds_of)
    baseline = f"{shape.interval} MLE gradient steps"
    return {
        f"sm_over_mle_{part}_{name}": figure(times.ratio(rival, "mle"), "ratio", baseline, "wall")
        for part, rival in (
            ("steps_by_the_wall", "sm"),
            ("amortised_in_process", "in_process"),
            ("amortised_background", "background"),
        )
    }


def gradient_steps(shape: Shape, data: Dataset, space: ActionSpace, *, apart: bool = False) -> dict[str, GradientStep]:
    """A step of MLE and one of SM, on the same examples, from the same weights."""
    policy = policy_for(shape, space)
    return {
        method: GradientStep(
            policy,
            groups(shape, data, space, method=method),
            method,
            row_len=shape.row_len,
            chunk=shape.chunk,
            apart=apart,
            branches=data.branches,
        )
        for method in ("mle", "sm")
    }


@contextmanager
def _started(policy: Policy) -> Iterator[BackgroundEngine]:
    engine = BackgroundEngine(policy)
    engine.start()
    try:
        yield engine
    finally:
        engine.close()
