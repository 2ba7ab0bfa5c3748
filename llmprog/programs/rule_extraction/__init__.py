"""Rules in natural language as a checked structure, each with the sentence it comes from."""

from llmprog.programs.rule_extraction.program import rule_extraction
from llmprog.programs.rule_extraction.rules import Contradiction, Rule, RuleSet, contradictions_in, read_reply

__all__ = ["Contradiction", "Rule", "RuleSet", "contradictions_in", "read_reply", "rule_extraction"]
