"""Decoding over any step function: greedy, beam search, sampling, ensembles. Needs torch alone; knows no model."""

from seqkit.decoding.backpointers import Hypothesis, NoFiniteScoreError
from seqkit.decoding.constraints import CONSTRAINTS, Beam, Constraint
from seqkit.decoding.ensemble import ensemble
from seqkit.decoding.search import Search
from seqkit.decoding.step import Step, StepFunction, Tree
from seqkit.decoding.unknown import replace_unknown

__all__ = [
    "CONSTRAINTS",
    "Beam",
    "Constraint",
    "Hypothesis",
    "NoFiniteScoreError",
    "Search",
    "Step",
    "StepFunction",
    "Tree",
    "ensemble",
    "replace_unknown",
]
