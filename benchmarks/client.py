"""The clients of a benchmark: many WebSocket connections in one process, as cheap as possible.

Clients count bytes and don't parse frames, so that one core of Python can keep up with a native
server. The size of a message on the wire is measured first.
"""

import asyncio
import os
import resource
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import uvloop

HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{more}\r\n"
)
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
EVENTS = "Sec-WebSocket-Protocol: events.v1\r\n"
QUIET = 0.25  # seconds without a byte after which nothing more is expected
PATIENCE = 5.0  # seconds to wait for expected bytes


@dataclass(frozen=True)
class Target:
    """A server, and how clients talk to it."""

    ports: tuple[int, ...]  # of its processes, which clients take in turn
    path: str = "/ws_broadcast"  # `{client}` is the client's number
    headers: str = ""  # of the handshake, besides the usual ones
    hello: bytes = b""  # sent after the handshake, before anything else
    before: bytes = b""  # what a message has before and after its text
    after: bytes = b""  # `{message}` is the message's number

    @property
    def port(self) -> int:
        """Return the first port."""
        return self.ports[0]

    def address(self, number: int) -> tuple[int, str]:
        """Return port and path for the client with this number."""
        path = self.path.replace("{client}", str(number))
        return self.ports[number % len(self.ports)], path

    def message(self, size: int, number: int = 0) -> bytes:
        """Return a frame with a text of this size in it."""
        after = self.after.replace(b"{message}", b"%d" % number)
        return frame(self.before + b"x" * size + after)


def frame(payload: bytes) -> bytes:
    """Return a text frame as a client sends it, masked with zeros."""
    size = len(payload)
    if size < 126:
        return struct.pack("!BB4x", 0x81, 0x80 | size) + payload
    if size < 65_536:
        return struct.pack("!BBH4x", 0x81, 0x80 | 126, size) + payload
    return struct.pack("!BBQ4x", 0x81, 0x80 | 127, size) + payload


class Tally:
    """Bytes that arrived at a group of clients, and a way to wait for more."""

    def __init__(self) -> None:
        self.bytes = 0
        self._goal = float("inf")
        self._reached: asyncio.Future[None] | None = None

    def add(self, size: int) -> None:
        """Count bytes."""
        self.bytes += size
        if self.bytes >= self._goal and self._reached is not None and not self._reached.done():
            self._reached.set_result(None)

    async def reach(self, goal: float, patience: float = PATIENCE) -> bool:
        """Wait until this many bytes have arrived in all; return whether they did."""
        if self.bytes >= goal:
            return True
        self._goal, self._reached = goal, asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait_for(self._reached, patience)
        except TimeoutError:
            return False
        return True

    async def settle(self) -> int:
        """Wait until nothing more arrives; return the bytes so far."""
        before = -1
        while before != self.bytes:
            before = self.bytes
            await asyncio.sleep(QUIET)
        return self.bytes


class Client(asyncio.BufferedProtocol):
    """A connection that counts what it gets."""

    shared = memoryview(bytearray(256 * 1024))

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.got = 0
        self.base = self.seen = 0
        self.on_bytes: Any = None
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.shared

    def buffer_updated(self, size: int) -> None:
        if self.opened.done():
            self.got += size
            self.tally.add(size)
            if self.on_bytes is not None:
                self.on_bytes(self)
            return
        self._head += self.shared[:size]
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if end:
            if b" 101 " not in head[:20]:
                self.opened.set_exception(ConnectionError(head.decode("latin-1")))
                return
            self.opened.set_result(None)
            self.tally.add(len(rest))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionError("closed before the handshake"))


C = TypeVar("C", bound=Client)


async def open_client(
    target: Target, tally: Tally, more: str = "", number: int = 0, kind: type[C] = Client
) -> C:
    """Connect and shake hands."""
    loop = asyncio.get_running_loop()
    port, path = target.address(number)
    _, client = await loop.create_connection(lambda: kind(tally), "127.0.0.1", port)
    request = HANDSHAKE.format(path=path, port=port, more=target.headers + more)
    client.transport.write(request.encode())
    await client.opened
    if target.hello:
        client.transport.write(target.hello)
    return client


@asynccontextmanager
async def clients(
    target: Target, count: int, more: str = ""
) -> AsyncIterator[tuple[list[Client], Tally]]:
    """Open clients, a few at a time, and abort their connections at the end."""
    tally = Tally()
    opened: list[Client] = []
    try:
        while len(opened) < count:
            numbers = range(len(opened), min(len(opened) + 50, count))
            opened += await asyncio.gather(
                *(open_client(target, tally, more, number) for number in numbers)
            )
        await tally.settle()
        yield opened, tally
    finally:
        for client in opened:
            client.transport.abort()
        await asyncio.sleep(QUIET)  # so that the server closes them before the next measurement


async def ask(target: Target, path: str) -> bytes:
    """Return the body of an HTTP answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    _, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return body


Clocks = dict[str, Callable[[], float]]
"""What returns seconds of CPU time, by the name of the figure."""


class CpuSince:
    """CPU time that servers take from now on."""

    def __init__(self, clocks: Clocks) -> None:
        self._clocks = clocks
        self._began = {name: clock() for name, clock in clocks.items()}

    def us_for_each(self, count: int) -> dict[str, float]:
        """Return microseconds for each of so many things."""
        return {
            name: 1e6 * (clock() - self._began[name]) / max(1, count)
            for name, clock in self._clocks.items()
        }


async def fan_out(
    target: Target, members: int, burst: int, seconds: float, clocks: Clocks
) -> dict[str, float]:
    """Let one publisher send `burst` messages back to back, wait for all copies, and repeat."""
    async with clients(target, members) as (_, tally), clients(target, 1) as ((publisher,), _):
        messages = target.message(51) * burst
        start = await tally.settle()
        publisher.transport.write(messages)
        weight = await tally.settle() - start
        if not weight:
            raise ConnectionError("nothing was delivered")
        rounds = lost = 0
        began, cpu, there = time.perf_counter(), time.process_time(), CpuSince(clocks)
        while (took := time.perf_counter() - began) < seconds:
            goal = tally.bytes + weight
            publisher.transport.write(messages)
            lost += not await tally.reach(goal)
            rounds += 1
        return {
            "deliveries_per_second": rounds * burst * members / took,
            **there.us_for_each(rounds * burst * members),
            "incomplete_rounds": lost,
            "client_share": (time.process_time() - cpu) / took,
        }


class Latencies:
    """Times from sending a message until the last of some members has it, in seconds."""

    def __init__(self, members: list[Client], weight: int, total: int) -> None:
        self._members, self._weight, self._total = len(members), weight, total
        self._sent: list[float] = []
        self._arrived = [0] * total
        self.complete: list[float] = []
        for client in members:
            client.base, client.seen, client.on_bytes = client.got, 0, self._on_bytes

    @property
    def copies(self) -> int:
        """Return how many copies have arrived in all."""
        return sum(self._arrived)

    def sending(self) -> None:
        """Note that the next message is sent now."""
        self._sent.append(time.perf_counter())

    def _on_bytes(self, client: Client) -> None:
        complete = min((client.got - client.base) // self._weight, self._total)
        for number in range(client.seen, complete):
            self._arrived[number] += 1
            if self._arrived[number] == self._members:
                self.complete.append(time.perf_counter() - self._sent[number])
        client.seen = max(client.seen, complete)

    def quantile_ms(self, percent: int) -> float:
        """Return a quantile in milliseconds; not a number if no message reached all members."""
        there = sorted(self.complete)
        return 1000 * there[len(there) * percent // 100] if there else float("nan")


async def send_paced(
    publishers: list[Client], message: bytes, rate: float, latencies: Latencies, total: int
) -> None:
    """Send messages at a fixed rate, the publishers in turn."""
    began = time.perf_counter()
    for number in range(total):
        while (ahead := began + number / rate - time.perf_counter()) > 0:
            await asyncio.sleep(ahead)
        latencies.sending()
        publishers[number % len(publishers)].transport.write(message)
        if number % 20 == 19:
            await asyncio.sleep(0)


async def paced(
    target: Target, members: int, publishers: int, rate: float, seconds: float
) -> dict[str, float]:
    """Let many publishers send at a fixed rate; time each message until its last copy is there."""
    async with clients(target, members) as (them, tally), clients(target, publishers) as (us, _):
        message, total = target.message(51), int(rate * seconds)
        start = await tally.settle()
        us[0].transport.write(message)
        weight = (await tally.settle() - start) // members
        if not weight:
            raise ConnectionError("nothing was delivered")
        latencies = Latencies(them, weight, total)
        began, cpu = time.perf_counter(), time.process_time()
        await send_paced(us, message, rate, latencies, total)
        await tally.settle()
        took = time.perf_counter() - began - QUIET
        return {
            "deliveries_per_second": latencies.copies / took,
            "delivered": latencies.copies / (total * members),
            "p50_ms": latencies.quantile_ms(50),
            "p99_ms": latencies.quantile_ms(99),
            "client_share": (time.process_time() - cpu) / took,
        }


async def stalled(target: Target, members: int, seconds: float) -> dict[str, float]:
    """Let one member stop reading, and see what share of the messages the others get."""
    request = HANDSHAKE.format(path=target.path, port=target.port, more="").encode()
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.connect(("127.0.0.1", target.port))
        silent.sendall(request)
        silent.recv(1)
        if target.hello:
            silent.sendall(target.hello)
        async with clients(target, members) as (_, tally), clients(target, 1) as ((publisher,), _):
            message = target.message(8000)
            start = await tally.settle()
            publisher.transport.write(message)
            weight = await tally.settle() - start
            if not weight:
                raise ConnectionError("nothing was delivered")
            start, count = tally.bytes, int(seconds * 200)
            for _ in range(count):
                publisher.transport.write(message)
                await asyncio.sleep(1 / 200)
            await tally.reach(start + count * weight)
            return {"delivered": min(1.0, (tally.bytes - start) / (count * weight))}


async def echo(
    target: Target, count: int, payload: bytes, seconds: float, clocks: Clocks
) -> dict[str, float]:
    """Let every client send a message as soon as it has the answer to the one before."""
    answers = 0

    def again(client: Client) -> None:
        nonlocal answers
        answers += 1
        client.transport.write(request)

    request = frame(payload)
    async with clients(target, count) as (them, _):
        for client in them:
            client.on_bytes = again
            client.transport.write(request)
        await asyncio.sleep(QUIET)  # to warm up
        before, began, cpu, there = (
            answers,
            time.perf_counter(),
            time.process_time(),
            CpuSince(clocks),
        )
        await asyncio.sleep(seconds)
        took = time.perf_counter() - began
        return {
            "messages_per_second": (answers - before) / took,
            **there.us_for_each(answers - before),
            "client_share": (time.process_time() - cpu) / took,
        }


class Flood(Client):
    """A client that has always sent more than was answered."""

    chunk = frame(b"x" * 64) * 100
    is_writing = True

    def resume_writing(self) -> None:
        self.is_writing = True

    def pause_writing(self) -> None:
        self.is_writing = False

    async def run(self) -> None:
        """Write as much as the connection takes."""
        while not self.transport.is_closing():
            if self.is_writing:
                self.transport.write(self.chunk)
            await asyncio.sleep(0.001)


async def flooded(target: Target, floods: int, seconds: float) -> dict[str, float]:
    """Let some clients flood the server; time the answers that another one gets."""
    tally, took = Tally(), []
    them = [await open_client(target, tally, kind=Flood) for _ in range(floods)]
    quiet = await open_client(target, tally)
    tasks = [asyncio.create_task(flood.run()) for flood in them]
    answered = asyncio.Event()
    quiet.on_bytes = lambda _: answered.set()
    end = time.perf_counter() + seconds
    while (sent := time.perf_counter()) < end:
        answered.clear()
        quiet.transport.write(frame(b"x" * 64))
        async with asyncio.timeout(PATIENCE):
            await answered.wait()
        took.append(time.perf_counter() - sent)
        await asyncio.sleep(0.02)
    for client in (*them, quiet):
        client.transport.abort()
    await asyncio.wait(tasks)
    await asyncio.sleep(QUIET)
    took.sort()
    return {"p50_ms": 1000 * took[len(took) // 2], "p99_ms": 1000 * took[len(took) * 99 // 100]}


async def publishing(
    target: Target, rooms: int, seconds: float, clocks: Clocks
) -> dict[str, float]:
    """Let a publisher in each room send a message as soon as the one before is answered.

    Each room has one more member, in another process if there are several.
    """
    sent = 0

    def send(publisher: Client) -> None:
        nonlocal sent
        sent += 1
        publisher.transport.write(target.message(51, sent))

    others = replace(target, ports=target.ports[::-1], headers="")
    async with clients(others, rooms) as (_, tally), clients(target, rooms) as (us, _):
        start = await tally.settle()
        for publisher in us:
            send(publisher)
        weight = (await tally.settle() - start) / rooms
        if not weight:
            raise ConnectionError("nothing was delivered")
        for publisher in us:
            publisher.on_bytes = send
            send(publisher)
        await asyncio.sleep(QUIET)  # to warm up
        before, began, cpu, there = sent, time.perf_counter(), time.process_time(), CpuSince(clocks)
        await asyncio.sleep(seconds)
        took, share = time.perf_counter() - began, time.process_time() - cpu
        figures = {"messages_per_second": (sent - before) / took, "client_share": share / took}
        figures |= there.us_for_each(sent - before)
        for publisher in us:
            publisher.on_bytes = None
        return figures | {"delivered": (await tally.settle() - start) / weight / sent}


def joins(*rooms: int) -> bytes:
    """Return the frames with which a client of this project joins rooms."""
    return b"".join(frame(b'{"type":"join","room":"%d"}' % room) for room in rooms)


async def members_of_rooms(target: Target, tally: Tally, rooms: int, each: int) -> list[Client]:
    """Open 1,000 memberships in this project: so many rooms, and so many of them a connection."""
    opened = []
    for number in range(0, 1000, each):
        first = number // each % rooms
        one = replace(target, path=f"/ws_broadcast/{first}")
        opened.append(await open_client(one, tally, EVENTS, number))
        opened[-1].transport.write(
            joins(*(room % rooms for room in range(first + 1, first + each)))
        )
    await tally.settle()
    return opened


async def several_rooms(
    target: Target, each: int, seconds: float, clocks: Clocks, memory: Callable[[], int]
) -> dict[str, float]:
    """Publish one message after the other to 20 rooms of 50 members; `each` of them a connection."""
    tally, before, rooms = Tally(), memory(), 20
    members = await members_of_rooms(target, tally, rooms, each)
    figures = {"kib_per_member": (memory() - before) / 1000 / 1024}
    publisher = await open_client(replace(target, path="/ws_broadcast/0"), Tally(), EVENTS)
    publisher.transport.write(joins(*range(1, rooms)))
    start = await tally.settle()
    text = b'{"type":"message","room":"%d","data":"' + b"x" * 51 + b'"}'
    messages = b"".join(frame(text % room) for room in range(rooms))
    publisher.transport.write(messages)
    weight, count = await tally.settle() - start, 0
    began, there = time.perf_counter(), CpuSince(clocks)
    while time.perf_counter() - began < seconds:
        goal = tally.bytes + weight
        publisher.transport.write(messages)
        await tally.reach(goal)
        count += 1000
    took = time.perf_counter() - began
    figures |= {"deliveries_per_second": count / took, **there.us_for_each(count)}
    for opened in (*members, publisher):
        opened.transport.abort()
    await asyncio.sleep(QUIET)
    return figures


async def many_rooms(
    target: Target, rooms: int, rate: float, seconds: float, clocks: Clocks
) -> dict[str, float]:
    """Publish to one of many rooms after the other, by HTTP; each has a single member.

    A connection has 50 of them.
    """
    latencies: list[float] = []
    body = b'"' + b"x" * 51 + b'"'
    post = "POST /ws_broadcast/%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    async with clients(replace(target, path="/ws_broadcast/{client}"), rooms // 50, EVENTS) as (
        them,
        tally,
    ):
        for number, member in enumerate(them):
            first = len(them) + 49 * number
            member.transport.write(joins(*range(first, first + 49)))
        await tally.settle()
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
        cpu, began, total = CpuSince(clocks), time.perf_counter(), int(rate * seconds)
        for number in range(total):
            while (ahead := began + number / rate - time.perf_counter()) > 0:
                await asyncio.sleep(ahead)
            sent, member = time.perf_counter(), them[number % len(them)]
            arrived = asyncio.Event()
            member.on_bytes = lambda _, arrived=arrived: arrived.set()
            room = len(them) + 49 * (number % len(them)) + number // len(them) % 49
            writer.write((post % (room, len(body))).encode() + body)
            with suppress(TimeoutError):
                await asyncio.wait_for(arrived.wait(), PATIENCE)
                latencies.append(time.perf_counter() - sent)
            await reader.readuntil(b"}")
        took = time.perf_counter() - began
        writer.close()
        latencies.sort()
        return {
            "delivered": len(latencies) / total,
            "p50_ms": 1000 * latencies[len(latencies) // 2],
            "p99_ms": 1000 * latencies[len(latencies) * 99 // 100],
            "redis_share": cpu.us_for_each(1)["redis_cpu_us"] / 1e6 / took,
        }


async def connecting(target: Target, seconds: float) -> dict[str, float]:
    """Open and drop connections, 50 at a time."""
    tally, count, began = Tally(), 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        few = await asyncio.gather(*(open_client(target, tally) for _ in range(50)))
        for client in few:
            client.transport.abort()
        count += len(few)
    return {"connections_per_second": count / took}


def start(cpu: int | None) -> None:
    """Prepare this process: its core, and as many open files as it may have."""
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


run = uvloop.run
