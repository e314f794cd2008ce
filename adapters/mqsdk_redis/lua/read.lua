#!lua flags=allow-oom
-- Reads for the owner only. KEYS: stream, lease. ARGV: token, group, id to read after or `>`, records, bytes (may be passed by one chunk).
-- Returns {1 when a limit ended it, else 0, entries, entries, ...}.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return redis.error_reply('MQSTALE') end
local from, left, bytes, chunk, found = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), 8, {1}
while left > 0 and bytes > 0 do
  local count = math.min(chunk, left)
  local got = redis.call('XREADGROUP', 'GROUP', ARGV[2], 'o', 'COUNT', count, 'STREAMS', KEYS[1], from)
  local entries = got and got[1][2] or {}
  bytes = bytes - size_of(entries)
  found[#found + 1] = entries
  if #entries < count then
    found[1] = 0
    break
  end
  if from ~= '>' then from = entries[#entries][1] end
  left, chunk = left - count, math.min(chunk * 2, 128)
end
return found
