"""YAML text as plain mappings, lists and scalars, within bounds.

The values are those of YAML 1.1, with two exceptions: `1e-4` is a number, and a date stays text. Nothing is resolved:
`${oc.env:...}` would copy secrets of the environment into what MLflow records.
"""

import itertools
import re
from collections.abc import Iterator
from typing import Any

import yaml

from laser.errors import UserError

MAX_NODES = 10_000
"""Keys, values and lists of a configuration, aliases written out: a few lines of aliases can stand for billions."""
UNREADABLE = (yaml.YAMLError, TypeError, ValueError, RecursionError)
"""What the parser raises at text that is no configuration; ValueError: an integer of thousands of digits."""

_NOT_KEYS = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "timestamp", "binary")}


class _Loader(yaml.SafeLoader):
    """Reads numbers such as `1e-4`, which YAML 1.1 takes for text, and leaves dates as text."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def parse_yaml(text: str, where: str) -> Any:
    """Read one YAML document.

    Args:
        text: YAML.
        where: file or key, for messages.

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
    elif "${" in node.value:
        raise UserError(f"{where}:{line}: {node.value!r}; interpolations are not read, write the value out")
