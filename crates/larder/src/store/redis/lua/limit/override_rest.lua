-- The second half of override.lua, after limit.lua. KEYS, ARGV and reply are those of override.lua.
local answer = { over > 0 and over - clock or 0, over_terms }
if #ask > 1 then
  local span, lives = struct.unpack('>I7I7', ask)
  over_terms = string.sub(ask, 15)
  over, over_lives = #over_terms > 0 and clock + span or 0, lives
  local value = before_record() .. (record or '')
  if value == '' then
    redis.call('UNLINK', KEYS[1])
  else
    local rest = math.max(math.ceil(span / 1000), 1)
    redis.call('SET', KEYS[1], value, 'KEEPTTL')
    if redis.call('PTTL', KEYS[1]) < rest then
      redis.call('PEXPIRE', KEYS[1], rest)
    end
  end
elseif ask == '-' then
  answer = record and 1 or 0
  blocked, level, quiet = 0, 0, 0
  if over > 0 then
    redis.call('SET', KEYS[1], before_record(), 'KEEPTTL')
  else
    redis.call('UNLINK', KEYS[1])
  end
end
return answer
