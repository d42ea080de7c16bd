"""From result records to tables, figures and ledgers, published numbers beside replicated ones.

Nothing here trains or evaluates: every number that is shown is read from a record or from
`published/*.yaml`. What has no record is shown as not run.
"""
