-- The end of together_begin.lua, after the parts of charge.lua: charges the records one by one. KEYS, ARGV and reply
-- are those of together_begin.lua. The first `end` closes the function that those parts are in.
end

local LOOK = struct.pack('>BI7I7I4', 4, 0, 0, 1)
local answers, passes = {}, true
-- Ask each record but the first whether it would grant.
for place = 2, #KEYS do
  answers[place] = charge_one({ KEYS[place] }, { ARGV[place], LOOK })
  passes = passes and struct.unpack('>I4', answers[place]) > 0
end
-- If all others grant, the first decides, so it is charged or refused at once.
answers[1] = charge_one({ KEYS[1] }, { ARGV[1], not passes and LOOK or nil })
if passes and struct.unpack('>I4', answers[1]) > 0 then
  -- All grant: charge the others.
  for place = 2, #KEYS do
    answers[place] = charge_one({ KEYS[place] }, { ARGV[place] })
  end
else
  -- One refuses: the records that refuse are asked again with their penalty, which blocks them.
  for place, key in ipairs(KEYS) do
    local penalty = ARGV[#KEYS + place] or ''
    if penalty ~= '' and struct.unpack('>I4', answers[place]) == 0 then
      answers[place] = charge_one({ key }, { ARGV[place], penalty })
    end
  end
  -- The request is repeated when the longest wait is over. If a key's override has ended by then, the request's own
  -- terms decide. That can make a wait longer, and with it others. A reply of an override is longer than 37 bytes.
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
        local again = charge_one({ KEYS[place] }, { ARGV[place], struct.pack('>BI7I7I4', 4, longest, 0, 1) })
        if struct.unpack('>I4', again) == 0 and struct.unpack('>I7', again, 17) > longest then
          answers[place] = again
        end
      end
    end
  end
end
return answers
