-- Reads for one instance of a broadcast. KEYS: stream. ARGV: id to read after, records, bytes (may be passed by one chunk).
-- Returns {1 when a limit ended it, else 0, entries, entries, ...}, as read.lua does.
local from, left, bytes, chunk, found = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), 8, {1}
while left > 0 and bytes > 0 do
  local count = math.min(chunk, left)
  local entries = redis.call('XRANGE', KEYS[1], '(' .. from, '+', 'COUNT', count)
  bytes = bytes - size_of(entries)
  found[#found + 1] = entries
  if #entries < count then
    found[1] = 0
    break
  end
  from, left, chunk = entries[#entries][1], left - count, math.min(chunk * 2, 128)
end
return found
