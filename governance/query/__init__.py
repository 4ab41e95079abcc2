"""The query service to published data: SQL that is checked and run in a sandbox, and the way in for training.

Kept empty, for the sandboxed interpreter imports it: ``from governance.query.service import QueryService``.
"""
