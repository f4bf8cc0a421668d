-- Charges several records together, all or none.
-- KEYS: the records, see limit.lua
-- ARGV: for each record the request as in charge.lua; then, unless no record has a penalty, the penalty of
--   each, or ''
-- Reply: for each record what charge.lua replies. If one refuses, nothing is charged, and each reply is what
--   that record would reply alone. The records that refuse are blocked if they have a penalty. A key whose
--   override ends before the longest wait is refused for as long as the request's own specs refuse it, if that
--   is longer
local function charge_one(redis, KEYS, ARGV)
-- include limit/charge.lua: the whole operation
end
-- All charges use one reading of the clock: a clock that steps back between two of them must not charge only some.
local clock = redis.call('TIME')
local one_time = {
  call = function(command, ...)
    if command == 'TIME' then
      return clock
    end
    return redis.call(command, ...)
  end,
}
local PEEK = struct.pack('>BI7I7I4', 4, 0, 0, 1)
local answers, passes = {}, true
-- Ask each record but the first whether it would grant.
for place = 2, #KEYS do
  answers[place] = charge_one(one_time, { KEYS[place] }, { ARGV[place], PEEK })
  passes = passes and struct.unpack('>I4', answers[place]) > 0
end
-- If all others grant, the first decides, so it is charged or refused at once.
answers[1] = charge_one(one_time, { KEYS[1] }, { ARGV[1], not passes and PEEK or nil })
if passes and struct.unpack('>I4', answers[1]) > 0 then
  -- All grant: charge the others.
  for place = 2, #KEYS do
    answers[place] = charge_one(one_time, { KEYS[place] }, { ARGV[place] })
  end
else
  -- One refuses: the records that refuse are asked again with their penalty, which blocks them.
  for place, key in ipairs(KEYS) do
    local penalty = ARGV[#KEYS + place] or ''
    if penalty ~= '' and struct.unpack('>I4', answers[place]) == 0 then
      answers[place] = charge_one(one_time, { key }, { ARGV[place], penalty })
    end
  end
  -- The request is repeated when the longest wait is over. If a key's override has ended by then, the request's own
  -- specs decide. That can make a wait longer, and with it others. A reply of an override is longer than 37 bytes.
  local longest, before = 0, -1
  while longest > before do
    before = longest
    for place, answer in ipairs(answers) do
      if struct.unpack('>I4', answer) == 0 then
        longest = math.max(longest, (struct.unpack('>I7', answer, 17)))
      end
    end
    for place, answer in ipairs(answers) do
      if #answer > 37 and longest > 0 then
        local again = charge_one(one_time, { KEYS[place] }, { ARGV[place], struct.pack('>BI7I7I4', 4, longest, 0, 1) })
        if struct.unpack('>I4', again) == 0 and struct.unpack('>I7', again, 17) > longest then
          answers[place] = again
        end
      end
    end
  end
end
return answers
