"""Performance as ratios inside one run on one machine (App. F, Tables 3 and 4): `smlib bench [--quick] [--json]`.

Every entry is `{value, unit, baseline, n, spread, clock}`: the median over n turns in which the rivals ran one after
another, the quartiles, and the clock (`smlib.bench.timing`). Ratios that should be small are costs
(`sm_over_mle_...`), those that should be large are speed-ups. `smlib.bench.targets` says what each should reach, and
the best that is possible.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from smlib.bench import generation
from smlib.bench.engines import gradient_steps, with_each_engine
from smlib.bench.resources import flops, kernel_shares, matmul_flops_per_second, peak_bytes
from smlib.bench.steps import AllLogits, BareStep, DenseAlgorithmA, GradientStep
from smlib.bench.targets import judged
from smlib.bench.timing import figure, in_turns, seconds_of
from smlib.bench.workloads import ARITHMETIC, TEXT, Shape, dataset, groups, policy_for, sampling_job
from smlib.edits.algorithm_a import algorithm_a
from smlib.edits.packing import pack
from smlib.generation.sampling import sample

Figures = dict[str, dict[str, object]]


def run(quick: bool = False, tell: Callable[[str], None] = lambda part: None) -> Figures:
    """All figures. Under ten minutes on two cores, `quick` under two.

    Args:
        quick: fewer turns, and a shorter text context for the entries that allow it.
        tell: called with the name of each part before it is measured.
    """
    found: Figures = {}
    tell("training on arithmetic (1 of 8)")
    found |= training("arithmetic", ARITHMETIC, turns=5 if quick else 15, sampling_turns=1 if quick else 3)
    tell("training on text (2 of 8)")
    found |= training("text1024", TEXT, turns=2 if quick else 5, sampling_turns=1)
    tell("other ways to train (3 of 8)")
    found |= rivals(ARITHMETIC, turns=4 if quick else 10)
    tell("sampling (4 of 8)")
    found |= sampling(turns=1 if quick else 3)
    tell("packing (5 of 8)")
    found |= packing(turns=2 if quick else 5)
    tell("memory (6 of 8)")
    found |= memory(TEXT)
    tell("arithmetic intensity (7 of 8)")
    found |= arithmetic_intensity(ARITHMETIC, turns=4 if quick else 10)
    tell("rollouts beside training (8 of 8)")
    shape = replace(ARITHMETIC, refill=ARITHMETIC.refill // 4) if quick else ARITHMETIC
    found |= with_each_engine("arithmetic", shape, turns=2 if quick else 5)
    return judged(found)


def training(name: str, shape: Shape, *, turns: int, sampling_turns: int, apart: bool = False) -> Figures:
    """Tables 3 and 4: a gradient step of SM over one of MLE on equal data, alone and with its share of sampling.

    Args:
        apart: rollouts do not share their prompts' slots with the data (`GradientStep`).
    """
    data, space = dataset(shape)
    steps = gradient_steps(shape, data, space, apart=apart)
    times = in_turns(steps, turns)
    slots = {method: step.pack().tokens.numel() for method, step in steps.items()}
    job = sampling_job(shape, data, space, [i % len(data) for i in range(shape.refill)], seed=0)
    refill = [seconds_of(lambda: sample(*job)) for _ in range(sampling_turns)]
    share = float(np.median(refill)) / shape.interval
    amortised = [(s + share) / m for s, m in zip(times.seconds["sm"], times.seconds["mle"], strict=True)]
    return {
        f"sm_over_mle_step_{name}": figure(times.ratio("sm", "mle"), "ratio", "MLE gradient step"),
        f"sm_over_mle_amortised_{name}": figure(amortised, "ratio", "MLE gradient step"),
        f"slots_sm_over_mle_{name}": figure([slots["sm"] / slots["mle"]], "ratio", "MLE batch"),
        f"mle_step_{name}": figure(times.seconds["mle"], "s", "none"),
        f"sm_step_{name}": figure(times.seconds["sm"], "s", "none"),
        f"sampling_{name}": figure(refill, f"s a refill of {shape.refill}", "none"),
        f"steps_per_sample_{name}": figure([float(shape.interval)], "steps", "none"),
        **(_bounds(name, shape, steps, lambda: sample(*job)) if not shape.adapters else {}),
    }


def _bounds(name: str, shape: Shape, steps: Mapping[str, GradientStep], refill: Callable[[], object]) -> Figures:
    """Ratios of the operations counted on both sides. Products of quantised weights are kernels that nobody counts."""
    work = {method: flops(step) for method, step in steps.items()}
    sampled = flops(refill) / shape.interval
    return {
        f"flops_sm_over_mle_step_{name}": figure([work["sm"] / work["mle"]], "ratio", "MLE gradient step"),
        f"flops_sm_over_mle_amortised_{name}": figure(
            [(work["sm"] + sampled) / work["mle"]], "ratio", "MLE gradient step"
        ),
    }


def rivals(shape: Shape, *, turns: int) -> Figures:
    """Our steps over a bare PyTorch loop, and the paper's format and full logits over ours."""
    data, space = dataset(shape)
    policy = policy_for(shape, space)
    clean, noisy = (groups(shape, data, space, method=method) for method in ("mle", "sm"))
    times = in_turns(
        {
            "bare": BareStep(policy, clean),
            "mle": GradientStep(policy, clean, "mle", row_len=shape.row_len),
            "sm": GradientStep(policy, noisy, row_len=shape.row_len, branches=data.branches),
            "dense": DenseAlgorithmA(policy, noisy, branches=data.branches),
            "all": AllLogits(policy, noisy, row_len=shape.row_len, branches=data.branches),
        },
        turns,
    )
    return {
        "mle_step_over_bare_pytorch": figure(times.ratio("mle", "bare"), "ratio", "padded rows, full logits"),
        "sm_step_over_bare_pytorch_mle": figure(times.ratio("sm", "bare"), "ratio", "padded rows, full logits"),
        "dense_algorithm_a_step_over_ours": figure(times.ratio("dense", "sm"), "ratio", "SM step, trie packing"),
        "all_logits_step_over_ours": figure(times.ratio("all", "sm"), "ratio", "SM step, visited states only"),
    }


def sampling(*, turns: int, batch: int = 64, prompt: int = 32, new: int = 128) -> Figures:
    """Tokens a second against `generate`, and the price when a fifth of the actions are backspaces.

    That price is given twice: for as many actions, and for as many tokens inserted, which takes a quarter more actions.
    """
    sizes = {"batch": batch, "prompt": prompt, "new": new}
    none = generation.ours(ARITHMETIC, **sizes, backspace=0.0)
    fifth = generation.ours(ARITHMETIC, **sizes, backspace=0.2)
    equal = generation.ours(ARITHMETIC, **sizes, backspace=0.2, actions=round(new / 0.8))
    times = in_turns(
        {
            "ours": none,
            "20%": fifth,
            "equal": equal,
            "dynamic": generation.theirs(ARITHMETIC, **sizes, cache=None),
            "static": generation.theirs(ARITHMETIC, **sizes, cache="static"),
        },
        turns,
    )
    # Both take the same number of actions; ours reads one token fewer, as its last action is always <eos>.
    plain = none().insertions
    inserted = plain / (batch * new)
    per_token = plain / equal().insertions  # equal in expectation: each sequence deletes by its own draws
    shares = kernel_shares(none)
    dynamic, static = ([inserted * r for r in times.ratio(cache, "ours")] for cache in ("dynamic", "static"))
    network = generation.network_seconds(ARITHMETIC, **sizes)
    alone = [inserted * s / network() for s in times.seconds["dynamic"]]
    return {
        "sample_tokens_per_s_over_generate": figure(dynamic, "ratio", "transformers.generate, as it comes"),
        "sample_tokens_per_s_over_generate_static": figure(static, "ratio", "transformers.generate, static cache"),
        "network_alone_tokens_per_s_over_generate": figure(alone, "ratio", "transformers.generate, as it comes"),
        "sample_with_20pct_backspaces_over_none": figure(times.ratio("20%", "ours"), "ratio", "no backspaces"),
        "sample_with_20pct_backspaces_over_none_equal_tokens": figure(
            [per_token * r for r in times.ratio("equal", "ours")], "ratio", "no backspaces, as many tokens inserted"
        ),
        "flops_20pct_backspaces_over_none_equal_tokens": figure(
            [per_token * flops(equal) / flops(none)], "ratio", "no backspaces, as many tokens inserted"
        ),
        "linear_share_of_sampling": figure([shares["linear"]], "share", "none"),
        "attention_share_of_sampling": figure([shares["attention"]], "share", "none"),
        "sample_tokens_per_s": figure([inserted * batch * new / s for s in times.seconds["ours"]], "1/s", "none"),
    }


def packing(*, turns: int, context: int = 1024, count: int = 16) -> Figures:
    """Trajectories a second of the trie packing over Algorithm A, at L = 1024."""
    data, space = dataset(TEXT)
    rng = np.random.default_rng(0)
    made = [[data.demonstration(i, rng, TEXT.eta, 1)] for i in range(count)]

    def dense() -> None:
        for (trajectory,) in made:
            algorithm_a(trajectory, space)

    times = in_turns({"trie": lambda: pack(made, space), "dense": dense}, turns)
    masks = algorithm_a(made[0][0], space).mask.nbytes / pack(made[:1], space).expiry.nbytes
    return {
        "packing_over_algorithm_a": figure(times.ratio("dense", "trie"), "ratio", "Algorithm A, dense masks"),
        "mask_bytes_algorithm_a_over_trie": figure([masks], "ratio", "expiry vector"),
    }


def memory(shape: Shape) -> Figures:
    """Growth of memory during an SM step over that of an MLE step."""
    data, space = dataset(shape)
    peaks = {}
    for method, step in gradient_steps(shape, data, space).items():
        step()  # optimiser state exists from here on
        peaks[method] = peak_bytes(step)
    return {
        "peak_memory_sm_over_mle_text1024": figure([peaks["sm"] / peaks["mle"]], "ratio", "MLE gradient step"),
        "peak_memory_mle_text1024": figure([peaks["mle"] / 2**20], "MiB", "none"),
    }


def arithmetic_intensity(shape: Shape, *, turns: int) -> Figures:
    """Achieved FLOP/s of an SM step over those of its linear layers' matrix products alone; and of a bare loop's."""
    data, space = dataset(shape)
    step = gradient_steps(shape, data, space)["sm"]
    bare = BareStep(step.policy, groups(shape, data, space, method="mle"))
    work, bares = flops(step), flops(bare)
    ratios, plain = [], []
    for _ in range(turns):
        products = matmul_flops_per_second(step.policy, lambda: step.values(step.pack()), repeats=3)
        ratios.append(work / seconds_of(step) / products)
        products = matmul_flops_per_second(bare.policy, bare.loss, repeats=3)
        plain.append(bares / seconds_of(bare) / products)
    shares = kernel_shares(step)
    return {
        "train_flops_over_matmul_flops": figure(ratios, "ratio", "matrix products of the same shapes"),
        "bare_pytorch_flops_over_matmul_flops": figure(plain, "ratio", "matrix products of the same shapes"),
        "linear_share_of_step": figure([shares["linear"]], "share", "none"),
        "attention_share_of_step": figure([shares["attention"]], "share", "none"),
    }
