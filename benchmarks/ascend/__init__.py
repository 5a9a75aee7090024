"""``make ascend-acceptance``: whether vitaie works on a card, for whoever has one.

It stands here, beside what else is measured, and not in the builder: it is for a checkout on the
machine with the card, is checked by the same tools as the rest, and calls nothing but the public
commands. ``docs/ascend.md`` says how it is run.
"""
