-- Commits a refresh: replaces the value that was read before the load, if the refresh still has its claim; or
-- deletes that value, if the origin no longer has it. The nonce protects a value that was written during the
-- load. The claim protects the result of a later refresh, which read the origin later. In any case the claim
-- ends.
-- KEYS: 1 the entry, 2 the claim's key
-- ARGV: 1 the old value's nonce, 2 the claim, 3 the new value, 4 milliseconds to keep it, 0 for ever, -1 to
--   delete
-- Reply: 1 if it was stored or deleted, 0 if the refresh was invalidated
if redis.call('GET', KEYS[2]) ~= ARGV[2] then
  return 0
end
redis.call('UNLINK', KEYS[2])
if redis.call('GETRANGE', KEYS[1], 4, 11) ~= ARGV[1] then
  return 0
end
if ARGV[4] == '-1' then
  redis.call('UNLINK', KEYS[1])
elseif ARGV[4] == '0' then
  redis.call('SET', KEYS[1], ARGV[3])
else
  redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
end
return 1
