"""Search algorithms, the thought graph they grow and the runtime that drives them."""

from llmprog.search.beam import BeamSearch
from llmprog.search.best_first import BestFirstSearch
from llmprog.search.best_of_n import BestOfN
from llmprog.search.breadth_first import BreadthFirstSearch
from llmprog.search.controller import (
    Action,
    Compare,
    Controller,
    Expand,
    Merge,
    Prune,
    SearchContext,
    Stop,
    VoteResult,
)
from llmprog.search.depth_first import DepthFirstSearch
from llmprog.search.diverse_beam import DiverseBeam
from llmprog.search.graph_of_thoughts import GraphOfThoughts
from llmprog.search.monte_carlo import MonteCarloTreeSearch
from llmprog.search.operation_graph import Decide, OperationGraph
from llmprog.search.operations import (
    Aggregate,
    Generate,
    GroundTruth,
    KeepBest,
    KeepValid,
    Operation,
    Refine,
    Score,
    Select,
)
from llmprog.search.particle_filter import ParticleFilter
from llmprog.search.policy import LearnedPolicy, PolicyController, load_policy
from llmprog.search.prompter import Memory, Prompter, Round
from llmprog.search.rollback import Decision, Policy, RollbackRules, Situation
from llmprog.search.runtime import Search, SearchOutcome
from llmprog.search.self_consistency import SelfConsistency
from llmprog.search.stopping import BetaStop, StoppingRule, WindowStop, leader_confidence
from llmprog.search.thought_graph import Arrival, Status, Thought, ThoughtGraph
from llmprog.search.tree_controller import TreeController, by_score
from llmprog.search.tree_of_thought import TreeOfThoughtController
from llmprog.search.universal import UniversalSelfConsistency, most_consistent
from llmprog.search.voting import canonical_answer
from llmprog.search.weighted_vote import WeightedVote
from llmprog.templates import Hint

__all__ = [
    "Action",
    "Aggregate",
    "Arrival",
    "BeamSearch",
    "BestFirstSearch",
    "BestOfN",
    "BetaStop",
    "BreadthFirstSearch",
    "Compare",
    "Controller",
    "Decide",
    "Decision",
    "DepthFirstSearch",
    "DiverseBeam",
    "Expand",
    "Generate",
    "GraphOfThoughts",
    "GroundTruth",
    "Hint",
    "KeepBest",
    "KeepValid",
    "LearnedPolicy",
    "Memory",
    "Merge",
    "MonteCarloTreeSearch",
    "Operation",
    "OperationGraph",
    "ParticleFilter",
    "Policy",
    "PolicyController",
    "Prompter",
    "Prune",
    "Refine",
    "RollbackRules",
    "Round",
    "Score",
    "Search",
    "SearchContext",
    "SearchOutcome",
    "Select",
    "SelfConsistency",
    "Situation",
    "Status",
    "Stop",
    "StoppingRule",
    "Thought",
    "ThoughtGraph",
    "TreeController",
    "TreeOfThoughtController",
    "UniversalSelfConsistency",
    "VoteResult",
    "WeightedVote",
    "WindowStop",
    "by_score",
    "canonical_answer",
    "leader_confidence",
    "load_policy",
    "most_consistent",
]
