"""Tests of the page in a browser, of what serves it, and of the JavaScript client in Node."""
