#!lua flags=allow-oom
-- KEYS: lease, fence. ARGV: token, lease in ms. Returns 0 when the lease is another's or nobody's.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
