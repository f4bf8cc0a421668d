-- Elects who refreshes a standing value: takes the lease on it, if the value is still the one that was read.
-- KEYS: 1 the entry, 2 its lease
-- ARGV: 1 the value's nonce (its bytes 4 to 11), 2 the token, 3 milliseconds of liveness, 4 '1' to take it from anybody
-- Reply: 1 taken, 0 somebody else refreshes, -1 another value stands there, or none
if redis.call('GETRANGE', KEYS[1], 4, 11) ~= ARGV[1] then
  return -1
end
if ARGV[4] == '1' then
  redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
  return 1
end
return redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3], 'NX') and 1 or 0
