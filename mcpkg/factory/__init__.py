"""How the built-in models are trained and evaluated: data, recipes, training, exam, report.

Users of the models do not need it, and no other package imports it; it may import all but cli.
"""
