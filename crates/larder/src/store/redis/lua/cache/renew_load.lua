-- Renews the placeholder of a fill, or the claim of a refresh, for a loader that is alive.
-- KEYS: 1 the entry or the claim's key
-- ARGV: 1 the placeholder or the claim, 2 milliseconds that it lasts without renewal
-- Reply: 1 if it was still there, 0 if not
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
