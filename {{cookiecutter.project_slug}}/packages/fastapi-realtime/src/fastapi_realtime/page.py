"""Serve a folder of static files at `/`, and the JavaScript client beside it."""

import mimetypes
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response

CLIENT = Path(__file__).parent / "client"

MEDIA_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".ico": "image/vnd.microsoft.icon",
    ".jpg": "image/jpeg",
    ".js": "text/javascript",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
}
"""The files that are served, by suffix."""

ADD_SLASH = (
    r'/(\/|\.html)$/.test(location.pathname) || history.replaceState(null, "", '
    "`${location.pathname}/${location.search}${location.hash}`)"
)
"""The only inline script that a page may have.

Behind a proxy that removes a prefix, a page at `/prefix` would look for its files at `/`. Only the
browser can tell this address from `/prefix/`. It is changed in place: a redirect would never end
where the proxy removes the slash.
"""

MAX_PATH = 255
"""Characters of a path. Each folder in it is looked up: 30,000 took 180 ms of CPU."""

POLICY = {
    "default-src": "'none'",
    "connect-src": "'self'",
    "img-src": "'self'",
    "script-src": f"'self' 'sha256-{b64encode(sha256(ADD_SLASH.encode()).digest()).decode()}'",
    "style-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
"""What the page may load, and who may frame it."""

HEADERS = {
    "Cache-Control": "no-cache",  # browsers ask each time whether the file has changed
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in POLICY.items()),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def add_page(app: FastAPI, directory: Path) -> None:
    """Serve the files of a folder, with its `index.html` at `/`.

    The JavaScript client is at `/client/client.js`, for `import { connect } from
    "./client/client.js"`. All routes of the application take precedence, also later ones.

    Only files with a suffix in `MEDIA_TYPES` are served, none of them from outside of the folder,
    and none with a path of more than 255 characters.
    A Content-Security-Policy lets the page load files of its own origin alone, and run no inline
    scripts or styles but `ADD_SLASH`. Nothing of it is in the OpenAPI document.

    Raises `RuntimeError` if there is no such folder.
    """
    for suffix, media_type in MEDIA_TYPES.items():
        mimetypes.add_type(media_type, suffix)  # a system's own list may be wrong
    router = APIRouter(dependencies=[Depends(check_path)])
    router.frontend("/", directory=directory, fallback=None, check_dir=True)
    router.frontend("/client", directory=CLIENT, fallback=None, check_dir=True)
    app.include_router(router)
    app.state.has_page = True  # for links to it


async def check_path(request: Request, response: Response) -> None:
    """Answer with 404 for a file that no page loads, such as a module of Python; else add headers."""
    path = request.scope["path"]
    name = path.rpartition("/")[2]
    if len(path) > MAX_PATH or (name and Path(name).suffix not in MEDIA_TYPES):
        raise HTTPException(404)
    response.headers.update(HEADERS)
