-- Elects who refreshes a value: takes the lease on it, if the value is still the one that was read. The lease names the
-- value: one that was left behind for another value is free to take.
-- KEYS: 1 the entry, 2 its lease
-- ARGV: 1 the value's nonce (its bytes 4 to 11), 2 the claim: a token and that nonce, 16 hexadecimal digits each,
--       3 milliseconds of liveness, 4 '1' to take it from any holder
-- Reply: 1 taken, 0 another loader refreshes this value, -1 another value is there, or none
if redis.call('GETRANGE', KEYS[1], 4, 11) ~= ARGV[1] then
  return -1
end
if ARGV[4] ~= '1' then
  if redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3], 'NX') then
    return 1
  end
  local holder = redis.call('GET', KEYS[2])
  if holder and string.sub(holder, 17) == string.sub(ARGV[2], 17) then
    return 0
  end
end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return 1
