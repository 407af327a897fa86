"""Decides whether a response reaches the known answer."""

from pipeline.verify.api import grade
from pipeline.verify.types import Conventions, Grade
from pipeline.verify.workers.pool import VerifierPool, share_of_workers

__all__ = ["Conventions", "Grade", "VerifierPool", "grade", "share_of_workers"]
