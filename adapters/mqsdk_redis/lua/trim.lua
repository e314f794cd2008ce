#!lua flags=allow-oom
-- Removes what every group has settled and what is older than it has to be kept. One script: a group that is made or reset meanwhile would lose.
-- KEYS: stream, instances of broadcasts by expiry, their places. ARGV: publish and due times below this (ms) may go. Returns how many entries went.
local function parts(id)
  local era, sequence = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(era), tonumber(sequence)
end
local function below(left, right)
  local left_era, left_sequence = parts(left)
  local right_era, right_sequence = parts(right)
  return left_era < right_era or (left_era == right_era and left_sequence < right_sequence)
end
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local bound, settled = nil, nil  -- everything below `bound` (not included), or up to `settled` (included), may go as far as groups go
for _, fields in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for place = 1, #fields, 2 do group[fields[place]] = fields[place + 1] end
  local delivered = group['last-delivered-id']
  if not settled or below(delivered, settled) then settled = delivered end
  if group['pending'] > 0 then
    local oldest = redis.call('XPENDING', KEYS[1], group['name'])[2]
    if oldest and (not bound or below(oldest, bound)) then bound = oldest end
  end
end
local time = redis.call('TIME')
for _, instance in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], time[1] * 1000, '+inf')) do
  local place = redis.call('HGET', KEYS[3], instance)
  if place and (not settled or below(place, settled)) then settled = place end
end
if not settled then return 0 end  -- no group yet: whoever comes first is to see all of it
local went, limit = 0, tonumber(ARGV[1])
for _ = 1, 20 do
  local doomed, count = nil, 0
  local entries = redis.call('XRANGE', KEYS[1], '-', settled, 'COUNT', 100)
  for _, entry in ipairs(entries) do
    if bound and not below(entry[1], bound) then break end
    local published, due = tonumber(string.match(entry[1], '^(%d+)-')), 0
    for place = 1, #entry[2], 2 do
      local name, value = entry[2][place], entry[2][place + 1]
      if name == 'mq' then published = tonumber(string.match(value, '^1 [^ ]* (%d+)')) or published end
      if name == 'mq-ts' then published = tonumber(value) or published end
      if name == 'mq-due' then due = tonumber(value) or due end
    end
    if math.max(published, due) >= limit then break end
    doomed, count = entry[1], count + 1
  end
  if doomed then
    local era, sequence = parts(doomed)
    went = went + redis.call('XTRIM', KEYS[1], 'MINID', string.format('%.0f-%.0f', era, sequence + 1))
  end
  if count < 100 then break end
end
return went
