#!lua flags=allow-oom
-- Makes again what a flush or a failover has lost. KEYS: stream. ARGV: group. Returns the id from which a lost stream is numbered on, or ''.
local lost = redis.call('EXISTS', KEYS[1]) == 0
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
if type(made) == 'table' and made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then return made end
if not lost then return '' end
local time = redis.call('TIME')
local id = string.format('%.0f-0', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('XSETID', KEYS[1], id)
return id
