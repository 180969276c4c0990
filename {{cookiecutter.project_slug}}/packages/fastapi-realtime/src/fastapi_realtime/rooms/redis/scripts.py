"""Lua scripts for publishing and reading. Redis runs each atomically."""

from hashlib import sha1
from random import getrandbits

KEEP_SECONDS = 24 * 3600
"""Seconds until the keys of a room without members expire, after its last message or leave."""
EMPTY_SECONDS = 600
"""The same for a room that has never had a message."""
SENT_SECONDS = 60
"""Seconds for which Redis remembers the numbers of published messages."""

BEGIN = """
local function begin_epoch(name, offset)
    redis.call('HSET', KEYS[1], 'epoch', name, 'offset', offset, 'start', offset)
end

local function begin_log(name, offset)
    begin_epoch(name, offset)
    redis.call('HSET', KEYS[1], 'bytes', 0)
    redis.call('DEL', KEYS[2], KEYS[3])
end
"""
"""Begin an epoch of a room: `begin_epoch` keeps its log, `begin_log` empties it."""

TRIM = """
local function trim(log, length, bytes, max_length, max_bytes)
    while length > max_length or bytes > max_bytes do
        local oldest, after = redis.call('XRANGE', log, '-', '+', 'COUNT', 64), nil
        if #oldest == 0 then return 0 end
        for _, entry in ipairs(oldest) do
            if length <= max_length and bytes <= max_bytes then break end
            length, bytes = length - 1, bytes - #(entry[2][8] or '')
            after = string.match(entry[1], '^%d+') + 1
        end
        redis.call('XTRIM', log, 'MINID', string.format('%.0f-0', after))
    end
    return bytes
end
"""

PUBLISH = (
    BEGIN
    + TRIM
    + """
local head, log, refs, sent = unpack(KEYS)
local process, slots, new_epoch = unpack(ARGV, 1, 3)
local max_length, max_bytes = tonumber(ARGV[4]), tonumber(ARGV[5])
local history_length, keep, keep_sent = unpack(ARGV, 6, 8)

local epoch = redis.call('HGET', head, 'epoch')
if not epoch then
    begin_log(new_epoch, 0)
    epoch = new_epoch
end

-- Returns epoch and offset if the message was published before.
local function find(number, slot, ref)
    local before = redis.call('HGET', sent, slot)
    if before then -- a repeated message has the number in its slot
        local known, epoch, offset = string.match(before, '^(%d+) (%x+) (%d+)$')
        if known == number then return epoch, offset end
    end
    if ref ~= '' then
        local known = redis.call('ZSCORE', refs, ref)
        local forgotten = redis.call('HGET', head, 'offset') - history_length
        if known and tonumber(known) > forgotten then return epoch, known end
    end
end

local positions, bytes, has_refs = {}, 0, false
for i = 9, #ARGV, 4 do
    local number, ref, origin, message = unpack(ARGV, i, i + 3)
    local slot = number % slots
    local known_epoch, offset = find(number, slot, ref)
    if not offset then
        offset = tostring(redis.call('HINCRBY', head, 'offset', 1))
        redis.call('XADD', log, offset .. '-0',
            'e', epoch, 'o', origin, 'n', process .. number, 'm', message)
        bytes = bytes + #message
        if ref ~= '' then
            has_refs = true
            redis.call('ZADD', refs, offset, ref)
        end
        redis.call('HSET', sent, slot, number .. ' ' .. epoch .. ' ' .. offset)
    end
    positions[#positions + 1] = known_epoch or epoch
    positions[#positions + 1] = offset
end

local length, total = redis.call('XLEN', log), redis.call('HINCRBY', head, 'bytes', bytes)
if length * 4 <= #ARGV - 8 and total ~= bytes then -- the log was evicted before
    redis.call('HSET', head, 'bytes', bytes)
    total = bytes
end
-- Trimming in bulk is cheaper.
if length >= max_length + 64 or total > max_bytes then
    redis.call('HSET', head, 'bytes', trim(log, length, total, max_length, max_bytes))
end
if has_refs then
    local offset = redis.call('HGET', head, 'offset')
    redis.call('ZREMRANGEBYSCORE', refs, '-inf', offset - history_length)
end
for i, key in ipairs(KEYS) do redis.call('EXPIRE', key, i < 4 and keep or keep_sent) end
return positions
"""
)
"""Publish messages of a process to a room, except those published before.

Returns epoch and offset of each. Redis does not roll back a script that fails; the first write is
one that it rejects when it is full or read-only, so nothing is written then.
"""

LOOK = (
    BEGIN
    + """
local head, log = unpack(KEYS, 1, 2)
local seen_epoch, seen, seen_mark, new_epoch, keep, empty, confirmed = unpack(ARGV)
local epoch, offset = unpack(redis.call('HMGET', head, 'epoch', 'offset'))
if not epoch then
    begin_log(new_epoch, 0)
elseif epoch == seen_epoch then
    -- A failover or an old snapshot: Redis has lost the last message read, and reuses its offset.
    local last = redis.call('XRANGE', log, seen .. '-0', seen .. '-0')[1]
    local is_another = last and seen_mark ~= '' and last[2][6] ~= seen_mark
    if is_another or tonumber(offset) < tonumber(confirmed) then begin_epoch(new_epoch, offset) end
end
local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
local last_offset = redis.call('HGET', head, 'offset')
if last and last[1] ~= last_offset .. '-0'
    and tonumber(string.match(last[1], '^%d+')) >= tonumber(last_offset) then
    -- A foreign entry, at or above our last offset.
    begin_log(new_epoch, last_offset)
    last = nil
end
if last_offset == '0' then keep = empty end
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, keep) end

local now = redis.call('HMGET', head, 'epoch', 'offset', 'start', 'roster')
local has_roster = now[4] and redis.call('EXISTS', unpack(KEYS, 4)) == 3
local is_whole = now[2] == '0' or (last and last[1] == now[2] .. '-0')
local mark, roster = last and last[2][6] or '', has_roster and now[4] or ''
return {now[1], now[2], now[3], mark, is_whole and 1 or 0, roster}
"""
)
"""Compare a room with a process's cursor; begin a new epoch if Redis has lost messages.

Returns epoch, last offset, the offset at which the epoch began, the mark of the last message, 1
if the log has that message, and the token of the roster, empty if keys of the roster are missing.
"""


def new_epoch() -> str:
    """Return a random name for an epoch."""
    return f"{getrandbits(32):08x}"


def digest(script: str) -> str:
    """Return the SHA1 of a script, for `EVALSHA`."""
    return sha1(script.encode(), usedforsecurity=False).hexdigest()


PUBLISH_SHA, LOOK_SHA = digest(PUBLISH), digest(LOOK)
