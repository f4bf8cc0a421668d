-- Ends a run of a job and frees its lock, if the run still holds it. It may be sent again: the record
-- remembers the last ends.
-- KEYS: 1 the status, 2 the record, 3 the lock
-- ARGV: 1 the token, 2 a space and the process, 3 the period, 4 '1' if the run completed, 5 milliseconds to
--   keep the record and the status
-- Reply: 1 if the run still held the lock and is recorded, 0 if not
local ends = redis.call('HGET', KEYS[2], 'ends') or ''
if redis.call('GET', KEYS[3]) ~= ARGV[1] then
  return string.find(ends, ARGV[1], 1, true) and 1 or 0
end
redis.call('UNLINK', KEYS[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- Tokens, each followed by a space: a request that is sent again may arrive after the ends of later periods.
redis.call('HSET', KEYS[2], 'last', now, 'ends', ARGV[1] .. ' ' .. string.sub(ends, 1, 255))
if ARGV[4] == '1' then
  local done = tonumber(redis.call('HGET', KEYS[2], 'done'))
  if not done or done < tonumber(ARGV[3]) then
    redis.call('HSET', KEYS[2], 'done', ARGV[3], 'done_at', now, 'done_by', string.sub(ARGV[2], 2))
  end
end
redis.call('HSET', KEYS[1], 'ended', now, 'outcome', ARGV[4] == '1' and 'completed' or 'failed')
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return 1
