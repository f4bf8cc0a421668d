-- Ends a fill that has nothing to store, so that the next loader need not wait until the placeholder expires.
-- KEYS: 1 the entry
-- ARGV: 1 the placeholder
-- Reply: 1 if the placeholder was still there and is removed, 0 if not
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('UNLINK', KEYS[1])
