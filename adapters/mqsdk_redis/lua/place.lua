#!lua flags=allow-oom
-- Says up to where an instance of a broadcast has settled, so that nothing behind is removed; for a while, as it may end without a word.
-- KEYS: stream, instances by expiry, their places. ARGV: instance, how long in ms, id settled last ('' to leave), last id that it has read.
-- Returns {'gone'} without stream, {'there', id that was skipped to or ''}.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now)) do
  redis.call('ZREM', KEYS[2], dead)
  redis.call('HDEL', KEYS[3], dead)
end
if ARGV[3] == '' then
  redis.call('ZREM', KEYS[2], ARGV[1])
  redis.call('HDEL', KEYS[3], ARGV[1])
  return {'there', ''}
end
redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
if redis.call('EXISTS', KEYS[1]) == 0 then return {'gone'} end
local function parts(id)
  local era, sequence = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(era), tonumber(sequence)
end
local last, info = '0-0', redis.call('XINFO', 'STREAM', KEYS[1])
for place = 1, #info, 2 do
  if info[place] == 'last-generated-id' then last = info[place + 1] end
end
local era, sequence = parts(last)
local known_era, known_sequence = parts(ARGV[4])
if known_era < era or (known_era == era and known_sequence <= sequence) then return {'there', ''} end
-- The server has lost entries that this instance has seen: their numbers are not to be given again.
local skipped = string.format('%.0f-0', math.max(now, known_era + 1))
redis.call('XSETID', KEYS[1], skipped)
return {'there', skipped}
