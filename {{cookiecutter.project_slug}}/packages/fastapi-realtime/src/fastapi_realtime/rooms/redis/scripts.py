"""Names of keys in Redis, and Lua scripts. Redis runs each atomically."""

from collections.abc import Sequence
from hashlib import sha1
from random import getrandbits
from typing import NamedTuple

from ..memory import MAX_ROOM_BYTES

Command = Sequence[str | bytes | int]

KEEP_SECONDS = 24 * 3600
"""Seconds until the keys of a room without members expire, after its last message or leave."""
EMPTY_SECONDS = 600
"""The same for a room that has never had a message."""
SENT_SECONDS = 60
"""Seconds for which Redis remembers the last batch of each process."""
LOG_SECONDS = 10
"""The log of a room also keeps messages of the last 10 to 20 seconds, for slow readers."""
LOG_LENGTH = 4096
"""Maximum messages in a log; more if `history_length` is higher."""
ROOM_BYTES = 5 * 1024
"""Memory of the keys of a room with a message, without the messages, in bytes."""
EMPTY_BYTES = 1024
"""Memory of a room without messages, in bytes."""
NOTICE_BYTES = 4096
"""Messages that are no longer than this are in the notice of them, and need not be read."""
LOG_BYTES = 16 * 1024 * 1024
"""Maximum bytes of messages in a log."""
SERVER = "the name of the instance of Redis that runs the script"
"""Stands for it among the arguments of a script; see `Link.pipeline`."""


class Keys:
    """The keys of an application. They start with its name, so several can share a database."""

    def __init__(self, application: str) -> None:
        self.news = f"{application}:news"
        """A channel: epoch, last offset and name of a room with new messages.

        Messages may follow, a line each: kind, origin and packed message. They are the last ones,
        or one that is not kept.
        """
        self.moves = f"{application}:moves"
        """A channel: a process, and the name of a room whose members there have changed."""
        self.closed = f"{application}:closed"
        """A stream of subjects whose connections must be closed, and a channel that announces it."""
        self.processes = f"{application}:processes"
        """A sorted set of processes, by the time of their last heartbeat."""
        self._application = application

    def rooms(self, process: str) -> str:
        """Return the key of the set of rooms in which a process has senders."""
        return f"{self._application}:rooms:{process}"

    def room(self, room: str) -> "RoomKeys":
        """Return the keys of a room."""
        tag = room.replace("%", "%25").replace("}", "%7D")  # a brace would end the hash tag
        head = self._application + ":{" + tag + "}"
        return RoomKeys(head, *(f"{head}:{each}" for each in ("log", "refs", "people", "senders")))


class RoomKeys(NamedTuple):
    """The keys of a room. They share a hash tag."""

    head: str
    """A hash; its fields are listed at `OPEN`."""
    log: str
    """A stream of messages; their entry ids are their offsets."""
    refs: str
    """A sorted set of the refs of the messages in the history, by offset."""
    people: str
    """A hash of the members in each process."""
    senders: str
    """A hash of the processes in which each sender has connections; only for hooks."""

    def counted(self, process: str) -> str:
        """Return the key of the last count of a process, and its answer."""
        return f"{self.head}:counted:{process}"

    def removed(self, process: str) -> str:
        """Return the key that exists if a process was counted as dead."""
        return f"{self.head}:removed:{process}"

    def sent(self, process: str) -> str:
        """Return the key of the last batch of a process, and where its messages are."""
        return f"{self.head}:sent:{process}"


OPEN = """
local head, log, refs = KEYS[1], KEYS[2], KEYS[3]
local new_epoch, server, keep, empty = unpack(ARGV, 1, 4)
local history_length, history_bytes = tonumber(ARGV[5]), tonumber(ARGV[6])
local max_length, max_bytes, seconds = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local room, is_repaired, is_new, now = {}, 0, 0, tonumber(redis.call('TIME')[1])

local function save()
    redis.call('HSET', head, 'epoch', room.epoch, 'offset', room.offset, 'start', room.start,
        'past', room.past, 'server', server, 'bytes', room.bytes, 'peak', room.peak,
        'older', room.older, 'newer', room.newer, 'at', room.at, 'appends', room.appends)
end

local function continue_epoch()
    local past = room.past .. ' ' .. room.epoch .. ':' .. string.format('%.0f', room.offset)
    if #past > 120 then past = string.match(past, '^ [^ ]+(.*)$') end
    room.epoch, room.start, room.past, room.is_changed = new_epoch, room.offset, past, true
end

local function check(text, pattern, length)
    text = text or ''
    if #text > length or not string.find(text, pattern) then error('WRONGTYPE') end
    return text
end

local function open()
    local found = redis.call('HMGET', head, 'epoch', 'past', 'server', 'offset', 'start',
        'bytes', 'peak', 'older', 'newer', 'at', 'appends')
    if not found[1] and redis.call('EXISTS', head) == 0 then
        is_new = 1 - is_repaired
        room = {epoch = new_epoch, past = '', offset = 0, start = 0,
            bytes = 0, peak = 0, older = 0, newer = 0, at = 0, appends = 0}
        save()
        redis.call('DEL', log, refs)
        return
    end
    room.epoch = check(found[1], '^' .. string.rep('[0-9a-f]', 8) .. '$', 8)
    room.past = check(found[2], '^[%x: ]*$', 120)
    found[11] = found[11] or '0' -- versions before 0.2 did not count them
    for i = 4, 11 do found[i] = tonumber(check(found[i], '^%d+$', 15)) end
    room.offset, room.start, room.bytes, room.peak = unpack(found, 4, 7)
    room.older, room.newer, room.at, room.appends = unpack(found, 8, 11)
    if found[3] ~= server then continue_epoch() end
end

-- Let messages become old; return whether some seconds have passed since the last time.
local function age(offset)
    if now - room.at < seconds then return false end
    room.older = now - room.at < 2 * seconds and room.newer or offset
    room.newer, room.at = offset, now
    return true
end

-- Return whether the oldest of so many entries must go.
local function must_go(length)
    local is_old = room.offset - length < room.older
    return length > max_length or (is_old and length - room.appends > history_length)
        or room.bytes > (is_old and history_bytes or max_bytes)
end

local function trim(length)
    -- Trimming in bulk is cheaper.
    if room.bytes <= history_bytes and not must_go(length - 63) and not must_go(1) then return end
    local bytes = room.bytes
    while length > 0 and must_go(length) do
        local last
        for _, entry in ipairs(redis.call('XRANGE', log, '-', '+', 'COUNT', 16)) do
            if not must_go(length) then break end
            length, room.bytes = length - 1, math.max(0, room.bytes - #(entry[2][6] or ''))
            if entry[2][5] == 'a' then room.appends = math.max(0, room.appends - 1) end
            last = string.match(entry[1], '^%d+')
        end
        redis.call('XTRIM', log, 'MINID', string.format('%.0f-0', last + 1))
    end
    if room.bytes ~= bytes then
        redis.call('HSET', head, 'bytes', room.bytes, 'appends', room.appends)
    end
end

local function expire(key)
    redis.call('EXPIRE', key, room.offset == 0 and empty or keep)
end
"""
"""Functions of scripts that write: read the head of a room, begin an epoch, trim the log.

The head has `epoch`, the last `offset`, the offset `start` of the epoch, and `past`: earlier epochs
that it continues, each with its last offset. The `server` is the instance of Redis that wrote last.
After a restart or a failover it is another, and a new epoch begins: so it is known of each position
whether Redis still has the messages up to it. `bytes` are in the log now, `peak` at most so far;
`appends` of its entries are parts of earlier messages, and count as such.
Messages after the offset `older` are from the last seconds; it becomes `newer` in time, which was
set `at` that second.

Redis does not roll back a script that fails; the first write is one that it rejects when it is full
or read-only, so nothing is written then.
"""

RUN = """
local is_done, answer = pcall(run)
if is_done then return answer end
local reason = type(answer) == 'table' and answer.err or answer
if not (string.find(reason, 'WRONGTYPE') or string.find(reason, 'XADD')) then error(answer, 0) end
redis.call('DEL', head, log, refs)
room, is_repaired = {}, 1
return run()
"""
"""Run such a script; if another program has changed the keys, begin anew without them.

They have a wrong type, a head that can't be right, or a log that goes beyond it.
"""

PUBLISH = (
    OPEN
    + """
local sent = KEYS[4]
local batch, channel, name, keep_sent, room_bytes, notice_bytes = unpack(ARGV, 10, 15)

local before = {} -- perhaps the answer to the same batch, which was lost
local text = redis.pcall('GET', sent)
for word in string.gmatch(type(text) == 'string' and text or '', '%S+') do
    before[#before + 1] = word
end
if before[1] == batch then return before end

local function run()
    open()
    local answer, places, added, has_refs = {batch, '0', is_repaired}, {}, {}, false
    local first, bytes, new, unkept = room.offset, 0, 0, {}

    local function notice(offset)
        return string.format('%s %.0f %s', room.epoch, offset, name)
    end

    local function line(i)
        return '\\n' .. ARGV[i + 2] .. ' ' .. ARGV[i + 1] .. ' ' .. ARGV[i + 3]
    end

    -- Returns epoch and offset of the message in the history with a ref.
    local function find(ref)
        has_refs = true
        if added[ref] then return room.epoch, added[ref] end
        local offset = redis.call('ZSCORE', refs, ref)
        if not offset or tonumber(offset) <= first - history_length - room.appends then return end
        local entry = redis.call('XRANGE', log, offset .. '-0', offset .. '-0')[1]
        if entry then return entry[2][2], offset end
    end

    for i = 16, #ARGV, 4 do
        local ref, epoch, at = ARGV[i], nil, nil
        if ARGV[i + 2] == 'u' then
            epoch, at = room.epoch, '0'
            unkept[#unkept + 1] = notice(first + new) .. line(i)
        elseif ref ~= '' then
            epoch, at = find(ref)
        end
        if not at then
            new, bytes = new + 1, bytes + #ARGV[i + 3]
            epoch, at = room.epoch, string.format('%.0f', first + new)
            places[i], added[ref] = at, at
        end
        answer[#answer + 1] = epoch
        answer[#answer + 1] = at
    end

    if new > 0 then
        local length = redis.call('XLEN', log)
        local is_due = age(first) or length == 0
        if length == 0 then room.bytes, room.appends = 0, 0 end
        room.offset, room.bytes = first + new, room.bytes + bytes
        if room.bytes > room.peak then
            local size = room.bytes - room.peak + (room.peak == 0 and tonumber(room_bytes) or 0)
            room.peak, answer[2] = room.bytes, string.format('%.0f', size)
        end
        for i = 16, #ARGV, 4 do
            if places[i] and ARGV[i + 2] == 'a' then room.appends = room.appends + 1 end
        end
        save()
        for i = 16, #ARGV, 4 do
            local at, ref, origin, kind, message = places[i], unpack(ARGV, i, i + 3)
            if at then
                redis.call('XADD', log, at .. '-0', 'e', room.epoch, 'o', origin, kind, message)
                if ref ~= '' then redis.call('ZADD', refs, at, ref) end
            end
        end
        trim(length + new)
        if has_refs then
            redis.call('ZREMRANGEBYSCORE', refs, '-inf', room.offset - history_length - room.appends)
            expire(refs)
        end
        if is_due then
            expire(head)
            expire(log)
        end
        local text = notice(room.offset)
        for i = 16, #ARGV, 4 do
            if places[i] and bytes <= tonumber(notice_bytes) then text = text .. line(i) end
        end
        redis.pcall('PUBLISH', channel, text)
    elseif is_new == 1 then
        expire(head)
    end
    for _, each in ipairs(unkept) do redis.pcall('PUBLISH', channel, each) end
    redis.call('SET', sent, batch .. ' 0 0 ' .. table.concat(answer, ' ', 4), 'EX', keep_sent)
    return answer
end
"""
    + RUN
)
"""Publish a batch of messages of a process to a room, once however often it is sent.

Returns the number of the batch, by how many bytes the room has grown beyond its peak (with those
of its keys if it had no message before), 1 if the room was repaired, then epoch and offset of each
message; 0 for one that is not kept, which is published on the channel itself.
"""

LOOK = (
    OPEN
    + """
local people = KEYS[4]
local process, seen_epoch, seen, may_begin = unpack(ARGV, 10, 13)

local function run()
    if may_begin == '0' and is_repaired == 0 and redis.call('EXISTS', head) == 0 then return {} end
    open()
    if room.epoch == seen_epoch and tonumber(seen) > room.offset then continue_epoch() end
    redis.call('ZCARD', refs) -- only for its type
    local last = string.format('(%.0f-0', room.offset)
    if #redis.call('XREVRANGE', log, '+', last, 'COUNT', 1) > 0 then error('WRONGTYPE') end
    age(room.offset) -- need not be saved: later, the same follows from what was
    if room.is_changed then save() end
    trim(redis.call('XLEN', log))
    for _, key in ipairs({head, log, refs, people}) do expire(key) end
    local seen_end = string.format('%.0f', room.offset)
    if seen_epoch ~= room.epoch then
        seen_end = string.match(room.past, ' ' .. seen_epoch .. ':(%d+)') or '-1'
    end
    local is_listed = redis.pcall('HEXISTS', people, process)
    return {
        room.epoch, string.format('%.0f', room.offset), string.format('%.0f', room.start),
        seen_end, is_listed == 1 and 1 or 0, is_repaired, is_new
    }
end
"""
    + RUN
)
"""Compare a room with what a process has seen of it; begin a new epoch if that is lost.

Returns epoch, last offset, start of the epoch, the last offset of the epoch seen (-1 if this epoch
does not continue it), 1 if the process has members in the room, 1 if the room was repaired, and 1
if it is new. Returns nothing if there is no such room and the process may not begin one.
"""

HISTORY = """
local head, log = KEYS[1], KEYS[2]
local since_epoch, since, before, history_length, max_bytes = unpack(ARGV)
local epoch, offset, past, appends =
    unpack(redis.call('HMGET', head, 'epoch', 'offset', 'past', 'appends'))
if not epoch then return {} end
local last = since_epoch == epoch and offset
    or string.match(past or '', ' ' .. since_epoch .. ':(%d+)')
local is_known = last and tonumber(since) <= tonumber(last)
local oldest = offset - history_length - (tonumber(appends) or 0)
local first = math.max(oldest, is_known and tonumber(since) or 0)
first = string.format('(%.0f-0', math.max(first, 0))
local entries, bytes = {}, 0
before = before == '' and '+' or '(' .. before .. '-0'
while bytes < tonumber(max_bytes) do
    local some = redis.call('XREVRANGE', log, before, first, 'COUNT', 8)
    for _, entry in ipairs(some) do
        bytes = bytes + #(entry[2][6] or '')
        entries[#entries + 1] = entry
        before = '(' .. entry[1]
        if bytes >= tonumber(max_bytes) then break end
    end
    if #some < 8 then break end
end
return {epoch, offset, is_known and 1 or 0, entries}
"""
"""Return a page of the history, the latest messages first; nothing is written.

Returns epoch and last offset of the room, 1 if the position `since` is known, and messages after
it, from before an offset on.
"""

CHANGE = """
local expire, channel, notice, command = unpack(ARGV, 1, 4)
local answer = redis.pcall(command, KEYS[1], unpack(ARGV, 5))
if type(answer) == 'table' and string.find(answer.err, 'WRONGTYPE') then redis.call('DEL', KEYS[1]) end
redis.pcall('EXPIRE', KEYS[1], expire)
redis.pcall('PUBLISH', channel, notice)
return answer
"""
"""Run a command that changes a key, let the key expire, and then say so on a channel.

A key of a wrong type, which another program has set, is deleted, so that the next time works.
"""

BEAT = """
local process, seconds, keep = unpack(ARGV, 1, 3)
local time, key = redis.call('TIME'), KEYS[1]
if redis.call('TYPE', key).ok ~= 'zset' then redis.call('DEL', key) end -- of another program
local now = time[1] + time[2] / 1000000
local last = redis.call('ZSCORE', key, process)
redis.call('ZADD', key, now, process)
for i = 4, #ARGV do redis.call('ZADD', key, 'NX', now, ARGV[i]) end
redis.call('ZREMRANGEBYSCORE', key, '-inf', now - keep)
redis.call('EXPIRE', key, keep)
return {
    last and now - last < tonumber(seconds) and 1 or 0,
    redis.call('ZRANGEBYSCORE', key, now - seconds, '+inf'),
    redis.call('ZRANGEBYSCORE', key, '-inf', '(' .. now - seconds)
}
"""
"""Record a heartbeat of a process; others that Redis does not know get their first one.

Returns 1 if it had a recent one of this process, the running processes, and the dead.
"""

COUNT = """
local senders, counted, removed = unpack(KEYS)
local number, process, mode, keep, keep_answer = unpack(ARGV, 1, 5)
local before = redis.pcall('GET', counted)
if type(before) == 'string' and string.match(before, '^%d+') == number then
    return cjson.decode(string.sub(before, #number + 2))
end
redis.call('SET', counted, '', 'EX', keep_answer) -- Redis rejects this while it is full
local was_removed, answer, here = redis.call('EXISTS', removed) == 1, {0}, {}
if redis.call('TYPE', senders).ok ~= 'hash' then answer[1] = redis.call('DEL', senders) end

local function set(kind, sender, is_told)
    local others, had = string.gsub(redis.call('HGET', senders, sender) or '', ' ' .. process, '')
    local now = kind == 'joined' and others .. ' ' .. process or others
    if now == '' then redis.call('HDEL', senders, sender) else redis.call('HSET', senders, sender, now) end
    if others ~= '' or not is_told(had > 0) then return end
    answer[#answer + 1] = kind
    answer[#answer + 1] = sender
end

for i = 6, #ARGV, 2 do
    local kind, sender = ARGV[i], ARGV[i + 1]
    here[sender] = true
    if kind ~= 'later' then
        set(kind, sender, function(had)
            if mode == 'restore' then return was_removed and not had end
            return kind == 'joined' or had or not was_removed
        end)
    end
end
if mode ~= 'change' then
    local all = redis.call('HGETALL', senders)
    for i = 1, #all, 2 do
        if not here[all[i]] and string.find(all[i + 1], process) then
            set('left', all[i], function() return mode == 'remove' end)
        end
    end
end
if mode == 'restore' then redis.call('DEL', removed) end
if mode == 'remove' then redis.call('SET', removed, 1, 'EX', keep) end
redis.call('EXPIRE', senders, keep)
redis.call('SET', counted, number .. ' ' .. cjson.encode(answer), 'EX', keep_answer)
return answer
"""
"""Record senders that have joined or left in a process; return who is the first, or the last.

They are given as `joined` or `left` and the sender, in turn, and so is the answer: who was in no
other process. Before that, it has 1 if the key had a wrong type and was deleted. A count that is
repeated, by its number, changes nothing and has the same answer.

In the mode `restore`, they are all that the process has, and what Redis had lost is no news; those
that change `later` stay as they are. In the mode `remove`, the process is dead, and has nobody; if
it is running after all, it restores later, and then they are news.
"""

SCRIPTS = PUBLISH, LOOK, HISTORY, CHANGE, BEAT, COUNT
PUBLISH_SHA, LOOK_SHA, HISTORY_SHA, CHANGE_SHA, BEAT_SHA, COUNT_SHA = (
    sha1(script.encode(), usedforsecurity=False).hexdigest() for script in SCRIPTS
)


def room_arguments(history_length: int) -> tuple[str | int, ...]:
    """Return the arguments that `PUBLISH` and `LOOK` begin with; the first names a new epoch."""
    log = max(LOG_LENGTH, history_length), LOG_BYTES, LOG_SECONDS
    head = f"{getrandbits(32):08x}", SERVER, KEEP_SECONDS, EMPTY_SECONDS
    return *head, history_length, MAX_ROOM_BYTES, *log


def change_command(
    key: str, seconds: int, notice: tuple[str, str | bytes], *change: str | bytes | int
) -> Command:
    """Return a command that changes a key; `change` is without it. A notice has a channel."""
    command, *arguments = change
    return ("EVALSHA", CHANGE_SHA, 1, key, seconds, *notice, command, *arguments)
