"""What pydantic finds wrong, as sentences for people: what would be right.

Its own messages name types and patterns of the program. They never contain what was sent: it may be
secret, huge or not printable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warmboot.api.schemas.option_requests import (
    CAPABILITY_PATTERN,
    DOMAIN_PATTERN,
    HOST_PATTERN,
    PLATFORM_PATTERN,
    SOURCE_PATTERN,
    SYSCTL_PATTERN,
    ULIMIT_PATTERN,
)
from warmboot.api.schemas.requests import (
    ABSOLUTE_PATTERN,
    ARCHIVE_PATTERN,
    CURSOR_PATTERN,
    ENV_NAME_PATTERN,
    EVENT_CURSOR_PATTERN,
    HOST_NAME_PATTERN,
    LABEL_PATTERN,
    NAME_PATTERN,
    NO_NUL_PATTERN,
    WORD_PATTERN,
    WORKING_DIR_PATTERN,
)

_OF_NAMES = "letters, digits, '_', '.' and '-' are allowed, with a letter or digit first"
# A pattern is for programs.
PATTERNS: Mapping[str, str] = {
    NAME_PATTERN: f"{_OF_NAMES}, and no '..'",
    WORD_PATTERN: _OF_NAMES,
    LABEL_PATTERN: "it must not contain '=', white space or the character NUL",
    ENV_NAME_PATTERN: "it must not contain '=' or the character NUL",
    HOST_NAME_PATTERN: "up to 63 letters in lower case and digits are allowed, and '-' inside",
    NO_NUL_PATTERN: "it must not contain the character NUL",
    ABSOLUTE_PATTERN: "it must be an absolute path",
    WORKING_DIR_PATTERN: "it must be an absolute path",
    CURSOR_PATTERN: "it must be the next_cursor of the part before",
    EVENT_CURSOR_PATTERN: "it must be the next_cursor of the part before",
    CAPABILITY_PATTERN: "it must be the name of a capability, as NET_ADMIN",
    DOMAIN_PATTERN: "it must be a domain, as example.org",
    HOST_PATTERN: "it must be NAME:ADDRESS, as db:192.0.2.7",
    PLATFORM_PATTERN: "it must be OS/ARCHITECTURE, as linux/amd64",
    SYSCTL_PATTERN: "it must be the name of a kernel parameter, as net.core.somaxconn",
    ULIMIT_PATTERN: "it must be the name of a limit, as nofile",
    SOURCE_PATTERN: "it must be the name of a volume: two or more letters, digits, '_', '.' and "
    "'-', with a letter or digit first; or the absolute path of what is bound",
    ARCHIVE_PATTERN: "it must be the id of an archive, 64 hexadecimal digits",
}
# By the type of the finding; what is in braces comes with it.
_SENTENCES: Mapping[str, str] = {
    "missing": "it is missing",
    "extra_forbidden": "there is no such field",
    "json_type": "it is no JSON",
    "none_required": "it must be null",
    "string_type": "it must be a text",
    "string_sub_type": "it must be a text",
    "string_unicode": "it must be UTF-8",
    "string_too_short": "it must have at least {min_length} characters",
    "string_too_long": "it must have at most {max_length} characters, and has {length}",
    "string_pattern_mismatch": "it contains what is not allowed here",
    "int_type": "it must be a whole number",
    "int_parsing": "it must be a whole number",
    "int_parsing_size": "it is too large a number",
    "int_from_float": "it must be a whole number",
    "float_type": "it must be a number",
    "float_parsing": "it must be a number",
    "finite_number": "it must be a finite number",
    "bool_type": "it must be true or false",
    "bool_parsing": "it must be true or false",
    "greater_than": "it must be more than {gt}",
    "greater_than_equal": "it must be {ge} or more",
    "less_than": "it must be less than {lt}",
    "less_than_equal": "it must be {le} or less",
    "multiple_of": "it must be a multiple of {multiple_of}",
    "list_type": "it must be a list",
    "dict_type": "it must be an object",
    "mapping_type": "it must be an object",
    "model_type": "it must be an object",
    "model_attributes_type": "it must be an object",
    "dataclass_type": "it must be an object",
    "too_short": "it must have at least {min_length} entries",
    "too_long": "it must have at most {max_length} entries, and has {length}",
    "enum": "it must be {expected}",
    "literal_error": "it must be {expected}",
    "uuid_type": "it must be an id, as 1b4e28ba-2fa1-4d1e-883f-0016d3cca427",
    "uuid_parsing": "it must be an id, as 1b4e28ba-2fa1-4d1e-883f-0016d3cca427",
    "datetime_type": "it must be a time, as 2026-01-24T12:00:00Z",
    "datetime_parsing": "it must be a time, as 2026-01-24T12:00:00Z",
    "datetime_from_date_parsing": "it must be a time, as 2026-01-24T12:00:00Z",
    "datetime_object_invalid": "it must be a time, as 2026-01-24T12:00:00Z",
    "timezone_aware": "it must have a time zone, as 2026-01-24T12:00:00Z",
}


def sentence(finding: Mapping[str, Any]) -> str:
    """The sentence for one of pydantic's findings. What our own validators raise is a
    sentence already.
    """
    if finding["type"] == "value_error":
        return str(finding["msg"]).removeprefix("Value error, ")
    context = dict(finding.get("ctx") or {})
    if finding["type"] in ("string_too_long", "too_long"):
        context["length"] = len(finding["input"])
    if context.get("min_length") == 1:
        return "it must not be empty"
    # A bound of a number is a float; people write 1000000 for 1000000.0.
    context |= {
        name: int(bound)
        for name, bound in context.items()
        if isinstance(bound, float) and bound.is_integer()
    }
    known = PATTERNS.get(str(context.get("pattern"))) or _SENTENCES.get(finding["type"])
    if known is None:
        return "it is not possible here"
    return known.format_map(context)
