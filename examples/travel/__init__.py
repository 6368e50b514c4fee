"""A journey: three services that were there before, and the saga that books a trip across them.

`python -m examples.travel.run` runs it.
"""
