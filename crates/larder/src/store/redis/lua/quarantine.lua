-- Stands before the scripts that grant a lock or permits, where the caller asked for quarantine. No script by itself.
--
-- A server that was promoted or restarted has a new replication id, and may lack locks that its predecessor granted. So the
-- id is compared with a marker beside the lock: the id under which it was last granted, the longest lease in milliseconds,
-- and, while grants are refused, until when in milliseconds of the server's time. The server itself is asked for its id,
-- in this step: what a client has read of it may be that of a time before.
-- KEYS: the last one is the marker. ARGV: the last one is the longest lease in milliseconds
-- Reply, where grants are refused: until when, as a negative number
do
  local marker, longest = KEYS[#KEYS], tonumber(ARGV[#ARGV])
  local id = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
  if not id then
    return redis.error_reply('ERR the server does not say its replication id, which quarantine compares')
  end
  -- A write that returns what was there: a read would be told of on a connection that tells of changes.
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

