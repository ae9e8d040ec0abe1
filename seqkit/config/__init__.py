"""Strict YAML to typed models: `base:` inheritance, dotted overrides, errors with file and line.

This room knows no section of the configuration. A schema is a `Section`; `read` turns a file and the command line's
overrides into a `Document` (a plain tree that remembers where every key came from) and `Document.check` turns that
into a validated `Section`, or raises one `UserError` that lists every mistake with its place.
"""

from seqkit.config.document import Document, from_mapping, override, read
from seqkit.config.explain import Key, explain, known_keys
from seqkit.config.names import Names, Untrusted, resolve
from seqkit.config.registry import Named, OneOf, WithOptions, arguments, maker
from seqkit.config.schema import Section, as_list, from_signature, with_defaults
from seqkit.config.yamltext import dump

__all__ = [
    "Document",
    "Key",
    "Named",
    "Names",
    "OneOf",
    "Section",
    "Untrusted",
    "WithOptions",
    "arguments",
    "as_list",
    "dump",
    "explain",
    "from_mapping",
    "from_signature",
    "known_keys",
    "maker",
    "override",
    "read",
    "resolve",
    "with_defaults",
]
