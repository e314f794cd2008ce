-- Appends records to one stream in order. KEYS: stream, due times, payloads, news.
-- ARGV: era, then per record the number of its arguments, with `@` and its due time (ms) if it is delayed, and the arguments.
-- Returns runs {first id, last id, count} of consecutive ids, ids '' for delayed records, and the error that ended it early, if one did.
if redis.call('EXISTS', KEYS[1]) == 0 then return redis.error_reply('MQNOTOPIC') end
local era, at, runs, run = ARGV[1], 2, {}, nil
local failed, now, is_late = false, nil, false
if redis.call('EXISTS', KEYS[2]) == 1 then
  -- What is due stands before what is published now; where that takes too long for one call, the new records go behind it by due time.
  now = milliseconds()
  local moved, reason = move(KEYS[1], KEYS[2], KEYS[3], era, now)
  is_late = moved == MOST
  if reason then return {{}, reason} end
end

-- Keeps a record until it is due. Returns true or an error.
local function delay(due, first, last)
  local serial = redis.pcall('HINCRBY', KEYS[3], 'n', 1)
  if type(serial) == 'table' then return serial end
  serial = string.format('%016.0f', serial)
  redis.call('HSET', KEYS[3], serial, cmsgpack.pack({unpack(ARGV, first, last)}))
  redis.call('ZADD', KEYS[2], due, serial)
  if redis.call('ZRANGE', KEYS[2], 0, 0)[1] == serial then redis.call('XADD', KEYS[4], 'MAXLEN', '1', '*', 'n', '1') end
  return true
end

while at <= #ARGV do
  local count, due = tonumber(ARGV[at]), nil
  if not count then
    count, due = string.match(ARGV[at], '^(%d+)@(%d+)$')
    count, now = tonumber(count), now or milliseconds()
    if tonumber(due) <= now then due = nil end
  end
  if is_late and not due then due = string.format('%.0f', now) end
  local id, following, begins, ends = '', era, false, false
  if due then
    local kept = delay(due, at + 1, at + count)
    if type(kept) == 'table' then id = kept end
  else
    id, following, begins, ends = append(KEYS[1], era, ARGV, at + 1, at + count)
  end
  if type(id) == 'table' then
    failed = id.err
    break
  end
  if run and not begins and (run[1] == '') == (id == '') then
    run[2], run[3] = id, run[3] + 1
  else
    run = {id, id, 1}
    runs[#runs + 1] = run
  end
  if ends then run = nil end
  era, at = following, at + count + 1
end
return {runs, failed}
