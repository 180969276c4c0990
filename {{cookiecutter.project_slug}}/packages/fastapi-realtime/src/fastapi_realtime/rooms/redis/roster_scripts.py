"""Lua scripts for presence. Redis runs each atomically."""

from .scripts import digest

CHANGE = """
local head, people, processes, here = unpack(KEYS)
local process, token, keep, empty, is_reset = unpack(ARGV, 1, 5)
local has_changed = false
local must_recount = is_reset == '1' or redis.call('EXISTS', people) == 0

local function count(sender, number)
    if redis.call('HINCRBY', people, sender, number) < 1 then
        redis.call('HDEL', people, sender)
    end
end

if is_reset == '1' then has_changed = redis.call('DEL', here) == 1 end
for i = 6, #ARGV, 2 do
    local connection, change = ARGV[i], ARGV[i + 1]
    local before = redis.call('HGET', here, connection)
    local now = string.sub(change, 1, 1) == '+' and string.sub(change, 2)
    if before and before ~= now then
        count(before, -1)
        redis.call('HDEL', here, connection)
    end
    if now and before ~= now then
        count(now, 1)
        redis.call('HSET', here, connection, now)
    end
    has_changed = has_changed or before ~= now
end

local before, size = redis.call('HGET', head, 'roster') or '', redis.call('HLEN', here)
if has_changed then redis.call('HSET', head, 'roster', token) end
redis.call(size > 0 and 'SADD' or 'SREM', processes, process)
if must_recount then
    redis.call('DEL', people)
    for _, name in ipairs(redis.call('SMEMBERS', processes)) do
        for _, sender in ipairs(redis.call('HVALS', head .. ':here:' .. name)) do
            count(sender, 1)
        end
    end
end
if (redis.call('HGET', head, 'offset') or '0') == '0' then keep = empty end
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, keep) end
return {before, has_changed and 1 or 0, size}
"""
"""Store connections of a process that have joined (`+` and the sender) or left (`-`).

With a reset, remove all of its connections first, and recount senders. Repeating it changes
nothing. Returns the previous `roster`, whether it has changed, and the number of the process's
connections.
"""

WHO = """
local head, people, processes, own = unpack(KEYS)
local names, size, rosters = redis.call('SMEMBERS', processes), 0, {}
for _, name in ipairs(names) do size = size + redis.call('HLEN', head .. ':here:' .. name) end
if size <= tonumber(ARGV[1]) then
    for i, name in ipairs(names) do
        rosters[i] = redis.call('HGETALL', head .. ':here:' .. name)
    end
end
local roster = redis.call('HGET', head, 'roster') or ''
return {roster, redis.call('HLEN', own), redis.call('HLEN', people), names, rosters}
"""
"""Return `roster`, the number of the process's own connections, the number of senders, the
processes, and the connections of each; none above a limit."""

BEAT = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local before = redis.call('ZSCORE', KEYS[1], ARGV[1])
local is_new = not before or tonumber(before) < now - ARGV[2]
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return {is_new and 1 or 0, redis.call('ZRANGE', KEYS[1], 0, -1)}
"""
"""Record the heartbeat of a process, and remove processes without one for some seconds.

Returns whether the process was not listed, and all that are.
"""

ROSTER_SCRIPTS = (CHANGE, WHO, BEAT)
CHANGE_SHA, WHO_SHA, BEAT_SHA = map(digest, ROSTER_SCRIPTS)
