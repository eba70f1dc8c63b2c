"""The card of a policy that ships, as a page for a reader (`CARD.md`); `smlib.paper.shipping` measures what it says."""

from smlib.policies.shipped import CARD, Card


def as_markdown(made: Card) -> str:
    """The card for a reader."""
    accuracy, recovery = made.measured["accuracy"], made.measured["recovery"]
    titles = {"t1": "temperature 1", "greedy": "greedy", "greedy_exclude": "greedy, no token deleted twice at a state"}
    lines = [
        f"# {made.name}",
        "",
        made.summary,
        "",
        f"It answers questions such as “{made.example}”. It is a Llama with {made.parameters:,} parameters, trained "
        f"with the method `{made.method}` on the task `{made.task}` ({made.difficulty}), seed {made.seed}.",
        "",
        f"| decoding | accuracy on {made.measured['questions']} validation questions |",
        "|---|---|",
        *(
            f"| {titles[rule]} | {accuracy[rule]:.3f} |"
            for rule in ("t1", "greedy", "greedy_exclude")
            if rule in accuracy
        ),
        "",
    ]
    if recovery:
        lines += [
            "After wrong digits at the start of the answer, at temperature 1:",
            "",
            "| wrong digits | first action deletes | all of them deleted | answer right |",
            "|---|---|---|---|",
            *(
                f"| {depth} | {r['first_backspace']:.3f} | {r['all_removed']:.3f} | {r['correct']:.3f} |"
                for depth, r in sorted(recovery.items())
            ),
            "",
        ]
    least = min(made.trained.values())
    again = "The weights are those that the run itself left; asked again, the" if made.kept else "Trained again, the"
    lines += [
        "Limits:",
        "",
        *(f"- {limit}" for limit in made.limits),
        "",
        f"The configuration is that of the committed run `{made.run}`, and stands in `{CARD}`. {again} "
        f"policy repeats {'every one' if least == 1 else f'at least {least:.1%}'} of that run's outcomes. The weights "
        "were then rounded to bfloat16, and the numbers above are of the rounded weights.",
        "",
        f"Made at revision {made.revision}; `{made.command}` trains it again, compares and measures it.",
        "",
    ]
    return "\n".join(lines)
