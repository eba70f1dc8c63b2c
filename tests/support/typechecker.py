"""The checker that conftest hooks into smlib: beartype, with an int accepted where a float is declared (PEP 484)."""

from beartype import BeartypeConf
from beartype import beartype as configurable

beartype = configurable(conf=BeartypeConf(is_pep484_tower=True))
