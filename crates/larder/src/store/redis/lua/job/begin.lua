-- Begins a run of a job, if one is due: no run is under way, its period or slot is not completed, and another
-- try is allowed.
-- KEYS: 1 the status, a hash; 2 the record of the schedule or of one slot, a hash; 3 the lock; 4 the lock's
--   last fence; 5 the tombstone of this attempt
-- ARGV: 1 the token, 2 milliseconds to hold the lock, 3 milliseconds to remember its fence, 4 a space and the
--   process, 5 the period in milliseconds, 0 for a slot, 6 the period's offset, 7 how many milliseconds
--   before a boundary count for the next period, 8 how many missed periods are made up for, 9 how often a run
--   is tried, 10 milliseconds between tries, 11 '1' if the start counts as completion, 12 milliseconds to
--   keep the record and the status
-- Reply: {0} cancelled before this request arrived; {1, fence, period} begun; {2, when, process} completed;
--   {3, since when, process} a run is under way; {4, until when} wait before the next try; {5, tries} no try
--   is left. Times are milliseconds of the server's time
--
-- The record has these fields: `period` of the last try, `tries` of that period, `last` (when the last try
-- began or ended); `ends`, the tokens of the last 16 runs that ended; `done`, the last completed period, with
-- `done_at` and `done_by`; `burned`, the last period whose start counts as completion, with `burned_at` and
-- `burned_by`.
-- include lock/fence.lua: next_fence
if redis.call('PEXPIRE', KEYS[5], '30000') == 1 then
  return { 0 }
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local process, every, most = string.sub(ARGV[4], 2), tonumber(ARGV[5]), tonumber(ARGV[9])
local names = { 'period', 'tries', 'last', 'done', 'done_at', 'done_by', 'burned', 'burned_at', 'burned_by' }
local record = {}
for i, value in ipairs(redis.call('HMGET', KEYS[2], unpack(names))) do
  record[names[i]] = value
end
local tried, tries = tonumber(record.period), tonumber(record.tries) or 0
local done, burned = tonumber(record.done), tonumber(record.burned)

-- The period to run: the current one, or the oldest missed one that is to be made up for.
local period = 0
if every > 0 then
  local current = math.floor((now + tonumber(ARGV[7]) - tonumber(ARGV[6])) / every)
  period = current
  if done and tonumber(ARGV[8]) > 0 then
    period = math.min(current, math.max(done + 1, current - tonumber(ARGV[8])))
    if tried and tried >= period and tries >= most then
      -- A missed period that has no try left does not delay the next one.
      period = math.min(current, tried + 1)
    elseif tried and tried > period then
      period = math.min(current, tried)
    end
  end
end
-- What is refused, in this order: the period is done, a run is under way, its start counted as completion, its tries.
if done and done >= period then
  return { 2, tonumber(record.done_at), record.done_by }
end
if redis.call('EXISTS', KEYS[3]) == 1 then
  local running = redis.call('HMGET', KEYS[1], 'started', 'by')
  return { 3, tonumber(running[1]) or now, running[2] or '' }
end
if burned and burned >= period then
  return { 2, tonumber(record.burned_at), record.burned_by }
end
if tried ~= period then
  tries = 0
elseif tries >= most then
  return { 5, tries }
elseif tonumber(record.last) + tonumber(ARGV[10]) > now then
  return { 4, tonumber(record.last) + tonumber(ARGV[10]) }
end
-- Begin: record the try before the lock is taken.
redis.call('HSET', KEYS[2], 'period', period, 'tries', tries + 1, 'last', now)
if ARGV[11] == '1' then
  redis.call('HSET', KEYS[2], 'burned', period, 'burned_at', now, 'burned_by', process)
end
redis.call('HSET', KEYS[1], 'started', now, 'by', process, 'period', period, 'outcome', 'running')
redis.call('HDEL', KEYS[1], 'ended')
redis.call('PEXPIRE', KEYS[1], ARGV[12])
redis.call('PEXPIRE', KEYS[2], ARGV[12])
redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[2])
return { 1, next_fence(KEYS[4], ARGV[3], time, ARGV[4]), period }
