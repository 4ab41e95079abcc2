"""The pages of the server; each is registered, also those of other packages."""

from models.serving.pages.base import Page, PageRequest, Shown

__all__ = ["Page", "PageRequest", "Shown"]
