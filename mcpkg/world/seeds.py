"""Seeds of the rendered world, kept apart by what they are for."""

UNSEEN = 8_000_000
"""Seeds from here on belong to the report. Training draws from hashes of its seeds (`mcpkg.factory.data.generator_for`),
63 bits wide: one of them could meet these by chance only, and the chance is below 10^-11.
"""
