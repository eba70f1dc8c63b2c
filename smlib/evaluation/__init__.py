"""Metrics of Sec. 6 and App. G, each with an error bar and the name of its variant.

Nothing here sees actions: deleted tokens are gone (`smlib.edits.actions.final_state`) before a metric is asked.
"""

from smlib.evaluation.bleu import BleuScore, bleu, bleu_difference
from smlib.evaluation.diversity import DiversityReport, diversity, diversity_report, ngram_entropy, rep_n
from smlib.evaluation.intervals import (
    Estimate,
    clustered_interval,
    crossed_interval,
    mean_interval,
    perplexity,
    ratio_values,
    wilson,
)
from smlib.evaluation.joint_mauve import JointMauve
from smlib.evaluation.mauve_score import MauveScore, MauveSettings, mauve, minilm_features
from smlib.evaluation.paired import PairedTest, mcnemar, paired_difference

__all__ = [
    "BleuScore",
    "DiversityReport",
    "Estimate",
    "JointMauve",
    "MauveScore",
    "MauveSettings",
    "PairedTest",
    "bleu",
    "bleu_difference",
    "clustered_interval",
    "crossed_interval",
    "diversity",
    "diversity_report",
    "mauve",
    "mcnemar",
    "mean_interval",
    "minilm_features",
    "ngram_entropy",
    "paired_difference",
    "perplexity",
    "ratio_values",
    "rep_n",
    "wilson",
]
