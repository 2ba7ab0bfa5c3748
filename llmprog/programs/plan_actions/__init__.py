"""Plans of actions, checked step by step against what each action needs and does."""

from llmprog.programs.plan_actions.domain import Action, Fact, Problem, Situation, Step, bundled, parse_problem
from llmprog.programs.plan_actions.program import Plan, plan_actions

__all__ = ["Action", "Fact", "Plan", "Problem", "Situation", "Step", "bundled", "parse_problem", "plan_actions"]
