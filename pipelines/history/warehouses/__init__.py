"""The kinds of warehouses that the history lane reads; each is a module of its own."""

from pipelines.history.warehouses.base import Target, WarehouseKind

__all__ = ["Target", "WarehouseKind"]
