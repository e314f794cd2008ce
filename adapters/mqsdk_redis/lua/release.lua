#!lua flags=allow-oom
-- KEYS: lease, fence, ownership. ARGV: token, clean. Returns 0 when the lease is another's or nobody's.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[3], 'clean', ARGV[2])
redis.call('DEL', KEYS[2])
return redis.call('DEL', KEYS[1])
