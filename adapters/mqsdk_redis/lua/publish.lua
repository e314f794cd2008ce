-- Appends records to one stream in order. KEYS: stream. ARGV: era, then per record the number of its arguments and the arguments.
-- Returns runs {first id, last id, count} of consecutive ids, and the error that ended it early, if one did.
if redis.call('EXISTS', KEYS[1]) == 0 then return redis.error_reply('MQNOTOPIC') end
local era, at, runs, run = ARGV[1], 2, {}, nil
local failed = false
while at <= #ARGV do
  local count = tonumber(ARGV[at])
  local id = redis.pcall('XADD', KEYS[1], era .. '-*', unpack(ARGV, at + 1, at + count))
  if type(id) == 'table' and string.find(id.err, 'equal or smaller', 1, true) then
    -- A foreign producer has moved the stream on: number on from where it stands.
    local info = redis.call('XINFO', 'STREAM', KEYS[1])
    for place = 1, #info, 2 do
      if info[place] == 'last-generated-id' then era = string.match(info[place + 1], '^(%d+)-') end
    end
    run = nil
    id = redis.pcall('XADD', KEYS[1], era .. '-*', unpack(ARGV, at + 1, at + count))
  end
  if type(id) == 'table' then
    failed = id.err
    break
  end
  if run then
    run[2], run[3] = id, run[3] + 1
  else
    run = {id, id, 1}
    runs[#runs + 1] = run
  end
  if era ~= '0' and tonumber(string.match(id, '-(%d+)$')) >= 1048575 then
    era, run = string.format('%.0f', tonumber(era) + 1), nil
  end
  at = at + count + 1
end
return {runs, failed}
