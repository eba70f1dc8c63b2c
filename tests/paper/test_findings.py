"""What sweeps say together."""

from smlib.paper.experiments.judging.findings import finding, summary


def sweep(title: str, *p_values: float) -> dict[str, object]:
    default = {"value": 0, "default": True, "accuracy": {"value": 0.5}}
    points = [
        {"value": i, "default": False, "difference": 0.02, "low": -0.01, "high": 0.05, "p_value": p}
        for i, p in enumerate(p_values, 1)
    ]
    return {"title": title, "points": [default, *points], "finding": finding(title, [default, *points])}


def test_a_dozen_sweeps_share_one_correction() -> None:
    sweeps = [sweep("α", 0.01, 0.5), *(sweep(f"sweep {i}", 0.6, 0.7) for i in range(11))]
    assert "significantly different" in str(sweeps[0]["finding"])  # within its own sweep
    assert summary(sweeps) == "none of 12 sweeps moves it significantly (Holm over all 24 comparisons)"
    sweeps[0] = sweep("α", 0.001, 0.5)
    assert summary(sweeps) == "matters: α (Holm over all 24 comparisons)"


def test_an_excluded_difference_is_one_comparisons() -> None:
    assert str(sweep("α", 0.4)["finding"]).endswith("beyond 0.050 are excluded (95 %, each comparison by itself)")
