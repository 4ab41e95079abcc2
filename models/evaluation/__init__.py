"""Evaluation: figures with bootstrap intervals over patients, the same for every candidate."""

from models.evaluation.figures import FIGURES, Estimate, Evaluator, Figures, resample
from models.evaluation.groups import Group, groups
from models.evaluation.reliability import Bin, reliability

__all__ = ["FIGURES", "Bin", "Estimate", "Evaluator", "Figures", "Group", "groups", "reliability", "resample"]
