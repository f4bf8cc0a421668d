-- Gives a value a new envelope, if the entry still holds the value that was read. The new nonce invalidates
-- refreshes under way: their claims name the old nonce and no longer count.
-- KEYS: 1 the entry
-- ARGV: 1 the old value's nonce (its bytes 4 to 11), 2 the value in its new envelope, 3 milliseconds to keep
--   it, 0 for ever, '' as long as before
-- Reply: 1 if it was replaced, 0 if the entry holds another value or none
if redis.call('GETRANGE', KEYS[1], 4, 11) ~= ARGV[1] then
  return 0
end
if ARGV[3] == '' then
  redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
elseif ARGV[3] == '0' then
  redis.call('SET', KEYS[1], ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return 1
