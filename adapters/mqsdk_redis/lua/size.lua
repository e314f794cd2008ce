-- Stands before read.lua and tail.lua.
-- Bytes of the payloads of some entries: of one that the SDK wrote the first value, of any other all of them. Nil is an entry that is gone.
local function size_of(entries)
  local bytes = 0
  for place = 1, #entries do
    local fields = entries[place][2]
    if fields and fields[1] == 'body' then
      bytes = bytes + #fields[2]
    elseif fields then
      for value = 2, #fields, 2 do bytes = bytes + #fields[value] end
    end
  end
  return bytes
end
