-- Reads the first bytes of an entry and its time to live.
-- KEYS: 1 the entry
-- ARGV: 1 the index of the last byte to return
-- Reply: {first bytes, milliseconds left | -1 never expires | -2 there is no entry}
return { redis.call('GETRANGE', KEYS[1], 0, ARGV[1]), redis.call('PTTL', KEYS[1]) }
