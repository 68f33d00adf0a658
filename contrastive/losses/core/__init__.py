"""The one road from embeddings to a loss.

    a loss's function     its formula, by what it says of `Rows`                   losses/NAME.py
    ranking               options and masks to comparisons, one for each direction
    sweeps                blocks of rows judged one after the other, and differentiated in the same pass
    blocks                rows cut into blocks: who is compared, what a row loses, the scores a block at a time
    similarity            the scores of a block, the temperature in them, and their gradient to both sides

A symmetric loss goes `both_ways`, over the `columns` of the same blocks. Beside the road stand who is compared and who
counts (`directions`, `rows`, `choice`), what a row comes to (`log_sums`, `reduction`), what a call is told (`options`),
and the module of every loss (`module`, `temperature`). Losses of triplets, pairs and teachers have `distance`,
`mining`, `pairs` and `taught`.
"""
