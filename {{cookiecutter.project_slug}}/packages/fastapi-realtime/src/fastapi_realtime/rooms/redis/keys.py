"""Names of keys in Redis."""


class Keys:
    """The keys of an application. They begin with its name, so several may share a database."""

    def __init__(self, application: str) -> None:
        self.processes = f"{application}:processes"
        """A sorted set of the running processes, by the time of their last heartbeat."""
        self.moves = f"{application}:moves"
        """A stream of rooms that somebody has joined or left."""
        self.closed = f"{application}:closed"
        """A stream of subjects whose connections are to be closed."""
        self._application = application

    def room(self, room: str) -> "RoomKeys":
        """Return the keys of a room."""
        tag = room.replace("%", "%25").replace("}", "%7D")  # a brace would end the tag
        return RoomKeys(self._application + ":{" + tag + "}")


class RoomKeys:
    """The keys of a room.

    What stands in braces is the same in all of them, so that a Redis Cluster keeps them on one
    node.
    """

    __slots__ = ("head", "log", "refs")

    def __init__(self, head: str) -> None:
        self.head = head
        """A hash: `epoch`, the last `offset`, the offset `start` that the epoch began at, the
        `bytes` in the log, and `roster`, which changes whenever somebody joins or leaves."""
        self.log = f"{self.head}:log"
        """A stream of messages, each under its offset."""
        self.refs = f"{self.head}:refs"
        """A sorted set of the refs of the messages in the history, by offset."""

    def sent(self, publisher: str) -> str:
        """Return the key of a hash of what a process has published last."""
        return f"{self.head}:sent:{publisher}"

    @property
    def people(self) -> str:
        """A hash of how many connections each sender has in the room."""
        return f"{self.head}:people"

    @property
    def processes(self) -> str:
        """A set of the processes that have connections in the room."""
        return f"{self.head}:processes"

    def here(self, process: str) -> str:
        """Return the key of a hash of the connections that a process has, and their senders."""
        return f"{self.head}:here:{process}"
