"""How sure a mean over queries and seeds is, and whether systems differ.

`bootstrap_interval` and `paired_difference` take one value a query. The others take one value a seed and query, [S, Q],
so that a difference is told from luck with the training as well as from luck with the queries; of one seed they say the
same. Intervals, and tests of one seed each by swaps, need numpy alone, the rest scipy, which is imported when called.
"""

from contrastive.statistics.comparison import (
    Adjusted,
    Comparison,
    Difference,
    against_baseline,
    compare,
    paired_difference,
)
from contrastive.statistics.intervals import Interval, bootstrap_interval, hierarchical_bootstrap
from contrastive.statistics.multiplicity import benjamini_hochberg, holm
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
