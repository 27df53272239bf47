# SPDX-License-Identifier: Apache-2.0
"""What clinicians say: sentences with their commands for training and testing, and remarks on wrong answers."""

from carm_perception.datasets.language.remarks import remark
from carm_perception.datasets.language.sentences import WORD_LIMIT, sample
from carm_perception.datasets.language.words import Split

__all__ = ["WORD_LIMIT", "Split", "remark", "sample"]
