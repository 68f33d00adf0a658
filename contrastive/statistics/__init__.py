"""How sure a mean over queries and seeds is, and whether systems differ.

`bootstrap_interval` and `paired_difference` take one value a query and need numpy alone. The others take one value a
seed and query, [S, Q], so that a difference is told from luck with the training as well as from luck with the queries;
they need scipy, which is imported when they are called.
"""

from contrastive.statistics.comparison import Adjusted, Comparison, against_baseline, compare
from contrastive.statistics.hierarchical import hierarchical_bootstrap
from contrastive.statistics.intervals import Interval, bootstrap_interval
from contrastive.statistics.multiplicity import benjamini_hochberg, holm
from contrastive.statistics.paired import Difference, paired_difference
from contrastive.statistics.significance import TTest, cohen_d, paired_t_test, randomisation_test

__all__ = [
    "Adjusted",
    "Comparison",
    "Difference",
    "Interval",
    "TTest",
    "against_baseline",
    "benjamini_hochberg",
    "bootstrap_interval",
    "cohen_d",
    "compare",
    "hierarchical_bootstrap",
    "holm",
    "paired_difference",
    "paired_t_test",
    "randomisation_test",
]
