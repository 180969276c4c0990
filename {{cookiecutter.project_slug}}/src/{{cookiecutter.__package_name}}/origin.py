"""Web origins: the scheme, host and port of a page (RFC 6454)."""

import re

ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
DEFAULT_PORTS = {"http": 80, "https": 443}


def normal_origin(text: str) -> str | None:
    """Return an origin as browsers write it, `None` for what is none, like `null`.

    Two origins are the same if this is: scheme and host know no case, and the scheme's default
    port may be left out (RFC 6454 §4 to §6).
    """
    found = ORIGIN.fullmatch(text.lower()) if text.isascii() else None
    if found is None:
        return None
    scheme, host, port = found.groups()
    if port is None or int(port) == DEFAULT_PORTS.get(scheme):
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{int(port)}"
