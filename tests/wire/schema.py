"""Owns the judge of values by a schema in CDDL (RFC 8610): as much of it as wire/worker-v1.cddl uses."""

from typing import Any

from cddlparser import ast, parse

#: The types of the standard prelude (RFC 8610, appendix D) that the schema uses.
_PRELUDE: dict[str, tuple[type, ...]] = {
    "any": (object,),
    "tstr": (str,),
    "bytes": (bytes,),
    "bool": (bool,),
    "int": (int,),
    "float": (float,),
}


class Schema:
    """The rules of a schema.

    Args:
        text: the schema; cddlparser raises what is wrong with it.
    """

    def __init__(self, text: str) -> None:
        self.rules: dict[str, ast.Type] = {}
        for rule in parse(text).rules:
            assert isinstance(rule.type, ast.Type)
            self.rules[rule.name.name] = rule.type

    def fits(self, rule: str, value: object) -> bool:
        """Whether a value is what a rule describes."""
        return self._fits(self.rules[rule], value)

    def fields(self, rule: str) -> dict[str, bool]:
        """The names of a map's fields, in order, and whether each may be absent."""
        (found,) = self.rules[rule].types
        assert isinstance(found, ast.Map)
        return {_name(entry): _least(entry) == 0 for entry in _entries(found) if _name(entry)}

    def _fits(self, node: ast.CDDLNode, value: Any) -> bool:
        match node:
            case ast.Type():
                return any(self._fits(each, value) for each in node.types)
            case ast.Typename():
                if node.name in _PRELUDE:
                    return isinstance(value, _PRELUDE[node.name]) and (
                        not isinstance(value, bool) or node.name in ("bool", "any")
                    )
                return self.fits(node.name, value)
            case ast.Value():
                return type(value) is type(_literal(node)) and value == _literal(node)
            case ast.Range():
                return type(value) is int and _literal(node.min) <= value <= _literal(node.max)
            case ast.Array():
                (entry,) = _entries(node)
                return (
                    type(value) is list
                    and len(value) >= _least(entry)
                    and all(self._fits(entry.type, each) for each in value)
                )
            case ast.Map():
                return type(value) is dict and self._fits_map(_entries(node), value)
        raise AssertionError(f"the schema has a {type(node).__name__}, which this does not know")

    def _fits_map(self, entries: list[ast.GroupEntry], value: dict[Any, Any]) -> bool:
        rest = dict(value)
        for entry in entries:
            if name := _name(entry):
                if name in rest:
                    if not self._fits(entry.type, rest.pop(name)):
                        return False
                elif _least(entry):
                    return False
            else:
                assert entry.key is not None
                for key in [key for key in rest if self._fits(entry.key.type, key)]:
                    if not self._fits(entry.type, rest.pop(key)):
                        return False
        return not rest


def _entries(group: ast.Group) -> list[ast.GroupEntry]:
    (choice,) = group.groupChoices
    return list(choice.groupEntries)


def _name(entry: ast.GroupEntry) -> str:
    """The name of a field; none of what stands for fields of any name."""
    key = entry.key
    return str(getattr(key.type, "name", "")) if key is not None and key.hasColon else ""


def _least(entry: ast.GroupEntry) -> int:
    return 1 if entry.occurrence is None else int(entry.occurrence.n)


def _literal(node: ast.CDDLNode) -> Any:
    assert isinstance(node, ast.Value)
    return int(node.value) if node.type == "number" else node.value
