#!lua flags=allow-oom
-- Makes a group, and a stream that is gone. KEYS: stream. ARGV: group, where it begins (`earliest`, `latest` or an id), `1` to make the stream.
-- Returns {'gone'}, or {'made', id from which a stream made again is numbered on or ''}.
local id, begin, read = '', ARGV[2], nil
if redis.call('EXISTS', KEYS[1]) == 0 then
  if ARGV[3] ~= '1' then return {'gone'} end
  redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
  local time = redis.call('TIME')
  id = string.format('%.0f-0', time[1] * 1000 + math.floor(time[2] / 1000))
  redis.call('XSETID', KEYS[1], id)
  redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], id)
  return {'made', id}
end
local stream, info = {}, redis.call('XINFO', 'STREAM', KEYS[1])
for place = 1, #info, 2 do stream[info[place]] = info[place + 1] end
if begin == 'latest' then begin, read = '$', stream['entries-added'] end
if begin == 'earliest' then
  -- Just before the first entry, so that what retention has taken is no loss to a new group.
  local first = stream['first-entry']
  begin, read = '$', stream['entries-added'] - stream['length']
  if first then
    local era, sequence = string.match(first[1], '^(%d+)-(%d+)$')
    if sequence == '0' then
      begin = string.format('%.0f-18446744073709551615', tonumber(era) - 1)
    else
      begin = string.format('%s-%.0f', era, tonumber(sequence) - 1)
    end
  end
end
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], begin, unpack(read and {'ENTRIESREAD', read} or {}))
if made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then return made end
return {'made', ''}
