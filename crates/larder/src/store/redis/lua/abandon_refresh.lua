-- Gives the lease of a refresh back.
-- KEYS: 1 the lease
-- ARGV: 1 the claim that holds it
-- Reply: 1 if it did, 0 if not
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('UNLINK', KEYS[1])
