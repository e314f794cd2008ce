-- Replaces what the last owner left for the next one. KEYS: lease, ownership. ARGV: epoch, blob left, new blob.
-- Returns 0 when somebody owns the partition, or something else was left.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local left = redis.call('HMGET', KEYS[2], 'epoch', 'sparse')
if (left[1] or '0') ~= ARGV[1] or (left[2] or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[2], 'sparse', ARGV[3])
return 1
