"""Whose lake it is: a home writes into a lake, and opens a vault for it, only if keys and vault are those it has."""

from governance.belonging.opening import admit, introduce, open_vault
from governance.belonging.status import Belonging, look, mend_erasures, refuse_put_back

__all__ = ["Belonging", "admit", "introduce", "look", "mend_erasures", "open_vault", "refuse_put_back"]
