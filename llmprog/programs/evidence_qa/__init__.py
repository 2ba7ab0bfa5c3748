"""Questions answered from paragraphs: the likely ones are found, reasoned from, and cited."""

from llmprog.programs.evidence_qa.paragraphs import (
    GoldQuestion,
    Paragraph,
    Task,
    bundled_paragraphs,
    bundled_questions,
    parse_task,
    read_paragraphs,
)
from llmprog.programs.evidence_qa.program import Chain, CitedAnswer, ConsistentBeam, Step, evidence_qa
from llmprog.programs.evidence_qa.ranking import Ranked, rank_paragraphs

__all__ = [
    "Chain",
    "CitedAnswer",
    "ConsistentBeam",
    "GoldQuestion",
    "Paragraph",
    "Ranked",
    "Step",
    "Task",
    "bundled_paragraphs",
    "bundled_questions",
    "evidence_qa",
    "parse_task",
    "rank_paragraphs",
    "read_paragraphs",
]
