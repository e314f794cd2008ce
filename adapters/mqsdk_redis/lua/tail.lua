-- Reads for one instance of a broadcast. KEYS: stream. ARGV: id to read after, records, bytes (may be passed by one chunk).
-- Returns {1 when a limit ended it, else 0, entries}, as read.lua does.
local from, left, bytes, chunk, found = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), 8, {}
local is_full = 1
while left > 0 and bytes > 0 do
  local count = math.min(chunk, left)
  local entries = redis.call('XRANGE', KEYS[1], '(' .. from, '+', 'COUNT', count)
  for _, entry in ipairs(entries) do
    found[#found + 1] = entry
    for place = 2, #entry[2], 2 do bytes = bytes - #entry[2][place] end
  end
  if #entries < count then
    is_full = 0
    break
  end
  from, left, chunk = entries[#entries][1], left - count, math.min(chunk * 2, 128)
end
return {is_full, found}
