-- How long an entry will be kept, and how it begins.
-- KEYS: 1 the entry
-- ARGV: 1 the last byte to return
-- Reply: {first bytes, milliseconds left | -1 never expires | -2 not there}
return { redis.call('GETRANGE', KEYS[1], 0, ARGV[1]), redis.call('PTTL', KEYS[1]) }
