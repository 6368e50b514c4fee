"""The HTTP edge that services share: problem details, limits, health, metrics, docs, pages.

It knows messages and databases, and nothing of what a particular service does.
"""
