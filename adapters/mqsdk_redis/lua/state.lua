-- Where a group stands in one stream. KEYS: stream, ownership. ARGV: group.
-- Returns {first id or '', last id, length, entries ever added, delivered id or '' without the group, entries read or -1,
-- oldest pending id or '', messages unsettled, id and fields of the oldest unsettled one or '', epoch}.
local function parts(id)
  local era, sequence = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(era), tonumber(sequence)
end
local function below(left, right)
  local left_era, left_sequence = parts(left)
  local right_era, right_sequence = parts(right)
  return left_era < right_era or (left_era == right_era and left_sequence < right_sequence)
end
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
local stream, info = {}, redis.call('XINFO', 'STREAM', KEYS[1])
for place = 1, #info, 2 do stream[info[place]] = info[place + 1] end
local first, last, length = stream['first-entry'] and stream['first-entry'][1] or '', stream['last-generated-id'], stream['length']
local group = {}
for _, fields in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local found = {}
  for place = 1, #fields, 2 do found[fields[place]] = fields[place + 1] end
  if found['name'] == ARGV[1] then group = found end
end
local delivered = group['last-delivered-id']
if not delivered then return {first, last, length, stream['entries-added'], '', -1, '', 0, '', '0'} end

local unread = 0
if length > 0 and below(delivered, first) then
  unread = length
elseif length > 0 then
  local first_era, first_sequence = parts(first)
  local last_era, last_sequence = parts(stream['last-entry'][1])
  if first_era == last_era and last_sequence - first_sequence + 1 == length then
    local _, sequence = parts(delivered)
    unread = below(delivered, stream['last-entry'][1]) and last_sequence - sequence or 0
  else
    local from = '(' .. delivered  -- holes: count them
    while true do
      local found = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 1000)
      unread = unread + #found
      if #found < 1000 then break end
      from = '(' .. found[#found][1]
    end
  end
end
local pending, oldest = group['pending'], ''
if pending > 0 then
  oldest = redis.call('XPENDING', KEYS[1], ARGV[1])[2] or ''
  if length == 0 then
    pending = 0
  elseif oldest ~= '' and below(oldest, first) then
    pending = pending - #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '(' .. first, 100000)
  end
end
local entry = ''
if pending + unread > 0 then
  local start = '(' .. delivered
  if pending > 0 then
    -- The first pending one that is still there.
    local from = below(oldest, first) and first or oldest
    local item = redis.call('XPENDING', KEYS[1], ARGV[1], from, '+', 1)[1]
    if item then start = item[1] end
  end
  entry = redis.call('XRANGE', KEYS[1], start, '+', 'COUNT', 1)[1] or ''
end
local epoch = redis.call('HGET', KEYS[2], 'epoch') or '0'
return {first, last, length, stream['entries-added'], delivered, group['entries-read'] or -1, oldest, pending + unread, entry, epoch}
