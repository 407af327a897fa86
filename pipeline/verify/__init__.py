"""The reward's judge: does a response reach the known answer?"""

from pipeline.verify.api import grade
from pipeline.verify.pool import VerifierPool, share_of_workers
from pipeline.verify.types import Conventions, Grade

__all__ = ["Conventions", "Grade", "VerifierPool", "grade", "share_of_workers"]
