#!lua flags=allow-oom
-- Takes a partition that nobody owns. KEYS: stream, lease, ownership, fences (the epoch follows). ARGV: member, group, lease in ms, last id that this member knows of.
-- Returns {'gone'} without stream or group, {'held'}, or
-- {'got', epoch, clean, blob, last delivered id, oldest pending id or '', last id, id that was skipped to or '',
--  entries ever added, entries that the group has read or -1}.
if redis.call('EXISTS', KEYS[1]) == 0 then return {'gone'} end
local delivered, pending, read = nil, 0, -1
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local fields = {}
  for place = 1, #group, 2 do fields[group[place]] = group[place + 1] end
  if fields['name'] == ARGV[2] then 
    delivered, pending, read = fields['last-delivered-id'], fields['pending'], fields['entries-read'] or -1
  end
end
if not delivered then return {'gone'} end
if redis.call('EXISTS', KEYS[2]) == 1 then return {'held'} end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- Not below the clock, so that it rises even where a failover or a flush has lost the last one.
local before = redis.call('HGET', KEYS[3], 'epoch') or '0'
local epoch = string.format('%.0f', math.max(tonumber(before) + 1, now))
local clean = redis.call('HGET', KEYS[3], 'clean') or '1'
local blob = redis.call('HGET', KEYS[3], 'sparse') or ''
redis.call('HSET', KEYS[3], 'epoch', epoch, 'clean', '0')
redis.call('DEL', KEYS[4] .. before)
redis.call('XGROUP', 'CREATE', KEYS[4] .. epoch, ARGV[2], '$', 'MKSTREAM')
redis.call('PEXPIRE', KEYS[4] .. epoch, ARGV[3])
redis.call('SET', KEYS[2], ARGV[1] .. '|' .. epoch, 'PX', ARGV[3])

local last, added = '0-0', 0
local info = redis.call('XINFO', 'STREAM', KEYS[1])
for place = 1, #info, 2 do
  if info[place] == 'last-generated-id' then last = info[place + 1] end
  if info[place] == 'entries-added' then added = info[place + 1] end
end
local function parts(id)
  local era, sequence = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(era), tonumber(sequence)
end
local known_era, known_sequence = parts(ARGV[4])
local era, sequence = parts(last)
local skipped = ''
if known_era > era or (known_era == era and known_sequence > sequence) then
  -- The server has lost entries that this member has seen: their numbers are not to be given again.
  skipped = string.format('%.0f-0', math.max(now, known_era + 1))
  redis.call('XSETID', KEYS[1], skipped)
end
local oldest = ''
if pending > 0 then oldest = redis.call('XPENDING', KEYS[1], ARGV[2])[2] or '' end
return {'got', epoch, clean, blob, delivered, oldest, last, skipped, added, read}
