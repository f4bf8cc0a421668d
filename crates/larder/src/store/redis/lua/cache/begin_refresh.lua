-- Elects the loader that refreshes a value: claims the refresh if the entry still holds the value that was
-- read. A claim names its value by the nonce, so a claim that was left for another value does not count.
-- KEYS: 1 the entry, 2 the claim's key
-- ARGV: 1 the value's nonce (its bytes 4 to 11), 2 the claim: a token and that nonce, 16 hexadecimal digits
--   each, 3 milliseconds that the claim lasts without renewal, 4 '1' to take the claim from any holder
-- Reply: 1 claimed, 0 another loader refreshes this value, -1 the entry holds another value or none
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
