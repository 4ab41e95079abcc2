"""Reads forms as browsers send them, without a further library; short texts only."""

from __future__ import annotations

from urllib.parse import parse_qsl

from fastapi import Request

from models.serving.problems import Problem

_FORM = "application/x-www-form-urlencoded"
MOST_FIELDS = 8


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form, stripped; a repeated field has its last value.

    Raises:
        Problem: it is not a form.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise Problem(422, "Missing or invalid: body.", errors=[{"field": "body", "problem": "not a form"}])
    try:
        text = (await request.body()).decode("utf-8")
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise Problem(422, "Missing or invalid: body.", errors=[{"field": "body", "problem": "not a form"}]) from None
    return {name: value.strip() for name, value in pairs}
