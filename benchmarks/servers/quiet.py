"""This project without a line in the log for what goes well: python quiet.py"""

import logging

from my_websocket_app.__main__ import main

logging.disable(logging.INFO)
main()
