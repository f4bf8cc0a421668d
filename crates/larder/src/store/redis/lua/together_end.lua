end

local LOOK = struct.pack('>BI7I7I4', 4, 0, 0, 1)
local answers, passes = {}, true
for place = 2, #KEYS do
  answers[place] = charge_one({ KEYS[place] }, { ARGV[place], LOOK })
  passes = passes and struct.unpack('>I4', answers[place]) > 0
end
-- Where all others pass, the first decides: it is charged or refused at once.
answers[1] = charge_one({ KEYS[1] }, { ARGV[1], not passes and LOOK or nil })
if passes and struct.unpack('>I4', answers[1]) > 0 then
  for place = 2, #KEYS do
    answers[place] = charge_one({ KEYS[place] }, { ARGV[place] })
  end
else
  for place, key in ipairs(KEYS) do
    local penalty = ARGV[#KEYS + place] or ''
    if penalty ~= '' and struct.unpack('>I4', answers[place]) == 0 then
      answers[place] = charge_one({ key }, { ARGV[place], penalty })
    end
  end
end
return answers
