"""The scripts that Redis runs for its adapter, each with its keys and values in order."""

from __future__ import annotations

# A server that is full still lets its queues be read: that is how it becomes less full.
SHAPE = """#!lua flags=allow-oom
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])
"""
OPEN = """#!lua flags=allow-oom
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
if made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then return made end
local number = redis.call('INCR', KEYS[2])
local cursor = '0-0'
repeat
    cursor = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], 'reader', 0, cursor,
        'COUNT', 1000, 'JUSTID')[1]
until cursor == '0-0'
return number
"""
NEXT = """#!lua flags=allow-oom
if redis.call('GET', KEYS[2]) ~= ARGV[2] then return false end
local from, entries = ARGV[4], {}
local function read()
    local found = redis.call('XREADGROUP', 'GROUP', ARGV[1], 'reader', 'COUNT', ARGV[3],
        'STREAMS', KEYS[1], from)
    return found and found[1][2] or {}
end
if from ~= '>' then entries = read() end
if #entries == 0 then
    from = '>'
    entries = read()
end
local last
if #entries == 0 then
    local about = redis.call('XINFO', 'STREAM', KEYS[1])
    for i = 1, #about, 2 do
        if about[i] == 'last-generated-id' then last = about[i + 1] end
    end
end
return {entries, from, last}
"""
DONE = """#!lua flags=allow-oom
if redis.call('GET', KEYS[2]) ~= ARGV[2] then return false end
redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, 3))
local first_ms, first_n
local function keep(ms, n)
    if not first_ms or ms < first_ms or (ms == first_ms and n < first_n) then
        first_ms, first_n = ms, n
    end
end
local function parts(id)
    local ms, n = string.match(id, '^(%d+)-(%d+)$')
    return tonumber(ms), tonumber(n)
end
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local about = {}
    for i = 1, #group, 2 do about[group[i]] = group[i + 1] end
    local ms, n = parts(about['last-delivered-id'])
    keep(ms, n + 1)
    local pending = redis.call('XPENDING', KEYS[1], about['name'])
    if pending[1] > 0 then keep(parts(pending[2])) end
end
redis.call('XTRIM', KEYS[1], 'MINID', string.format('%.0f-%.0f', first_ms, first_n))
return 1
"""
WAITING = """#!lua flags=allow-oom
local sum = 0
for _, stream in ipairs(KEYS) do
    local length, ours = redis.call('XLEN', stream), nil
    local groups = length > 0 and redis.call('XINFO', 'GROUPS', stream) or {}
    for _, group in ipairs(groups) do
        local about = {}
        for i = 1, #group, 2 do about[group[i]] = group[i + 1] end
        if about['name'] == ARGV[1] then ours = about end
    end
    if ours and ours['lag'] then length = ours['pending'] + ours['lag'] end
    sum = sum + length
end
return sum
"""
