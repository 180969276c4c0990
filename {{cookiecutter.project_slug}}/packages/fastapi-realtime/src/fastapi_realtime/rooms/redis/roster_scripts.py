"""What Redis does in one step to know who is in a room, in Lua."""

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
"""Note connections of a process that have joined (`+` and the sender) or left (`-`).

With a reset, forget all of its connections first, and count senders anew. To do the same again
changes nothing. Returns what `roster` was before, whether it has changed, and how many
connections the process has.
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
"""Return `roster`, the number of a process's own connections, the number of senders, the
processes, and the connections of each, unless there are more than a limit."""

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
"""Note that a process runs, and forget those that have not said so for some seconds.

Returns whether the process was not known, and all that run.
"""

ROSTER_SCRIPTS = (CHANGE, WHO, BEAT)
CHANGE_SHA, WHO_SHA, BEAT_SHA = map(digest, ROSTER_SCRIPTS)
