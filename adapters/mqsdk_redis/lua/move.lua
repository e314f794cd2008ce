#!lua flags=allow-oom
-- Gives records that are due their place in the stream. KEYS: stream, due times, payloads, news.
-- Returns {how many, ms until the next one is due or -1, id of the last news, how many are due and still wait}.
if redis.call('EXISTS', KEYS[1]) == 0 then return {0, -1, '0-0', 0} end
local now = milliseconds()
local moved, failed = move(KEYS[1], KEYS[2], KEYS[3], '0', now)
if failed then return redis.error_reply(failed) end
local head = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
local wait = head[2] and math.max(0, head[2] - now) or -1
local news = redis.call('XREVRANGE', KEYS[4], '+', '-', 'COUNT', 1)
return {moved, wait, news[1] and news[1][1] or '0-0', wait == 0 and redis.call('ZCOUNT', KEYS[2], '-inf', now) or 0}
