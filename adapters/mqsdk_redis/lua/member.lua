#!lua flags=allow-oom
-- Shows life. KEYS: members, what they say, news. ARGV: member, lease in ms, what it says ('' to leave).
-- Returns {now in ms, id of the last news, member, expiry, member, expiry, ...}.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local changed = false
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
  redis.call('ZREM', KEYS[1], dead)
  redis.call('HDEL', KEYS[2], dead)
  changed = dead ~= ARGV[1] or changed
end
if ARGV[3] == '' then
  changed = redis.call('ZREM', KEYS[1], ARGV[1]) == 1 or changed
  redis.call('HDEL', KEYS[2], ARGV[1])
elseif redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1]) == 1 then
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
  changed = true
end
if changed then redis.call('XADD', KEYS[3], 'MAXLEN', '1', '*', 'n', '1') end
local news = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)
local found = {string.format('%.0f', now), news[1] and news[1][1] or '0-0'}
for _, item in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')) do found[#found + 1] = item end
return found
