-- Stands before publish.lua and move.lua: appending to a stream, and giving what is due its place in it.
local MOST = 200  -- records moved by one call: about a millisecond

-- Appends one entry. Returns its id or an error, the era that comes next, whether it begins another era, and whether it ends one.
local function append(stream, era, fields, first, last)
  local id, is_new = redis.pcall('XADD', stream, era .. '-*', unpack(fields, first, last)), false
  if type(id) == 'table' and string.find(id.err, 'equal or smaller', 1, true) then
    -- A foreign producer has moved the stream on: number on from where it stands.
    local info = redis.call('XINFO', 'STREAM', stream)
    for place = 1, #info, 2 do
      if info[place] == 'last-generated-id' then era = string.match(info[place + 1], '^(%d+)-') end
    end
    is_new, id = true, redis.pcall('XADD', stream, era .. '-*', unpack(fields, first, last))
  end
  if type(id) ~= 'table' and era ~= '0' and tonumber(string.match(id, '-(%d+)$')) >= 1048575 then
    return id, string.format('%.0f', tonumber(era) + 1), is_new, true
  end
  return id, era, is_new, false
end

local function milliseconds()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Moves what is due into the stream, in the order of due times. Returns how many, and the error that ended it early, if one did.
local function move(stream, waiting, payloads, era, now)
  local serials = redis.call('ZRANGEBYSCORE', waiting, '-inf', now, 'LIMIT', 0, MOST)
  if #serials == 0 then return 0 end
  local packed = redis.call('HMGET', payloads, unpack(serials))
  for place, serial in ipairs(serials) do
    if packed[place] then
      local fields = cmsgpack.unpack(packed[place])
      local id, following = append(stream, era, fields, 1, #fields)
      if type(id) == 'table' then return place - 1, id.err end
      era = following
    end
    redis.call('ZREM', waiting, serial)
    redis.call('HDEL', payloads, serial)
  end
  return #serials
end
