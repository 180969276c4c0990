"""Names of keys in Redis."""


class Keys:
    """The keys of an application. They start with its name, so several can share a database."""

    def __init__(self, application: str) -> None:
        self.processes = f"{application}:processes"
        """A sorted set of the running processes, by the time of their last heartbeat."""
        self.moves = f"{application}:moves"
        """A stream of rooms with joins or leaves."""
        self.closed = f"{application}:closed"
        """A stream of subjects whose connections must be closed."""
        self._application = application

    def room(self, room: str) -> "RoomKeys":
        """Return the keys of a room."""
        tag = room.replace("%", "%25").replace("}", "%7D")  # a brace would end the hash tag
        return RoomKeys(self._application + ":{" + tag + "}")


class RoomKeys:
    """The keys of a room. They share a hash tag, so a Redis Cluster keeps them on one node."""

    __slots__ = ("head", "log", "refs")

    def __init__(self, head: str) -> None:
        self.head = head
        """A hash: `epoch`, the last `offset`, the offset `start` of the epoch, the `bytes` in the
        log, and `roster`, a token that changes with every join and leave."""
        self.log = f"{self.head}:log"
        """A stream of messages; their entry ids are their offsets."""
        self.refs = f"{self.head}:refs"
        """A sorted set of the refs of the messages in the history, by offset."""

    def sent(self, publisher: str) -> str:
        """Return the key of a hash of the last messages that a process has published."""
        return f"{self.head}:sent:{publisher}"

    @property
    def people(self) -> str:
        """A hash of the number of connections of each sender."""
        return f"{self.head}:people"

    @property
    def processes(self) -> str:
        """A set of the processes that have connections in the room."""
        return f"{self.head}:processes"

    def here(self, process: str) -> str:
        """Return the key of a hash of the connections of a process, and their senders."""
        return f"{self.head}:here:{process}"
