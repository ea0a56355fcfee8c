"""The checker of annotations at run time: an int may stand for a float, as everywhere in Python."""

from beartype import BeartypeConf, beartype

typecheck = beartype(conf=BeartypeConf(is_pep484_tower=True))
