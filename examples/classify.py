"""A whole app in five lines: python examples/classify.py BUNDLE IMAGE."""

import sys

from vitaie import runtime

model = runtime.load(sys.argv[1])
for p in model.classify(sys.argv[2], top_k=5):
    print(f"{p.probability:7.2%}  {p.label}")
