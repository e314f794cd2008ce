#!lua flags=allow-oom
-- Acknowledges for the owner only. KEYS: stream, lease, ownership, fence. ARGV: token, group, final, blob (`-`: as it is, else `=` and the blob), ids.
-- final: `1` ends the ownership, `2` does so but keeps the lease until it is released: the companions are still held.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return redis.error_reply('MQSTALE') end
for first = 5, #ARGV, 1000 do
  redis.call('XACK', KEYS[1], ARGV[2], unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
if ARGV[4] ~= '-' then redis.call('HSET', KEYS[3], 'sparse', string.sub(ARGV[4], 2)) end
if ARGV[3] ~= '0' then
  redis.call('HSET', KEYS[3], 'clean', '1')
  redis.call('DEL', KEYS[4])
end
if ARGV[3] == '1' then redis.call('DEL', KEYS[2]) end
return 1
