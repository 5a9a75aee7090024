"""One page on bundles for people: what failed or was not checked, then what was measured and how.

The data goes one way: ``found`` opens the bundles, re-checks them and reads what a page shows;
``view`` says what of it stands where, and ``charts`` where each line lies; ``page`` writes HTML.
All that is written comes from files that anyone may have made, so only ``page`` makes markup.
"""
