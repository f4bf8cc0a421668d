-- The first step of the scripts that grant a lock, permits or a job, for a caller that asked for quarantine. The
-- whole script follows.
-- A server that was promoted or restarted has a new replication id, and may lack locks that were granted
-- before. This step compares the server's id with a marker beside the lock. The marker has the id under which
-- the lock was last granted, the longest lease in milliseconds and, while grants are refused, the end of the
-- quarantine in milliseconds of the server's time. It asks the server for its id in this very step, because
-- an id that the client has read earlier may be out of date.
-- KEYS: the last one is the marker
-- ARGV: the last one is the longest lease in milliseconds
-- Reply: the end of the quarantine as a negative number, if grants are refused; otherwise the script goes on
do
  local marker, longest = KEYS[#KEYS], tonumber(ARGV[#ARGV])
  local id = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
  if not id then
    return redis.error_reply('ERR the server does not say its replication id, which quarantine compares')
  end
  -- A write that returns the old value: the tracking connection would be notified of a change of what it
  -- reads.
  local text, last = id .. ' ' .. ARGV[#ARGV], nil
  if redis.REDIS_VERSION_NUM then
    last = redis.call('SET', marker, text, 'PX', '2592000000', 'GET')
  else
    last = redis.call('GETSET', marker, text)
    redis.call('PEXPIRE', marker, '2592000000')
  end
  if last ~= text then
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    local known, before, ends = string.match(last or '', '^(%w+) (%d+) ?(%d*)$')
    before, ends = tonumber(before) or 0, tonumber(ends) or 0
    longest = math.max(longest, before)
    -- A new id starts a quarantine of the longest lease. A longer lease that is announced during one lengthens it.
    if known ~= id then
      ends = now + longest
    elseif ends > now then
      ends = ends + longest - before
    else
      ends = 0
    end
    text = id .. ' ' .. string.format('%.0f', longest)
    if ends > 0 then
      text = text .. ' ' .. string.format('%.0f', ends)
    end
    redis.call('SET', marker, text, 'PX', '2592000000')
    if ends > 0 then
      return -ends
    end
  end
end

