"""How the built-in models are made and examined: data, recipes, training, exam, report. No user of them runs it and
nothing imports it; it imports all but cli.
"""
