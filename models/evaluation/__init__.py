"""Evaluation: figures with intervals by patient, the same for every candidate."""

from models.evaluation.figures import FIGURES, Estimate, Figures, Judge, resample
from models.evaluation.groups import Group, groups
from models.evaluation.reliability import Bin, reliability

__all__ = ["FIGURES", "Bin", "Estimate", "Figures", "Group", "Judge", "groups", "reliability", "resample"]
