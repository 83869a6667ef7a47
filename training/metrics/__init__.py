"""How good recommendations are. One idea a file:

    single          one wanted item a target, from its place in the list: hit rate, NDCG, MRR
    ties            that place, from the scores of a whole catalogue, with a rule for ties
    lists           any number of wanted items a list: precision, recall, F1, hit, NDCG, MRR, MAP
    beyond          what lists offer besides hits: coverage, novelty, diversity
    calibration     whether probabilities, and the categories of lists, are as they say: ECE, KL
    classes         predicted classes: accuracy, precision, recall, F1
    errors          predicted values: MAE, RMSE

Each docstring has formula and source. Tests compare them with independent libraries on random input.
"""

from __future__ import annotations

from training.metrics.single import hit_rate, ndcg, places, reciprocal_rank

__all__ = ["hit_rate", "ndcg", "places", "reciprocal_rank"]
