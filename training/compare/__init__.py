"""Sequence models and baselines on one log, judged alike: `polytempo compare`.

task            who is learnt from, what is predicted: leave-one-out and global time
baselines       what anybody would have without training
models          training, scoring and serving one model
run             all of them, a row each; finished rows are kept
report          table and chart
"""
