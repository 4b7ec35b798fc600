"""How good the placements of the planner are."""
