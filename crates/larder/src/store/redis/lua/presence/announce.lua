-- Stores the record of a process under each id of its tokens, and lists the process. Removes the processes from the
-- list whose records have expired.
-- KEYS: 1 the list, then a name for each id
-- ARGV: 1 the id under which the process is listed, 2 the record, 3 milliseconds to keep it
-- Reply: 1
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
local ended = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 100)
if #ended > 0 then
  redis.call('ZREM', KEYS[1], unpack(ended))
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
for i = 2, #KEYS do
  redis.call('SET', KEYS[i], ARGV[2], 'PX', ARGV[3])
end
return 1
