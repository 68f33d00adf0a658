"""One training run: from its configuration to a folder of results.

A configuration goes through these files in this order, and through each from top to bottom:

- `__main__`: Hydra composes it, `experiments.composing` checks that all of it is read.
- `training_run`: what happens, in order; who may write where (`run_folder`), and which process does what (`ranks`).
- `parts`: everything it names is built and checked (`callbacks`, `training_account`), then the trackers (`tracking`).
- `report`: what is known at the start; `experiments.evaluate.judging` judges the baselines, `dev_lines` on dev.
- `best_weights`: the training, and its model.
- `report` again: card, figures, tables and trackers at the end.
"""
