"""The query service: checks SQL and runs it in a sandbox, and reads published rows for training.

This module stays empty, because the sandboxed interpreter imports it. Import the service from its own module:
``from governance.query.service import QueryService``.
"""
