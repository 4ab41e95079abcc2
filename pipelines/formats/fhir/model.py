"""Finds elements in FHIRPath expressions that FHIR R4 does not have: a column with one of them is null for ever.

An expression is walked with the types that each of its parts can have. Where the types are not known (a contained
resource, the result of most functions), every element counts as one that can be there.
"""

from __future__ import annotations

from typing import Any

Types = frozenset[str] | None
"""Names of types, or the paths of elements with elements of their own (``Observation.component``); None: any."""

_SAME = frozenset("where distinct first last single skip tail take exclude intersect".split())
"""Functions whose result has the types of what they are called on."""

_OF_EACH = frozenset({"where", "exists", "all", "select"})
"""Functions whose argument is evaluated on each element; that of others is evaluated elsewhere, and is not checked."""

_OF_TYPE = frozenset({"ofType", "as"})


class NoSuchElement(Exception):
    """FHIR does not have this resource, or not such an element.

    Attributes:
        remedy: what it has, in FHIR's words.
    """

    def __init__(self, remedy: str) -> None:
        super().__init__(remedy)
        self.remedy = remedy


def check_resource(resource: str) -> None:
    """Raise if FHIR R4 does not have a type of resource.

    Raises:
        NoSuchElement: it does not.
    """
    if _model()["type2Parent"].get(resource) not in ("DomainResource", "Resource"):
        raise NoSuchElement("Write the resource's name as FHIR R4 does, such as MedicationAdministration.")


def check_elements(path: str, resource: str) -> None:
    """Raise if an expression on a resource names an element, or a type of an element, that FHIR R4 does not have.

    Args:
        path: a valid expression.
        resource: the type of the resource.

    Raises:
        NoSuchElement: it does.
    """
    from fhirpathpy.parser import parse

    tree = parse(path)  # type: ignore[no-untyped-call]
    _Walk(resource).types_of(tree["children"][0], frozenset({resource}))


def _model() -> dict[str, dict[str, Any]]:
    from fhirpathpy.models import models

    model: dict[str, dict[str, Any]] = models["r4"]
    return model


class _Walk:
    """Walks one expression."""

    def __init__(self, resource: str) -> None:
        self._resource, self._model = resource, _model()

    def types_of(self, node: dict[str, Any], focus: Types) -> Types:
        """Return the types of a part's result, for the types of what it is evaluated on."""
        kind, children = node["type"], node.get("children", [])
        if kind in ("TermExpression", "InvocationTerm", "ParenthesizedTerm"):
            return self.types_of(children[0], focus)
        if kind == "InvocationExpression":
            return self.types_of(children[1], self.types_of(children[0], focus))
        if kind == "MemberInvocation":
            return self._element(children[0]["text"].strip("`"), focus)
        if kind == "ThisInvocation":
            return focus
        if kind == "FunctionInvocation":
            return self._function(children[0]["children"], focus)
        found = [self.types_of(child, focus) for child in children if child["type"] != "TypeSpecifier"]
        if kind == "UnionExpression":
            return _any_of(*found)
        if kind == "IndexerExpression":
            return found[0]
        if kind == "TypeExpression" and node["terminalNodeText"] == ["as"]:
            return self._of_type(children[1]["text"], found[0])
        return None

    def _function(self, children: list[dict[str, Any]], focus: Types) -> Types:
        name = children[0]["text"]
        given = children[1]["children"] if len(children) > 1 else []
        if name in _OF_TYPE and given:
            return self._of_type(_text(given[0]), focus)
        if name == "is":
            return None
        found = [self.types_of(child, focus) for child in given] if name in _OF_EACH else []
        if name in _SAME:
            return focus
        if name == "select" and found:
            return found[0]
        return frozenset({"Extension"}) if name == "extension" else None

    def _element(self, name: str, focus: Types) -> Types:
        if focus is None or (focus == {self._resource} and name == self._resource):
            return focus
        found = [types for of in focus if (types := self._elements(of, name)) != frozenset()]
        if not found:
            there = "; ".join(f"{of} has {', '.join(self._names(of)) or 'none'}" for of in sorted(focus))
            raise NoSuchElement(f"Correct its name: {there}.")
        return _any_of(*found)

    def _elements(self, of: str, name: str) -> Types:
        """Return the types of a type's element; empty: it has no such element."""
        types = self._model["path2Type"]
        for parent in self._with_parents(of):
            path = self._model["pathsDefinedElsewhere"].get(f"{parent}.{name}", f"{parent}.{name}")
            if path in self._model["choiceTypePaths"]:
                return frozenset(types[f"{path}{kind}"] for kind in self._model["choiceTypePaths"][path])
            if path in types:
                return None if types[path] == "Resource" else frozenset({types[path]})
            if any(other.startswith(f"{path}.") for other in types):
                return frozenset({path})
        return frozenset()

    def _of_type(self, name: str, focus: Types) -> Types:
        """Return those of the types that are of a type."""
        if focus is None:
            return None
        wanted = name.rpartition(".")[2].strip("`").lower()
        found = frozenset(of for of in focus if wanted in map(str.lower, self._with_parents(of)))
        if not found:
            raise NoSuchElement(f"The element has the type {' or '.join(sorted(focus))}.")
        return found

    def _with_parents(self, of: str) -> list[str]:
        found = [of]
        while (parent := self._model["type2Parent"].get(found[-1])) is not None:
            found.append(parent)
        return [*found, "BackboneElement", "Element"] if "." in of else found

    def _names(self, of: str) -> list[str]:
        """Return the elements of a type that its parents do not have; a choice of types by its one name."""
        choices = [path for path in self._model["choiceTypePaths"] if path.rpartition(".")[0] == of]
        inner = {
            path.removeprefix(f"{of}.").partition(".")[0]
            for path in self._model["path2Type"]
            if path.startswith(f"{of}.")
        }
        for choice in choices:
            name = choice.rpartition(".")[2]
            inner -= {f"{name}{kind}" for kind in self._model["choiceTypePaths"][choice]}
            inner.add(name)
        common = {"id", "extension", "modifierExtension", "contained", "implicitRules", "language", "meta", "text"}
        return sorted(inner - common)


def _any_of(*types: Types) -> Types:
    return None if None in types else frozenset().union(*(found for found in types if found is not None))


def _text(node: dict[str, Any]) -> str:
    """Return the name that is given as a type."""
    if "text" in node:
        return str(node["text"])
    return _text(node["children"][0])
