-- Reads the holder of a lock.
-- KEYS: 1 the lock, 2 its last fence, 3 its queue
-- Reply: that of held_by.lua
-- include lock/held_by.lua: held_by
return held_by(KEYS[1], KEYS[2], KEYS[3])
