-- Gives up the claim on a refresh.
-- KEYS: 1 the claim's key
-- ARGV: 1 the claim
-- Reply: 1 if this claim was there and is removed, 0 if not
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('UNLINK', KEYS[1])
