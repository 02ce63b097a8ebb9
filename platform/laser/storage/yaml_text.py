"""YAML text as plain mappings, lists and scalars, within bounds.

The values are those of YAML 1.1, with three exceptions. `1e-4` is a number. A date stays text. So do `010` and `1:30`,
which YAML 1.1 takes for 8 and 90: whoever writes them means something else. Nothing is resolved: `${oc.env:...}` would
copy secrets of the environment into what MLflow records.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import yaml

from laser.errors import UserError

MAX_NODES = 10_000
"""Keys, values and lists of a configuration, aliases written out: a few lines of aliases can stand for billions."""
UNREADABLE = (yaml.YAMLError, TypeError, ValueError, RecursionError)
"""What the parser raises at text that is no configuration; ValueError: an integer of thousands of digits."""

_NOT_KEYS = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "timestamp", "binary")}


_IMPLICIT = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float")}
_OWN = ("timestamp", "int", "float")
"""Kinds of plain scalars that are not told as YAML 1.1 tells them."""

Words = Literal["typed", "text", "text or null"]
"""How plain scalars are read: by YAML's rules, or as the text that they are, with or without an exception for null."""


class _Loader(yaml.SafeLoader):
    """Reads `1e-4` as a number; leaves dates and numbers of base 8 or 60 as text."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in _OWN]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader` would read as a number, such as `1e5`."""


_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)$")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
    r"|[0-9]+(?:_[0-9]+)*[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def as_yaml(content: Mapping[str, Any]) -> str:
    """Return the YAML text that `parse_yaml` reads as this mapping."""
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False)
    return text


def parse_yaml(text: str, where: str, words: Callable[[str], Words] | None = None) -> Any:
    """Read one YAML document.

    Args:
        text: YAML.
        where: file or key, for messages.
        words: says of a dotted key how the plain scalars there are read; None reads all of them by YAML's rules.

    Returns:
        Mappings, lists and scalars; an empty mapping for an empty document, and the text of a scalar by itself.

    Raises:
        UserError: a key twice, an interpolation, or too much.
        UNREADABLE: the parser's words.
    """
    loader = _Loader(text)
    try:
        tree = loader.get_single_node()
        if tree is None:
            return {}
        try:
            _check_node(where, tree, itertools.count(1))
            if words is not None:
                _keep_words(tree, "", words)
        except RecursionError:
            raise UserError(f"{where}: nested too deeply, or within itself; write it flat") from None
        if isinstance(tree, yaml.ScalarNode):
            return {} if tree.tag.endswith(":null") else tree.value
        return loader.construct_document(tree)
    except (AttributeError, LookupError) as error:  # PyYAML's, at `!!int ''`, `!!bool 3` or `!!timestamp x`
        raise UserError(f"{where}: a value does not fit its tag (!!…); leave the tag out") from error
    finally:
        loader.dispose()


def _check_node(where: str, node: yaml.Node, number: Iterator[int]) -> None:
    """Refuse keys given twice, interpolations, and more nodes than a configuration has."""
    line = node.start_mark.line + 1
    if next(number) > MAX_NODES:
        raise UserError(f"{where}:{line}: more than {MAX_NODES} values, aliases written out; shorten it")
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if key.tag in _NOT_KEYS:
                raise UserError(f"{where}:{line}: {name!r} is no key; name a setting, in quotes where it must be text")
            if name in seen:
                raise UserError(f"{where}:{line}: {name!r} is given twice; keep one of them")
            seen.add(name)
            _check_node(where, value, number)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_node(where, value, number)
    else:
        refuse_interpolation(where, line, node.value)


def refuse_interpolation(where: str, line: int, text: str) -> None:
    """Refuse text that asks for a value from elsewhere.

    Raises:
        UserError: names file or key, the line, and the text.
    """
    if "${" in text:
        raise UserError(f"{where}:{line}: {text!r}; interpolations are not read, write the value out")


def _keep_words(node: yaml.Node, key: str, words: Callable[[str], Words]) -> None:
    """Make text of the plain scalars that stand where words are text."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            _keep_words(value, f"{key}.{name.value}" if key else str(name.value), words)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _keep_words(value, key, words)
    elif isinstance(node, yaml.ScalarNode) and node.style is None and node.tag in _IMPLICIT:
        how = words(key)
        if how == "text" or (how == "text or null" and not node.tag.endswith(":null")):
            node.tag = "tag:yaml.org,2002:str"


def quoted_text(text: str) -> str | None:
    """Return the content of text that is one quoted YAML scalar from its first to its last character, else None."""
    if len(text) < 2 or text[0] not in "'\"" or text[0] != text[-1]:
        return None
    try:
        node = yaml.compose(text, _Loader)
    except UNREADABLE:
        return None
    return node.value if isinstance(node, yaml.ScalarNode) else None
